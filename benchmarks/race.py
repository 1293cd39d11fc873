"""Races: ours beside its peers. What a race is, how it is run, judged, kept and shown.

    python benchmarks/race.py                     # run all: each file of this folder is a race, in a process of its own
    python benchmarks/race.py svi vae             # run some
    python benchmarks/race.py accept [svi ...]    # make the latest figures the accepted ones, and write the book's page
    python benchmarks/race.py page                # write the page anew

A `Race` has *heats*: one piece of work that all contenders do, in turns, round after round, so that whatever else the machine
does meets all of them. The first turn, in which code is compiled and caches fill, is told apart. Each contender's answer
stands beside its speed, and where two answers differ by more than their errors allow, the work was not equal and the race
fails. *Scores* are what is judged: how many times faster one is than another, round by round, beside a goal. Seconds change
with the machine; scores are compared with those that were accepted last, and whatever moved by more than its noise is told.
"""

from __future__ import annotations

import argparse
import atexit
import datetime
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
LATEST, ACCEPTED = HERE.parent / "_build" / "benchmarks", HERE / "accepted"
PAGE, BEGIN, END = HERE.parent / "pages" / "races.md", "<!-- races: begin -->", "<!-- races: end -->"
TIMES = ("seconds", "ms")
ON_A_GPU_TOO = ("vae",)  # races that know --device cuda
SIGMAS = 4  # how many standard errors of their difference two answers may be apart


class Unequal(Exception):
    """Contenders that gave different answers did different work: their speeds do not compare."""


class Damaged(Exception):
    """A file of figures that cannot be read; says what to do."""


# ---- before anything else is imported ----------------------------------------------------------------------

def alone(threads: int = 1, **environment: str) -> None:
    """Gives this process `threads` cores and as many threads, and compilers an empty cache; to be called before torch, JAX or NumPy
    look."""
    cache = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    one = threads == 1
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.update({"JAX_PLATFORMS": "cpu", "TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache,
                       "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'false' if one else 'true'}"
                                    + " intra_op_parallelism_threads=1" * one, **environment})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def arguments(doc: str, *, rounds: int) -> argparse.ArgumentParser:
    """What every race can be asked; a race may add to it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of each contender ({rounds})")
    parser.add_argument("--threads", type=int, default=1, help="threads, and cores, of each contender (1)")
    parser.add_argument("--trial", action="store_true", help="tiny sizes, to see whether it runs; nothing is kept")
    return parser


# ---- clocks ------------------------------------------------------------------------------------------------

def worked() -> float:
    """Seconds that this process, and those of its children that have ended, have worked."""
    return time.process_time() + sum(os.times()[2:4])


CLOCKS = {"processor": worked, "wall": time.perf_counter}
CLOCK_WORDS = {"processor": "seconds that the processor worked, which other people's work disturbs least",
               "wall": "seconds on the wall's clock"}


# ---- what is kept ------------------------------------------------------------------------------------------

@dataclass
class Row:
    """A contender in a heat.

    Attributes:
        values: a number for each round, in `unit`.
        first: seconds of its first turn, compilation included; None where there is none.
        answer: what it found, and the error of that, in `answer_unit`; None where the heat has no answer.
        note: a word on what it did.
    """

    heat: str
    contender: str
    unit: str
    values: list[float]
    first: float | None = None
    answer: tuple[float, float] | None = None
    answer_unit: str = "nats"
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass
class Score:
    """What is judged and compared: a number with the range of its rounds, and a goal if there is one.

    Attributes:
        goal: at least this, or, where less is better, at most this; None for none.
        noise: the relative change that is worth no word, for what is measured only once.
        reason: told where the goal is missed or ours is behind: why, as far as it is known.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str = "times"
    goal: float | None = None
    less_is_better: bool = False
    noise: float = 0.05
    reason: str = ""

    @property
    def reached(self) -> bool:
        return self.goal is None or (self.value <= self.goal if self.less_is_better else self.value >= self.goal)

    def change(self, before: Score) -> str:
        """Says "better" or "worse" where the two ranges are apart and the values differ by more than `noise`; else nothing.

        Times by themselves change with the machine, and are not compared.
        """
        if self.unit in TIMES:
            return ""
        apart = self.low > before.high or self.high < before.low
        if not apart or abs(self.value - before.value) <= self.noise * abs(before.value):
            return ""
        return "better" if (self.value < before.value) == self.less_is_better else "worse"


