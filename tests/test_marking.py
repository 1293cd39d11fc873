"""Marking: strange notebooks in one class, which harm nobody but themselves; runs that are killed and go on."""

import csv
import html
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import psutil
import pytest
from course import ROOT, SOURCE, cell, command, extra, run

from classroom import judge, marking, sandbox, submissions
from tightbound.checks import Check

TOPIC = "iterative"  # its checks are quick
POINTS = {"whose": 1, "kalman": 2, "errors": 3, "gate": 1, "through": 4}

SANDBOXED = sandbox.why_not() is None
guarded = pytest.mark.skipif(not SANDBOXED, reason="no bubblewrap here: nothing guards files and the network")

pytestmark = pytest.mark.classroom


def solved(topic=TOPIC):
    """The source's own notebook: with its solutions, it is handed in like any other."""
    return json.loads((SOURCE / topic / f"{topic}.ipynb").read_text(encoding="utf-8"))


def answered(answers, topic=TOPIC, first=None):
    """The solved notebook with other answers, by exercise; `first` is a cell before them all."""
    notebook = solved(topic)
    for name, source in answers.items():
        cell(notebook, f"{name}-solution")["source"] = source
    if first is not None:
        notebook["cells"].insert(notebook["cells"].index(cell(notebook, "imports")) + 1, extra(first))
    return notebook


def hand_in(folder, student, notebook, topic=TOPIC):
    path = folder / student / f"{topic}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(notebook if isinstance(notebook, str) else json.dumps(notebook), encoding="utf-8")


