"""The classroom: students' copies of the exercises, and marks for the notebooks that come back.

    .venv/bin/python tools/classroom.py assignments      # make assignments
    .venv/bin/python tools/classroom.py grade FOLDER     # make grade SUBMISSIONS=FOLDER

Every topic has one source, chapters/exercises/<topic>/<topic>.ipynb, which is only read. nbgrader does the
work, on copies in _build/classroom/course, an ordinary nbgrader course.
"""

from __future__ import annotations

import argparse
import copy
import csv
import errno
import importlib.util
import io
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "chapters" / "exercises"
OUTPUT = ROOT / "_build" / "classroom"
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"
SETUP_SECONDS = 300  # for the assignment's own first cell: importing takes long on a busy machine

# All that a student's code may see of the environment. A token or a password that is set there stays out.
KEPT = {"PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH",
        "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT", "USERPROFILE", "CUDA_VISIBLE_DEVICES", "TIGHTBOUND_DEVICE",
        "OMP_NUM_THREADS", "MKL_NUM_THREADS"}

README = """\
{topic}.ipynb holds the exercises of the chapter "{topic}" of Tightening the Bound.

To start
  1. Unpack this archive into the folder `chapters` of the book's source, which your teacher names (the pages alone do not
     suffice). It makes a folder `{topic}` there.
  2. In the book's folder, type: make lab
     (The first time it makes an environment, for which it needs the network and a few minutes.)
  3. In the list of files on the left, open the folder {topic}, then {topic}.ipynb.

To work
  Write your answers in place of `raise NotImplementedError()`. The cell after each answer checks it and says
  what seems to be wrong. Leave these cells as they are; you may add cells of your own anywhere.

To hand in
  Run all cells from the top (menu Run, Restart Kernel and Run All Cells), save, and hand in {topic}.ipynb
  under the name that it has.
"""


HEAD = """\
<style>pre { white-space: pre-wrap; } summary { display: list-item; }</style>
<script>MathJax = {tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]]}}</script>
<script defer src="mathjax.js"></script>"""


class Trouble(Exception):
    """A sentence that says what is wrong and what to do about it; the run ends."""


class NotMarkable(Exception):
    """Why one submission gets no marks; the others go on."""


@dataclass
class Submission:
    """One notebook that came back, and what became of it. No score where it could not be marked."""

    student: str
    assignment: str
    path: Path
    scores: dict[str, float] | None = None
    max_scores: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def score(self) -> float | None:
        return None if self.scores is None else sum(self.scores.values())

    @property
    def max_score(self) -> float:
        return sum(self.max_scores.values())

    @property
    def remark(self) -> str:
        return "; ".join(self.remarks)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="classroom.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    assign = commands.add_parser("assignments", help="write the students' copies of the exercises")
    mark = commands.add_parser("grade", help="mark a folder of submissions")
    mark.add_argument("folder", help="holds <student>/<topic>.ipynb or <student>/<topic>/<topic>.ipynb; "
                                     "where there is one topic only, also <student>.ipynb")
    mark.add_argument("--timeout", type=int, default=60, metavar="SECONDS", help="for a cell (default: 60)")
    for command in (assign, mark):
        command.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR",
                             help=f"default: {OUTPUT.relative_to(ROOT)}")
        command.add_argument("--assignment", metavar="NAME", help="one topic only (default: all)")
    options = parser.parse_args(arguments)
    try:
        topics, output = find_topics(options.assignment), options.output.resolve()
        if options.command == "assignments":
            write_assignments(topics, output)
        elif options.timeout < 1:
            raise Trouble(f"A limit of {options.timeout} seconds leaves no time: give --timeout 1 or more.")
        else:
            grade(options.folder, topics, output, options.timeout)
    except Trouble as trouble:
        sys.exit(f"\n{trouble}")
    except OSError as error:
        sys.exit(f"\n{explain(error)}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The submissions are as they were; earlier results stay until the next run ends.")


def explain(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: make room, or give --output DIR on another disk, and run the command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename} may not be read or written: change its permissions, or give --output DIR."
    return f"The system says {error.strerror!r} of {error.filename}: mend that and run the command again."


