"""Marks for a folder of submissions: several at a time, each in its sandbox, and never one twice.

What becomes of a submission is kept as soon as it is known, in course/outcomes; a run that was stopped takes up from
there. The gradebook and the pages of feedback are written by this process alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import secrets
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import nbformat

from classroom.feedback import Exporter, lay_mathjax_beside, offline
from classroom.files import ROOT, Trouble, replace, write_text
from classroom.judge import RIGHT, checks_of
from classroom.misconceptions import page_of, tally, tally_table
from classroom.nbgrader_course import NotMarkable, autograde, clean_environment, database_url, release, run
from classroom.personal import common
from classroom.results import diagnoses_table, report, shown, table_of
from classroom.sandbox import Bubblewrap, Limits, ProcessLimits, adopt_orphans, choose, end_children, end_with
from classroom.submissions import Submission, find_submissions, known_cells, parse, restore

SPREADSHEET = "utf-8-sig"  # so spreadsheets see that it is UTF-8


@dataclass(frozen=True)
class Assignment:
    """A topic as it was handed out: the notebook, the topic of its checks, the check of each test cell, other files."""

    notebook: str
    checks: str
    tests: dict[str, str]
    files: list[Path]

    @property
    def points(self) -> dict[str, float]:
        cells = known_cells(nbformat.reads(self.notebook, as_version=4))
        return {name: float(cells[name].metadata.nbgrader.points) for name in self.tests}


@dataclass(frozen=True)
class Task:
    """All that a worker needs to run one submission; `key` stands for all that the outcome depends on."""

    submission: Submission
    assignment: Assignment
    isolation: Bubblewrap | ProcessLimits
    limits: Limits
    secret: bytes
    place: Path
    key: str


def grade(folder: str, topics: list[str], output: Path, limits: Limits, *, students: Sequence[str] = (), jobs: int,
          fresh: bool = False, require_sandbox: bool = False) -> None:
    """Marks the folder; writes grades.csv, diagnoses.csv, misconceptions.* and feedback/ into the output folder, beside what earlier
    runs have marked of other students and assignments. Of `students` the table also has those who handed in nothing."""
    started = time.monotonic()
    submissions, ignored = find_submissions(folder, topics, output)
    isolation, words = choose(require_sandbox)
    print(words, flush=True)
    course = output / "course"
    clean_environment(course)
    warnings.filterwarnings("ignore", module="nbgrader")  # of SQLAlchemy, on how nbgrader uses it
    (course / "gradebook.db").unlink(missing_ok=True)
    assignments = {topic: hand_out(course, topic) for topic in sorted({s.assignment for s in submissions})}

    def points(topic: str) -> dict[str, float]:
        if topic not in assignments:
            assignments[topic] = hand_out(course, topic)
        return assignments[topic].points

    before = earlier(course, submissions, points)
    secret, version, tasks, known = secret_of(course), code(), [], []
    for submission in submissions:
        submission.max_scores = assignments[submission.assignment].points
        page_for(submission, output).unlink(missing_ok=True)
        if not submission.remarks:
            assignment = assignments[submission.assignment]
            task = Task(submission, assignment, isolation, limits, secret,
                        course / "outcomes" / submission.assignment / f"{submission.student}.json",
                        key_of(submission, assignment, isolation, limits, version))
            outcome = None if fresh else outcome_at(task)
            known += [(submission, outcome)] if outcome else []
            tasks += [] if outcome else [task]
    if known:
        print(f"An earlier run has marked {len(known)} of them, which are taken up (--fresh marks all anew).")
    total = len(known) + len(tasks)
    with closing(outcomes(known, tasks, jobs)) as found:
        for i, (submission, outcome) in enumerate(found, 1):
            record(submission, outcome, course, output)
            print(f"  {i} of {total}: {submission.student}, {submission.assignment}: {shown(submission)}", flush=True)
    submissions += missing(students, before + submissions, assignments)
    everything = before + submissions
    replace(output / "grades.csv", table_of(everything).encode(SPREADSHEET))
    replace(output / "diagnoses.csv", diagnoses_table(everything).encode(SPREADSHEET))
    counts = tally(everything, {topic: assignment.checks for topic, assignment in assignments.items()})
    replace(output / "misconceptions.csv", tally_table(counts).encode(SPREADSHEET))
    replace(output / "misconceptions.html", page_of(counts).encode())
    report(submissions, ignored, output, len(tasks), time.monotonic() - started, len(before))


def hand_out(course: Path, topic: str) -> Assignment:
    notebook = release(course, topic)
    checks, tests = checks_of(notebook)
    folder = course / "release" / topic
    return Assignment(write_text(notebook), checks, tests, sorted(p for p in folder.iterdir() if p.suffix != ".ipynb"))


def secret_of(course: Path) -> bytes:
    """What the seeds of all instances come from: made once for a course, and read by nobody else."""
    place = course / "secret"
    if not place.exists():
        new = place.with_name("secret.new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        os.replace(new, place)
    return place.read_bytes()


def code() -> bytes:
    """A fingerprint of all code that decides about marks: the book's package and this folder."""
    found = hashlib.sha256()
    for folder in (ROOT / "src" / "tightbound", Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            found.update(path.read_bytes())
    return found.digest()


def key_of(submission: Submission, assignment: Assignment, isolation, limits: Limits, version: bytes) -> str:
    try:
        handed_in = submission.path.read_bytes()
    except OSError as error:
        handed_in = str(error).encode()
    files = [path.read_bytes() for path in assignment.files if path.is_file()]
    parts = [handed_in, assignment.notebook.encode(), repr((asdict(limits), isolation.name)).encode(), version, *files]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def outcome_at(task: Task) -> dict | None:
    """What an earlier run found, if the submission and all else are as they were then."""
    try:
        outcome = json.loads(task.place.read_bytes())
        return outcome if outcome["key"] == task.key else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def earlier(course: Path, now: list[Submission], points: Callable[[str], dict[str, float]]) -> list[Submission]:
    """What earlier runs have marked and kept, of other students or assignments.

    Args:
        points: the most that each test of an assignment gives.
    """
    here, found = {(s.student, s.assignment) for s in now}, []
    for path in sorted((course / "outcomes").glob("*/*.json")):
        try:
            outcome = json.loads(path.read_bytes())
            student, topic, diagnoses = outcome["student"], outcome["assignment"], outcome["diagnoses"]
            if not outcome["reason"] and (student, topic) not in here:
                worth = points(topic)
                scores = {name: most * (diagnoses[name] == RIGHT) for name, most in worth.items()}
                found.append(Submission(student, topic, path, scores, worth, outcome["remarks"], outcome["seconds"], diagnoses))
        except (OSError, ValueError, TypeError, KeyError):  # damaged, or of an assignment that has changed: to be marked anew
            continue
    return found


def missing(students: Sequence[str], found: list[Submission], assignments: dict[str, Assignment]) -> list[Submission]:
    """Who handed in nothing, for each assignment that others handed in."""
    here = {(s.student, s.assignment) for s in found}
    return [Submission(student, topic, None, max_scores=assignment.points) for topic, assignment in assignments.items()
            for student in students if (student, topic) not in here]


def outcomes(known: list, tasks: list[Task], jobs: int) -> Iterator[tuple[Submission, dict]]:
    """The submissions, each with what became of it: those known first, while others run; then as they are done."""
    pool = ProcessPoolExecutor(max(1, min(jobs, len(tasks))), mp_context=multiprocessing.get_context("spawn"),
                               initializer=begin, initargs=(os.getpid(),))
    try:
        running = {pool.submit(attend, task): task.submission for task in tasks}
        yield from known
        for done in as_completed(running):
            yield running[done], done.result()
    except BrokenProcessPool:
        raise Trouble("A process that marks was killed, perhaps because the memory ran out. Give --jobs a smaller "
                      "number, and run the command again: what is marked is kept.") from None
    except BaseException:
        end_children()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def begin(parent: int) -> None:
    """A worker leaves the end of the run to its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def attend(task: Task) -> dict:
    """Runs one submission, and keeps what became of it."""
    from classroom.execution import NotStarted, execute

    started, submission, assignment = time.monotonic(), task.submission, task.assignment
    outcome = {"key": task.key, "student": submission.student, "assignment": submission.assignment, "reason": None,
               "remarks": [], "diagnoses": {}, "notebook": None}
    lasting = True
    try:
        notebook = parse(submission.path)
        remarks = common(notebook, submission.student) + restore(notebook, nbformat.reads(assignment.notebook, as_version=4))
        verdicts, more = execute(notebook, assignment.tests, assignment.checks, submission.student,
                                 isolation=task.isolation, files=assignment.files, secret=task.secret, limits=task.limits)
        outcome |= {"remarks": remarks + more, "notebook": write_text(notebook),
                    "diagnoses": {name: verdict.diagnosis for name, verdict in verdicts.items()}}
    except NotMarkable as reason:
        outcome["reason"], lasting = str(reason), not isinstance(reason, NotStarted)
    except Exception as error:  # whatever a strange notebook leads us into, the others go on
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        outcome["reason"], lasting = f"marking it failed with {type(error).__name__}: {error}", False
    outcome["seconds"] = round(time.monotonic() - started, 2)
    if lasting:
        replace(task.place, json.dumps(outcome).encode())
    return outcome


def record(submission: Submission, outcome: dict, course: Path, output: Path) -> None:
    """Fills in what became of a submission, keeps it in the gradebook, and writes the page of feedback."""
    submission.seconds, submission.diagnoses = outcome["seconds"], outcome["diagnoses"]
    submission.remarks += outcome["remarks"]
    try:
        if outcome["reason"]:
            raise NotMarkable(outcome["reason"])
        submission.scores = scores_of(submission, outcome, course)
        give_feedback(submission, course, page_for(submission, output))
    except NotMarkable as reason:
        submission.scores = None
        submission.remarks.append(str(reason))


def scores_of(submission: Submission, outcome: dict, course: Path) -> dict[str, float]:
    """The gradebook's scores, which are the judge's.

    Raises:
        NotMarkable: when nbgrader gives up, or finds otherwise.
    """
    from nbgrader.api import Gradebook

    student, topic = submission.student, submission.assignment
    autograde(course, topic, student, nbformat.reads(outcome["notebook"], as_version=4))
    with Gradebook(database_url(course)) as gradebook:
        grades = gradebook.find_submission_notebook(topic, topic, student).grades
        scores = {grade.name: float(grade.score) for grade in grades}
    right = {name: diagnosis == RIGHT for name, diagnosis in submission.diagnoses.items()}
    if scores != {name: points * right[name] for name, points in submission.max_scores.items()}:
        raise NotMarkable(f"nbgrader's scores are not the judge's: {scores}")
    return scores


def page_for(submission: Submission, output: Path) -> Path:
    return output / "feedback" / submission.student / f"{submission.assignment}.html"


def give_feedback(submission: Submission, course: Path, page: Path) -> None:
    from nbgrader.converters import GenerateFeedback

    student, topic = submission.student, submission.assignment
    run(GenerateFeedback, course, topic, student, exporter=Exporter)
    feedback = (course / "feedback" / student / topic / f"{topic}.html").read_text(encoding="utf-8")
    replace(page, offline(feedback, student, topic).encode())
    lay_mathjax_beside(page, course)
