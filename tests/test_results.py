"""The results beside the papers: the page shows what the command found, and the command does what the page says."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from tightbound.data import Images, Splits

ROOT = Path(__file__).resolve().parents[1]


def borrowing(name, monkeypatch):
    """A command that borrows from those beside it."""
    folder = ROOT / "benchmarks" / "results"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location(f"results_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for other in ("vae", "common"):
        sys.modules.pop(other, None)


@pytest.fixture
def command(monkeypatch):
    yield from borrowing("vae", monkeypatch)


def test_the_page_shows_the_largest_runs(command):
    results = json.loads(command.RESULTS.read_text())
    page = command.PAGE.read_text()
    shown = page.split(command.BEGIN)[1].split(command.END)[0].strip()
    assert shown == command.tables(results), "run: python benchmarks/results/vae.py --page"
    for result in results:
        assert 70 < result["value"] < result["bound"] + 3 * result["standard_error"] < 140
        assert all(result[key] for key in ("machine", "command", "date", "epochs", "seconds", "standard_error"))
        assert result["name"] in command.NETWORKS and result["samples"] >= 1000


def test_the_schedule_is_that_of_the_paper(command):
    """Stage i has 3^i of 3,280 passes, at 10^(-3 - i/7)."""
    rates = [command.rate(epoch, 3280) for epoch in range(3280)]
    start = 0
    for i in range(8):
        assert rates[start : start + 3**i] == [pytest.approx(10 ** (-3 - i / 7))] * 3**i
        start += 3**i
    assert start == 3280
    short = [command.rate(epoch, 24, equal=True) for epoch in range(24)]
    assert short == [pytest.approx(10 ** (-3 - i / 7)) for i in range(8) for _ in range(3)]


def test_the_networks_are_those_of_the_papers(command):
    x = torch.rand(10, 784)
    names = {"vae1-1": [784, 200, 200, 100, 50, 200, 200, 784],
             "iwae50-2": [784, 200, 200, 200, 100, 100, 100, 100, 50, 100, 100, 200, 100, 200, 200, 784],
             "fixed": [784, 512, 512, 256, 128, 512, 512, 784]}
    for name, widths in names.items():
        model = command.make(command.NETWORKS[name], x)
        seen = sorted((layer.in_features, layer.out_features) for layer in model.modules()
                      if isinstance(layer, torch.nn.Linear))
        if name == "iwae50-2":
            expected = [(784, 200), (200, 200), (200, 200), (100, 100), (100, 100), (100, 100), (50, 100), (100, 100),
                        (100, 200), (100, 200), (200, 200), (200, 784)]
        else:
            middle = widths[3] // 2
            pairs = list(zip(widths, widths[1:]))
            expected = [(a, b) for a, b in pairs if (a, b) not in ((widths[3], middle),)]
        assert seen == sorted(expected), name
    # As the authors' code has it, a decoder that knows nothing gives every pixel its own frequency.
    frequencies = torch.sigmoid(command.make(command.NETWORKS["vae1-1"], x).decoder[-1].bias)
    torch.testing.assert_close(frequencies, x.mean(0), atol=1e-4, rtol=1e-4)


def test_a_run_from_end_to_end(command, monkeypatch, tmp_path):
    """On a few made-up pictures: trained, evaluated, recorded, and gone on without training when asked again."""
    grey = (torch.rand(300, 784, generator=torch.Generator().manual_seed(0)) * 0.3).clamp(0, 1)
    monkeypatch.setattr(command, "mnist", lambda split: Images(grey, torch.zeros(300)))
    monkeypatch.setattr(command, "binarised_mnist", lambda split: (grey > 0.15).float())
    monkeypatch.setattr(command, "CHECKPOINTS", tmp_path)
    monkeypatch.setitem(command.BUDGETS, "small", command.Budget({"iwae5-2": 2, "fixed": 1}, 100, 50, 1_000))
    for name in ("iwae5-2", "fixed"):
        result = command.run(name, "small", torch.device("cpu"))
        assert math.isfinite(result["value"]) and result["value"] < result["bound"] + 5 * result["standard_error"]
        assert result["images"] == 50 and result["epochs"] == {"iwae5-2": 2, "fixed": 1}[name]
        assert (tmp_path / f"{name}-small.pt").exists()
        again = command.run(name, "small", torch.device("cpu"))
        assert again["value"] == pytest.approx(result["value"], abs=1e-6) and again["seconds"] >= result["seconds"]


# Flows -----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def flow_command(monkeypatch):
    yield from borrowing("flows", monkeypatch)


def test_the_page_shows_what_the_flows_reached(flow_command):
    results = json.loads(flow_command.RESULTS.read_text())
    shown = flow_command.PAGE.read_text().split(flow_command.BEGIN)[1].split(flow_command.END)[0].strip()
    assert shown == flow_command.tables(results), "run: python benchmarks/results/flows.py --page"
    names = [f"posterior {what}" for what in flow_command.POSTERIORS]
    names += [f"{name}, {kind}" for name in flow_command.TABLES for kind in flow_command.DENSITIES]
    names += [f"{name}, MADE" for name in flow_command.BINARY]
    assert {row["name"] for row in results} == set(names)
    for row in results:
        assert row["standard_error"] > 0 and all(row[key] for key in ("machine", "command", "date", "budget"))
        if row["name"].startswith("posterior"):
            assert 70 < row["log_likelihood"] < row["same_images"] < 140 and row["value"] < 140


def test_the_largest_budget_is_shown(flow_command):
    row = {"name": "dna, MADE", "value": -90.0, "budget": "small"}
    better = {**row, "value": -84.0, "budget": "full"}
    assert flow_command.shown([better, row]) == flow_command.shown([row, better]) == {"dna, MADE": better}


@pytest.mark.parametrize("what", ["0", "10", "iaf"])
def test_a_posterior_starts_where_the_gaussian_stood(flow_command, what):
    x = (torch.rand(30, 784, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    start = flow_command.gaussian(x)
    model = flow_command.with_flow(start, what)
    mean = start.posterior(x).mean + 1.0  # far from zero, where a turned or a shrunken z would show
    moved = model.encoder.bijection.call_and_ladj(mean, model.encoder.network(x))[0] if what != "0" else mean
    assert float((moved - mean).abs().max().detach()) < (0.05 if what == "iaf" else 1e-5)  # gates are open, but for a little
    q = model.posterior(x)
    z, log_q = q.rsample_and_log_prob((3,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=2e-2)
    assert {f"{10 * 2**k}" for k in range(4)} | {"0", "iaf"} == set(flow_command.POSTERIORS)


def test_a_run_of_flows_from_end_to_end(flow_command, monkeypatch):
    """On made-up data: every row of the tables comes out, and the tables can be written from them."""
    stream = torch.Generator().manual_seed(0)
    black = (torch.rand(220, 784, generator=stream) < 0.2).float()
    rows = torch.randn(200, 3, generator=stream).double()
    masks = torch.zeros(1, 200, dtype=torch.bool)
    masks[0, :30] = True
    monkeypatch.setattr(flow_command, "binarised_mnist", lambda split: black)
    monkeypatch.setattr(flow_command, "uci_regression", lambda name: Splits(rows[:, :2], rows[:, 2], masks))
    monkeypatch.setattr(flow_command, "uci_binary", lambda name, split="train": black[:60, :7])
    monkeypatch.setitem(flow_command.BUDGETS, "small", flow_command.Budget(1, 1, 1e-4, 5, 20, 30, 30))
    monkeypatch.setattr(flow_command, "POSTERIORS", {what: flow_command.POSTERIORS[what] for what in ("0", "10", "iaf")})
    found = list(flow_command.rows("small", torch.device("cpu")))
    assert len(found) == 9 + 3 + 3 and all(math.isfinite(row["value"]) and row["seconds"] >= 0 for row in found)
    normal = -0.5 * 3 * math.log(2 * math.pi * math.e)
    assert found[0]["value"] == pytest.approx(normal, abs=0.7)  # independent standard normals
    assert "| 10 planar layers |" in flow_command.tables(found)


# Iterative inference ---------------------------------------------------------------------------------------------------

@pytest.fixture
def iterative_command(monkeypatch):
    yield from borrowing("iterative", monkeypatch)


def test_the_page_shows_what_iterative_inference_reached(iterative_command):
    command = iterative_command
    results = json.loads(command.RESULTS.read_text())
    shown = command.PAGE.read_text().split(command.BEGIN)[1].split(command.END)[0].strip()
    assert shown == command.tables(results), "run: python benchmarks/results/iterative.py --page"
    names = {"gaps, training", "gaps, test"} | {f"encoder, {name}" for name in command.MARINO}
    assert {row["name"] for row in results} == names | {f"sequences, {name}" for name in command.HE}
    for row in results:
        assert all(row[key] for key in ("machine", "command", "date", "budget", "passes"))
        if row["name"].startswith("gaps"):
            assert row["log_evidence"][0] > row["best"][0] > row["bound"][0] and row["images"] >= 50
            assert row["inference"][0] == pytest.approx(row["approximation"][0] + row["amortisation"][0], abs=1e-6)
        elif row["name"].startswith("encoder"):
            assert 70 < row["value"][0] < row["bound"][0] < 140 and row["amortisation"][0] > 0
        elif row["name"] != "sequences, language model":
            assert 0 < row["information"][0] < row["rate"][0] + 0.05 and row["amortisation"][0] > 0


def test_the_published_gaps_add_up(iterative_command):
    theirs = {name: value for name, (_, value) in iterative_command.CREMER.items()}
    assert theirs["approximation"] == pytest.approx(theirs["log_evidence"] - theirs["best"], abs=0.011)
    assert theirs["amortisation"] == pytest.approx(theirs["best"] - theirs["bound"], abs=0.011)
    assert theirs["inference"] == pytest.approx(theirs["approximation"] + theirs["amortisation"], abs=0.011)
    assert iterative_command.cell((-0.001, 0.1)) == "0.00 ± 0.10"


def test_aggressive_training_moves_the_decoder_as_often_as_plain_training(iterative_command, monkeypatch):
    command, seen = iterative_command, {}
    monkeypatch.setattr(command.training, "fit", lambda model, data, objective, **options: seen.update(options))
    learn = torch.zeros(2000, 7, dtype=torch.long)
    model, _ = command.sequence_model("aggressive", learn, 0, command.BUDGETS["small"].sequences)
    alternating, steps = seen["optimizer"](model.parameters(), lr=1e-3), 16 * seen["num_epochs"]
    assert alternating.until // alternating.inner + steps - alternating.until == 16 * 14


def test_a_run_of_iterative_inference_from_end_to_end(iterative_command, monkeypatch):
    """On made-up data: every row of the tables comes out, and the tables can be written from them."""
    command, stream = iterative_command, torch.Generator().manual_seed(0)
    grey = torch.rand(220, 784, generator=stream) * 0.3
    monkeypatch.setattr(command, "binarised_mnist", lambda split: (grey > 0.2).float())
    monkeypatch.setattr(command, "mnist", lambda split: Images(grey, torch.zeros(220)))
    tiny = command.Budget(command.Gaps(1, 4, 5, 50, 5), command.Encoders(1, 3, (8,), 2, 1e-3, 20, 30, 4),
                          command.Sequences(2, 60, 20, 4, 1))
    monkeypatch.setitem(command.BUDGETS, "small", tiny)
    found = list(command.rows("small", torch.device("cpu")))
    assert len(found) == 2 + 3 + 5
    pairs = [(row, name) for row in found for name, value in row.items() if isinstance(value, tuple)]
    assert len(pairs) == 2 * 6 + 3 * 4 + 4 * 5 + 2 and all(math.isfinite(x) for row, name in pairs for x in row[name])
    for row in found:
        if row["name"].startswith("gaps"):
            assert row["inference"][0] == pytest.approx(row["approximation"][0] + row["amortisation"][0], abs=1e-6)
            assert row["amortisation"][0] >= 0
        elif row["name"] in ("encoder, direct", "sequences, VAE"):
            assert row["gain"] == (0, 0)
    assert [row["passes"] for row in found[2:5]] == [1, 1, 4]
    assert "| semi-amortised VAE |" in command.tables(found)