def find_topics(name: str | None) -> list[str]:
    topics = sorted(path.stem for path in SOURCE.glob("*/*.ipynb") if path.stem == path.parent.name)
    if not topics:
        raise Trouble(f"{SOURCE} holds no assignment: it should hold <topic>/<topic>.ipynb.")
    if name is not None and name not in topics:
        raise Trouble(f"There is no assignment {name!r}: choose one of {', '.join(topics)}.")
    return topics if name is None else [name]


# Students' copies -----------------------------------------------------------------------------------------

def write_assignments(topics: list[str], output: Path) -> None:
    """Writes output/release/<topic>/<topic>.ipynb and output/<topic>.zip, but no copy that is not clean."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix="course-") as course:
        for topic in topics:
            notebook = release(Path(course), topic, database=False)
            require_clean(read_notebook(SOURCE / topic / f"{topic}.ipynb"), notebook, topic)
            text = write_text(for_students(notebook))
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr(f"{topic}/{topic}.ipynb", text)
                file.writestr(f"{topic}/README.txt", README.format(topic=topic))
            place, packed = output / "release" / topic / f"{topic}.ipynb", output / f"{topic}.zip"
            replace(place, text.encode())
            replace(packed, archive.getvalue())
            print(f"{topic}: {place}\n{' ' * len(topic)}  {packed} (with a note on how to start)")


def release(course: Path, topic: str, *, database: bool = True):
    """nbgrader's student version of a topic: solutions replaced by stubs, outputs cleared, tests locked."""
    from nbgrader.converters import GenerateAssignment

    for cell in read_notebook(SOURCE / topic / f"{topic}.ipynb").cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution") and not solution_lines(cell):
            raise Trouble(f"The source of {topic} is not ready: its solution cell {marks.grade_id!r} holds "
                          "nothing between BEGIN SOLUTION and END SOLUTION.")
    folder = course / "source" / topic
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCE / topic, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
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


def require_clean(source, notebook, topic: str) -> None:
    """Nothing of a solution may stand anywhere in the students' copy, nor any output.

    Raises:
        Trouble: that says what stands where.
    """
    secrets = {line for cell in source.cells for line in solution_lines(cell) if len(line) > 12}
    for cell in notebook.cells:
        everything = cell.source + "\n" + repr(cell.metadata)
        found = [secret for secret in ("SOLUTION", *secrets) if secret in everything]
        found += ["an output"] if cell.get("outputs") else []
        if found:
            raise Trouble(f"The students' copy of {topic} is not written, for its cell {cell.id!r} would "
                          f"show {found[0]!r}: take it out of the source, or put it between BEGIN SOLUTION "
                          "and END SOLUTION.")


