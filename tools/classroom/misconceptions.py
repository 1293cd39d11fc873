"""The misconception map: which diagnoses fired over a class, exercise by exercise, in words."""

from __future__ import annotations

import csv
import html
import importlib
import io
from collections import Counter
from dataclasses import dataclass

from classroom.judge import RIGHT
from classroom.submissions import Submission

from tightbound.checks.check import marked

# What the catalogue of a check does not know.
WORDS = {
    RIGHT: "Right.",
    "other": "Off, in a way that the catalogue does not know.",
    "order": "The right answers, in the wrong order.",
    "not written": "Left as it was handed out.",
    "not a function": "The name holds something that is no function.",
    "arguments": "The function takes other arguments than it was handed out with.",
    "too slow": "The function did not finish.",
    "raised": "The function raised an error.",
    "returned nothing": "The function returns nothing.",
    "not a number": "What the function returns is no real number or tensor.",
    "number of outputs": "Too many outputs, or too few.",
    "shape": "An output of another shape.",
    "NaN": "An output that is not a number (NaN).",
    "changed its arguments": "The function changes what it was given, in place.",
    "no answers": "The check was called, but heard no answers.",
    "timed out": "The cell ran out of time.",
    "left out": "The cell ended the kernel.",
    "never asked": "An error kept the check from being called.",
}


@dataclass(frozen=True)
class Count:
    """How many of the answers to an exercise got a diagnosis. `title`: what the exercise is about."""

    assignment: str
    exercise: str
    title: str
    diagnosis: str
    words: str
    number: int
    answers: int


def tally(submissions: list[Submission], topics: dict[str, str]) -> list[Count]:
    """The diagnoses of all that are marked, by exercise: right ones, then the most frequent, then those not written.

    Args:
        topics: for each assignment, whose checks it calls.
    """
    found: dict[tuple[str, str], Counter] = {}
    for submission in submissions:
        for test, diagnosis in submission.diagnoses.items() if submission.scores is not None else ():
            found.setdefault((submission.assignment, test.removesuffix("-test")), Counter())[diagnosis] += 1
    order = list(dict.fromkeys((s.assignment, name.removesuffix("-test")) for s in submissions for name in s.max_scores))
    return [Count(assignment, exercise, check(topics[assignment], exercise, "name", exercise), diagnosis,
                  words(topics[assignment], exercise, diagnosis), number, found[assignment, exercise].total())
            for assignment, exercise in order if (assignment, exercise) in found
            for diagnosis, number in sorted(found[assignment, exercise].items(),
                                            key=lambda item: (item[0] != RIGHT, item[0] == "not written", -item[1], item[0]))]


def check(topic: str, exercise: str, what: str, otherwise):
    """An attribute of an exercise's check."""
    found = getattr(importlib.import_module(f"tightbound.checks.{topic}"), exercise, None)
    return getattr(found, what, otherwise)


def words(topic: str, exercise: str, diagnosis: str) -> str:
    known = {wrong.name: wrong.message for wrong in check(topic, exercise, "wrongs", ())}
    text = known.get(diagnosis) or WORDS.get(diagnosis, diagnosis)
    return text[:1].upper() + text[1:]


def tally_table(counts: list[Count]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["assignment", "exercise", "diagnosis", "number", "answers", "in words"])
    for count in counts:
        writer.writerow([count.assignment, count.exercise, count.diagnosis, count.number, count.answers, count.words])
    return text.getvalue()


def page_of(counts: list[Count]) -> str:
    """One page that needs nothing else: for every exercise a table, whose bars show what its numbers say."""
    exercises: dict[tuple[str, str], list[Count]] = {}
    for count in counts:
        exercises.setdefault((count.assignment, count.exercise), []).append(count)
    parts, assignment = [], None
    for (topic, exercise), rows in exercises.items():
        if topic != assignment:
            parts.append(f"<h2>{html.escape(topic)}</h2>")
            assignment = topic
        parts.append(_table(f"{rows[0].title[0].upper()}{rows[0].title[1:]} ({exercise})", rows))
    return PAGE.replace("{content}", "\n".join(parts) or "<p>No submission is marked yet.</p>")


def _table(title: str, rows: list[Count]) -> str:
    lines = "\n".join(
        f'<tr class="{"right" if row.diagnosis == RIGHT else "wrong"}"><th scope="row">{html.escape(row.diagnosis)}</th>'
        f'<td class="number">{row.number} of {row.answers}</td>'
        f'<td class="words"><div class="bar" style="width: {100 * row.number / row.answers:.1f}%"></div>'
        f"{marked(row.words)}</td></tr>" for row in rows)
    return (f'<table><caption>{html.escape(title)}</caption><thead><tr><th scope="col">diagnosis</th>'
            f'<th scope="col">students</th><th scope="col">in words</th></tr></thead><tbody>\n{lines}\n</tbody></table>')


PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Misconception map</title>
<style>
:root { color-scheme: light dark; --text: #1d2733; --page: #fff; --line: #c9d1da; --right: #1a7f5a; --wrong: #b2570e; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ec; --page: #15191e; --line: #414a54; --right: #4cc296; --wrong: #f0a060; }
}
body { font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
table { width: 100%; border-collapse: collapse; margin: 1rem 0 2rem; }
caption { text-align: left; font-weight: 600; font-size: 1.15rem; padding: 0.3rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.4rem 0.6rem 0.4rem 0; border-top: 1px solid var(--line);
  font-weight: normal; }
thead th { font-size: 0.85rem; border: 0; }
tbody th { width: 12rem; }
tr.wrong th { font-weight: 600; }
.number { white-space: nowrap; width: 6rem; font-variant-numeric: tabular-nums; }
.bar { height: 0.6rem; margin: 0.45rem 0 0.2rem; min-width: 2px; background: var(--wrong); border-radius: 2px; }
.right .bar { background: var(--right); }
@media (max-width: 40rem) {
  thead { position: absolute; clip-path: inset(50%); }
  tr { display: grid; grid-template-columns: 1fr auto; border-top: 1px solid var(--line); }
  th, td { border: 0; width: auto !important; padding: 0.3rem 0; }
  .words { grid-column: 1 / -1; }
}
</style>
</head>
<body>
<h1>Misconception map</h1>
<p>What the checks found in the answers of a class, exercise by exercise. A bar is the share of the answers that got this
diagnosis; the right ones come first, then the most frequent mistakes.</p>
{content}
</body>
</html>
"""
