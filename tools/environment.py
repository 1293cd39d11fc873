"""Makes the project's environment: .venv, holding what requirements.txt pins and the package itself.

    python3 tools/environment.py

A second call finds the stamp of the first and returns at once. Standard library only, and in a form that
every Python since 2.7 can read, so that one too old can still say so.
"""
from __future__ import print_function

import errno
import os
import sys

OLDEST, NEWEST = (3, 11), (3, 14)  # the Pythons for which requirements.txt is known to install
NEEDED = 4 * 10**9  # bytes on disk, most of them torch
VERSION = "{}.{}".format(*sys.version_info[:2])  # of this Python
UNFINISHED = "unfinished"  # what the stamp says while pip changes the environment
AGAIN = "and run the same command again"


class Trouble(Exception):
    """One sentence that says what is wrong and what to do about it."""


def main():
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    try:
        if not is_complete(root):
            if not OLDEST <= sys.version_info[:2] <= NEWEST:
                go_on_with_known_python()
            make_environment(root)
    except Trouble as trouble:
        sys.exit("\n{}".format(trouble))
    except (IOError, OSError) as error:
        sys.exit("\n{}".format(explain(error, root)))
    except KeyboardInterrupt:
        sys.exit("\nStopped: run the same command again to go on.")


def is_complete(root):
    """Whether .venv holds what it should: its stamp is right and its Python is there."""
    return read_stamp(root) == fingerprint(root) and os.path.exists(python_of(root))


