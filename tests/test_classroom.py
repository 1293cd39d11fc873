"""The classroom: students' copies and marks, by real runs of nbgrader on a small class."""

import copy
import csv
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from course import SOURCE, cell, extra, run
from nbgrader.validator import Validator

from classroom import __main__ as command, files, marking, submissions
from tightbound import checks
from tightbound.checks import CheckFailed, laplace as check

POINTS = {"evidence": 1, "coin": 3, "away": 3, "predictive": 2, "bic": 1, "modes": 4}

pytestmark = pytest.mark.classroom


def fingerprints(folder):
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


def answered(notebook, answers):
    notebook = copy.deepcopy(notebook)
    for name, source in answers.items():
        cell(notebook, f"{name}-solution")["source"] = source
    return notebook


def wrong(name, which):
    return next(w for w in getattr(check, name).wrongs if w.name == which)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """One class from end to end: students' copies written, answered in many ways, and marked in one run."""
    folder, output = tmp_path_factory.mktemp("handed in"), tmp_path_factory.mktemp("results")
    source = json.loads((SOURCE / "laplace" / "laplace.ipynb").read_text(encoding="utf-8"))
    before = fingerprints(SOURCE)
    (output / "class.csv").write_text("student,programme\nada,physics\nben,statistics\n")
    assigned = run("assignments", "--output", output, "--students", output / "class.csv")
    student_copy = json.loads((output / "release" / "laplace" / "laplace.ipynb").read_text(encoding="utf-8"))
    right = {name: "".join(cell(source, f"{name}-solution")["source"]) for name in POINTS}

    def hand_in(path, notebook):
        text = notebook if isinstance(notebook, str) else json.dumps(notebook)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")

    hand_in("right/laplace.ipynb", answered(student_copy, right))
    for student, whose in (("ada", "ada"), ("copied", "ben")):
        version = json.loads((output / "personal" / whose / "laplace.ipynb").read_text(encoding="utf-8"))
        hand_in(f"{student}/laplace.ipynb", answered(version, right))

    half = answered(student_copy, {
        "evidence": right["evidence"],
        "coin": right["coin"].replace("### BEGIN", "import warnings\n    warnings.warn('so noisy')\n    ###"),
        "away": right["away"].replace("+ 0.5 * gradient @ step", ""),
        "predictive": "def predictive(x, mean, covariance):\n    return torch.sigmoid(x @ mean)",
        "modes": right["modes"]})
    half["cells"].append(extra("import os\nprint(dict(os.environ))"))
    half["nbformat_minor"] = 0  # as Colab writes it: cells have no ids
    half["cells"] = [{key: value for key, value in c.items() if key != "id"} for c in half["cells"]]
    hand_in("half right/laplace/laplace.ipynb", half)

    hand_in("Émilie-O'Neil.2/laplace.ipynb", student_copy)

    tampered = answered(student_copy, {**right, "evidence": "def evidence(energy, hessian):\n    return 0.0"})
    cell(tampered, "evidence-test")["source"] = "pass"
    cell(tampered, "away-test")["metadata"]["nbgrader"].update(grade=False, locked=False, points=100)
    cell(tampered, "bic-test").update(cell_type="markdown", source="done")
    for name in ("coin-test", "imports"):
        tampered["cells"].remove(cell(tampered, name))
    tampered["cells"].append({**copy.deepcopy(cell(tampered, "modes-solution")), "id": "twin"})
    hand_in("tampered/laplace.ipynb", tampered)

    hand_in("never-ending/laplace.ipynb", answered(student_copy, {
        **right, "coin": "while True:\n    pass",
        "predictive": "def predictive(**arguments):\n    while True:\n        pass"}))
    hand_in("dead/laplace.ipynb", answered(student_copy, {**right, "bic": "import os\nos._exit(0)"}))
    hand_in("not JSON/laplace.ipynb", "Dear teacher,")
    hand_in("half a file/laplace.ipynb", json.dumps(student_copy)[:1000])
    hand_in("JSON/laplace.ipynb", '{"marks": 14}')
    hand_in("nothing/laplace.ipynb", "")
    hand_in("other/laplace.ipynb", {**student_copy, "cells": [extra("1 + 1")]})
    hand_in("renamed/deeper/laplace (1).ipynb", answered(student_copy, right))
    hand_in("renamed/.ipynb_checkpoints/laplace-checkpoint.ipynb", student_copy)
    for name in ("laplace (1)", "laplace (2)"):
        hand_in(f"misnamed/{name}.ipynb", student_copy)
    hand_in("twice/laplace.ipynb", student_copy)
    hand_in("twice/laplace/laplace.ipynb", student_copy)
    hand_in("=1+1/laplace.ipynb", student_copy)
    hand_in("read me.txt", "hello")
    hand_in(".DS_Store", "")

    handed_in = fingerprints(folder)
    graded = run("grade", folder, "--output", output, "--timeout", "10", SECRET_TOKEN="hidden-from-students")
    with open(output / "grades.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return SimpleNamespace(
        source=source, copy=student_copy, output=output, assigned=assigned, graded=graded, rows=rows,
        marks={row["student"]: row for row in rows}, before=before, handed_in=handed_in, folder=folder)