def marks(output):
    with open(output / "grades.csv", encoding="utf-8-sig", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def points(row):
    return {name: float(row[f"{TOPIC}.{name}"]) for name in POINTS}


def without(*names):
    return {name: 0 if name in names else value for name, value in POINTS.items()}


def left_running(word):
    found = []
    for process in psutil.process_iter():
        try:
            if word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


# Attacks ---------------------------------------------------------------------------------------------------------

MARK = "31415.926"  # seconds to sleep: how the tests know the attackers' processes

DEAF = """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
"""

GREEDY = "block = bytearray(100 * 2**30)\nfor i in range(0, len(block), 4096):\n    block[i] = 1"
SLOWLY_GREEDY = "blocks = []\nwhile True:\n    blocks.append(b'x' * 2**25)"
CHILDREN = f"import subprocess\nchildren = [subprocess.Popen(['sleep', '{MARK}']) for _ in range(200)]\nchildren[0].wait()"
DEATH = "import os\nos._exit(0)"
LOUD = "while True:\n    print('x' * 10**6)"
ONE_SHOUT = "print('x' * 10**9)"
BIG_FILE = "with open('big', 'wb') as file:\n    for _ in range(1000):\n        file.write(bytes(10**6))"

FORGED = """
import base64, json, os, pickle, socket, struct

def kalman(mean, variance, y, walk, noise):
    return 0.0, 0.0

def say(*messages):
    with socket.socket(socket.AF_UNIX) as judge:
        judge.settimeout(2)
        judge.connect(os.environ["TIGHTBOUND_JUDGE"])
        for message in messages:
            judge.sendall(struct.pack(">Q", len(message)) + message)
        try:
            while judge.recv(2**16):
                pass
        except OSError:
            pass

class Bomb:
    def __reduce__(self):
        return os.system, ("touch HARM",)

class Forger:
    def kalman(self, function):
        ask = json.dumps(["iterative", "kalman"]).encode()
        zero = [[], base64.b64encode(bytes(8)).decode()]
        for message in (b"", b"[]", b"[true, \\"right\\"]", b"[" * 100000, b'{"passed": true}', pickle.dumps(Bomb()), b"NaN",
                        json.dumps([["", "float", "", [zero, zero]]]).encode(),
                        json.dumps([["", "float", "", [[[-1], ""]]]] * 20).encode(),
                        json.dumps([["", "float", "", [[[2**62], ""]]]] * 20).encode()):
            say(ask, message)
        say(struct.pack(">Q", 2**62))
        with socket.socket(socket.AF_UNIX) as judge:
            judge.connect(os.environ["TIGHTBOUND_JUDGE"])
            judge.sendall(struct.pack(">Q", 2**62))
        print("✓ kalman: right, on 20 fresh instances")

real, forger = check, Forger()

class Both:
    def __getattr__(self, name):
        return getattr(forger if name == "kalman" else real, name)

check = Both()
"""

MUTE = """
def errors(A, x, z, scale_x, prior_mean, scale_z):
    kernel = get_ipython().kernel
    kernel.session.send(kernel.iopub_socket, "stream", {"no": "text"}, parent=kernel.get_parent())
    return 0 * z
"""

DEATH_WHEN_ASKED = "def kalman(mean, variance, y, walk, noise):\n    import os\n    os._exit(0)"

WRONG = {"whose": "def whose(log_evidence, best, bound):\n    return 0.0, 0.0",
         "kalman": "def kalman(mean, variance, y, walk, noise):\n    return 0.0, 0.0",
         "errors": "def errors(A, x, z, scale_x, prior_mean, scale_z):\n    return 0 * z",
         "gate": "def gate(lam, proposal, logit):\n    return 0 * lam",
         "through": "def through(lam, centre, curvature, rate, steps):\n    return 0 * lam, 0 * lam"}

# Patches: every answer is wrong, and every tool that could tell is bent. They get nothing.
PATCHES = {
    "patched check": """
import builtins, sys
from tightbound import checks
from tightbound.checks import answers
saying = lambda self, function, **_: print(f"✓ {self.name}: right, on 20 fresh instances")
checks.Check.__call__ = saying
checks.CheckFailed = answers.collect = answers.encode = lambda *_, **__: None
builtins.AssertionError = builtins.print
sys.modules["tightbound.checks"].Check.__call__ = saying
""",
    "another check": """
class Check:
    def __getattr__(self, name):
        return lambda function: print(f"✓ {name}: right, on 20 fresh instances")
check = Check()
""",
    "patched numbers": """
import math, numpy, torch
for module in (torch, numpy, math, torch.Tensor):
    for name in ("equal", "allclose", "isclose", "isfinite", "isnan", "array_equal", "eq", "__eq__", "__le__", "le", "all"):
        if hasattr(module, name):
            setattr(module, name, lambda *_, **__: True)
""",
    "silent errors": """
get_ipython().showtraceback = lambda *_, **__: print("✓ all right")
import os
os.environ["TIGHTBOUND_JUDGE"] = "nowhere"
""",
}

SPY = """
import pathlib, socket, subprocess
def attempt(what, function):
    try:
        print(what, "GOT", function())
    except BaseException as error:
        print(what, "refused", type(error).__name__)
for path in {paths!r}:
    attempt(path, lambda: len(pathlib.Path(path).read_bytes()))
attempt("write", lambda: pathlib.Path({target!r}).write_text("harm"))
attempt("write below", lambda: pathlib.Path("../harm").write_text("harm"))
attempt("package", lambda: (pathlib.Path(torch.__file__).parent / "harm").write_text("harm"))
attempt("book", lambda: (pathlib.Path({book!r}) / "tightbound" / "harm").write_text("harm"))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", {port}), timeout=3))
attempt("processes", lambda: [pid for pid in pathlib.Path("/proc").iterdir() if pid.name.isdigit()][10])
attempt("own", lambda: pathlib.Path("notes.txt").write_text("mine"))
"""


@pytest.fixture(scope="module")
def listener():
    """A server on loopback, as many run on a teacher's machine; `heard` counts who got through to it."""
    server, heard = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        while True:
            try:
                heard.append(server.accept())
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield SimpleNamespace(port=server.getsockname()[1], heard=heard)
    server.close()


def among(cells, notebook):
    """The notebook with cells of the student's own at its top, before all else."""
    notebook["cells"][:0] = [extra(source) for source in cells]
    return notebook


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, listener):
    """One class with every attack in it, marked in one run."""
    folder, output, harm = (tmp_path_factory.mktemp(name) for name in ("handed in", "results", "harm"))
    course = output / "course"
    hand_in(folder, "right", solved())
    hand_in(folder, "ends", among([DEATH, CHILDREN, SLOWLY_GREEDY, DEAF], solved()))
    hand_in(folder, "shouts", among([LOUD, ONE_SHOUT], solved()))
    hand_in(folder, "many ends", among([DEATH + f"  # {i}" for i in range(6)], solved()))
    hand_in(folder, "answers", answered({"whose": "while True:\n    pass", "kalman": GREEDY, "gate": BIG_FILE}))
    hand_in(folder, "tests", answered({"kalman": DEATH_WHEN_ASKED, "errors": MUTE}))
    hand_in(folder, "forged", answered({"kalman": FORGED}))
    for student, patch in PATCHES.items():
        hand_in(folder, student, answered(WRONG, first=patch))
    hand_in(folder, "patched but right", answered({}, first=PATCHES["patched numbers"]))
    paths = [folder / "right" / f"{TOPIC}.ipynb", course / "secret", course / "gradebook.db", SOURCE / TOPIC / f"{TOPIC}.ipynb",
             course / "source" / TOPIC / f"{TOPIC}.ipynb", ROOT / "src" / "tightbound" / "checks" / f"{TOPIC}.py"]
    spy = answered({}, first=SPY.format(paths=[str(path) for path in paths], target=str(harm / "target"),
                                        book=str(ROOT / "src"), port=listener.port))
    spy["cells"] += [extra("from IPython.display import HTML, Javascript, display\ndisplay(HTML('<script>harm()</script>'), "
                           "Javascript('harm()'))\nprint('<script>harm()</script>')"),
                     extra("Dear <script>harm()</script><img src=x onerror=harm()> [teacher](javascript:harm())", "markdown")]
    hand_in(folder, "spy", spy)
    hand_in(folder, "other assignment", solved("laplace"))
    hand_in(folder, "empty", "")
    hand_in(folder, "no JSON", "{'cells': []}")
    listed = tmp_path_factory.mktemp("class") / "class.csv"
    listed.write_text("student\nright\nin bed\n")
    graded = run("grade", folder, "--output", output, "--students", listed, "--timeout", 8, "--memory", 1)
    return SimpleNamespace(output=output, said=graded.stdout, err=graded.stderr, marks=marks(output), harm=harm, folder=folder)


