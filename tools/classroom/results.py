"""What a marking run found: the tables of marks and of diagnoses, and a report on the screen."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

from classroom.judge import RIGHT
from classroom.submissions import Submission


def table_of(submissions: list[Submission]) -> str:
    exercises = list(dict.fromkeys((s.assignment, name) for s in submissions for name in s.max_scores))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["student", "assignment", "score", "max_score", *(f"{topic}.{name.removesuffix('-test')}"
                    for topic, name in exercises), "status", "remark", "seconds"])
    for s in submissions:
        points = [(s.scores or {}).get(name) if topic == s.assignment else None for topic, name in exercises]
        writer.writerow([s.student, s.assignment, number(s.score), number(s.max_score), *map(number, points),
                         status(s), s.remark, number(s.seconds)])
    return text.getvalue()


def status(submission: Submission) -> str:
    if submission.path is None:
        return "not handed in"
    return "not marked" if submission.scores is None else "marked"


def diagnoses_table(submissions: list[Submission]) -> str:
    """One row for each exercise of each submission that is marked: what the judge found."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["student", "assignment", "exercise", "passed", "diagnosis"])
    for s in submissions:
        for name, diagnosis in s.diagnoses.items() if s.scores is not None else ():
            writer.writerow([s.student, s.assignment, name.removesuffix("-test"),
                             "yes" if diagnosis == RIGHT else "no", diagnosis])
    return text.getvalue()


def number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def shown(submission: Submission) -> str:
    marks = status(submission) if submission.scores is None else f"{submission.score:g} of {submission.max_score:g}"
    return marks + (f" ({submission.remark})" if submission.remark else "")


def report(submissions: list[Submission], ignored: list[str], output: Path, run: int, wall: float, before: int) -> None:
    rows = [("student", "assignment", "marks")] + [(s.student, s.assignment, shown(s)) for s in submissions]
    width = [max(len(row[i]) for row in rows) for i in (0, 1)]
    print()
    for student, topic, marks in rows:
        print(f"{student:{width[0]}}  {topic:{width[1]}}  {marks}")
    print()
    if ignored:
        print(f"Ignored, being no notebooks: {', '.join(ignored)}")
    handed_in = [s for s in submissions if s.path is not None]
    print(f"{sum(s.scores is not None for s in submissions)} of {len(handed_in)} submissions are marked; {run} were run now, in "
          f"{wall:.0f} seconds." + (f" The tables keep {before} of earlier runs besides." if before else ""))
    times = [s.seconds for s in submissions if s.seconds is not None]
    if times:
        print(f"Seconds for a submission: {statistics.median(times):.1f} (median), {max(times):.1f} (most).")
    print(f"Marks:          {output / 'grades.csv'}\n"
          f"Feedback:       {output / 'feedback'}/<student>/<topic>.html\n"
          f"Diagnoses:      {output / 'diagnoses.csv'}\n"
          f"Misconceptions: {output / 'misconceptions.html'}")