def fingerprint(root):
    """What .venv depends on: both lists of packages, and its place, which an editable install knows."""
    import hashlib

    digest = hashlib.sha256(getattr(os, "fsencode", bytes)(root))
    for name in ("requirements.txt", "pyproject.toml"):
        with open(os.path.join(root, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read_stamp(root):
    try:
        with open(os.path.join(root, ".venv", "stamp")) as file:
            return file.read()
    except (IOError, OSError):
        return None


def write_stamp(root, text):
    path = os.path.join(root, ".venv", "stamp")
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def python_of(root):
    return os.path.join(root, ".venv", *(["Scripts", "python.exe"] if os.name == "nt" else ["bin", "python"]))


def go_on_with_known_python():
    """Replaces this process by the newest known Python on PATH; where there is none, a newer one may try."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        command = "python3.{}".format(minor)
        if runs(command):
            print("Going on with {} in place of Python {}.".format(command, VERSION))
            sys.stdout.flush()
            os.execvp(command, [command] + sys.argv)
    if sys.version_info < OLDEST:
        raise Trouble(
            "This book needs Python {}.{} or newer, {} is Python {}, and PATH holds no newer one: "
            "install one (Debian, Ubuntu: apt install python3.11 python3.11-venv; macOS: brew install "
            "python) or name yours (make PYTHON=/path/to/python3)."
            "".format(OLDEST[0], OLDEST[1], sys.executable, VERSION)
        )
    print("Python {} is newer than any the packages were tried with: this may fail.".format(VERSION))


def runs(command):
    """Whether the command is a Python that starts: a name on PATH may be an empty promise (pyenv's are)."""
    import subprocess

    with open(os.devnull, "w") as nowhere:
        try:
            return subprocess.call([command, "-c", ""], stdout=nowhere, stderr=nowhere) == 0
        except OSError:
            return False


def make_environment(root):
    """Makes root/.venv, or brings it up to date."""
    with open_log(root) as log:
        if is_complete(root):  # made by another run, while this one waited for the log
            return
        if not is_usable(root):
            create(root, log)
        print("Filling .venv with the packages of requirements.txt (the first time: a few minutes).", flush=True)
        pip(root, ["install", "-r", "requirements.txt"], log)
        pip(root, ["install", "--no-deps", "--no-build-isolation", "--editable", "."], log)
        write_stamp(root, fingerprint(root))
        print("The environment is complete.", flush=True)


def open_log(root):
    """Opens _build/environment.log, empty; one run at a time holds it, where the system offers locks."""
    folder = os.path.join(root, "_build")
    os.makedirs(folder, exist_ok=True)
    log = open(os.path.join(folder, "environment.log"), "a", encoding="utf-8")
    try:
        import fcntl

        fcntl.flock(log, fcntl.LOCK_EX)
    except (ImportError, OSError):  # Windows; some network disks
        pass
    log.truncate(0)
    return log


def is_usable(root):
    """Whether pip can work in .venv: a Python new enough, pip there, no pip run cut off midway."""
    import subprocess

    if read_stamp(root) == UNFINISHED:
        return False
    probe = "import sys, pip; sys.exit(sys.version_info < {})".format(OLDEST)
    try:
        return subprocess.call([python_of(root), "-I", "-c", probe], stderr=subprocess.DEVNULL) == 0
    except OSError:  # no such program
        return False


def create(root, log):
    """Makes a fresh .venv, with nothing but pip in it, in place of whatever is there."""
    check_venv_module()
    check_disk(root)
    venv = os.path.join(root, ".venv")
    word = "Making again" if os.path.exists(venv) else "Making"
    print("{} .venv with Python {}.".format(word, VERSION), flush=True)
    base = getattr(sys, "_base_executable", None) or sys.executable  # not that of .venv, should it be active
    run(root, [base, "-m", "venv", "--clear", "--without-pip", venv], log)
    run(root, [python_of(root), "-I", "-m", "ensurepip", "--default-pip"], log)  # venv would hide its errors


def check_venv_module():
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise Trouble(
            "{} cannot make virtual environments: install the module venv for it (Debian, Ubuntu: "
            "apt install python{}-venv) {}.".format(sys.executable, VERSION, AGAIN)
        )


def check_disk(folder, needed=NEEDED):
    import shutil

    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Trouble(
            "The environment needs about {:.0f} GB, and the disk of {} has {:.1f} GB free: make room "
            "there {}.".format(needed / 1e9, folder, free / 1e9, AGAIN)
        )


def pip(root, arguments, log):
    """Runs the pip of .venv, untouched by what PYTHONPATH leads to (-I)."""
    options = ["--disable-pip-version-check", "--progress-bar=off", "--no-input"]
    run(root, [python_of(root), "-I", "-u", "-m", "pip"] + arguments + options, log)


def run(root, command, log):
    """Runs a command in root: every line that it says goes into the log, the telling ones onto the screen."""
    import re
    import subprocess
    from textwrap import shorten

    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    found, output = 0, ""
    with subprocess.Popen(command, cwd=root, **pipe) as process:
        for line in process.stdout:
            log.write(line)
            output += line
            large = re.match(r"\s*Downloading ([^-]+)-\S+ \((\d\d+[.\d]* MB)\)", line)
            if large:
                print("  downloading {} ({})".format(*large.groups()), flush=True)
            elif line.startswith(("Collecting ", "Processing ")):
                found += 1
                if found % 50 == 0:
                    print("  {} packages found".format(found), flush=True)
            elif line.startswith("Installing collected packages"):
                write_stamp(root, UNFINISHED)
                print("  installing " + shorten(line.split(": ", 1)[1], 70, placeholder=" ..."), flush=True)
    if process.returncode:
        raise Trouble(diagnose(output, root))


def diagnose(output, root):
    """The sentence for what stopped a command in root; output is all that it said."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        if os.strerror(number) in output:
            return explain(OSError(number, os.strerror(number)), root)
    broken = ("connection broken by", "Max retries exceeded", "Read timed out", "IncompleteRead")
    nothing_found = "from versions: none" in output and "Collecting " not in output
    if nothing_found or any(sign in output for sign in broken):
        return (
            "The packages could not be downloaded, because the package index does not answer: look to the "
            "network (behind a proxy: set HTTPS_PROXY; for an index of your own: set PIP_INDEX_URL) "
            "{}.".format(AGAIN)
        )
    lines = output.strip().splitlines() or ["ERROR: no reason given"]
    reason = [line for line in lines if line.lower().startswith("error:")] or lines
    reason = reason[-1].split(":", 1)[-1].strip().rstrip(".")
    return "The packages do not install in Python {} on {} ({}): all that pip said is in {}.".format(
        VERSION, sys.platform, reason, os.path.join(root, "_build", "environment.log")
    )


def explain(error, root):
    """The sentence for an error of the operating system."""
    import tempfile

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "The disk is full: free about {:.0f} GB in {} and 1 GB in {} (or set TMPDIR to another folder) "
            "{}.".format(NEEDED / 1e9, root, tempfile.gettempdir(), AGAIN)
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "{} may not be written: make {} your own (chown, chmod), or copy it to a folder that is, "
            "{}.".format(error.filename or ".venv", root, AGAIN)
        )
    if error.errno == errno.ENOENT:
        return "{} is missing: fetch it again (git checkout, git pull) {}.".format(error.filename, AGAIN)
    return "The environment could not be made ({}): mend that {}.".format(error, AGAIN)


if __name__ == "__main__":
    main()
