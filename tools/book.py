"""Builds the book, and opens it.

    python tools/book.py [--no-open]

Notebooks whose cells changed are executed, two at a time, and their results kept in _build/cache; all of them
are executed again when the package, requirements.txt or Python changed. Then Jupyter Book makes the pages in
_build/html, and any of its warnings is an error. When nothing changed since then, the book is only opened.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import time
import webbrowser
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ("src", "requirements.txt")  # what results depend on, besides the cells themselves
PAGES = ("_config.yml", "_toc.yml", "index.ipynb", "pages", "chapters", "teaching", "references.bib", "assets/static",
         "assets/templates", "tools/book.py", "tools/book_extension.py")
WORKERS, CELL_SECONDS = 2, 600
COLOURS = re.compile(r"\x1b\[[\d;]*m")


class Trouble(Exception):
    """One or two sentences that say what is wrong, and what to do about it."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Builds the book, and opens it.")
    parser.add_argument("--no-open", action="store_true", help="do not open the book in a browser")
    options = parser.parse_args(arguments)
    with troubles_told():
        print(build(ROOT))
    show(ROOT / "_build/html/index.html", open_it=not options.no_open)


@contextmanager
def troubles_told():
    """Ends the run with a sentence for what went wrong."""
    try:
        yield
    except Trouble as trouble:
        sys.exit(f"\n{trouble}")
    except ModuleNotFoundError as error:
        sys.exit(f"\nThe environment lacks {error.name}: `make environment` completes it first.")
    except OSError as error:
        sys.exit(f"\n{explain(error, ROOT)}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. What was executed is kept: the same command goes on from there.")


def build(root: Path) -> str:
    """Makes root/_build/html, unless it is up to date, and returns what was done, in a line."""
    began = time.perf_counter()
    with lock(root):
        state = fingerprint(root, PAGES + PACKAGE)
        html = root / "_build/html"
        if read(html / ".fingerprint") == state:
            return "The book is up to date."
        executed = execute(root)
        make_pages(root, html, state)
        pages = sum(1 for _ in html.rglob("*.html"))
    return f"The book: {pages} pages in {time.perf_counter() - began:.0f} s, notebooks executed: {executed}."


def fingerprint(root: Path, paths: tuple[str, ...]) -> str:
    """A digest of the Python version and of all files at or below the paths; a missing path is an error."""
    digest = hashlib.sha256(sys.version.encode())
    for path in paths:
        top = root / path
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            hidden = any(part.startswith((".", "__pycache__")) or part.endswith(".egg-info")
                         for part in file.relative_to(root).parts)
            if not hidden and not file.is_dir():
                digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


# ---- the notebooks -----------------------------------------------------------------------------------------

def notebooks(root: Path) -> list[Path]:
    """The notebooks that _toc.yml lists.

    Raises:
        Trouble: when it lists a page that does not exist, or is not a list of contents at all.
    """
    from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml
    from yaml import YAMLError

    try:
        pages = list(parse_toc_yaml(root / "_toc.yml"))
    except (MalformedError, YAMLError) as error:
        raise Trouble(f"_toc.yml cannot be read: {error}") from None
    found = []
    for page in pages:
        notebook = root / f"{page}.ipynb"
        if notebook.exists():
            found.append(notebook)
        elif not (root / f"{page}.md").exists():
            raise Trouble(f"_toc.yml lists {page}, but there is neither {page}.ipynb nor {page}.md: "
                          "write it, or take it off the list.")
    return found


def execute(root: Path) -> int:
    """Executes the notebooks that the cache does not know, and returns how many these were."""
    import nbformat
    import psutil
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    cache = get_cache(fresh_cache(root))
    stale = []
    for path in notebooks(root):
        try:
            notebook = nbformat.read(path, as_version=4)
        except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            raise Trouble(f"{path.relative_to(root)} is no notebook: {str(error)[:200]}") from None
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            stale.append((path, notebook))
    os.environ.update(TIGHTBOUND_STATIC="1", TIGHTBOUND_PROGRESS="off", OMP_NUM_THREADS="1")  # kernels inherit it
    with ThreadPoolExecutor(WORKERS) as pool:
        jobs = {pool.submit(run, path, notebook, root): (path, notebook) for path, notebook in stale}
        try:
            for job in as_completed(jobs):
                (path, notebook), seconds = jobs[job], job.result()
                bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                print(f"  {path.relative_to(root)}: {seconds:.0f} s", flush=True)
        except BaseException:  # a cell that raised, or Ctrl-C: the other notebooks need not go on
            pool.shutdown(wait=False, cancel_futures=True)
            for child in psutil.Process().children(recursive=True):
                child.kill()
            raise
    return len(stale)


