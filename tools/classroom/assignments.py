"""Students' copies of the exercises: a notebook and an archive for every topic."""

from __future__ import annotations

import copy
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from classroom import files
from classroom.files import Trouble, read_notebook, replace, write_text
from classroom.nbgrader_course import release, solution_lines
from classroom.personal import personalise

README = """\
{topic}.ipynb holds the exercises of the chapter "{topic}" of Tightening the Bound. The other files here bring the package that it
calls; keep them in the folder of the notebook.

To start, on your own machine (Python 3.11 or newer)
  In this folder, type:
    python -m venv .venv
    .venv/bin/pip install -r requirements.txt        (Windows: .venv\\Scripts\\pip)
    .venv/bin/jupyter lab {topic}.ipynb              (Windows: .venv\\Scripts\\jupyter)
  The second line needs the network and some minutes, once. On Linux without an NVIDIA GPU, put pip's option for the index of CPU
  builds that PyTorch's installation page names into it, which saves gigabytes.

To start, in Colab
  Upload {topic}.ipynb, and run its first cell. It asks for a file: give it the one whose name ends in .whl.

To start, on your course's JupyterHub
  Fetch the assignment there, or upload this folder. The package is installed already, or the first cell installs it.

To work
  Write your answers in place of `raise NotImplementedError()`. The cell after each answer checks it and says
  what seems to be wrong. Leave these cells as they are; you may add cells of your own anywhere.

To hand in
  Run all cells from the top (menu Run, Restart Kernel and Run All Cells), save, and hand in {topic}.ipynb
  under the name that it has.
"""

# The first cell of a student's copy, at home wherever it is opened.
INSTALL = """\
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("tightbound") is None:  # on Colab, or where the package is not installed yet
    if "google.colab" in sys.modules and not list(Path.cwd().glob("tightbound-*.whl")):
        from google.colab import files

        print("Choose the file tightbound-….whl of the archive that this notebook came in:")
        files.upload()
    wheels = sorted(Path.cwd().glob("tightbound-*.whl"))
    if not wheels:
        raise RuntimeError("The package of the book is missing: put tightbound-….whl, from the archive that this notebook came "
                           "in, beside the notebook, and run this cell again.")
    get_ipython().run_line_magic("pip", f"install --quiet '{wheels[-1]}'")
    importlib.invalidate_caches()  # what pip has just laid down is to be seen"""


def write_assignments(topics: list[str], output: Path, students: list[str]) -> None:
    """Writes output/release/<topic>/<topic>.ipynb and output/<topic>.zip, but no copy that is not clean.

    With students, also each one's own version, output/personal/<student>/<topic>.ipynb.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix="course-") as course:
        package = build_wheel(Path(course))
        for topic in topics:
            released = release(Path(course), topic, database=False)
            require_clean(read_notebook(files.SOURCE / topic / f"{topic}.ipynb"), released, topic)
            notebook = for_students(released)
            text = write_text(notebook)
            place, packed = output / "release" / topic / f"{topic}.ipynb", output / f"{topic}.zip"
            replace(place, text.encode())
            replace(packed, archive(topic, text, package))
            print(f"{topic}: {place}\n{' ' * len(topic)}  {packed} (with the package, and a note on how to start)")
            for student in students:
                replace(output / "personal" / student / f"{topic}.ipynb", write_text(personalise(notebook, student)).encode())
    if students:
        print(f"Versions of {len(students)} students: {output / 'personal'}/<student>/<topic>.ipynb")


def archive(topic: str, notebook: str, package: Path) -> bytes:
    """The zip with all that a student needs."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{topic}/{topic}.ipynb", notebook)
        file.writestr(f"{topic}/README.txt", README.format(topic=topic))
        file.writestr(f"{topic}/requirements.txt", f"./{package.name}\njupyterlab\n")
        file.write(package, f"{topic}/{package.name}")
    return packed.getvalue()


def build_wheel(folder: Path) -> Path:
    """The package of the book as one file that pip installs, made from a copy so that nothing is left behind in the source."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(files.ROOT / name, folder)
    shutil.copytree(files.ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                           "--wheel-dir", folder / "wheel", folder], capture_output=True, text=True)
    if done.returncode:
        raise Trouble(f"The package cannot be packed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return next((folder / "wheel").glob("*.whl"))


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
    """Outside of the book its labels mean nothing, and its relative links lead nowhere; the package may be missing."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"^\([\w-]+\)=\n", "", cell.source, flags=re.M)
            cell.source = re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", text)
        elif "colab" in cell.metadata.get("tags", []):
            cell.source = INSTALL
    return notebook
