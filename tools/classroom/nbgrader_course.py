"""What nbgrader does: it makes the students' copies, keeps the scores, and draws feedback.

It works on copies in a folder of ours, an ordinary nbgrader course.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import shutil
import sys
from pathlib import Path

from classroom import files
from classroom.files import Trouble, read_notebook, replace, write_text

STUB = "# YOUR CODE HERE\nraise NotImplementedError()"

# All that marking keeps of the environment. A token or a password that is set there stays out.
KEPT = {"PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH",
        "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT", "USERPROFILE", "CUDA_VISIBLE_DEVICES", "TIGHTBOUND_DEVICE",
        "OMP_NUM_THREADS", "MKL_NUM_THREADS"}


class NotMarkable(Exception):
    """Why one submission gets no marks; the others go on."""


def release(course: Path, topic: str, *, database: bool = True):
    """nbgrader's student version of a topic: solutions replaced by stubs, outputs cleared, tests locked."""
    from nbgrader.converters import GenerateAssignment

    for cell in read_notebook(files.SOURCE / topic / f"{topic}.ipynb").cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution") and not solution_lines(cell):
            raise Trouble(f"The source of {topic} is not ready: its solution cell {marks.grade_id!r} holds "
                          "nothing between BEGIN SOLUTION and END SOLUTION.")
    folder = course / "source" / topic
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(files.SOURCE / topic, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    try:
        run(GenerateAssignment, course, topic, ".", no_database=not database)
    except NotMarkable as reason:
        raise Trouble(f"nbgrader cannot make the students' copy of {topic}: {reason}.") from None
    return read_notebook(course / "release" / topic / f"{topic}.ipynb")


def solution_lines(cell) -> list[str]:
    lines, inside = [], False
    for line in cell.source.splitlines():
        if "BEGIN SOLUTION" in line or "END SOLUTION" in line:
            inside = "BEGIN" in line
        elif inside and line.strip():
            lines.append(line.strip())
    return lines


def autograde(course: Path, topic: str, student: str, executed) -> None:
    """nbgrader's scores, of a notebook whose outputs are there already.

    Raises:
        NotMarkable: with the reason, when nbgrader gives up.
    """
    from nbgrader.converters import Autograde

    def outputs(notebook, resources):
        for cell, done in zip(notebook.cells, executed.cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = done.outputs, done.execution_count
        return notebook, resources

    replace(course / "submitted" / student / topic / f"{topic}.ipynb", write_text(executed).encode())
    run(Autograde, course, topic, student, in_place_of_execution=outputs)


def run(step: type, course: Path, topic: str, student: str, *, no_database: bool = False,
        in_place_of_execution=None, exporter: type | None = None) -> None:
    """Runs one step of nbgrader (a converter class) for one topic and one student.

    Raises:
        NotMarkable: with the reason, when nbgrader gives up.
        OSError: when the disk is full.
    """
    from nbgrader.coursedir import CourseDirectory

    config = configuration(course, no_database)
    directory = CourseDirectory(config=config)
    directory.assignment_id, directory.student_id = topic, student
    converter = step(coursedir=directory, config=config)
    converter.force = True
    if exporter:
        converter.exporter_class = exporter
    if in_place_of_execution:
        converter.autograde_preprocessors = [in_place_of_execution, *converter.autograde_preprocessors[1:]]
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    converter.log.addHandler(handler)
    try:
        converter.start()
    except Exception:
        raise reason_for(said.getvalue()) from None
    finally:
        converter.log.removeHandler(handler)


def reason_for(log: str) -> Exception:
    if os.strerror(errno.ENOSPC) in log or "disk is full" in log:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    errors = [line for line in log.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return NotMarkable(f"nbgrader gave up: {(errors or log.strip().splitlines() or ['no reason given'])[-1]}")


def configuration(course: Path, no_database: bool):
    from traitlets.config import Config

    if any(sign in str(course) for sign in "[]*?"):
        raise Trouble(f"nbgrader cannot work in {course}: its name holds one of [ ] * ?. Give --output DIR.")
    config = Config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.db_url = database_url(course)
    config.GenerateAssignment.no_database = no_database
    config.SaveCells.enabled = not no_database
    config.ClearSolutions.code_stub = {"python": STUB}
    return config


def is_setup(cell) -> bool:
    marks = cell.metadata.get("nbgrader", {})
    return marks.get("locked", False) and not marks.get("grade", False)


def database_url(course: Path) -> str:
    return f"sqlite:///{course / 'gradebook.db'}"


def clean_environment(course: Path) -> None:
    """Leaves only what students' code needs, and nothing of the teacher's own Jupyter set-up."""
    for name in set(os.environ):
        if name.upper() not in KEPT and not name.startswith("LC_"):
            del os.environ[name]
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        os.environ[name] = str(course / "jupyter" / name.lower())
        os.makedirs(os.environ[name], exist_ok=True)
    programs = str(Path(sys.executable).parent)  # nbgrader calls alembic by its name
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"  # silences a note about their places