def feedback(attacked, student):
    return (attacked.output / "feedback" / student / f"{TOPIC}.html").read_text(encoding="utf-8")


def test_the_untouched_get_all_their_points(attacked):
    assert points(attacked.marks["right"]) == POINTS and attacked.marks["right"]["remark"] == ""
    assert points(attacked.marks["patched but right"]) == POINTS


def test_cells_that_end_the_kernel_are_left_out_and_cost_nothing_else(attacked):
    row = attacked.marks["ends"]
    assert points(row) == POINTS
    assert row["remark"].split("; ") == [f"cell {i} {what}, and was left out" for i, what in enumerate(
        ("ended the kernel", "started more than 64 processes", "used more than 1 GB of memory",
         "ran out of time and could not be interrupted"), 1)]


def test_a_flood_of_output_ends_its_cell(attacked):
    row = attacked.marks["shouts"]  # what is printed waits in the kernel's memory, and is too much here or there
    assert points(row) == POINTS
    for i, remark in enumerate(row["remark"].split("; "), 1):
        assert re.fullmatch(f"cell {i} (printed more than 50 MB|used more than 1 GB of memory), and was left out", remark)
    assert len((attacked.output / "course" / "outcomes" / TOPIC / "shouts.json").read_bytes()) < 10**6


def test_answers_that_use_too_much_cost_their_own_points_only(attacked):
    row = attacked.marks["answers"]
    assert points(row) == without("whose", "kalman", "gate")
    assert row["remark"] == "whose-solution timed out after 8 seconds"
    told = html.unescape(feedback(attacked, "answers"))
    assert "MemoryError" in told and re.search("OSError.*(No space left|File too large)", told)