def for_students(notebook):
    """Outside of the book its labels mean nothing, and its relative links lead nowhere."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"^\([\w-]+\)=\n", "", cell.source, flags=re.M)
            cell.source = re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", text)
    return notebook


# Marks ----------------------------------------------------------------------------------------------------

def grade(folder: str, topics: list[str], output: Path, timeout: int) -> None:
    """Marks the folder, and writes output/grades.csv and output/feedback/<student>/<topic>.html."""
    submissions, ignored = find_submissions(folder, topics, output)
    print("Marking runs the students' code on this machine, with your rights and without a sandbox: use an "
          "account or a machine that you can afford to lose.", flush=True)
    course = output / "course"
    clean_environment(course)
    warnings.filterwarnings("ignore", module="nbgrader")  # of SQLAlchemy, on how nbgrader uses it
    (course / "gradebook.db").unlink(missing_ok=True)
    releases = {topic: release(course, topic) for topic in {s.assignment for s in submissions}}
    for i, submission in enumerate(submissions):
        print(f"  {i + 1} of {len(submissions)}: {submission.student}, {submission.assignment}", flush=True)
        page = output / "feedback" / submission.student / f"{submission.assignment}.html"
        page.unlink(missing_ok=True)
        released = releases[submission.assignment]
        marks = {name: cell.metadata.nbgrader for name, cell in known_cells(released).items()}
        submission.max_scores = {name: float(mark.points) for name, mark in marks.items() if mark.grade}
        if not submission.remarks:
            try:
                mark(submission, released, course, page, timeout)
            except NotMarkable as reason:
                submission.remarks.append(str(reason))
    replace(output / "grades.csv", table_of(submissions).encode("utf-8-sig"))  # spreadsheets want the -sig
    report(submissions, ignored, output)


def find_submissions(folder: str, topics: list[str], output: Path) -> tuple[list[Submission], list[str]]:
    """The submissions (a remark says why one cannot be marked), and the names of what is ignored.

    Raises:
        Trouble: for a folder that is missing, empty, or one with the output.
    """
    root = Path(folder)
    if not folder.strip():
        raise Trouble("Which folder holds the submissions? Say make grade SUBMISSIONS=folder.")
    if not root.is_dir():
        raise Trouble(f"There is no folder {root}: say make grade SUBMISSIONS=folder.")
    if root.resolve() == output or root.resolve() in output.parents or output in root.resolve().parents:
        raise Trouble(f"The submissions in {root} and the results in {output} must lie apart: move the "
                      "submissions, or give --output DIR.")
    submissions, ignored = [], []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            submissions += in_folder(entry, topics)
        elif entry.suffix == ".ipynb":
            submissions.append(Submission(entry.stem, topics[0], entry))
            if len(topics) > 1:
                submissions[-1].remarks = [f"which of {', '.join(topics)} is it? Put it into "
                                           f"{entry.stem}/<topic>.ipynb"]
        else:
            ignored.append(entry.name)
    times = Counter((s.student, s.assignment) for s in submissions)
    for submission in submissions:
        if not is_safe(submission.student):
            submission.remarks = ["not a safe name for a folder: letters, digits, spaces and . _ - @ ' only, "
                                  "and a letter, a digit or _ first"]
        elif times[submission.student, submission.assignment] > 1:
            submission.remarks = ["handed in twice: keep one of the two"]
    if not submissions:
        raise Trouble(f"{root} holds no submissions: they should be <student>/<topic>.ipynb.")
    return submissions, ignored


def in_folder(folder: Path, topics: list[str]) -> list[Submission]:
    paths = [place / f"{topic}.ipynb" for topic in topics for place in (folder, folder / topic)]
    found = [Submission(folder.name, path.stem, path) for path in paths if path.exists()]
    if found:
        return found
    others = sorted(folder.rglob("*.ipynb"))
    there = ", ".join(path.name for path in others) or "no notebook"
    meant = [topic for topic in topics if any(path.stem.startswith(topic) for path in others)] or topics
    wanted = " or ".join(f"{topic}.ipynb" for topic in meant)
    return [Submission(folder.name, meant[0], folder,
                       remarks=[f"no {wanted} in the folder, which holds {there}"])]


def is_safe(student: str) -> bool:
    return len(student) <= 100 and re.fullmatch(r"\w([\w .@'-]*[\w@'-])?", student) is not None


def mark(submission: Submission, released, course: Path, page: Path, timeout: int) -> None:
    """Fills in the scores of one submission and writes its page of feedback.

    Raises:
        NotMarkable: with the reason.
    """
    from nbgrader.api import Gradebook
    from nbgrader.converters import Autograde, GenerateFeedback

    student, topic = submission.student, submission.assignment
    notebook = parse(submission.path)
    submission.remarks += restore(notebook, released)
    replace(course / "submitted" / student / topic / f"{topic}.ipynb", write_text(notebook).encode())
    run(Autograde, course, topic, student, timeout=timeout)
    marked = read_notebook(course / "autograded" / student / topic / f"{topic}.ipynb")
    submission.remarks += timeouts(marked, timeout)
    with Gradebook(database_url(course)) as gradebook:
        grades = gradebook.find_submission_notebook(topic, topic, student).grades
        submission.scores = {grade.name: float(grade.score) for grade in grades}
    run(GenerateFeedback, course, topic, student)
    feedback = (course / "feedback" / student / topic / f"{topic}.html").read_text(encoding="utf-8")
    replace(page, offline(feedback).encode())
    lay_mathjax_beside(page, course)


def parse(path: Path):
    """The notebook at the path.

    Raises:
        NotMarkable: when there is none.
    """
    import nbformat

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise NotMarkable(f"not a notebook: the file cannot be read ({error})") from None
    if not text.strip():
        raise NotMarkable("not a notebook: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(text, as_version=4)
            forget_outputs(notebook)  # they do not count, and some programs write them badly
            notebook = nbformat.v4.upgrade(notebook)  # Colab writes 4.0, in which cells have no ids
            nbformat.validate(notebook)
    except Exception as error:  # nbformat raises whatever broken JSON leads it into
        first = (str(error).strip().splitlines() or [""])[0]
        raise NotMarkable(f"not a notebook: {type(error).__name__} {first[:100]}") from None
    return notebook


def forget_outputs(notebook) -> None:
    for cell in notebook.cells:
        for name in ("outputs", "execution_count"):
            cell.pop(name, None)
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)


def known_cells(notebook) -> dict:
    """The cells of an assignment that have an nbgrader name; of cells of the same name, the last."""
    named = ((cell.metadata.get("nbgrader", {}).get("grade_id"), cell) for cell in notebook.cells
             if isinstance(cell.metadata.get("nbgrader", {}), dict))
    return {name: cell for name, cell in named if isinstance(name, str)}


def restore(notebook, released) -> list[str]:
    """Puts the assignment's own cells back into a submission, as they were handed out; tells what was amiss.

    nbgrader alone would put back what a locked cell says, but not a cell that is gone, or no test any more.

    Raises:
        NotMarkable: when none of the cells is there.
    """
    original, here, remarks = known_cells(released), known_cells(notebook), []
    if not original.keys() & here.keys():
        raise NotMarkable("not this assignment: the notebook holds none of its cells")
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)
    after = -1
    for name, wanted in original.items():
        locked = wanted.metadata.nbgrader.locked
        if name in here:
            after = next(i for i, cell in enumerate(notebook.cells) if cell is here[name])
            if locked and (here[name].source, here[name].cell_type) != (wanted.source, wanted.cell_type):
                remarks.append(f"{name} had been changed, and was put back")
            answer = copy.deepcopy(wanted)
            answer.id = here[name].id
            answer.source = wanted.source if locked else here[name].source
            notebook.cells[after] = answer
        elif locked:
            after += 1
            notebook.cells.insert(after, copy.deepcopy(wanted))
            remarks.append(f"{name} was missing, and was put back")
        else:
            remarks.append(f"{name} is missing")
    return remarks


def timeouts(notebook, timeout: int) -> list[str]:
    """The remarks on cells that ran out of time."""
    late = [(i, cell) for i, cell in enumerate(notebook.cells)
            if any(output.get("ename") == "CellTimeoutError" for output in cell.get("outputs", []))]
    names = [cell.metadata.get("nbgrader", {}).get("grade_id", f"cell {i + 1}") for i, cell in late]
    return [f"{name} timed out after {timeout} seconds" for name in names]


def table_of(submissions: list[Submission]) -> str:
    exercises = list(dict.fromkeys((s.assignment, name) for s in submissions for name in s.max_scores))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["student", "assignment", "score", "max_score", *(f"{topic}.{name.removesuffix('-test')}"
                    for topic, name in exercises), "status", "remark"])
    for s in submissions:
        points = [(s.scores or {}).get(name) if topic == s.assignment else None for topic, name in exercises]
        writer.writerow([s.student, s.assignment, number(s.score), number(s.max_score), *map(number, points),
                         "not marked" if s.scores is None else "marked", s.remark])
    return text.getvalue()


def number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def shown(submission: Submission) -> str:
    marks = "not marked" if submission.scores is None else f"{submission.score:g} of {submission.max_score:g}"
    return marks + (f" ({submission.remark})" if submission.remark else "")


def report(submissions: list[Submission], ignored: list[str], output: Path) -> None:
    rows = [("student", "assignment", "marks")] + [(s.student, s.assignment, shown(s)) for s in submissions]
    width = [max(len(row[i]) for row in rows) for i in (0, 1)]
    print()
    for student, topic, marks in rows:
        print(f"{student:{width[0]}}  {topic:{width[1]}}  {marks}")
    print()
    if ignored:
        print(f"Ignored, being no notebooks: {', '.join(ignored)}")
    print(f"{sum(s.scores is not None for s in submissions)} of {len(submissions)} submissions are marked.\n"
          f"Marks:    {output / 'grades.csv'}\nFeedback: {output / 'feedback'}/<student>/<topic>.html")


# nbgrader -------------------------------------------------------------------------------------------------

def run(step: type, course: Path, topic: str, student: str, *, timeout: int = 60,
        no_database: bool = False) -> None:
    """Runs one step of nbgrader (a converter class) for one topic and one student.

    Raises:
        NotMarkable: with the reason, when nbgrader gives up.
        Trouble: when the disk is full.
    """
    from nbgrader.coursedir import CourseDirectory

    config = configuration(course, timeout, no_database)
    directory = CourseDirectory(config=config)
    directory.assignment_id, directory.student_id = topic, student
    converter = step(coursedir=directory, config=config)
    converter.force = True
    if hasattr(converter, "autograde_preprocessors"):  # nbgrader takes every word on stderr for a failure
        execute, *others = converter.autograde_preprocessors
        converter.autograde_preprocessors = [execute, warnings_do_not_count, *others]
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
    if "DeadKernelError" in log:
        return NotMarkable("the kernel died: the code ended it, or it ran out of memory")
    if "CellTimeoutError" in log:
        return NotMarkable("a cell ran out of time and could not be interrupted")
    errors = [line for line in log.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return NotMarkable(f"nbgrader gave up: {(errors or log.strip().splitlines() or ['no reason given'])[-1]}")


def configuration(course: Path, timeout: int, no_database: bool):
    from traitlets.config import Config

    if any(sign in str(course) for sign in "[]*?"):
        raise Trouble(f"nbgrader cannot work in {course}: its name holds one of [ ] * ?. Give --output DIR.")
    config = Config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.db_url = database_url(course)
    config.GenerateAssignment.no_database = no_database
    config.SaveCells.enabled = not no_database
    config.ClearSolutions.code_stub = {"python": STUB}
    config.Execute.timeout_func = lambda cell: SETUP_SECONDS if is_setup(cell) else timeout
    config.Execute.interrupt_on_timeout = True
    config.Execute.iopub_timeout = 30  # a busy machine takes its time to pass the interrupt on
    config.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:", "--log-level=ERROR"]
    return config


def is_setup(cell) -> bool:
    marks = cell.metadata.get("nbgrader", {})
    return marks.get("locked", False) and not marks.get("grade", False)


def database_url(course: Path) -> str:
    return f"sqlite:///{course / 'gradebook.db'}"


def warnings_do_not_count(notebook, resources):
    """Moves warnings to stdout: an answer is wrong when its check says so, not when it makes noise."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                output.name = "stdout"
    return notebook, resources


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


