"""A student's progress: which checks were tried, and which were passed, in one plain file that belongs to the student."""

from __future__ import annotations

import html
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

VARIABLE = "TIGHTBOUND_PROGRESS"


def place() -> Path | None:
    """The file: tightbound-progress.jsonl in the home folder, or as TIGHTBOUND_PROGRESS says; None where that says "off"."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen == "off":
        return None
    return Path(chosen).expanduser() if chosen else Path.home() / "tightbound-progress.jsonl"


def record(topic: str, exercise: str, outcome: str) -> None:
    """Adds a line to the file. Keeping a diary is never a reason to fail: where it cannot be written, a note says so.

    Args:
        topic: the chapter.
        exercise: the name of the check.
        outcome: "passed", or the name of the diagnosis.
    """
    path = place()
    if path is None:
        return
    line = json.dumps({"time": datetime.now().astimezone().isoformat(timespec="seconds"), "topic": topic, "exercise": exercise,
                       "outcome": outcome}, ensure_ascii=False)
    try:
        with open(path, "a", encoding="utf-8") as file:  # one short write: two notebooks do not spoil each other's lines
            file.write(line + "\n")
    except OSError as error:
        print(f"(Your progress is not kept, for {path} cannot be written: {error.strerror}. Set {VARIABLE} to another "
              'file, or to "off".)', file=sys.stderr)


@dataclass
class Exercise:
    """What became of one exercise: how often it was tried, and the day on which its check was first passed."""

    tries: int = 0
    passed: str | None = None
    last: str = ""


@dataclass
class Progress:
    """Shown as a table; `exercises[topic][exercise]` is an `Exercise`."""

    path: Path | None
    exercises: dict[str, dict[str, Exercise]] = field(default_factory=dict)
    unread: int = 0

    def __str__(self) -> str:
        if self.path is None:
            return f"Progress is not kept, for {VARIABLE} is off."
        if not self.exercises:
            return f"No check has been tried yet; when one is, {self.path} keeps it."
        lines = [f"{topic}: {sum(e.passed is not None for e in found.values())} of {len(found)} tried checks passed\n"
                 + "\n".join(f"  {'✓' if e.passed else '·'} {name}: {_told(e)}" for name, e in found.items())
                 for topic, found in self.exercises.items()]
        return "\n".join([*lines, self._kept()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if not self.exercises:
            return f"<p>{html.escape(str(self))}</p>"
        rows = "".join(f"<tr><th scope='row'>{html.escape(topic)}</th><td>{html.escape(name)}</td>"
                       f"<td>{'✓ passed' if e.passed else '· not yet'}</td><td>{html.escape(_told(e))}</td></tr>"
                       for topic, found in self.exercises.items() for name, e in found.items())
        return ("<table><thead><tr><th scope='col'>chapter</th><th scope='col'>exercise</th><th scope='col'></th>"
                f"<th scope='col'></th></tr></thead><tbody>{rows}</tbody></table><p>{html.escape(self._kept())}</p>")

    def _kept(self) -> str:
        unread = f" {self.unread} line(s) of it cannot be read, and are left out." if self.unread else ""
        return f"Kept in {self.path}: yours to show, to move, or to delete.{unread}"


def _told(exercise: Exercise) -> str:
    times = "1 try" if exercise.tries == 1 else f"{exercise.tries} tries"
    return f"{times}, passed on {exercise.passed}" if exercise.passed else f"{times}, last: {exercise.last}"


def progress(path: str | Path | None = None) -> Progress:
    """Which checks you have passed, read from your file of progress (or from the one given, such as a student's)::

        from tightbound import checks
        checks.progress()

    Raises:
        FileNotFoundError: for a file that you name and that there is not.
    """
    if path is not None and not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path}: name a file of progress, or leave the name out for your own")
    path = place() if path is None else Path(path)
    found = Progress(path)
    for line in _lines(path):
        try:
            entry = json.loads(line)
            topic, name, outcome, time = (str(entry[key]) for key in ("topic", "exercise", "outcome", "time"))
        except (ValueError, KeyError, TypeError):
            found.unread += 1
            continue
        exercise = found.exercises.setdefault(topic, {}).setdefault(name, Exercise())
        exercise.last = outcome
        if exercise.passed is None:  # what comes after the first success is practice
            exercise.tries += 1
            exercise.passed = time[:10] if outcome == "passed" else None
    return found


def _lines(path: Path | None) -> Iterator[str]:
    if path is None or not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        yield from (line for line in file if line.strip())