def test_functions_that_disturb_their_test_cost_its_points_only(attacked):
    row = attacked.marks["tests"]
    assert points(row) == without("kalman", "errors")
    assert row["remark"] == ("kalman-test ended the kernel, and was left out; "
                             "errors-test disturbed the messages of the kernel, and was left out")


def test_forged_messages_to_the_judge_earn_nothing(attacked):
    row = attacked.marks["forged"]
    assert points(row) == without("kalman") and row["remark"] == ""


@pytest.mark.parametrize("student", PATCHES)
def test_what_is_patched_makes_no_answer_right(attacked, student):
    row = attacked.marks[student]
    assert row["status"] == "marked" and row["score"] == "0"


@guarded
def test_a_spy_reads_writes_and_reaches_nothing(attacked, listener):
    page = html.unescape(feedback(attacked, "spy"))
    tried = re.findall(r"^(?:<.*>)?(\S.*?) (refused|GOT) ", page, re.M)
    assert len(tried) == 13 and [what for what, came in tried if came == "GOT"] == ["own"]
    assert listener.heard == [] and not list(attacked.harm.iterdir())
    assert attacked.marks["spy"]["score"] == "11"


def test_nothing_is_left_running(attacked):
    assert left_running(MARK) == [] and left_running(str(attacked.output)) == []
    assert left_running("inside/kernel.py") == [] and left_running("/run/kernel.py") == []


def test_feedback_runs_no_script_of_a_student(attacked):
    page = feedback(attacked, "spy")
    assert "harm" in page and re.findall(r"<script[^>]*>[^<]*harm|<[^>]*harm\(", page) == []
    assert re.findall(r'<script[^>]*src="([^"]*)"', page) == ["mathjax.js"]


@pytest.mark.parametrize(("student", "reason"), {
    "other assignment": "not this assignment: the notebook holds none of its 5 answers", "empty": "not a notebook: .* empty",
    "no JSON": "not a notebook: .*JSON", "many ends": "run 6 times, and each time another cell had to be left out: cell 1 ended the kernel",
}.items())
def test_what_cannot_be_marked_says_why(attacked, student, reason):
    row = attacked.marks[student]
    assert row["status"] == "not marked" and re.match(reason, row["remark"]) and row["score"] == ""


def test_who_hands_in_nothing_is_in_the_table(attacked):
    row = attacked.marks["in bed"]
    assert (row["status"], row["score"], float(row["max_score"])) == ("not handed in", "", sum(POINTS.values()))
    assert re.search(rf"^in bed +{TOPIC} +not handed in$", attacked.said, re.M)
    assert f" of {len(attacked.marks) - 1} submissions are marked" in attacked.said


