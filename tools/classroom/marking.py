"""Marks for a folder of submissions."""

from __future__ import annotations

import warnings
from pathlib import Path

from classroom.feedback import lay_mathjax_beside, offline
from classroom.files import read_notebook, replace, write_text
from classroom.nbgrader_course import NotMarkable, clean_environment, database_url, release, run
from classroom.personal import common
from classroom.results import report, table_of
from classroom.submissions import Submission, find_submissions, known_cells, parse, restore


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


def mark(submission: Submission, released, course: Path, page: Path, timeout: int) -> None:
    """Fills in the scores of one submission and writes its page of feedback.

    Raises:
        NotMarkable: with the reason.
    """
    from nbgrader.api import Gradebook
    from nbgrader.converters import Autograde, GenerateFeedback

    student, topic = submission.student, submission.assignment
    notebook = parse(submission.path)
    submission.remarks += common(notebook, student) + restore(notebook, released)
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


def timeouts(notebook, timeout: int) -> list[str]:
    """The remarks on cells that ran out of time."""
    late = [(i, cell) for i, cell in enumerate(notebook.cells)
            if any(output.get("ename") == "CellTimeoutError" for output in cell.get("outputs", []))]
    names = [cell.metadata.get("nbgrader", {}).get("grade_id", f"cell {i + 1}") for i, cell in late]
    return [f"{name} timed out after {timeout} seconds" for name in names]