def points(row):
    return {name: row[f"laplace.{name}"] and float(row[f"laplace.{name}"]) for name in POINTS}


def feedback(lesson, student):
    return (lesson.output / "feedback" / student / "laplace.html").read_text(encoding="utf-8")


# Students' copies -----------------------------------------------------------------------------------------

def test_the_students_copy_holds_no_solution(lesson):
    text = json.dumps(lesson.copy)
    assert "SOLUTION" not in text
    for name in POINTS:
        solution = "".join(cell(lesson.source, f"{name}-solution")["source"]).split("### BEGIN SOLUTION")[1]
        lines = [line.strip() for line in solution.splitlines()[1:-1] if len(line.strip()) > 12]
        assert len(lines) > 2 and not any(json.dumps(line)[1:-1] in text for line in lines)
        stub = "".join(cell(lesson.copy, f"{name}-solution")["source"])
        assert stub.startswith(f"def {name}(") and stub.endswith("raise NotImplementedError()")
        test = cell(lesson.copy, f"{name}-test")["metadata"]
        assert test["nbgrader"]["points"] == POINTS[name] and test["editable"] is False
    assert not any(c.get("outputs") for c in lesson.copy["cells"])


def test_the_students_copy_stands_alone(lesson):
    nbformat.validate(nbformat.reads(json.dumps(lesson.copy), as_version=4))
    prose = "\n".join("".join(c["source"]) for c in lesson.copy["cells"] if c["cell_type"] == "markdown")
    assert prose.startswith("# Exercises: Laplace's method") and "](" not in prose and "{doc}" not in prose
    assert [c["id"] for c in lesson.copy["cells"]] == [c["id"] for c in lesson.source["cells"]]


def test_the_archive_holds_what_a_student_needs(lesson):
    with zipfile.ZipFile(lesson.output / "laplace.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
        (wheel,) = (name for name in names if name.endswith(".whl"))
        assert names == {"README.txt", "laplace.ipynb", "requirements.txt", wheel}
        assert {str(Path(name).parent) for name in archive.namelist()} == {"laplace"}
        assert json.loads(archive.read("laplace/laplace.ipynb")) == lesson.copy
        assert archive.read("laplace/requirements.txt").decode().splitlines() == [f"./{wheel}", "jupyterlab"]
        readme = archive.read("laplace/README.txt").decode()
        assert all(word in readme for word in ("pip install -r requirements.txt", "Colab", "JupyterHub", ".whl"))
    assert str(lesson.output / "laplace.zip") in lesson.assigned.stdout


PLAIN = """
import sys, nbformat, nbclient
notebook = nbformat.read("laplace.ipynb", as_version=4)
nbclient.NotebookClient(notebook, timeout=120, allow_errors=True).execute()
nbformat.write(notebook, "done.ipynb")
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An environment that has what the package needs, but neither the package nor the book."""
    folder = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "uninstall", "--yes", "--quiet", "setuptools"], check=True)  # an old one, not ours
    place = next(folder.glob("lib/python*/site-packages"))
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (place / "ours.pth").write_text(f"{ours}\n")  # its packages, but not what its own .pth files add: the editable install
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "JUPYTER_PATH", "VIRTUAL_ENV")}
    return folder / "bin" / "python", {**environment, "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1"}


