"""The place where a student's code runs: what it sees, what it may use, and how it ends.

bubblewrap is the sandbox, where it is installed and works. Where not, what the system lets any program limit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import tightbound
from classroom.files import Trouble

INSIDE = Path(__file__).resolve().parent / "inside"
PACKAGE = Path(tightbound.__file__).resolve().parent
MB = 2**20

# What a program finds in its system's folders; those that a system lacks are left out.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf",
          "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/fonts", "/etc/localtime", "/nix/store")


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        seconds: for a cell.
        total: seconds for all of the notebook, with the time to start it anew.
        memory: bytes, of all its processes together.
        processes: how many at a time.
        disk: bytes of files, and of any one file.
        printed: bytes that a cell may print before it is ended; a fiftieth of them is kept.
        starts: how often the notebook is run from the top at most.
    """

    seconds: int = 60
    total: int = 900
    memory: int = 4096 * MB
    processes: int = 64
    disk: int = 256 * MB
    printed: int = 50 * MB
    starts: int = 6

    @property
    def patience(self) -> int:
        """Seconds that a cell has to end once it is interrupted; a busy machine takes its time."""
        return max(3, min(self.seconds, 30))

    @property
    def threads(self) -> int:
        """How many threads all processes may have together."""
        return 8 * self.processes

    @property
    def address_space(self) -> int:
        """Bytes that a process may ask for; torch asks for far more than it uses."""
        return self.memory + 16384 * MB


class Bubblewrap:
    """No network, no other process, no file but what Python needs, and room in memory to write to."""

    name = "bubblewrap"
    words = ("Each submission runs in a sandbox (bubblewrap): no network, no files of yours, limits on time, memory, "
             "processes and output.")

    def start(self, folder: Path, files: list[Path], limits: Limits) -> tuple[list[str], dict[str, str], Path]:
        """The command to which the kernel's options are added, its environment, and its folder outside."""
        home, book = Path("/home/student"), PACKAGE.parent
        seen = [*SYSTEM, sys.prefix, os.path.realpath(sys.prefix), sys.base_prefix, os.path.realpath(sys.base_prefix)]
        options = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session",
                   "--cap-drop", "ALL", "--clearenv", "--hostname", "sandbox", "--proc", "/proc", "--dev", "/dev"]
        for place in ("/tmp", "/dev/shm", str(home)):
            options += ["--size", str(limits.disk), "--tmpfs", place]
        for place in dict.fromkeys(seen):
            options += ["--ro-bind-try", place, place]
        options += ["--ro-bind", str(PACKAGE), str(PACKAGE), "--tmpfs", str(PACKAGE / "checks"),
                    "--ro-bind", str(INSIDE / "standin.py"), str(PACKAGE / "checks" / "__init__.py"),
                    "--ro-bind", str(PACKAGE / "checks" / "answers.py"), str(PACKAGE / "checks" / "answers.py"),
                    "--ro-bind", str(INSIDE / "kernel.py"), "/run/kernel.py", "--bind", str(folder), str(folder)]
        for path in files:
            options += ["--ro-bind", str(path), str(home / path.name)]
        for place in (PACKAGE / "checks", "/dev", "/"):
            options += ["--remount-ro", str(place)]
        for name, value in environment(home, book, folder).items():
            options += ["--setenv", name, value]
        return ([shutil.which("bwrap"), *options, "--chdir", str(home), "--",
                 *launcher(Path("/run/kernel.py"), limits, limits.threads if counts_by_namespace() else 0)], {}, folder)


class ProcessLimits:
    """A session and a folder of its own, a clean environment, and limits. Nothing keeps it from files or the network."""

    name = "process limits"
    words = ("WARNING: there is no sandbox here{why}. Students' code runs with your rights, under limits on time, "
             "memory, processes and output: nothing keeps it from the network, nor from any file that your account "
             "may read or change. Use an account or a machine that you can afford to lose, or install bubblewrap "
             "(Debian, Ubuntu: apt install bubblewrap).")

    def start(self, folder: Path, files: list[Path], limits: Limits) -> tuple[list[str], dict[str, str], Path]:
        home, book = folder / "home", folder / "book"
        home.mkdir()
        for path in files:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, home / path.name)
        package = book / "tightbound"
        (package / "checks").mkdir(parents=True)
        for path in PACKAGE.iterdir():
            if path.name != "checks":
                (package / path.name).symlink_to(path)
        shutil.copy(INSIDE / "standin.py", package / "checks" / "__init__.py")
        shutil.copy(PACKAGE / "checks" / "answers.py", package / "checks" / "answers.py")
        return launcher(INSIDE / "kernel.py", limits, 0), environment(home, book, folder), home