@dataclass
class Race:
    """A race, from its first heat to its figures in a file.

    Args:
        name: of its file.
        title, question: what the page says.
        equal_work: why the contenders' work is the same.
        clock: "processor" or "wall".
        packages: whose versions are told, besides torch.
    """

    name: str
    title: str
    question: str
    equal_work: str
    clock: str = "processor"
    threads: int = 1
    trial: bool = False
    packages: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    within: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def has(self, module: str) -> bool:
        """Whether a peer is installed; one that is not is left out, with a word."""
        found = importlib.util.find_spec(module) is not None
        if not found and module not in self.missing:
            self.missing.append(module)
            print(f"  {module} is not installed and left out: benchmarks/requirements.txt has its version", flush=True)
        return found

    # -- running

    def heat(self, name: str, contenders: dict[str, Callable], *, rounds: int, unit: str = "seconds",
             amount: float | dict[str, float] = 1.0, within: float | None = None, answer_unit: str = "nats",
             laps: bool = False, warm_up: bool = True, notes: dict[str, str] | None = None) -> None:
        """Runs the contenders in turns, keeps their rows, and compares their answers.

        Args:
            contenders: each a function of the round (0 is the first turn, which does not count); it returns its answer, a number,
                a pair of number and error, or None. The last answer counts.
            unit: "seconds", "ms", or something "a second", of which a turn does `amount`, or each its own.
            within: what answers may differ by, beyond their errors; None where they are not compared.
            laps: the functions return (seconds, answer), having timed themselves.
            warm_up: whether there is a first turn, that does not count.
            notes: a word on some contenders.

        Raises:
            Unequal: for answers that are further apart.
        """
        clock = CLOCKS[self.clock]

        def turn(run: Callable, k: int) -> tuple[float, object]:
            if laps:
                return run(k)
            start = clock()
            found = run(k)
            return clock() - start, found

        seconds: dict[str, list[float]] = {who: [] for who in contenders}
        answers, first = {}, {}
        if warm_up:
            for who, run in contenders.items():
                first[who], answers[who] = turn(run, 0)
        for k in range(1, rounds + 1):
            for who, run in contenders.items():
                spent, answers[who] = turn(run, k)
                seconds[who].append(spent)
        for who in contenders:
            done = amount[who] if isinstance(amount, dict) else amount
            values = [figure(spent, unit, done) for spent in seconds[who]]
            self.add(Row(name, who, unit, values, first.get(who), pair(answers[who]), answer_unit, (notes or {}).get(who, "")))
        if within is not None:
            self.within[name] = within
            self.compare_answers(name)

    def add(self, row: Row) -> None:
        """Keeps and prints a row, for what `heat` cannot time."""
        if not any(other.heat == row.heat for other in self.rows):
            print(f"{row.heat}, {row.unit}", flush=True)
        self.rows.append(row)
        print("  " + "  ".join(f"{cell:>{width}}" if i else f"{cell:{width}}" for i, (cell, width)
                               in enumerate(zip(cells(asdict(row)), (28, 10, 19, 12, 24)))).rstrip(), flush=True)

    def compare_answers(self, heat: str) -> None:
        """Raises `Unequal` where an answer of the heat is further from the first one's than its errors and what the heat allows."""
        answered = [row for row in self.rows if row.heat == heat and row.answer is not None]
        for row in answered[1:]:
            (a, a_error), (b, b_error) = answered[0].answer, row.answer
            allowed = self.within[heat] + SIGMAS * math.hypot(a_error, b_error)
            if not abs(a - b) <= allowed:
                raise Unequal(f"UNEQUAL ANSWERS in {heat!r}: {answered[0].contender} has {a:.6g}, {row.contender} {b:.6g}, and only "
                              f"{allowed:.2g} {row.answer_unit} are allowed between them: their speeds do not compare")

    # -- judging

    def row(self, heat: str, contender: str) -> Row | None:
        return next((row for row in self.rows if (row.heat, row.contender) == (heat, contender)), None)

    def best(self, heat: str, *contenders: str) -> str:
        """The fastest of those that took part; the first name where none did."""
        took_part = [row for row in self.rows if row.heat == heat and row.contender in contenders]
        if not took_part:
            return contenders[0]
        return (max if per_second(took_part[0].unit) else min)(took_part, key=lambda row: row.median).contender

    def ratio(self, heat: str, ours: str, peer: str, *, goal: float | None = None, reason: str = "", name: str = "") -> None:
        """How many times faster ours is than the peer, round by round; nothing where one of them is missing."""
        a, b = self.row(heat, ours), self.row(heat, peer)
        name = name or f"{heat}: {ours} beside {peer}"
        if a is None or b is None:
            print(f"  {name}: no score, {ours if a is None else peer} did not run")
            return
        times = [x / y if per_second(a.unit) else y / x for x, y in zip(a.values, b.values)]
        self.scores.append(Score(name, statistics.median(times), min(times), max(times), "times as fast", goal, reason=reason))

    def level(self, heat: str, contender: str, *, goal: float, reason: str = "") -> None:
        """A goal for what a contender has by itself, in its own unit."""
        row = self.row(heat, contender)
        self.scores.append(Score(f"{heat}: {contender}", row.median, min(row.values), max(row.values), row.unit, goal,
                                 less_is_better=not per_second(row.unit), reason=reason))

    def score(self, name: str, value: float, unit: str, *, noise: float, **how) -> None:
        """What was measured once: its range is all that is worth no word."""
        self.scores.append(Score(name, value, value, value, unit, noise=noise, **how))

    # -- the end

    def finish(self) -> None:
        """Prints scores and differences, and writes the figures to _build/benchmarks, unless this is a trial."""
        figures = {"name": self.name, "title": self.title, "question": self.question, "equal_work": self.equal_work,
                   "clock": self.clock, "threads": self.threads, "machine": machine(), "cores": os.cpu_count(),
                   "load": round(os.getloadavg()[0], 1), "date": datetime.date.today().isoformat(),
                   "seconds": round(time.perf_counter() - self.began), "command": f"make bench RACES={self.name}",
                   "versions": versions("torch", *self.packages), "missing": self.missing, "within": self.within,
                   "rows": [asdict(row) for row in self.rows], "scores": [asdict(score) for score in self.scores]}
        for score in self.scores:
            print(sentence(score))
        if self.trial:
            print("A trial: nothing is kept.")
            return
        write(LATEST / f"{self.name}.json", json.dumps(figures, indent=1) + "\n")
        print("\n".join(differences(figures, read(ACCEPTED / f"{self.name}.json"))))


