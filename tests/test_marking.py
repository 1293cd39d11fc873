"""Marking: strange notebooks in one class, which harm nobody but themselves; runs that are killed and go on."""

import copy
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
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import psutil
import pytest

from tightbound.checks import Check

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "chapters" / "exercises"
TOOL = ROOT / "tools" / "classroom"
TOPIC = "iterative"  # its checks are quick
POINTS = {"whose": 1, "kalman": 2, "errors": 3, "gate": 1, "through": 4}

sys.path.insert(0, str(TOOL.parent))
from classroom import judge, sandbox  # noqa: E402

SANDBOXED = sandbox.why_not() is None
guarded = pytest.mark.skipif(not SANDBOXED, reason="no bubblewrap here: nothing guards files and the network")

pytestmark = pytest.mark.classroom


def command(*arguments):
    return [sys.executable, str(TOOL), *map(str, arguments)]


def run(*arguments, **environment):
    done = subprocess.run(command(*arguments), capture_output=True, encoding="utf-8",
                          env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    assert done.returncode == 0, done.stderr
    return done


def cell(notebook, name):
    return next(c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == name)


def extra(source, kind="code"):
    made = {"cell_type": kind, "id": f"mine-{abs(hash(source)) % 10**8}", "metadata": {}, "source": source}
    return {**made, "outputs": [], "execution_count": None} if kind == "code" else made


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


# Attacks: an answer to `kalman`, which gets nothing, while all others keep their points --------------------------

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
BIG_FILE = "import os\nwith open(os.path.expanduser('~/big'), 'wb') as file:\n    for _ in range(10000):\n        file.write(bytes(10**6))"

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
def kalman(mean, variance, y, walk, noise):
    kernel = get_ipython().kernel
    kernel.session.send(kernel.iopub_socket, "stream", {"no": "text"}, parent=kernel.get_parent())
    return 0.0, 0.0
"""

ATTACKS = {  # what is said of them
    "endless": ("while True:\n    pass", "kalman-solution timed out after 8 seconds"),
    "deaf": (DEAF, "kalman-solution ran out of time and could not be interrupted, and was left out"),
    "greedy": (GREEDY, ""),
    "slowly greedy": (SLOWLY_GREEDY, "kalman-solution used more than 1 GB of memory, and was left out"),
    "children": (CHILDREN, "kalman-solution started more than 64 processes, and was left out"),
    "death": (DEATH, "kalman-solution ended the kernel, and was left out"),
    "death in a test": (f"def kalman(**arguments):\n    {DEATH.splitlines()[0]}\n    {DEATH.splitlines()[1]}\n"
                        "kalman.__signature__ = None", "kalman-test ended the kernel, and was left out"),
    "loud": (LOUD, None),  # what it prints waits in its memory, and is too much here or there
    "one shout": (ONE_SHOUT, None),
    "big file": (BIG_FILE, ""),
    "forged": (FORGED, ""),
    "mute": (MUTE, "kalman-test disturbed the messages of the kernel, and was left out"),
}

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


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, listener):
    """One class with every attack in it, marked in one run."""
    folder, output, harm = (tmp_path_factory.mktemp(name) for name in ("handed in", "results", "harm"))
    hand_in(folder, "right", solved())
    for student, (answer, _) in ATTACKS.items():
        hand_in(folder, student, answered({"kalman": answer}))
    for student, patch in PATCHES.items():
        hand_in(folder, student, answered(WRONG, first=patch))
    hand_in(folder, "patched but right", answered({}, first=PATCHES["patched numbers"]))
    course = output / "course"
    paths = [folder / "right" / f"{TOPIC}.ipynb", course / "secret", course / "gradebook.db", SOURCE / TOPIC / f"{TOPIC}.ipynb",
             course / "source" / TOPIC / f"{TOPIC}.ipynb", ROOT / "src" / "tightbound" / "checks" / f"{TOPIC}.py"]
    hand_in(folder, "spy", answered({}, first=SPY.format(
        paths=[str(path) for path in paths], target=str(harm / "target"), book=str(ROOT / "src"), port=listener.port)))
    page = answered({"kalman": "from IPython.display import HTML, Javascript, display\ndisplay(HTML('<script>harm()</script>'), "
                               "Javascript('harm()'))\nprint('<script>harm()</script>')"})
    page["cells"].append(extra("Dear <script>harm()</script><img src=x onerror=harm()>", "markdown"))
    hand_in(folder, "page", page)
    hand_in(folder, "other assignment", solved("laplace"))
    hand_in(folder, "empty", "")
    hand_in(folder, "no JSON", "{'cells': []}")
    hand_in(folder, "many starts", answered({name: DEATH for name in POINTS}, first=DEATH))
    graded = run("grade", folder, "--output", output, "--timeout", 8, "--memory", 1)
    return SimpleNamespace(output=output, said=graded.stdout, err=graded.stderr, marks=marks(output), harm=harm, folder=folder)


def feedback(attacked, student):
    return (attacked.output / "feedback" / student / f"{TOPIC}.html").read_text(encoding="utf-8")


def test_the_untouched_get_all_their_points(attacked):
    assert points(attacked.marks["right"]) == POINTS and attacked.marks["right"]["remark"] == ""
    assert points(attacked.marks["patched but right"]) == POINTS


@pytest.mark.parametrize("student", ATTACKS)
def test_an_attack_costs_its_own_points_only(attacked, student):
    row, remark = attacked.marks[student], ATTACKS[student][1]
    assert row["status"] == "marked", row["remark"]
    assert points(row) == without("kalman")
    if remark is None:
        assert re.fullmatch("kalman-solution (printed more than 50 MB|used more than 1 GB of memory), and was left out",
                            row["remark"])
    else:
        assert row["remark"] == remark


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
    page = feedback(attacked, "page")
    assert points(attacked.marks["page"]) == without("kalman")
    assert re.findall(r"<script[^>]*>[^<]*harm", page) == [] and "onerror=" not in page
    assert re.findall(r'<script[^>]*src="([^"]*)"', page) == ["mathjax.js"]


@pytest.mark.parametrize(("student", "reason"), {
    "other assignment": "not this assignment: the notebook holds none of its 5 answers", "empty": "not a notebook: .* empty",
    "no JSON": "not a notebook: .*JSON", "many starts": "run 6 times, and each time another cell had to be left out: cell ",
}.items())
def test_what_cannot_be_marked_says_why(attacked, student, reason):
    row = attacked.marks[student]
    assert row["status"] == "not marked" and re.match(reason, row["remark"]) and row["score"] == ""


def test_output_is_kept_in_part(attacked):
    ran = json.loads((attacked.output / "course" / "outcomes" / TOPIC / "loud.json").read_text())
    assert len(ran["notebook"]) < 2 * 10**6


def test_diagnoses_are_counted(attacked):
    with open(attacked.output / "diagnoses.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    marked = [row for row in attacked.marks.values() if row["status"] == "marked"]
    assert len(rows) == len(marked) * len(POINTS)
    found = {(row["student"], row["exercise"]): (row["passed"], row["diagnosis"]) for row in rows}
    assert found["right", "gate"] == ("yes", "right") and found["endless", "kalman"] == ("no", "never asked")
    assert found["forged", "kalman"] == ("no", "no answers") and found["mute", "kalman"] == ("no", "left out")
    with open(attacked.output / "misconceptions.csv", encoding="utf-8-sig", newline="") as file:
        counts = list(csv.DictReader(file))
    assert sum(int(row["number"]) for row in counts) == len(rows)
    page = (attacked.output / "misconceptions.html").read_text(encoding="utf-8")
    assert page.count("<table>") == len(POINTS) and "http" not in page and f"of {len(marked)}" in page


def test_the_run_states_its_times(attacked):
    assert re.search(r"^Seconds for a submission: [\d.]+ \(median\), [\d.]+ \(most\)\.$", attacked.said, re.M)
    assert "Traceback" not in attacked.said + attacked.err


# Runs that end early ---------------------------------------------------------------------------------------------

def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """Ended by hand after the first, killed after the second: three runs mark three submissions, each once."""
    folder, output = tmp_path / "in", tmp_path / "out"
    for student in ("ada", "ben", "eve"):
        hand_in(folder, student, solved())
    kept = output / "course" / "outcomes" / TOPIC
    grade = command("grade", folder, "--output", output, "--jobs", 1)
    seen = {}
    for number, end in ((1, signal.SIGINT), (2, signal.SIGKILL)):
        running = subprocess.Popen(grade, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        family = set()
        while len(list(kept.glob("*.json"))) < number and running.poll() is None:
            family |= set(psutil.Process(running.pid).children(recursive=True))
            time.sleep(0.1)
        family |= set(psutil.Process(running.pid).children(recursive=True))
        running.send_signal(end)
        error = running.communicate()[1]
        assert running.returncode == (1 if end == signal.SIGINT else -signal.SIGKILL)
        assert ("What is marked is kept" in error) == (end == signal.SIGINT) and "Traceback" not in error
        assert psutil.wait_procs(family, timeout=60)[1] == []
        found = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}
        assert len(found) == number and seen.items() <= found.items()
        seen = found
    done = run("grade", folder, "--output", output, "--jobs", 1)
    assert "An earlier run has marked 2 of them" in done.stdout and "3 of 3 submissions are marked, 1 of them run now" in done.stdout
    found = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    assert len(found) == 3 and seen.items() <= found.items()
    assert {student: row["score"] for student, row in marks(output).items()} == {"ada": "11", "ben": "11", "eve": "11"}

    # What is handed in anew is marked anew, and nothing else is.
    (folder / "ben" / f"{TOPIC}.ipynb").write_text(json.dumps(answered({"gate": WRONG["gate"]})))
    done = run("grade", folder, "--output", output)
    again = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    assert {name for name in found if found[name] != again[name]} == {"ben.json"}
    assert points(marks(output)["ben"]) == without("gate")


def test_seeds_are_a_secret_of_their_own(attacked):
    place = attacked.output / "course" / "secret"
    assert place.stat().st_mode & 0o777 == 0o600 and len(place.read_bytes()) == 32
    assert place.read_bytes().hex() not in "".join(path.read_text(errors="replace") for path in attacked.output.rglob("*.json"))


# Without a sandbox -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A machine without bubblewrap."""
    folder, output = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    hand_in(folder, "right", solved())
    daemon = (f"import subprocess\nsubprocess.Popen('setsid sleep {MARK} & setsid setsid sleep {MARK} &', shell=True)\n"
              "def kalman(**_):\n    return 0.0, 0.0")
    for student, answer in {**{name: ATTACKS[name][0] for name in ("children", "death", "forged")}, "daemon": daemon}.items():
        hand_in(folder, student, answered({"kalman": answer}))
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
    assert points(bare.marks["right"]) == POINTS and bare.marks["patched check"]["score"] == "0"
    for student in ("children", "death", "forged", "daemon"):
        assert points(bare.marks[student]) == without("kalman")
    assert bare.marks["children"]["remark"] == ATTACKS["children"][1]


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

@pytest.mark.class_of_200
def test_a_whole_class_is_marked(tmp_path, capsys):
    """Right and catalogued wrong answers in turn: every student gets the marks and the diagnoses that are due."""
    from tightbound.checks import iterative

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
