"""Where things lie, and how files are read and written."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE = ROOT / "chapters" / "exercises"
OUTPUT = ROOT / "_build" / "classroom"


class Trouble(Exception):
    """A sentence that says what is wrong and what to do about it; the run ends."""


def find_topics(name: str | None) -> list[str]:
    topics = sorted(path.stem for path in SOURCE.glob("*/*.ipynb") if path.stem == path.parent.name)
    if not topics:
        raise Trouble(f"{SOURCE} holds no assignment: it should hold <topic>/<topic>.ipynb.")
    if name is not None and name not in topics:
        raise Trouble(f"There is no assignment {name!r}: choose one of {', '.join(topics)}.")
    return topics if name is None else [name]


def is_safe(student: str) -> bool:
    """Whether the name can be that of a folder, here and elsewhere."""
    return len(student) <= 100 and re.fullmatch(r"\w([\w .@'-]*[\w@'-])?", student) is not None


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