@contextmanager
def running(race: Race):
    """A race from start to end: its heads, its heats, then `finish`; unequal answers end it with a word, and status 1."""
    print(f"{race.title}: {race.question} ({CLOCK_WORDS[race.clock]}; threads: {race.threads}; load {os.getloadavg()[0]:.1f})")
    try:
        yield race
        race.finish()
    except (Unequal, Damaged) as trouble:
        sys.exit(str(trouble))


# ---- small things ------------------------------------------------------------------------------------------

def per_second(unit: str) -> bool:
    return unit.endswith("a second")


def figure(seconds: float, unit: str, amount: float) -> float:
    """What a turn of some seconds is in a unit."""
    seconds = max(seconds, 1e-9)
    return amount / seconds if per_second(unit) else seconds / amount * {"ms": 1000}.get(unit, 1)


def pair(answer) -> tuple[float, float] | None:
    if answer is None:
        return None
    value, error = answer if isinstance(answer, tuple) else (answer, 0.0)
    return float(value), float(error)


def repeated(action: Callable[[], object], times: int) -> Callable[[int], None]:
    """A contender that does an action some times a turn; once in the first, which so shows what compilation takes."""
    def run(k: int) -> None:
        for _ in range(times if k else 1):
            action()
    return run


def machine() -> str:
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor() or "?")


