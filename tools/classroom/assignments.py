"""Students' copies of the exercises: a notebook and an archive for every topic."""

from __future__ import annotations

import copy
import io
import re
import tempfile
import zipfile
from pathlib import Path

from classroom import files
from classroom.files import Trouble, read_notebook, replace, write_text
from classroom.nbgrader_course import release, solution_lines

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


def write_assignments(topics: list[str], output: Path) -> None:
    """Writes output/release/<topic>/<topic>.ipynb and output/<topic>.zip, but no copy that is not clean."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix="course-") as course:
        for topic in topics:
            notebook = release(Path(course), topic, database=False)
            require_clean(read_notebook(files.SOURCE / topic / f"{topic}.ipynb"), notebook, topic)
            text = write_text(for_students(notebook))
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr(f"{topic}/{topic}.ipynb", text)
                file.writestr(f"{topic}/README.txt", README.format(topic=topic))
            place, packed = output / "release" / topic / f"{topic}.ipynb", output / f"{topic}.zip"
            replace(place, text.encode())
            replace(packed, archive.getvalue())
            print(f"{topic}: {place}\n{' ' * len(topic)}  {packed} (with a note on how to start)")


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