def opened(plain, folder):
    """Runs laplace.ipynb of the folder in the plain environment; gives its cells by name."""
    python, environment = plain
    subprocess.run([python, "-c", PLAIN], cwd=folder, env=environment, check=True)
    done = nbformat.read(folder / "done.ipynb", as_version=4)
    return {c.metadata.get("nbgrader", {}).get("grade_id", c.id): c for c in done.cells}


def said(cell):
    return "".join(output.get("text", "") or output.get("evalue", "") for output in cell.outputs)


def test_the_archive_works_where_the_package_is_missing(lesson, plain, tmp_path):
    with zipfile.ZipFile(lesson.output / "laplace.zip") as archive:
        archive.extractall(tmp_path)
    right = {name: "".join(cell(lesson.source, f"{name}-solution")["source"]) for name in POINTS}
    notebook = answered(lesson.copy, right)
    notebook["cells"].append({**extra("import tightbound; print(tightbound.__file__)"), "id": "where"})
    (tmp_path / "laplace" / "laplace.ipynb").write_text(json.dumps(notebook))
    cells = opened(plain, tmp_path / "laplace")
    assert all(said(cells[f"{name}-test"]).startswith("✓") for name in POINTS)
    assert said(cells["where"]).startswith(str(plain[0].parent.parent))


def test_without_its_archive_a_copy_says_what_is_missing(lesson, plain, tmp_path):
    subprocess.run([plain[0], "-m", "pip", "uninstall", "--yes", "--quiet", "tightbound"], env=plain[1], check=True)
    (tmp_path / "laplace.ipynb").write_text(json.dumps(lesson.copy))
    assert "put tightbound-….whl, from the archive" in said(opened(plain, tmp_path)["colab"])


# A version for each student -------------------------------------------------------------------------------------

def test_each_students_version_draws_its_own_data(lesson):
    ada, ben = (json.loads((lesson.output / "personal" / name / "laplace.ipynb").read_text()) for name in ("ada", "ben"))
    assert [a == b for a, b in zip(ada["cells"], ben["cells"])].count(False) == 1
    drawn = []
    try:
        for notebook in (ada, ben, ada):
            exec("".join(cell(notebook, "imports")["source"]), {})
            drawn.append([])
            with pytest.raises(CheckFailed):
                check.evidence(lambda energy, hessian: drawn[-1].append(float(energy)) or 0.0)
    finally:
        checks.personal(None)
    assert drawn[0] == drawn[2] != drawn[1] and len(drawn[0]) == 20


def test_a_version_is_marked_like_any_other_and_tells_whose_it_was(lesson):
    assert lesson.marks["ada"]["remark"] == "" and lesson.marks["ada"]["score"] == "14"
    assert lesson.marks["copied"]["remark"] == "made from the version of ben" and lesson.marks["copied"]["score"] == "14"


@pytest.mark.parametrize(("text", "word"), {
    "student\n": "names no students", "": "names no students", "ada\nada\n": "names 'ada' twice",
    "Name;Email\nada;a@b\n": "save it with commas", "../ada\n": "cannot be a folder's name", None: "There is no file"}.items())
def test_a_bad_list_of_students_is_named(tmp_path, text, word):
    path = tmp_path / "class.csv"
    if text is not None:
        path.write_text(text)
    assert word in refusal("assignments", "--output", tmp_path, "--students", path)


def test_sources_and_submissions_stay_as_they_are(lesson):
    assert fingerprints(SOURCE) == lesson.before
    assert fingerprints(lesson.folder) == lesson.handed_in


def test_nbgrader_finds_the_source_valid():
    found = Validator().validate(str(SOURCE / "laplace" / "laplace.ipynb"))
    assert found == {}  # neither "failed" tests nor "changed" ones


# Marks ----------------------------------------------------------------------------------------------------