def executed(root: Path, notebook):
    """The code cells of a notebook as the last build executed them.

    Raises:
        KeyError: when its code has not been executed.
    """
    from jupyter_cache import get_cache

    cache = get_cache(root / "_build/cache")
    return cache.get_cache_bundle(cache.match_cache_notebook(notebook).pk).nb


def fresh_cache(root: Path) -> Path:
    """The folder of the results, emptied when the package, requirements.txt or Python changed."""
    folder, state = root / "_build/cache", fingerprint(root, PACKAGE)
    if read(folder / "package") != state:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package").write_text(state)
    return folder


def run(path: Path, notebook, root: Path) -> float:
    """Executes the notebook in place, in a kernel of its own; returns the seconds that it took.

    Raises:
        Trouble: for a cell that raises, or does not end.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    at = 0

    def note(cell, cell_index):
        nonlocal at
        at = cell_index

    client = NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(path.parent)}},
                            record_timing=False,  # times would become part of the cells' identity
                            store_widget_state=False, coalesce_streams=True, on_cell_start=note)
    began = time.perf_counter()
    try:
        start = partial(client.execute, stderr=subprocess.DEVNULL)  # the kernel's own: what cells write goes another way
        try:
            start()
        except RuntimeError as error:  # kernels that start side by side may choose the same port, and one of them waits in vain
            if "didn't respond" not in str(error):
                raise
            start()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        name = notebook.cells[at].metadata.get("name")
        where = f"{path.relative_to(root)}, cell {at + 1}" + (f" ({name})" if name else "")
        raise Trouble(f"{where}: {reason(error)}") from None
    return time.perf_counter() - began


def reason(error: Exception) -> str:
    """What went wrong in a cell, in a line or two."""
    if not hasattr(error, "ename"):
        return (f"it had not finished after {CELL_SECONDS} s." if "Timeout" in type(error).__name__ else
                "its kernel died: was there too little memory?")
    traceback = COLOURS.sub("", error.traceback)
    line = re.search(r"^Cell In\[\d+\], line (\d+).*?^-+> *\1 (.*?)$", traceback, re.M | re.S)
    what = f"{error.ename}: {error.evalue}" if error.evalue else traceback.strip().splitlines()[-1]
    return what + (f"\n    line {line[1]}: {line[2].strip()}" if line else "")


# ---- the pages ---------------------------------------------------------------------------------------------

def make_pages(root: Path, html: Path, state: str, toc: str = "_toc.yml", **settings) -> None:
    """Has Jupyter Book make all pages of the contents anew, and puts them into `html` once they are complete.

    Args:
        settings: of Sphinx, in place of those of _config.yml.

    Raises:
        Trouble: with the warnings, if there are any.
    """
    from jupyter_book.sphinx import build_sphinx
    from yaml import YAMLError

    work = html.with_name("pages" if html.name == "html" else f"{html.name}-pages")
    shutil.rmtree(work, ignore_errors=True)
    said = io.StringIO()
    try:
        with working_in(root), redirect_stdout(io.StringIO()), redirect_stderr(said):
            failed = build_sphinx(root, work / "html", noconfig=True, path_config=root / "_config.yml",
                                  warningiserror=True, keep_going=True, quiet=True,
                                  confoverrides={"external_toc_path": toc, "latex_individualpages": False} | settings)
    except YAMLError as error:
        raise Trouble(f"_config.yml cannot be read: {error}") from None
    if isinstance(failed, (OSError, KeyboardInterrupt)):
        raise failed
    if failed:
        raise Trouble(COLOURS.sub("", said.getvalue()).strip().replace(f"{root}/", "") + "\n\n"
                      "The book was not made: what is said above has to go first.")
    (work / "html/.fingerprint").write_text(state)
    shutil.rmtree(html, ignore_errors=True)
    os.replace(work / "html", html)


def show(page: Path, open_it: bool) -> None:
    """Says where the page is, and opens it where there is a display."""
    print(page.as_uri())
    display = any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))) or sys.platform in ("darwin", "win32")
    if open_it and display:
        webbrowser.open(page.as_uri())


# ---- small things ------------------------------------------------------------------------------------------

def read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


@contextmanager
def working_in(folder: Path):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def lock(root: Path):
    """One build at a time, where the system offers locks; a second one waits."""
    (root / "_build").mkdir(exist_ok=True)
    with open(root / "_build/book.lock", "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):  # Windows; some network disks
            pass
        yield


def explain(error: OSError, root: Path) -> str:
    """The sentence for an error of the operating system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: make room in {root} (about 100 MB), and run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (f"{error.filename} may not be written: make {root} your own (chown, chmod), or copy it to where "
                "you may write.")
    if error.errno == errno.ENOENT:
        return f"{error.filename} is missing: fetch it again (git checkout, git pull)."
    return f"The book could not be made: {error}."


if __name__ == "__main__":
    main()