def test_diagnoses_are_counted(attacked):
    with open(attacked.output / "diagnoses.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    marked = [row for row in attacked.marks.values() if row["status"] == "marked"]
    assert len(rows) == len(marked) * len(POINTS)
    found = {(row["student"], row["exercise"]): (row["passed"], row["diagnosis"]) for row in rows}
    assert found["right", "gate"] == ("yes", "right") and found["answers", "whose"] == ("no", "never asked")
    assert found["forged", "kalman"] == ("no", "no answers") and found["tests", "kalman"] == ("no", "left out")
    with open(attacked.output / "misconceptions.csv", encoding="utf-8-sig", newline="") as file:
        counts = list(csv.DictReader(file))
    assert sum(int(row["number"]) for row in counts) == len(rows)
    page = (attacked.output / "misconceptions.html").read_text(encoding="utf-8")
    assert page.count("<table>") == len(POINTS) and "http" not in page and f"of {len(marked)}" in page
    assert "<caption>The gate (gate)</caption>" in page


def test_the_run_states_its_times(attacked):
    assert re.search(r"^Seconds for a submission: [\d.]+ \(median\), [\d.]+ \(most\)\.$", attacked.said, re.M)
    assert "Traceback" not in attacked.said + attacked.err


# Runs that end early ---------------------------------------------------------------------------------------------

def test_a_run_that_was_ended_goes_on_where_it_was(tmp_path):
    """Killed after the first submission, ended by hand in the second: three runs mark the two, each once."""
    folder, output = tmp_path / "in", tmp_path / "out"
    for student in ("ada", "ben"):
        hand_in(folder, student, solved())
    kept = output / "course" / "outcomes" / TOPIC / "ada.json"
    grade = command("grade", folder, "--output", output, "--jobs", 1)

    def ended(when, how):
        running, family = subprocess.Popen(grade, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
                                           preexec_fn=heeding_interrupts), set()
        while running.poll() is None and not when(family):
            family |= set(psutil.Process(running.pid).children(recursive=True))
            time.sleep(0.05)
        running.send_signal(how)
        error = running.communicate()[1]
        assert psutil.wait_procs(family, timeout=60)[1] == [] and "Traceback" not in error
        return running.returncode, error

    def heeding_interrupts():  # which a shell has its background jobs ignore, and all that they start
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def written(path):  # which file it is, and since when; not when it was last read
        return path.stat().st_ino, path.stat().st_mtime_ns

    def runs_a_kernel(family):
        return any("kernel.py" in words and "-f" in words for words in map(words_of, family))

    def words_of(process):
        try:
            return {Path(word).name for word in process.cmdline()}
        except psutil.Error:  # it has just ended
            return set()

    assert ended(lambda _: kept.exists(), signal.SIGKILL)[0] == -signal.SIGKILL
    marked = written(kept)
    code, error = ended(runs_a_kernel, signal.SIGINT)
    assert code == 1 and "What is marked is kept" in error and written(kept) == marked
    done = run("grade", folder, "--output", output, "--jobs", 1)
    assert "An earlier run has marked 1 of them" in done.stdout and "2 of 2 submissions are marked; 1 were run now" in done.stdout
    assert written(kept) == marked
    assert {student: row["score"] for student, row in marks(output).items()} == {"ada": "11", "ben": "11"}


def test_what_changed_is_marked_anew(tmp_path):
    limits, isolation = sandbox.Limits(), sandbox.ProcessLimits()
    assignment = marking.Assignment("{}", TOPIC, {}, [])
    hand_in(tmp_path, "ada", solved())
    handed_in = submissions.Submission("ada", TOPIC, tmp_path / "ada" / f"{TOPIC}.ipynb")
    keys = [marking.key_of(handed_in, assignment, isolation, limits, b"1"),
            marking.key_of(handed_in, assignment, isolation, limits, b"2"),
            marking.key_of(handed_in, assignment, isolation, replace(limits, seconds=61), b"1"),
            marking.key_of(handed_in, assignment, sandbox.Bubblewrap(), limits, b"1"),
            marking.key_of(handed_in, replace(assignment, notebook="[]"), isolation, limits, b"1")]
    assert keys[0] == marking.key_of(handed_in, assignment, isolation, limits, b"1")
    handed_in.path.write_text(json.dumps(answered({"gate": WRONG["gate"]})))
    keys.append(marking.key_of(handed_in, assignment, isolation, limits, b"1"))
    assert len({*keys}) == len(keys)


def test_seeds_are_a_secret_of_their_own(attacked):
    place = attacked.output / "course" / "secret"
    assert place.stat().st_mode & 0o777 == 0o600 and len(place.read_bytes()) == 32
    assert place.read_bytes().hex() not in "".join(path.read_text(errors="replace") for path in attacked.output.rglob("*.json"))


# Without a sandbox -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A machine without bubblewrap."""
    folder, output = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    daemon = f"import subprocess\nsubprocess.Popen('setsid sleep {MARK} & setsid setsid sleep {MARK} &', shell=True)"
    hand_in(folder, "ends", among([DEATH, CHILDREN, daemon], answered({"kalman": FORGED})))
    hand_in(folder, "patched check", answered(WRONG, first=PATCHES["patched check"]))
    path = str(Path(sys.executable).parent)
    assert shutil.which("bwrap", path=path) is None
    graded = run("grade", folder, "--output", output, "--timeout", 8, "--memory", 1, PATH=f"{path}:/nowhere")
    return SimpleNamespace(folder=folder, output=output, said=graded.stdout, marks=marks(output), path=path)


def test_without_a_sandbox_there_is_a_warning(bare):
    first = bare.said.splitlines()[0]
    assert first.startswith("WARNING") and "network" in first and "apt install bubblewrap" in first
    done = subprocess.run(command("grade", bare.folder, "--output", bare.output, "--require-sandbox"), capture_output=True,
                          encoding="utf-8", env={**os.environ, "PATH": bare.path})
    assert done.returncode == 1 and "bubblewrap is not installed" in done.stderr


def test_without_a_sandbox_marks_are_the_same(bare):
    assert bare.marks["patched check"]["score"] == "0" and points(bare.marks["ends"]) == without("kalman")
    assert bare.marks["ends"]["remark"] == ("cell 1 ended the kernel, and was left out; "
                                            "cell 2 started more than 64 processes, and was left out")


def test_without_a_sandbox_nothing_is_left_running(bare):
    assert left_running(MARK) == [] and left_running("inside/kernel.py") == []


# The judge and the stand-in --------------------------------------------------------------------------------------

def test_every_check_finds_its_arguments_inside(tmp_path):
    """The arguments of all checks, objects among them, arrive where the checks themselves are not."""
    import importlib

    topics = sorted(path.parent.name for path in SOURCE.glob("*/*.ipynb"))
    sent = {}
    for topic in topics:
        module = importlib.import_module(f"tightbound.checks.{topic}")
        cloudpickle.register_pickle_by_value(module)
        try:
            for name, check in vars(module).items():
                if isinstance(check, Check):
                    sent[f"{topic}.{name}"] = cloudpickle.dumps(check.instances(0))
        finally:
            cloudpickle.unregister_pickle_by_value(module)
    (tmp_path / "sent").write_bytes(pickle.dumps(sent))
    command, environment, home = sandbox.ProcessLimits().start(tmp_path, [], sandbox.Limits())
    program = ("import pickle, sys; from tightbound import checks\n"
               "assert checks.__file__.startswith(sys.argv[1]) and not hasattr(checks, '__all__')\n"
               "for name, data in pickle.load(open(sys.argv[2], 'rb')).items():\n"
               "    print(name, len(pickle.loads(data)))")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), str(tmp_path / "sent")], cwd=home, env=environment,
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(sent)


