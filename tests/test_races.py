"""The races: the page shows what was accepted, goals and answers are as it says, and the harness notices what it should."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import race  # noqa: E402

ACCEPTED = sorted((ROOT / "benchmarks" / "accepted").glob("*.json"))


# The page ---------------------------------------------------------------------------------------------------

def test_the_page_shows_what_was_accepted():
    shown = race.PAGE.read_text().split(race.BEGIN)[1].split(race.END)[0].strip()
    assert shown == race.tables(), "run: python benchmarks/race.py page"


def test_accepted_figures_are_of_races_that_there_are():
    assert ACCEPTED and {path.stem for path in ACCEPTED} <= set(race.races())


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_goals_and_answers_are_as_the_page_says(path):
    figures = race.read(path)
    page = race.section(figures)
    for found in figures["scores"]:
        score = race.Score(**found)
        assert score.low <= score.value <= score.high
        if score.goal is not None:
            beyond = score.value < score.goal if score.less_is_better else score.value > score.goal
            told = next(line for line in page.splitlines() if line.startswith(f"- {score.name}: "))
            assert ("reached." in told) == (beyond or score.value == score.goal) != ("**missed**" in told)
    for heat in {row["heat"] for row in figures["rows"]}:
        answers = [row["answer"] for row in figures["rows"] if row["heat"] == heat and row["answer"] is not None]
        within = figures["within"].get(heat)
        if within is not None:
            assert len(answers) >= 2
            for value, error in answers[1:]:
                assert abs(value - answers[0][0]) <= within + 4 * math.hypot(error, answers[0][1])
    assert all(figures[key] for key in ("machine", "versions", "date", "command", "threads", "cores"))
    assert figures["command"] == f"make bench RACES={path.stem}" and not figures["missing"]


# The harness ------------------------------------------------------------------------------------------------

@pytest.fixture
def folders(monkeypatch, tmp_path):
    """A place of its own for latest and accepted figures, and for the page."""
    page = tmp_path / "races.md"
    page.write_text(f"before\n{race.BEGIN}\n{race.END}\nafter\n")
    for name, path in {"LATEST": tmp_path / "latest", "ACCEPTED": tmp_path / "accepted", "PAGE": page}.items():
        monkeypatch.setattr(race, name, path)
    monkeypatch.setattr(race, "races", lambda: {"tiny": []})
    return tmp_path


def summed(slices: int):
    """Adds up a million numbers in some slices: the same answer, by more and more calls."""
    def run(k: int) -> float:
        step = 1_000_000 // slices
        return float(sum(sum(range(i, i + step)) for i in range(0, 1_000_000, step)))
    return run


def tiny(ours, theirs, **how) -> None:
    with race.running(race.Race("tiny", "Tiny", "Which sum is faster?", "the same sum.")) as here:
        here.heat("sum", {"ours": ours, "theirs": theirs}, rounds=3, unit="sums a second", **how)
        here.ratio("sum", "ours", "theirs", goal=1e-6)


def test_a_tiny_race_from_start_to_page(folders, capsys):
    """Contenders take turns, the first of which is apart; the figures are written, accepted and shown."""
    order = []
    tiny(*(lambda k, who=who: order.append((k, who)) or 1.0 for who in "ab"), within=0.0)
    assert order == [(k, who) for k in range(4) for who in "ab"]
    assert "No accepted figures yet" in capsys.readouterr().out
    figures = race.read(folders / "latest" / "tiny.json")
    for row in figures["rows"]:
        assert len(row["values"]) == 3 and row["first"] >= 0 and row["answer"] == [1.0, 0.0]
    (score,) = figures["scores"]
    ratios = [a / b for a, b in zip(*(row["values"] for row in figures["rows"]))]
    assert (score["low"], score["high"]) == (min(ratios), max(ratios)) and sorted(ratios)[1] == score["value"]
    race.accept([])
    page = race.PAGE.read_text()
    assert page.startswith("before\n") and page.endswith("\nafter\n") and race.section(figures) in page
    assert "| **sum**, sums a second |" in page and "Goals reached: 1 of 1." in page
    assert not list(folders.rglob("*.new"))
    assert "As accepted on" in race.differences(figures, race.read(folders / "accepted" / "tiny.json"))[0]


def test_unequal_answers_fail_the_race(folders, capsys):
    with pytest.raises(SystemExit) as ended:
        tiny(lambda k: (1.0, 0.1), lambda k: (2.0, 0.1), within=0.3)
    assert "UNEQUAL ANSWERS in 'sum': ours has 1, theirs 2" in str(ended.value.code)
    assert not (folders / "latest").exists()
    tiny(lambda k: (1.0, 0.1), lambda k: (1.8, 0.1), within=0.3)  # 0.3 + 4 sqrt(2) 0.1 = 0.87 are allowed
    with pytest.raises(SystemExit, match="UNEQUAL"):
        tiny(lambda k: 1.0, lambda k: float("nan"), within=0.3)


def scored(value, low, high, **how):
    return race.Score("a", value, low, high, "times as fast", **how)


@pytest.mark.parametrize("now, before, word", [
    (scored(1.0, 0.9, 1.1), scored(2.0, 1.8, 2.2), "worse"),
    (scored(2.0, 1.8, 2.2), scored(1.0, 0.9, 1.1), "better"),
    (scored(1.5, 1.0, 1.9), scored(2.0, 1.8, 2.2), ""),                     # the ranges meet
    (scored(1.96, 1.96, 1.97), scored(2.0, 1.99, 2.0), ""),                 # apart, but by two per cent
    (scored(2.0, 2.0, 2.0, less_is_better=True), scored(1.0, 1.0, 1.0), "worse"),
    (race.Score("a", 90, 90, 90, "seconds"), race.Score("a", 30, 30, 30, "seconds"), ""),
])
def test_a_change_beyond_the_noise_is_told(now, before, word):
    assert now.change(before) == word


def test_a_worse_ratio_is_reported(folders, capsys):
    tiny(summed(1), summed(1), within=0.0)
    latest = folders / "latest" / "tiny.json"
    figures = json.loads(latest.read_text())
    figures["scores"][0] |= {"value": 500.0, "low": 400.0, "high": 600.0}
    figures["scores"].append({**figures["scores"][0], "name": "what was"})
    latest.write_text(json.dumps(figures))
    race.accept(["tiny"])
    capsys.readouterr()
    tiny(summed(1), summed(1), within=0.0)
    said = capsys.readouterr().out
    assert "WORSE than accepted on" in said and "was 500 (400–600)" in said and "GONE: what was" in said
    race.accept(["tiny"])
    assert race.read(folders / "accepted" / "tiny.json")["scores"][0]["value"] < 100


def test_damaged_accepted_figures_are_named(folders):
    tiny(summed(1), summed(1))
    race.accept([])
    kept = folders / "accepted" / "tiny.json"
    whole = kept.read_text()
    for text in (whole[:100], "[]", whole.replace('"heat"', '"meat"')):
        kept.write_text(text)
        with pytest.raises(SystemExit, match="tiny.json is damaged .*git checkout"):
            tiny(summed(1), summed(1))


def test_a_missing_peer_is_left_out_with_a_word(folders, capsys):
    with race.running(race.Race("tiny", "Tiny", "?", "none.")) as here:
        assert here.has("json") and not here.has("no_such_peer") and not here.has("no_such_peer")
        here.heat("sum", {"ours": summed(1)}, rounds=1)
        here.ratio("sum", "ours", "no such peer", goal=1.0)
    said = capsys.readouterr().out
    assert said.count("no_such_peer is not installed and left out") == 1 and "no score, no such peer did not run" in said
    figures = race.read(folders / "latest" / "tiny.json")
    assert figures["scores"] == [] and "Not installed, and left out: no_such_peer." in race.section(figures)


def test_a_trial_keeps_nothing(folders):
    with race.running(race.Race("tiny", "Tiny", "?", "none.", trial=True)) as here:
        here.heat("sum", {"ours": summed(1)}, rounds=1)
    assert not (folders / "latest").exists()


def test_a_goal_missed_is_told_with_its_reason():
    told = race.sentence(scored(0.5, 0.4, 0.6, goal=1.0, reason="It checks more."))
    assert told == "a: 0.500 (0.400–0.600) times as fast; the goal is at least 1.00: MISSED. It checks more."
    assert race.sentence(scored(0.9, 0.8, 1.1, goal=1.0)).endswith("MISSED, within the spread of the rounds.")
    assert "most 1.00: reached." in race.sentence(race.Score("b", 0.5, 0.5, 0.5, "ms", 1.0, less_is_better=True, reason="No."))
    assert race.sentence(scored(2.0, 2.0, 2.0)) == "a: 2.00 times as fast."


def test_own_clocks_and_amounts(folders):
    """A lap that times itself is taken at its word: 4 steps in half a second are 8 a second."""
    with race.running(race.Race("tiny", "Tiny", "?", "none.")) as here:
        here.heat("laps", {"a": lambda k: (0.5, 3.0), "b": lambda k: (0.25, 3.0)}, rounds=2, unit="steps a second",
                  amount={"a": 4, "b": 1}, laps=True, within=0.0)
        here.heat("ms", {"a": lambda k: (0.5, None)}, rounds=2, unit="ms", amount=10, laps=True)
        here.ratio("laps", "a", here.best("laps", "a", "b"))
        here.ratio("laps", "a", "b")
    assert [row.values for row in here.rows] == [[8.0, 8.0], [4.0, 4.0], [50.0, 50.0]]
    assert [score.value for score in here.scores] == [1.0, 2.0]


def test_the_processors_clock_counts_children():
    start = race.worked()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert race.worked() - start >= 0.29


def test_an_unknown_race_is_named():
    run = subprocess.run([sys.executable, ROOT / "benchmarks" / "race.py", "nowhere"], capture_output=True, text=True)
    assert run.returncode == 1 and "There is no race nowhere: choose from book, flows" in run.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it runs")
def test_a_race_on_a_gpu_says_that_there_is_none():
    run = subprocess.run([sys.executable, ROOT / "benchmarks" / "race.py", "vae_cuda"], capture_output=True, text=True)
    assert run.returncode == 1 and "no CUDA device that torch can use: leave --device out" in run.stderr
    assert "Traceback" not in run.stderr


def test_all_races_leave_out_what_needs_a_gpu(folders, monkeypatch, capsys):
    monkeypatch.setattr(race, "races", lambda: {"tiny": ["-c", "pass"], "tiny_cuda": ["-c", "raise SystemExit(1)", "cuda"]})
    monkeypatch.setattr(race, "has_gpu", lambda: False)
    race.run([])
    assert "== tiny_cuda\n  This machine has no CUDA device: left out." in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Failed: tiny_cuda"):
        race.run(["tiny_cuda"])


def test_a_process_alone_has_its_threads():
    code = "import race; race.alone(1); import torch, os; print(torch.get_num_threads(), len(os.sched_getaffinity(0)))"
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no affinity on this system")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "benchmarks", check=True)
    assert run.stdout.split() == ["1", "1"]


def test_gaps_are_read_from_a_league_table():
    from tightbound import Problem, importance, laplace, league, problems

    unknown = Problem(lambda z: -0.5 * z.square().sum(-1), 1, name="no evidence known")
    table = league([problems.coin(), problems.two_modes(separation=5.0), unknown], [laplace, importance])
    spec = importlib.util.spec_from_file_location("races_book", ROOT / "benchmarks" / "book.py")  # tools has a book.py, too
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    gaps = module.gaps
    found = gaps(str(table))
    known = [row for row in table.rows if row.gap is not None]
    assert len(found) == len(known) >= 3
    for row in known:
        gap, error = found[f"{row.method} on {row.problem}"]
        assert abs(gap - row.gap) < 1e-4
        assert abs(error - race.SIGMAS * (row.log_evidence.standard_error or 0.0)) < 5e-4
    assert gaps("Explorer: a gap that moves") == {} == gaps("")