def offline(page: str) -> str:
    """The page of feedback without what it would fetch from the network; tests get their exercises' names."""
    page = re.sub(r"<!-- Load(?:ing)? mathjax.*?<!-- End of mathjax configuration -->", lambda _: HEAD, page,
                  count=1, flags=re.S)
    page = re.sub(r"<script[^>]*\bsrc=\"https?:[^>]*>\s*</script>", "", page)
    page = re.sub(r'(<a href="#(\w[\w-]*?)(?:-test)?">)Test cell<', r"\1\2<", page)
    return page.replace("<html>", '<html lang="en">', 1)


def lay_mathjax_beside(page: Path, course: Path) -> None:
    """The MathJax of the book draws the formulas: one file on disk, where links can be, for all students."""
    ours, place = course / "mathjax.js", page.with_name("mathjax.js")
    if not ours.exists():
        installed = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
        replace(ours, (installed / "static" / "mathjax" / "tex-svg.js").read_bytes())
    if not place.exists():
        try:
            os.link(ours, place)
        except OSError:
            replace(place, ours.read_bytes())


# Files ----------------------------------------------------------------------------------------------------

def read_notebook(path: Path):
    import nbformat

    return nbformat.read(path, as_version=4)


def write_text(notebook) -> str:
    import nbformat

    return nbformat.writes(notebook)


def replace(path: Path, content: bytes) -> None:
    """Writes the file in one step, so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    try:
        new.write_bytes(content)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
