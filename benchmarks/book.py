"""The book itself: seconds of a build, seconds of each chapter, kB of each page, gaps of each league table. No peers, but kept, so
that what grows shows up.

    python benchmarks/book.py [--warm]

Builds the book from nothing (cold), for minutes; `--warm` spares that. Then all pages are made anew from stored results (warm), and
once more with nothing changed. A chapter's seconds, and its gaps, are those of the build's last run of its notebook.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import race

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from browser import weight  # noqa: E402
from jupyter_cache import get_cache  # noqa: E402

from tightbound.approximation import Row  # noqa: E402

LIMITS = {"classical": 30, "networks": 60}  # seconds of a chapter, at most
NETWORKS = ("vae", "vae_practice", "flows", "iterative")
PAGE_KB = 500


def tool():
    """tools/book.py, as a module."""
    spec = importlib.util.spec_from_file_location("tools_book", ROOT / "tools" / "book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(root: Path) -> float:
    """Seconds of a build, as its reader waits for it."""
    start = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "TIGHTBOUND_STATIC"}
    subprocess.run([sys.executable, root / "tools" / "book.py", "--no-open"], check=True, stdout=subprocess.DEVNULL,
                   env={**environment, "PYTHONPATH": str(root / "src")})
    return time.perf_counter() - start


def cold() -> float:
    """Seconds of a build from nothing, in a copy of what git knows of."""
    with tempfile.TemporaryDirectory() as folder:
        files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
        for file in filter(None, files):
            if (ROOT / file).is_file():
                (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, Path(folder) / file)
        return build(Path(folder))


def recorded() -> dict[str, tuple[float, list[str]]]:
    """The seconds of each notebook of the book, and the text of its outputs, as the build recorded them."""
    import nbformat

    cache = get_cache(ROOT / "_build" / "cache")
    found = {}
    for path in tool().notebooks(ROOT):
        record = cache.match_cache_notebook(nbformat.read(path, as_version=4))
        cells = cache.get_cache_bundle(record.pk).nb.cells
        texts = [output.get("data", {}).get("text/plain", "") for cell in cells for output in cell.get("outputs", [])]
        found[path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("chapters/")] = record.data["execution_seconds"], texts
    return found


def gaps(text: str) -> dict[str, tuple[float, float]]:
    """Of a league table as text: the gap of each method on each problem, and what it may be off by, in nats. Else nothing."""
    head, *lines = text.split("\n")
    if tuple(re.split(r"\s{2,}", head)) != Row.HEAD:
        return {}
    found = {}
    for line in lines:
        parts = re.split(r"\s{2,}", line)
        if len(parts) == len(Row.HEAD) and re.fullmatch(r"[+-][\d.]+", parts[4]):
            error = 0.0 if parts[5] == "–" else float(parts[5])
            found[f"{parts[1]} on {parts[0]}"] = float(parts[4]), race.SIGMAS * error + 1e-4
    return found


def main() -> None:
    options = race.arguments(__doc__, rounds=3)
    options.add_argument("--warm", action="store_true", help="no build from nothing")
    options = options.parse_args()
    with race.running(race.Race(
            "book", "The book itself", "How long does it take to build, and how heavy is it to load?",
            "there is no peer. What is compared from one time to the next is each chapter's time beside the median chapter's, so that "
            "the machine does not matter; the weight of each page, compressed, beyond what all pages share; and every gap of a league table.",
            clock="wall", trial=options.trial, packages=("jupyter-book", "nbclient"))) as here:
        nothing_yet = not (ROOT / "_build" / "cache").exists()
        took = build(ROOT)
        if nothing_yet or not options.warm:
            here.add(race.Row("build", "cold: all notebooks run", "seconds", [took if nothing_yet else cold()]))
        warm, idle = [], []
        for _ in range(options.rounds):
            (ROOT / "_build" / "html" / ".fingerprint").unlink()
            warm.append(build(ROOT))
            idle.append(build(ROOT))
        here.add(race.Row("build", "warm: results stored, pages made", "seconds", warm))
        here.add(race.Row("build", "nothing changed", "seconds", idle))

        ran = recorded()
        seconds = {name: spent for name, (spent, _) in ran.items()}
        chapters = {name: spent for name, spent in seconds.items() if "/" not in name and name != "index"}
        exercises = [spent for name, spent in seconds.items() if name.startswith("exercises/")]
        middle = statistics.median(chapters.values())
        for name, spent in chapters.items():
            here.add(race.Row("notebook", name, "seconds", [spent]))
            here.score(f"time of {name} beside the median chapter's", spent / middle, "times", noise=0.3, less_is_better=True)
        if exercises:
            here.add(race.Row("notebook", f"all {len(exercises)} of exercises", "seconds", [sum(exercises)]))
        for kind, most in LIMITS.items():
            group = {name: spent for name, spent in chapters.items() if (name in NETWORKS) == (kind == "networks")}
            slowest = max(group, key=group.get)
            here.score(f"slowest chapter{' that trains networks' if kind == 'networks' else ''}: {slowest}", group[slowest], "seconds",
                       noise=0.0, goal=most, less_is_better=True,
                       reason="The wall's clock counts what others did on the machine: see the load.")

        for name, (_, texts) in ran.items():
            for row, (gap, error) in {row: found for text in texts for row, found in gaps(text).items()}.items():
                here.scores.append(race.Score(f"gap in {name}: {row}", abs(gap), abs(gap) - error, abs(gap) + error, "nats",
                                              less_is_better=True))

        pages = {name.removeprefix("chapters/"): weight(ROOT / "_build" / "html", name) / 1000 for name in listed()}
        for name, kilobytes in pages.items():
            if name in chapters or name == "index":
                here.add(race.Row("page", name, "kB", [kilobytes]))
            here.score(f"weight of {name}", kilobytes, "kB", noise=0.02, less_is_better=True)
        heaviest = max(pages, key=pages.get)
        here.score(f"heaviest page of all {len(pages)}: {heaviest}", pages[heaviest], "kB", noise=0.02, goal=PAGE_KB, less_is_better=True)


def listed() -> list[str]:
    from sphinx_external_toc.parsing import parse_toc_yaml

    return [str(page) for page in parse_toc_yaml(ROOT / "_toc.yml")]


if __name__ == "__main__":
    main()