def versions(*packages: str) -> dict[str, str]:
    """Of Python, and of those packages that are installed."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def read(path: Path) -> dict | None:
    """A race's figures; None where there are none yet.

    Raises:
        Damaged: for a file that holds something else.
    """
    if not path.exists():
        return None
    try:
        figures = json.loads(path.read_text())
        for row in figures["rows"]:
            Row(**row)
        for score in figures["scores"]:
            Score(**score)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged ({error!r}): fetch it again (git checkout), or delete it and accept new figures "
                      "(make bench, then make bench ACCEPT=1)") from None
    return figures


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def differences(figures: dict, before: dict | None) -> list[str]:
    """A line for each score that moved by more than its noise, or that came or went; one line where none did."""
    if before is None:
        return ["No accepted figures yet: make bench ACCEPT=1 makes these the accepted ones."]
    now, then = ({score["name"]: Score(**score) for score in side["scores"]} for side in (figures, before))
    lines = []
    for name, score in now.items():
        word = score.change(then[name]) if name in then else "new"
        if word == "new":
            lines.append(f"NEW: {name}: {number(score.value)} {score.unit}")
        elif word:
            lines.append(f"{word.upper()} than accepted on {before['date']}: {name}: {spread(score)} {score.unit}, "
                         f"was {spread(then[name])}")
    lines += [f"GONE: {name}, was {number(score.value)} {score.unit}" for name, score in then.items() if name not in now]
    return lines or [f"As accepted on {before['date']}, within the noise."]


# ---- words -------------------------------------------------------------------------------------------------

def number(x: float) -> str:
    """Three digits, and no fewer than stand before the point."""
    if x == 0 or not math.isfinite(x):
        return f"{x:g}"
    return f"{x:,.{max(0, 2 - math.floor(math.log10(abs(x))))}f}"


def spread(score: Score) -> str:
    return number(score.value) + (f" ({number(score.low)}–{number(score.high)})" if score.low < score.high else "")


def sentence(score: Score) -> str:
    text = f"{score.name}: {spread(score)} {score.unit}"
    behind = not score.reached or (score.unit == "times as fast" and score.value < 1)
    why = f" {score.reason}" if behind and score.reason else ""
    if score.goal is None:
        return f"{text}.{why}"
    text += f"; the goal is at {'most' if score.less_is_better else 'least'} {number(score.goal)}: "
    close = score.low <= score.goal <= score.high and score.low < score.high
    return text + ("reached." if score.reached else f"MISSED{', within the spread of the rounds' * close}.") + why


def cells(row: dict) -> list[str]:
    """Contender, median, range, first turn, answer."""
    values, answer = row["values"], row["answer"]
    told = ""
    if answer is not None:
        value, error = map(float, answer)
        digits = max(0, min(8, 1 - math.floor(math.log10(error)))) if error > 0 else 0 if value.is_integer() else 4
        tiny = error == 0 and 0 < abs(value) < 1e-4
        told = f"{value:.1e}" if tiny else f"{value:,.{digits}f}" + (f" ± {error:.{digits}f}" if error > 0 else "")
        told += f" {row['answer_unit']}"
    return [row["contender"], number(statistics.median(values)),
            f"{number(min(values))}–{number(max(values))}" if len(values) > 1 else "",
            f"{row['first']:,.{2 if row['first'] < 10 else 0}f} s" if row["first"] is not None else "", told.strip().replace("-", "−")]


def section(figures: dict) -> str:
    """A race on the page."""
    rows, scores = figures["rows"], [Score(**score) for score in figures["scores"]]
    lines = [f"({figures['name']}-race)=", f"## {figures['title']}", "", figures["question"], "", f"*Equal work:* {figures['equal_work']}"]
    answered = any(row["answer"] is not None for row in rows)
    first = any(row["first"] is not None for row in rows)
    used = [True, True, any(len(row["values"]) > 1 for row in rows), first, answered]
    heads = ["contender", "median", "lowest–highest", "first turn", "answer"]
    marks = ["---", "---:", "---:", "---:", "---:"]

    def line(parts: list[str]) -> str:
        return "| " + " | ".join(part for part, here in zip(parts, used) if here) + " |"

    if rows:
        lines += ["", line(heads), line(marks)]
    for heat in dict.fromkeys(row["heat"] for row in rows):
        group = [row for row in rows if row["heat"] == heat]
        lines.append(line([f"**{heat}**, {group[0]['unit']}", "", "", "", ""]))
        lines += [line([text + (f" ({row['note']})" if i == 0 and row["note"] else "") for i, text in enumerate(cells(row))])
                  for row in group]
    goals = [score for score in scores if score.goal is not None]
    lines += ["", *(f"- {sentence(score)}".replace("MISSED", "**missed**") for score in scores if score.goal is not None
                    or score.unit == "times as fast")]
    if goals:
        reached = sum(score.reached for score in goals)
        lines += ["", f"Goals reached: {reached} of {len(goals)}."]
    told = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    lines += ["", f"Made on {figures['date']} by `{figures['command']}` in {figures['seconds']} s ({figures['machine']}, "
              f"{figures['cores']} cores, threads: {figures['threads']}, load {figures['load']}). Clock: {CLOCK_WORDS[figures['clock']]}. "
              f"{told}." + (f" Not installed, and left out: {', '.join(figures['missing'])}." if figures["missing"] else "")]
    return "\n".join(lines)


def tables() -> str:
    """All accepted races, as the page has them."""
    found = [read(path) for path in sorted(ACCEPTED.glob("*.json"))]
    goals = [score for figures in found for score in (Score(**score) for score in figures["scores"]) if score.goal is not None]
    summary = f"Of the {len(goals)} goals of these races, {sum(score.reached for score in goals)} are reached."
    return "\n\n".join([summary, *(section(figures) for figures in found)])


def write_page() -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    write(PAGE, f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}")


# ---- commands ----------------------------------------------------------------------------------------------

def races() -> dict[str, list[str]]:
    """The name of each race, and what to run for it."""
    files = {path.stem: [str(path)] for path in sorted(HERE.glob("*.py")) if path.stem != "race"}
    return files | {f"{name}_cuda": [*files[name], "--device", "cuda"] for name in ON_A_GPU_TOO}


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def known(names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in races()]
    if unknown:
        sys.exit(f"There is no race {', '.join(unknown)}: choose from {', '.join(races())}.")
    return names or list(races())


def run(names: list[str]) -> None:
    failed, commands = [], races()
    for name in known(names):
        print(f"== {name}", flush=True)
        if "cuda" in commands[name] and not names and not has_gpu():
            print("  This machine has no CUDA device: left out.")
        elif subprocess.run([sys.executable, *commands[name]]).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}. Nothing of theirs was kept.")


def accept(names: list[str]) -> None:
    """Makes the latest figures the accepted ones, telling what changes; then writes the page."""
    latest = {name: read(LATEST / f"{name}.json") for name in known(names)}
    if not any(latest.values()):
        sys.exit("There are no figures to accept: make bench makes them.")
    for name, figures in latest.items():
        if figures is not None:
            print(f"== {name}", *differences(figures, read(ACCEPTED / f"{name}.json")), sep="\n")
            write(ACCEPTED / f"{name}.json", json.dumps(figures, indent=1) + "\n")
    write_page()


def main(words: list[str]) -> None:
    try:
        if words[:1] == ["accept"]:
            accept(words[1:])
        elif words == ["page"]:
            write_page()
        else:
            run(words)
    except Damaged as trouble:
        sys.exit(str(trouble))


if __name__ == "__main__":
    main(sys.argv[1:])
