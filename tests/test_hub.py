"""A class on a hub: a real JupyterHub on the loopback, students who log in, fetch, compute, save and submit at once, and
a teacher who releases, collects and marks. TIGHTBOUND_HUB says how many students (default: 5)."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from course import ROOT, cell, run
from lab import free_port

TOPIC, COURSE = "laplace", "tightbound"
POINTS = {"evidence": 1, "coin": 3, "away": 3, "predictive": 2, "bic": 1, "modes": 4}
SIZE = int(os.environ.get("TIGHTBOUND_HUB", "5"))
KERNELS = 3  # at a time: a kernel with torch takes a quarter of a gigabyte
BIN = Path(sys.executable).parent


def needed(module: str):
    try:
        return __import__(module)
    except ModuleNotFoundError:
        told = f"{module} is missing: `make environment` installs it"
        return pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)


# ---- the hub -----------------------------------------------------------------------------------------------

CONFIG = """\
load_subconfig({classroom!r})
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.ConfigurableHTTPProxy.pid_file = {pid_file!r}
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie_secret"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/homes/{{username}}"
c.Spawner.cmd = [{python!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.args = [*c.Spawner.args, *{options!r}]
c.Spawner.env_keep = [*{kept!r}]
"""


class Hub:
    def __init__(self, folder: Path):
        self.folder, self.password = folder, uuid.uuid4().hex
        self.exchange, self.course = folder / "exchange", folder / "course"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "hub.log"
        configured = folder / "jupyter"
        for path in (self.exchange, self.course, folder / "homes", configured):
            path.mkdir()
        self.exchange.chmod(0o1777)
        shutil.copy(ROOT / "hub/nbgrader_config.py", configured)
        self.environment = {
            **os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT / "src"), "JUPYTER_CONFIG_PATH": str(configured), "JUPYTER_PREFER_ENV_PATH": "1",
            "TIGHTBOUND_COURSE": COURSE, "TIGHTBOUND_EXCHANGE": str(self.exchange), "TIGHTBOUND_TEACHERS": "teacher",
            "CONFIGPROXY_AUTH_TOKEN": uuid.uuid4().hex}
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            self.environment.pop(name, None)

    def teach(self, *command: str) -> str:
        """Runs a command of nbgrader as the teacher, in the folder of the course."""
        done = subprocess.run([BIN / "nbgrader", *command], cwd=self.course, capture_output=True, text=True,
                              env={**self.environment, "JUPYTERHUB_USER": "teacher"})
        assert done.returncode == 0, done.stderr
        return done.stderr

    def processes(self, word: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.server.pid).children(recursive=True):
            try:
                if word in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                pass
        return found


@contextmanager
def running(folder: Path):
    """The hub; it and all that it started have ended afterwards."""
    hub = Hub(folder)
    (folder / "jupyterhub_config.py").write_text(CONFIG.format(
        classroom=str(ROOT / "hub/jupyterhub_classroom.py"), port=hub.port, hub_port=free_port(), proxy_port=free_port(),
        proxy=str(BIN / "configurable-http-proxy"), pid_file=str(folder / "proxy.pid"), folder=folder, password=hub.password,
        python=sys.executable, options=["--allow-root"] if os.getuid() == 0 else [],
        kept=["PATH", "PYTHONPATH", "JUPYTER_CONFIG_PATH", "JUPYTER_PREFER_ENV_PATH", "LANG", "LC_ALL"]))
    with open(hub.log, "w") as log:
        hub.server = subprocess.Popen([sys.executable, "-m", "jupyterhub", "-f", folder / "jupyterhub_config.py"],
                                      cwd=folder, env=hub.environment, stdout=log, stderr=subprocess.STDOUT)
        started: list[psutil.Process] = []
        try:
            yield hub
        finally:
            if hub.server.poll() is None:
                started = psutil.Process(hub.server.pid).children(recursive=True)
            hub.server.send_signal(signal.SIGTERM)  # it ends its servers and its proxy
            try:
                hub.server.wait(60)
            except subprocess.TimeoutExpired:
                hub.server.kill()
                hub.server.wait()
            for process in psutil.wait_procs(started, timeout=20)[1]:
                process.kill()
            assert not psutil.wait_procs(started, timeout=20)[1]


# ---- a student ---------------------------------------------------------------------------------------------

class Student:
    """One student's browser, as far as the hub can tell."""

    def __init__(self, hub: Hub, name: str):
        import httpx

        self.hub, self.name = hub, name
        self.base = f"/user/{name}"
        self.http = httpx.AsyncClient(base_url=hub.url, follow_redirects=True, timeout=180)

    def token(self, path: str) -> dict[str, str]:
        """The header that goes with the cookie of a page, as JavaScript of that page would send it."""
        found = [cookie.value for cookie in self.http.cookies.jar if cookie.name == "_xsrf" and cookie.path.rstrip("/") == path]
        return {"X-XSRFToken": found[0]} if found else {}

    async def ask(self, method: str, path: str, **options):
        answer = await self.http.request(method, self.base + path, headers=self.token(self.base), **options)
        assert answer.is_success, f"{self.name}: {method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    async def log_in(self) -> None:
        form = (await self.http.get("/hub/login")).text
        xsrf = re.search(r'name="_xsrf" value="([^"]+)"', form)[1]
        answer = await self.http.post("/hub/login", data={"_xsrf": xsrf, "username": self.name, "password": self.hub.password})
        while answer.status_code == 429:  # too many start at once: the hub says when to come again
            await asyncio.sleep(float(answer.headers.get("Retry-After", 5)) / 2)
            answer = await self.http.get("/hub/spawn")
        assert answer.is_success, f"{self.name}: {answer.status_code} {answer.text[:500]}"
        while True:
            answer = await self.http.get(f"{self.base}/lab")
            if answer.is_success and str(answer.url).startswith(f"{self.hub.url}{self.base}/lab"):
                return
            assert answer.status_code in (200, 424, 429, 503), f"{self.name}: {answer.status_code} {answer.text[:500]}"
            if answer.status_code in (424, 429):  # the server is not there yet, or its start was put off
                await self.http.get("/hub/spawn")
            await asyncio.sleep(1)

    async def fetch(self):
        listed = await self.ask("GET", f"/assignments?course_id={COURSE}")
        assert [item["status"] for item in listed["value"]] == ["released"]
        listed = await self.ask("POST", "/assignments/fetch", json={"course_id": COURSE, "assignment_id": TOPIC})
        assert [item["status"] for item in listed["value"]] == ["fetched"]
        return nbformat.from_dict((await self.ask("GET", f"/api/contents/{TOPIC}/{TOPIC}.ipynb"))["content"])

    async def save(self, notebook) -> None:
        await self.ask("PUT", f"/api/contents/{TOPIC}/{TOPIC}.ipynb",
                       json={"type": "notebook", "format": "json", "content": notebook})

    async def compute(self, cells: list[str]) -> list[list[dict]]:
        """Runs the cells in a kernel of the student's server; the outputs of each."""
        session = await self.ask("POST", "/api/sessions", json={"path": f"{TOPIC}/{TOPIC}.ipynb", "name": TOPIC,
                                                               "type": "notebook", "kernel": {"name": "python3"}})
        try:
            return await self.over_socket(session["kernel"]["id"], cells)
        finally:
            await self.ask("DELETE", f"/api/sessions/{session['id']}")

    async def over_socket(self, kernel: str, cells: list[str]) -> list[list[dict]]:
        from tornado.httpclient import HTTPRequest
        from tornado.websocket import websocket_connect

        path = f"{self.base}/api/kernels/{kernel}/channels"
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.http.cookies.jar if path.startswith(cookie.path))
        socket = await websocket_connect(HTTPRequest(f"ws{self.hub.url.removeprefix('http')}{path}",
                                                     headers={"Cookie": cookies, **self.token(self.base)}))
        outputs = []
        for source in cells:
            asked, found = uuid.uuid4().hex, []
            await socket.write_message(json.dumps({
                "channel": "shell", "content": {"code": source, "silent": False, "store_history": True, "allow_stdin": False},
                "header": {"msg_id": asked, "msg_type": "execute_request", "username": self.name, "session": asked,
                           "version": "5.3", "date": ""}, "parent_header": {}, "metadata": {}, "buffers": []}))
            while True:
                message = json.loads(await asyncio.wait_for(socket.read_message(), 180))
                if message["parent_header"].get("msg_id") != asked:
                    continue
                kind, content = message["msg_type"], message["content"]
                if kind in ("stream", "execute_result", "display_data", "error"):
                    found.append({"kind": kind, **content})
                if kind == "status" and content["execution_state"] == "idle":
                    break
            outputs.append(found)
        socket.close()
        return outputs

    async def submit(self) -> None:
        listed = await self.ask("POST", "/assignments/submit", json={"course_id": COURSE, "assignment_id": TOPIC})
        assert "submitted" in [item["status"] for item in listed["value"]], f"{self.name}: {listed}"


# ---- a lesson ----------------------------------------------------------------------------------------------

def solved_by(i: int) -> list[str]:
    """Which exercises the so-manieth student solves: no two neighbours the same."""
    return [name for k, name in enumerate(POINTS) if (i + 1) >> k & 1 or name == "evidence"]


async def lesson(hub: Hub, names: list[str]) -> dict:
    source = nbformat.read(ROOT / f"chapters/exercises/{TOPIC}/{TOPIC}.ipynb", as_version=4)
    students = [Student(hub, name) for name in names]
    at_a_time, kernels, took = asyncio.Semaphore(KERNELS), [], {}

    @contextmanager
    def timed(what: str):
        began = time.perf_counter()
        yield
        took[what] = time.perf_counter() - began

    async def work(i: int, student: Student) -> None:
        notebook = await student.fetch()
        for name in solved_by(i):
            cell(notebook, f"{name}-solution").source = cell(source, f"{name}-solution").source
        async with at_a_time:
            asked = ["imports", "evidence-solution", "evidence-test"]
            outputs = await student.compute([cell(notebook, name).source for name in asked]
                                            + ["import os, psutil; me = psutil.Process(); print(me.memory_full_info().pss, "
                                               "sum(me.cpu_times()[:2]), os.environ['CUDA_VISIBLE_DEVICES'] == '')"])
            assert not [output for told in outputs for output in told if output["kind"] == "error"], outputs
            size, seconds, on_cpu = outputs.pop()[0]["text"].split()
            assert on_cpu == "True"
            kernels.append((int(size) / 1e6, float(seconds)))
        for name, found in zip(asked, outputs):
            cell(notebook, name).outputs = [nbformat.v4.new_output("stream", text=output["text"]) for output in found
                                            if output["kind"] == "stream"]
        await student.save(notebook)

    with timed("log in"):
        await asyncio.gather(*(student.log_in() for student in students))
    servers = [(process.memory_full_info().pss / 1e6, sum(process.cpu_times()[:2])) for process in hub.processes("singleuser")]
    with timed("fetch, compute, save"):
        await asyncio.gather(*(work(i, student) for i, student in enumerate(students)))
    with timed("submit"):
        await asyncio.gather(*(student.submit() for student in students))
    await asyncio.gather(*(student.http.aclose() for student in students))
    return {"seconds": took, "servers": servers, "kernels": kernels}


def wait_for(hub: Hub) -> None:
    import httpx

    began = time.monotonic()
    while time.monotonic() - began < 120 and hub.server.poll() is None:
        try:
            if httpx.get(f"{hub.url}/hub/health", timeout=10).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    pytest.fail(f"JupyterHub does not answer:\n{hub.log.read_text()[-3000:]}")


@pytest.mark.classroom
@pytest.mark.classroom_at_scale
def test_a_class_works_on_a_hub(tmp_path, capsys):
    for module in ("jupyterhub", "configurable_http_proxy"):
        needed(module)
    names = [f"student-{i:02d}" for i in range(SIZE)]
    results = tmp_path / "results"
    run("assignments", "--assignment", TOPIC, "--output", results)
    with running(tmp_path) as hub:
        shutil.copytree(results / "release", hub.course / "release")
        hub.teach("release_assignment", TOPIC)
        wait_for(hub)
        with ThreadPoolExecutor(1) as thread:  # the browser's tests leave an event loop running in ours
            seen = thread.submit(asyncio.run, lesson(hub, names)).result()
        assert len(seen["servers"]) == SIZE
        inbound = [path.name.split("+")[0] for path in (hub.exchange / COURSE / "inbound").iterdir()]
        assert sorted(inbound) == names
        hub.teach("collect", TOPIC)
    collected = hub.course / "submitted"
    assert sorted(path.relative_to(collected).as_posix() for path in collected.rglob("*.ipynb")) == [
        f"{name}/{TOPIC}/{TOPIC}.ipynb" for name in names]
    began = time.perf_counter()
    run("grade", collected, "--assignment", TOPIC, "--output", results)
    seen["seconds"]["mark"] = time.perf_counter() - began
    with open(results / "grades.csv", encoding="utf-8-sig", newline="") as file:
        marks = {row["student"]: row for row in csv.DictReader(file)}
    assert {name: (row["status"], float(row["score"] or -1)) for name, row in marks.items()} == {
        name: ("marked", sum(POINTS[exercise] for exercise in solved_by(i))) for i, name in enumerate(names)}
    size = sum(path.stat().st_size for path in (hub.exchange / COURSE / "inbound").rglob("*") if path.is_file())
    figures = [f"{what} {seconds:.0f} s" for what, seconds in seen["seconds"].items()]
    for what in ("servers", "kernels"):
        memory, processor = (sum(values) / SIZE for values in zip(*seen[what]))
        figures.append(f"{what}: {memory:.0f} MB each, {processor:.1f} s of a processor to start")
    with capsys.disabled():
        print(f"\n{SIZE} students on a hub: {'; '.join(figures)}; a submission: {size / SIZE / 1e3:.0f} kB")


# ---- what no hub is needed for -----------------------------------------------------------------------------

def configured(name: str, monkeypatch, **environment):
    """What a configuration file says, in an environment."""
    from traitlets.config import PyFileConfigLoader

    for variable in ("TIGHTBOUND_COURSE", "TIGHTBOUND_EXCHANGE", "TIGHTBOUND_TEACHERS", "JUPYTERHUB_USER"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return PyFileConfigLoader(name, ROOT / "hub").load_config()


def test_all_places_agree_on_course_and_exchange(monkeypatch):
    nbgrader = configured("nbgrader_config.py", monkeypatch)
    one = configured("jupyterhub_classroom.py", monkeypatch).Spawner.environment.get_value({})
    values = yaml.safe_load((ROOT / "hub/kubernetes/values.yaml").read_text())
    many, storage = values["singleuser"]["extraEnv"], values["singleuser"]["storage"]
    for said in (one, many):
        assert said["TIGHTBOUND_COURSE"] == nbgrader.CourseDirectory.course_id == COURSE
        assert said["TIGHTBOUND_EXCHANGE"] == nbgrader.Exchange.root
        assert said["TIGHTBOUND_TEACHERS"] == "teacher"
    (mount,) = storage["extraVolumeMounts"]
    assert nbgrader.Exchange.root.startswith(mount["mountPath"])
    claim, job = yaml.safe_load_all((ROOT / "hub/kubernetes/exchange.yaml").read_text())
    assert claim["metadata"]["name"] == storage["extraVolumes"][0]["persistentVolumeClaim"]["claimName"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f"mkdir -p {nbgrader.Exchange.root} " in container["command"][-1]
    assert [profile["slug"] for profile in values["singleuser"]["profileList"]] == ["cpu", "gpu"]


def test_a_student_submits_by_name_and_a_teacher_collects_from_all(monkeypatch):
    def submitter(user: str):
        found = configured("nbgrader_config.py", monkeypatch, JUPYTERHUB_USER=user, TIGHTBOUND_TEACHERS="teacher,tutor")
        return found.CourseDirectory.get("student_id")

    assert submitter("ada") == "ada"
    assert submitter("tutor") is None


def test_the_image_copies_what_is_there_and_no_solutions():
    lines = (ROOT / "hub/Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    allowed = {line[1:] for line in (ROOT / "hub/Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == set(copied) and not {"chapters", "tools"} & allowed