def launcher(kernel: Path, limits: Limits, threads: int) -> list[str]:
    return [sys.executable, str(kernel), str(limits.address_space), str(limits.disk), str(threads)]


def counts_by_namespace() -> bool:
    """Whether Linux counts a user's threads in each sandbox by itself, and not with all others of that user.

    Where it does, a limit stops the fastest fork bomb. It stops nothing of root's.
    """
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (5, 14)


def environment(home: Path, book: Path, folder: Path) -> dict[str, str]:
    """All that a student's code sees of an environment. A token or a password that is set in ours stays out."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
            if name in os.environ}
    return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath]), "HOME": str(home),
            "USER": "student", "TMPDIR": "/tmp", "PYTHONPATH": str(book), "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "IPYTHONDIR": str(home / ".ipython"), "JUPYTER_PLATFORM_DIRS": "1", "TIGHTBOUND_JUDGE": str(folder / "judge")}


def choose(require: bool = False) -> tuple[Bubblewrap | ProcessLimits, str]:
    """The best isolation that works here, and a sentence on it.

    Raises:
        Trouble: where the sandbox is required and does not work, or on a system that has no sockets for the judge.
    """
    if sys.platform == "win32":
        raise Trouble("Marking needs Linux or macOS: on Windows, run it in WSL.")
    missing = why_not()
    if missing is None:
        return Bubblewrap(), Bubblewrap.words
    if require:
        raise Trouble(f"There is no sandbox here ({missing}), and --require-sandbox asks for one.")
    return ProcessLimits(), ProcessLimits.words.format(why=f" ({missing})")


def why_not() -> str | None:
    """What keeps bubblewrap from working here; None where it works. A container may lack the right to make one."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    with room() as folder:
        command, _, _ = Bubblewrap().start(folder, [], Limits())
        command = command[:command.index("--") + 1] + [sys.executable, "-c", "pass"]
        try:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=120, env={})
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bubblewrap does not work: {error}"
    said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return None if done.returncode == 0 else f"bubblewrap does not work: {said}"


def room() -> Room:
    """A folder for one submission's sockets; their names may be a hundred letters long and no more."""
    return Room(prefix="tb-", dir=None if len(tempfile.gettempdir()) < 60 else "/tmp", ignore_cleanup_errors=True)


class Room(tempfile.TemporaryDirectory):
    def __enter__(self) -> Path:
        return Path(self.name).resolve()


class Watch:
    """Ends a kernel and all that it started, when it uses more than it may and when asked.

    `why` says why it was ended, and stays None while it was not.
    """

    def __init__(self, pid: int, folder: Path, limits: Limits):
        import psutil

        self.kernel, self.folder, self.limits, self.why = psutil.Process(pid), folder, limits, None
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.done.wait(0.2):
            why = self._excess()
            if why:
                self.end(why)

    def _excess(self) -> str | None:
        import psutil

        memory, number = 0, 0
        for process in family(self.kernel):
            try:
                memory += process.memory_info().rss
                number += 1
            except psutil.Error:  # it has just ended
                pass
        if number > self.limits.processes:
            return f"started more than {self.limits.processes} processes"
        if memory > self.limits.memory:
            return f"used more than {self.limits.memory / MB / 1024:g} GB of memory"
        if size_of(self.folder) > self.limits.disk:
            return f"wrote more than {self.limits.disk // MB} MB"
        return None

    def end(self, why: str) -> None:
        self.why = self.why or why
        end_children()

    def close(self) -> None:
        self.done.set()
        self.thread.join()
        end_children()


def family(process) -> list:
    import psutil

    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def end_children() -> None:
    """Kills all that this process started, until nothing is left; what starts meanwhile is met in the next round.

    Spared is Python's own tracker of what processes share, which ends by itself: killed too soon, it complains.
    """
    import psutil

    tracker = resource_tracker._resource_tracker._pid
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        running = [process for process in family(psutil.Process())[1:] if process.pid != tracker and is_running(process)]
        if not running:
            return
        for process in running:
            try:
                process.kill()
            except psutil.Error:
                pass
        psutil.wait_procs(running, timeout=0.2)


def end_with(parent: int) -> None:
    """Waits for the end of the parent. A run may be killed, and nothing of it shall stay."""
    while os.getppid() == parent:
        time.sleep(0.2)
    end_children()
    os._exit(1)


def is_running(process) -> bool:
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def adopt_orphans() -> None:
    """What a student's code leaves behind shall be found: on Linux, our grandchildren whose parent ends become ours."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def size_of(folder: Path) -> int:
    """Bytes of all files below; an empty one takes room too."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += 4096 + os.lstat(os.path.join(path, name)).st_size
            except OSError:
                pass
    return total
