"""Versions of a notebook that belong to one student each: its checks draw their data and seeds from the student's name."""

from __future__ import annotations

import copy
import csv
import re
from pathlib import Path

from classroom.files import Trouble, is_safe

HEADINGS = ("student", "students", "id", "student_id", "student id", "name", "username", "login", "matriculation", "email")
LINE = 'checks.personal({student!r})  # the checks draw their data from this name'
PATTERN = re.compile(r"\nfrom tightbound import checks\nchecks\.personal\((['\"])(?P<student>.*)\1\)[^\n]*")


def read_class(path: Path) -> list[str]:
    """The students' names: the first column of a CSV file, with or without one of HEADINGS above it.

    Raises:
        Trouble: for a file that is missing or empty, a name that is twice there or cannot be a folder's.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            names = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    except (FileNotFoundError, IsADirectoryError):
        raise Trouble(f"There is no file {path}: name a CSV file whose first column holds the students' names.") from None
    except UnicodeDecodeError:
        raise Trouble(f"{path} is not text in UTF-8: save it as CSV (UTF-8).") from None
    names = names[1:] if names and names[0].lower() in HEADINGS else names
    if not names:
        raise Trouble(f"{path} names no students: write one a line, in the first column.")
    for name in names:
        if ";" in name or "\t" in name:
            raise Trouble(f"{path} has columns apart by semicolons or tabs: save it with commas between them.")
        if names.count(name) > 1:
            raise Trouble(f"{path} names {name!r} twice: give each student one name.")
        if not is_safe(name):
            raise Trouble(f"{path} names {name!r}, which cannot be a folder's name: use letters, digits, spaces and . _ - @ ' "
                          "only, with a letter, a digit or _ first.")
    return names


def personalise(notebook, student: str):
    """The student's own version: one line more in the cell that imports."""
    notebook = copy.deepcopy(notebook)
    cell = next(cell for cell in notebook.cells if "from tightbound.checks import" in cell.source)
    cell.source += "\nfrom tightbound import checks\n" + LINE.format(student=student)
    return notebook


def common(notebook, student: str) -> list[str]:
    """Makes a personal version the common one again; tells whose it was, if not the student's own."""
    remarks = []
    for cell in notebook.cells:
        found = PATTERN.search(cell.source)
        if found:
            cell.source = cell.source.replace(found[0], "")
            if found["student"] != student:
                remarks.append(f"made from the version of {found['student']}")
    return remarks
