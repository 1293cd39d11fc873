"""What a marking run found: the tables of marks and of diagnoses, and a report on the screen."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable
from pathlib import Path

from classroom.files import Trouble
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
                         "not marked" if s.scores is None else "marked", s.remark, number(s.seconds)])
    return text.getvalue()


def earlier(output: Path, now: list[Submission], points: Callable[[str], dict[str, float]]) -> list[Submission]:
    """What earlier runs have marked, of other students or assignments, as their tables in the output folder say.

    Args:
        points: the most that each test of an assignment gives.

    Raises:
        Trouble: for tables that are damaged, or that another program has written.
    """
    def rows(name: str) -> list[dict[str, str]]:
        path = output / name
        if not path.exists():
            return []
        with open(path, encoding="utf-8-sig", newline="") as file:
            return [*csv.DictReader(file)]

    here, diagnoses, found = {(s.student, s.assignment) for s in now}, {}, []
    try:
        for row in rows("diagnoses.csv"):
            diagnoses.setdefault((row["student"], row["assignment"]), {})[f"{row['exercise']}-test"] = row["diagnosis"]
        for row in rows("grades.csv"):
            student, topic = row["student"], row["assignment"]
            if row["status"] == "marked" and (student, topic) not in here:
                worth = points(topic)
                scores = {name: float(row[f"{topic}.{name.removesuffix('-test')}"]) for name in worth}
                found.append(Submission(student, topic, output, scores, worth, [row["remark"]] * bool(row["remark"]),
                                        float(row["seconds"]), diagnoses[student, topic]))
    except (KeyError, ValueError, TypeError, csv.Error, UnicodeDecodeError) as error:
        raise Trouble(f"{output / 'grades.csv'} or diagnoses.csv beside it is not as an earlier run left it ({error!r}): move both "
                      "away, and run the command again. What is marked is kept elsewhere.") from None
    return found


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
    marks = "not marked" if submission.scores is None else f"{submission.score:g} of {submission.max_score:g}"
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
    print(f"{sum(s.scores is not None for s in submissions)} of {len(submissions)} submissions are marked; {run} were run now, in "
          f"{wall:.0f} seconds." + (f" The tables keep {before} of earlier runs besides." if before else ""))
    times = [s.seconds for s in submissions if s.seconds is not None]
    if times:
        print(f"Seconds for a submission: {statistics.median(times):.1f} (median), {max(times):.1f} (most).")
    print(f"Marks:          {output / 'grades.csv'}\n"
          f"Feedback:       {output / 'feedback'}/<student>/<topic>.html\n"
          f"Diagnoses:      {output / 'diagnoses.csv'}\n"
          f"Misconceptions: {output / 'misconceptions.html'}")