def test_right_answers_get_all_points(lesson):
    row = lesson.marks["right"]
    assert points(row) == POINTS and (row["score"], row["max_score"]) == ("14", "14")
    assert (row["assignment"], row["status"], row["remark"]) == ("laplace", "marked", "")


def test_half_right_answers_get_their_points_and_are_told_what_is_wrong(lesson):
    row = lesson.marks["half right"]
    assert points(row) == {**POINTS, "away": 0, "predictive": 0, "bic": 0} and row["score"] == "8"
    told = html.unescape(feedback(lesson, "half right"))
    for name, which in (("away", "gradient term left out"), ("predictive", "plug-in")):
        assert told.count(wrong(name, which).message) == 1
    assert "mean is right, but log evidence is not" in told and "not written yet" in told
    assert "so noisy" in told  # a warning is shown, and costs nothing


def test_an_untouched_copy_gets_nothing(lesson):
    row = lesson.marks["Émilie-O'Neil.2"]
    assert points(row) == dict.fromkeys(POINTS, 0) and (row["score"], row["status"]) == ("0", "marked")
    assert feedback(lesson, "Émilie-O'Neil.2").count("not written yet") == len(POINTS)


def test_tampering_with_tests_has_no_effect(lesson):
    row = lesson.marks["tampered"]
    assert points(row) == {**POINTS, "evidence": 0} and (row["score"], row["max_score"]) == ("13", "14")
    assert row["remark"] == "; ".join(f"{name} {what}, and was put back" for name, what in {
        "imports": "was missing", "evidence-test": "had been changed", "coin-test": "was missing",
        "bic-test": "had been changed"}.items())


def test_a_loop_that_never_ends_costs_its_own_points_only(lesson):
    row = lesson.marks["never-ending"]
    assert points(row) == {**POINTS, "coin": 0, "predictive": 0}
    assert row["remark"] == "coin-solution timed out after 10 seconds"
    assert "had not finished after 20 seconds" in feedback(lesson, "never-ending")


def test_a_cell_that_ends_the_kernel_costs_its_own_points_only(lesson):
    row = lesson.marks["dead"]
    assert points(row) == {**POINTS, "bic": 0}
    assert row["remark"] == "bic-solution ended the kernel, and was left out"


@pytest.mark.parametrize(("student", "reason"), {
    "not JSON": "not a notebook: .*JSON", "half a file": "not a notebook: .*JSON", "JSON": "not a notebook: ",
    "nothing": "not a notebook: the file is empty", "other": "not this assignment: ",
    "misnamed": r"no <topic>\.ipynb, .* at the top of the folder, which holds laplace \(1\)\.ipynb, laplace \(2\)\.ipynb",
    "=1+1": "not a safe name",
}.items())
def test_what_cannot_be_marked_is_listed_with_its_reason(lesson, student, reason):
    row = lesson.marks[student]
    assert row["status"] == "not marked" and re.match(reason, row["remark"]) and row["max_score"] == "14"
    assert row["score"] == "" and set(points(row).values()) == {""}
    assert not (lesson.output / "feedback" / student / "laplace.html").exists()


def test_what_is_handed_in_twice_is_listed_twice(lesson):
    rows = [row for row in lesson.rows if row["student"] == "twice"]
    assert len(rows) == 2 and all(row["remark"] == "handed in twice: keep one of the two" for row in rows)


def test_the_run_says_what_it_does_and_where_things_are(lesson):
    said = lesson.graded.stdout
    assert re.match("Each submission runs in a sandbox|WARNING: there is no sandbox here", said)
    assert re.search(r"^9 of 18 submissions are marked; \d+ were run now, in \d+ seconds\.$", said, re.M) and "Ignored, being no notebooks: read me.txt\n" in said
    assert str(lesson.output / "grades.csv") in said and str(lesson.output / "feedback") in said
    assert re.search(r"^tampered +laplace +13 of 14 \(", said, re.M) and "Traceback" not in said
    assert lesson.graded.stderr == ""
    assert not list(lesson.output.rglob("*.new"))


