"""A real JupyterLab on a loopback port, and a reader who drives it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import nbformat
from browser import Hand, Visit, visit
from playwright.sync_api import Browser, Locator

# JupyterLab on its own asks the network for news and for newer versions.
QUIET = {"notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}}
OPTIONS = ["--no-browser", "--ip=127.0.0.1", "--ServerApp.port_retries=0", "--LabApp.extension_manager=readonly",
           "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
           "--expose-app-in-browser"]


@contextmanager
def serve(root: Path, home: Path):
    """JupyterLab on the folder `root`, with all that it keeps under `home`; gives its address and token. It is ended,
    with its kernels, at the end."""
    port, token = free_port(), secrets.token_hex(16)
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    for name, values in QUIET.items():
        (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(values))
    environment = {**os.environ, "HOME": str(home), "IPYTHONDIR": str(home / "ipython"), "OMP_NUM_THREADS": "1",
                   "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
                   "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
                   "MPLCONFIGDIR": matplotlib.get_cachedir()}  # the list of fonts takes seconds to make
    for name in ("TIGHTBOUND_STATIC", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS, f"--port={port}", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={root}", *(["--allow-root"] if os.getuid() == 0 else [])]
    with open(home / "server.log", "w+b") as log:
        server = subprocess.Popen(command, env=environment, cwd=root, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, home / "server.log")
            yield f"http://127.0.0.1:{port}", token
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    began = time.monotonic()
    while time.monotonic() - began < seconds and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab does not answer:\n{log.read_text()[-2000:]}")


def write_notebook(path: Path, *sources: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


PANEL = "const panel = window.jupyterapp?.shell?.currentWidget;"
READY = f"""() => {{ {PANEL}
  return Boolean(panel?.context?.isReady) && panel.sessionContext?.session?.kernel?.status === "idle"; }}"""
OUTPUTS = f"""() => {{ {PANEL}
  return [...panel.content.model.cells].filter(cell => cell.type === "code").map(cell => cell.outputs.toJSON()); }}"""
RUN = f"""async source => {{ {PANEL}
  const run = name => window.jupyterapp.commands.execute(`notebook:${{name}}`), book = panel.content;
  book.activeCellIndex = book.widgets.length - 1;
  await run("insert-cell-below");
  book.activeCell.model.sharedModel.setSource(source);
  await run("run-cell");
  return book.activeCell.model.outputs.toJSON(); }}"""


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, seen: Visit):
        self.seen, self.page = seen, seen.page
        self.page.wait_for_function(READY, timeout=60_000)

    def run_all(self, seconds: float = 60) -> list[list[dict]]:
        """Runs every cell, and gives each code cell's outputs."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.wait_for_function(READY, timeout=1000 * seconds)
        return self.outputs()

    def outputs(self) -> list[list[dict]]:
        return self.page.evaluate(OUTPUTS)

    def run(self, source: str) -> list[dict]:
        """Runs a new cell at the end, and gives its outputs."""
        return self.page.evaluate(RUN, source)

    def explorers(self) -> Locator:
        return self.page.locator(".jp-OutputArea .tb-explorer")

    def hand(self, title: str | int) -> Hand:
        """The hand of the explorer with this title, or of the so-manieth, moved into view."""
        if isinstance(title, int):
            root = self.explorers().nth(title)
        else:
            root = self.explorers().filter(has=self.page.locator(".tb-title", has_text=title)).first
        root.scroll_into_view_if_needed()
        return Hand(root)


@contextmanager
def open_notebook(browser: Browser, address: tuple[str, str], name: str, **options):
    url, token = address
    with visit(browser, f"{url}/lab/tree/{name}?reset&token={token}", **options) as seen:
        yield Notebook(seen)
