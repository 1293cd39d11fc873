"""The notebooks that came back: found, parsed, and given back the cells that they should have."""

from __future__ import annotations

import copy
import re
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from classroom.files import Trouble, is_safe
from classroom.nbgrader_course import NotMarkable

LARGEST = 50 * 2**20  # bytes of a notebook
TOPIC = re.compile(r"from tightbound\.checks import (\w+) as check\b")


@dataclass
class Submission:
    """One notebook that came back, and what became of it. No score where it could not be marked; no path where none came."""

    student: str
    assignment: str
    path: Path | None
    scores: dict[str, float] | None = None
    max_scores: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    seconds: float | None = None
    diagnoses: dict[str, str] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        return None if self.scores is None else sum(self.scores.values())

    @property
    def max_score(self) -> float:
        return sum(self.max_scores.values())

    @property
    def remark(self) -> str:
        return "; ".join(self.remarks)


def find_submissions(folder: str, topics: list[str], output: Path) -> tuple[list[Submission], list[str]]:
    """The submissions (a remark says why one cannot be marked), and the names of what is ignored.

    Raises:
        Trouble: for a folder that is missing, empty, or one with the output.
    """
    root = Path(folder)
    if not folder.strip():
        raise Trouble("Which folder holds the submissions? Say make grade SUBMISSIONS=folder.")
    if not root.is_dir():
        raise Trouble(f"There is no folder {root}: say make grade SUBMISSIONS=folder.")
    if root.resolve() == output or root.resolve() in output.parents or output in root.resolve().parents:
        raise Trouble(f"The submissions in {root} and the results in {output} must lie apart: move the "
                      "submissions, or give --output DIR.")
    submissions, ignored = [], []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            submissions += in_folder(entry, topics)
        elif entry.suffix == ".ipynb" and entry.stem in topics:
            raise Trouble(f"{root} holds {entry.name} itself, so it seems to be the folder of one student: name the folder above it.")
        elif entry.suffix == ".ipynb":
            topic = topic_of(entry, topics)
            submissions.append(Submission(entry.stem, topic, entry, remarks=[] if topic else [
                f"which of {', '.join(topics)} is it? Put it into {entry.stem}/<topic>.ipynb"]))
        else:
            ignored.append(entry.name)
    meant = Counter(s.assignment for s in submissions if s.assignment).most_common(1)
    for submission in submissions:  # whose topic cannot be told: that of most others
        submission.assignment = submission.assignment or (meant[0][0] if meant else topics[0])
    times = Counter((s.student, s.assignment) for s in submissions)
    for submission in submissions:
        if not is_safe(submission.student):
            submission.remarks = ["not a safe name for a folder: letters, digits, spaces and . _ - @ ' only, "
                                  "and a letter, a digit or _ first"]
        elif times[submission.student, submission.assignment] > 1:
            submission.remarks = ["handed in twice: keep one of the two"]
    if not submissions:
        raise Trouble(f"{root} holds no submissions: they should be <student>/<topic>.ipynb.")
    return submissions, ignored


def in_folder(folder: Path, topics: list[str]) -> list[Submission]:
    paths = [place / f"{topic}.ipynb" for topic in topics for place in (folder, folder / topic)]
    found = [Submission(folder.name, path.stem, path) for path in paths if path.exists()]
    if found:
        return found
    others = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    named = {path: topic_of(path, topics) for path in others}
    if len(others) == 1 and named[others[0]]:  # "svi (1).ipynb", or a folder deeper
        return [Submission(folder.name, named[others[0]], others[0])]
    there = ", ".join(path.relative_to(folder).as_posix() for path in others) or "no notebook"
    wanted = f"<topic>.ipynb, with one of the topics {', '.join(topics)}," if len(topics) > 1 else f"{topics[0]}.ipynb"
    return [Submission(folder.name, next(filter(None, named.values()), ""), folder,
                       remarks=[f"no {wanted} at the top of the folder, which holds {there}"])]


def topic_of(path: Path, topics: list[str]) -> str:
    """Which topic a notebook is about, by the checks that it calls; the only one there is, where it says nothing; or ""."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            named = {*TOPIC.findall(file.read(LARGEST))} & {*topics}
    except OSError:
        named = set()
    return named.pop() if len(named) == 1 else topics[0] if len(topics) == 1 else ""


def parse(path: Path):
    """The notebook at the path.

    Raises:
        NotMarkable: when there is none.
    """
    import nbformat

    try:
        if path.stat().st_size > LARGEST:
            raise NotMarkable(f"larger than {LARGEST // 2**20} MB: clear its outputs, or take the pictures out")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise NotMarkable(f"not a notebook: the file cannot be read ({error})") from None
    if not text.strip():
        raise NotMarkable("not a notebook: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(text, as_version=4)
            forget_outputs(notebook)  # they do not count, and some programs write them badly
            notebook = nbformat.v4.upgrade(notebook)  # Colab writes 4.0, in which cells have no ids
            nbformat.validate(notebook)
    except nbformat.reader.NotJSONError:
        raise NotMarkable("not a notebook: what the file holds is no JSON") from None
    except Exception as error:  # nbformat raises whatever broken JSON leads it into
        first = (str(error).strip().splitlines() or [""])[0]
        raise NotMarkable(f"not a notebook: {type(error).__name__} {first[:100]}") from None
    return notebook


def forget_outputs(notebook) -> None:
    for cell in notebook.cells:
        for name in ("outputs", "execution_count"):
            cell.pop(name, None)
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)


def known_cells(notebook) -> dict:
    """The cells of an assignment that have an nbgrader name; of cells of the same name, the last."""
    named = ((cell.metadata.get("nbgrader", {}).get("grade_id"), cell) for cell in notebook.cells
             if isinstance(cell.metadata.get("nbgrader", {}), dict))
    return {name: cell for name, cell in named if isinstance(name, str)}


def restore(notebook, released) -> list[str]:
    """Puts the assignment's own cells back into a submission, as they were handed out; tells what was amiss.

    nbgrader alone would put back what a locked cell says, but not a cell that is gone, or no test any more.

    Raises:
        NotMarkable: when fewer than half of the cells for answers are there.
    """
    original, here, remarks = known_cells(released), known_cells(notebook), []
    answers = {name for name, cell in original.items() if cell.metadata.nbgrader.solution}
    found = answers & here.keys()
    if 2 * len(found) < len(answers):
        raise NotMarkable(f"not this assignment: the notebook holds {len(found) or 'none'} of its {len(answers)} answers")
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)
    after = -1
    for name, wanted in original.items():
        locked = wanted.metadata.nbgrader.locked
        if name in here:
            after = next(i for i, cell in enumerate(notebook.cells) if cell is here[name])
            if locked and (here[name].source, here[name].cell_type) != (wanted.source, wanted.cell_type):
                remarks.append(f"{name} had been changed, and was put back")
            answer = copy.deepcopy(wanted)
            answer.id = here[name].id
            answer.source = wanted.source if locked else here[name].source
            notebook.cells[after] = answer
        elif locked:
            after += 1
            notebook.cells.insert(after, copy.deepcopy(wanted))
            remarks.append(f"{name} was missing, and was put back")
        else:
            remarks.append(f"{name} is missing")
    return remarks