@pytest.mark.parametrize("topic", sorted(path.parent.name for path in SOURCE.glob("*/*.ipynb")))
def test_every_test_cell_calls_a_check(topic):
    import nbformat

    found, tests = judge.checks_of(nbformat.read(SOURCE / topic / f"{topic}.ipynb", as_version=4))
    assert found == topic and tests and all(f"{name}-test" == test for test, name in tests.items())


def test_a_test_cell_of_another_form_is_refused():
    import nbformat

    notebook = solved()
    cell(notebook, "gate-test")["source"] = "assert gate(1, 2, 3) == 4"
    with pytest.raises(sandbox.Trouble, match="gate-test"):
        judge.checks_of(nbformat.reads(json.dumps(notebook), as_version=4))


# A whole class ---------------------------------------------------------------------------------------------------

@pytest.mark.classroom_at_scale
def test_a_whole_class_is_marked(tmp_path, capsys):
    """Right and catalogued wrong answers in turn: every student gets the marks and the diagnoses that are due."""
    size = int(os.environ.get("TIGHTBOUND_CLASS", "20"))
    folder, output, due = tmp_path / "in", tmp_path / "out", {}
    for i in range(size):
        notebook, expected = solved(), {}
        for j, (name, worth) in enumerate(POINTS.items()):
            wrong = (i + j) % 3 == 0
            expected[name] = 0 if wrong else worth
            if wrong:
                cell(notebook, f"{name}-solution")["source"] = WRONG[name]
        hand_in(folder, f"student {i:03}", notebook)
        due[f"student {i:03}"] = expected
    graded = run("grade", folder, "--output", output)
    found = marks(output)
    assert {student: points(row) for student, row in found.items()} == due
    assert len(list((output / "feedback").glob("*/*.html"))) == size
    with capsys.disabled():
        print("\n" + "\n".join(line for line in graded.stdout.splitlines() if "econds" in line))