def test_students_code_sees_no_secrets(lesson):
    folder = lesson.output / "course" / "autograded" / "half right" / "laplace"
    ran = (folder / "laplace.ipynb").read_text(encoding="utf-8")
    assert "'PATH'" in ran and "hidden-from-students" not in ran and "SECRET_TOKEN" not in ran


def test_feedback_asks_nothing_of_the_network(lesson):
    for student in ("right", "half right", "never-ending"):
        page = feedback(lesson, student)
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page) and "url(http" not in page
        assert re.findall(r'<script[^>]*src="([^"]*)"', page) == ["mathjax.js"]
        assert (lesson.output / "feedback" / student / "mathjax.js").stat().st_size > 10**6
        assert all(f">{name}</a> (Score: " in page for name in POINTS)
        assert f"<title>{student}, laplace</title>" in page and f"<h4>{student}, laplace (Score: " in page
        assert "public repository to install" not in page and "evidence(energy, hessian)" in page


# What is refused ------------------------------------------------------------------------------------------

@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder of sources of our own, which a test may spoil."""
    shutil.copytree(SOURCE / "laplace", tmp_path / "source" / "laplace", ignore=shutil.ignore_patterns(".*"))
    monkeypatch.setattr(files, "SOURCE", tmp_path / "source")
    path = tmp_path / "source" / "laplace" / "laplace.ipynb"

    def change(edit):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        edit(notebook)
        path.write_text(json.dumps(notebook), encoding="utf-8")

    return SimpleNamespace(output=tmp_path / "results", change=change, folder=tmp_path)


def refusal(*arguments):
    with pytest.raises(SystemExit) as end:
        command.main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, str)
    return end.value.code


def leak_marker(notebook):
    notebook["cells"][0]["source"] += "\nSee the SOLUTION."


def leak_code(notebook):
    notebook["cells"].append(extra("- 0.5 * torch.logdet(hessian)\nlog_areas = laplace.approximate(problem)"
                                   '.diagnostics["log_evidences"]'))


def leak_tag(notebook):
    cell(notebook, "bic-test")["metadata"]["answer"] = cell(notebook, "bic-solution")["source"][-2].strip()


def no_region(notebook):
    cell(notebook, "bic-solution")["source"] = "def bic(**arguments):\n    return 0"


def no_end(notebook):
    cell(notebook, "bic-solution")["source"] = "def bic(**arguments):\n    ### BEGIN SOLUTION\n    return 0"


def unmarked(notebook):
    cell(notebook, "bic-solution")["metadata"].pop("nbgrader")


@pytest.mark.parametrize(("spoil", "word"), {
    leak_marker: "'SOLUTION'", leak_code: "log_areas", leak_tag: "log_likelihood - 0.5",
    no_region: "'bic-solution' holds nothing", no_end: "no end solution", unmarked: "non-solution cell",
}.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_source_that_would_show_a_solution_is_refused(course, spoil, word):
    course.change(spoil)
    assert word in refusal("assignments", "--output", course.output)
    assert not list(course.output.rglob("*.zip")) and not list(course.output.rglob("*.ipynb"))


def test_a_full_disk_leaves_the_old_copy(course):
    place = course.output / "release" / "laplace" / "laplace.ipynb"
    place.parent.mkdir(parents=True)
    place.write_text("the old copy")
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    place.with_name(place.name + ".new").symlink_to("/dev/full")
    assert "disk is full" in refusal("assignments", "--output", course.output)
    assert place.read_text() == "the old copy" and os.listdir(place.parent) == ["laplace.ipynb"]


def test_folders_that_make_no_sense_are_refused(course):
    empty = course.folder / "empty"
    empty.mkdir()
    grade = ("grade", "--output", course.output)
    assert "SUBMISSIONS=folder" in refusal(*grade, "")
    assert "There is no folder" in refusal(*grade, course.folder / "missing")
    assert "holds no submissions" in refusal(*grade, empty)
    assert "must lie apart" in refusal(*grade, course.folder)
    assert "must lie apart" in refusal("grade", "--output", empty, empty)
    assert "--timeout 1 or more" in refusal(*grade, empty, "--timeout", "0")
    assert "choose one of laplace" in refusal(*grade, empty, "--assignment", "laplaec")
    assert "no assignment" in (shutil.rmtree(files.SOURCE / "laplace") or refusal("assignments"))
    assert not course.output.exists()


def test_a_bare_notebook_needs_its_topic_where_there_are_several(course):
    (course.folder / "in").mkdir()
    (course.folder / "in" / "ada.ipynb").write_text("{}")
    found, _ = submissions.find_submissions(str(course.folder / "in"), ["em", "laplace"], course.output)
    assert [s.remark for s in found] == ["which of em, laplace is it? Put it into ada/<topic>.ipynb"]
    found, _ = submissions.find_submissions(str(course.folder / "in"), ["laplace"], course.output)
    assert [(s.student, s.assignment, s.remark) for s in found] == [("ada", "laplace", "")]


def test_the_topic_is_that_of_the_checks_that_a_notebook_calls(course):
    folder, topics = course.folder / "in", ["em", "laplace", "svi"]
    for path, text in (("ben.ipynb", "from tightbound.checks import svi as check"), ("cleo/work/home.ipynb", "tightbound.checks import em as check"),
                       ("dora/x.ipynb", "from tightbound.checks import svi as check"), ("eve/svi.zip", ""), ("fay/letter.ipynb", "Dear teacher")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    found, _ = submissions.find_submissions(str(folder), topics, course.output)
    assert [(s.student, s.assignment, s.remark[:15]) for s in found] == [
        ("ben", "svi", ""), ("cleo", "svi", "no <topic>.ipyn"), ("dora", "svi", ""), ("eve", "svi", "no <topic>.ipyn"), ("fay", "svi", "no <topic>.ipyn")]
    assert "holds work/home.ipynb" in found[1].remark and "holds no notebook" in found[3].remark


def test_the_folder_of_one_student_is_not_a_class(course):
    (course.folder / "ada").mkdir()
    (course.folder / "ada" / "laplace.ipynb").write_text("{}")
    assert "name the folder above it" in refusal("grade", "--output", course.output, course.folder / "ada")


def test_the_tables_keep_what_earlier_runs_have_marked(tmp_path):
    worth = {"laplace": {"evidence-test": 1.0, "coin-test": 3.0}, "svi": {"project-test": 5.0}}

    def keep(student, topic, *diagnoses, reason=None):
        path = tmp_path / "outcomes" / topic / f"{student}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"student": student, "assignment": topic, "reason": reason, "remarks": ["late"], "seconds": 2.5,
                                    "diagnoses": dict(zip(worth[topic], diagnoses))}))

    def kept(*now):
        return {(s.student, s.assignment): s for s in marking.earlier(tmp_path, [*now], worth.__getitem__)}

    assert kept() == {}
    keep("ada", "laplace", "right", "other")
    keep("ada", "svi", "right")
    keep("ben", "laplace", "right", "right")
    keep("cleo", "laplace", reason="not a notebook")
    keep("dora", "laplace", "right")  # from before there was a second exercise
    (tmp_path / "outcomes" / "svi" / "eve.json").write_text("{")
    assert {key: s.score for key, s in kept().items()} == {("ada", "laplace"): 1.0, ("ada", "svi"): 5.0, ("ben", "laplace"): 4.0}
    assert kept()["ada", "laplace"].remark == "late" and kept()["ada", "laplace"].max_score == 4.0
    again = submissions.Submission("ada", "laplace", tmp_path, remarks=["not a notebook"])  # an old mark does not outlive it
    assert kept(again).keys() == {("ada", "svi"), ("ben", "laplace")}


@pytest.mark.parametrize(("name", "safe"), {
    "a": True, "Ada Lovelace": True, "ada@example.org": True, "1815-12-10": True, "Łukasz": True, "": False,
    ".": False, "..": False, ".hidden": False, "a/b": False, "a\\b": False, "a*": False, "[a]": False,
    "-rf": False, "=1+1": False, "a\nb": False, "a\n": False, "a ": False, "a.": False, "x" * 101: False,
}.items())
def test_only_names_that_can_be_folders_are_taken(name, safe):
    assert submissions.is_safe(name) is safe
