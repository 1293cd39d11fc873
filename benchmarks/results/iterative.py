"""Iterative amortised inference beside the papers' results, in nats.

    python benchmarks/results/iterative.py                        the smallest budget, some minutes on one core
    python benchmarks/results/iterative.py --budget 1h-cpu        more passes and images: within an hour on one core
    python benchmarks/results/iterative.py --budget 1h-gpu        larger networks, more passes and images: one GPU
    python benchmarks/results/iterative.py --budget full          networks as published: many hours, on one GPU
    python benchmarks/results/iterative.py --parts gaps           this part; the others' rows stay as they were
    python benchmarks/results/iterative.py --page                 only writes the tables of pages/results.md anew

What comes out replaces the rows of the same name and budget in benchmarks/results/iterative.json, from which the
page shows those of the largest budget.

gaps: 784-200-200-50 latents and back, tanh, one fixed binarisation; `tightbound.iterative.gaps` on training and on
test images, beside Cremer, Li & Duvenaud (2018), table 2.

encoders: one model trained with a direct encoder, and with an iterative inference model of five steps that starts at
the prior; then the direct one again, for four times the passes, about as much work; beside Marino, Yue & Mandt
(2018), tables 1 and 2.

sequences: rows of words with one number behind them, on which a VAE's encoder lags: KL annealing, the semi-amortised
VAE and aggressive training, over several seeds; beside He et al. (2019), table 1, whose numbers are of other data.
This part always runs on the CPU.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from common import PAGE, keep, shown, write
from torch import Tensor, nn
from vae import FULL, NETWORKS, machine, make, rate

from tightbound import iterative as it, training, vae, vae_practice as vp
from tightbound.data import binarised_mnist, mnist
from tightbound.device import choose

RESULTS = Path(__file__).with_suffix(".json")
# Cremer et al. (2018), table 2, MNIST, trained with a diagonal Gaussian; Marino et al. (2018); He et al. (2019), table 1, Yahoo.
CREMER = {"log_evidence": ("log p(x)", -89.80), "best": ("bound of the best q", -91.23),
          "bound": ("bound of the encoder's q", -92.57), "approximation": ("approximation gap", 1.43),
          "amortisation": ("amortisation gap", 1.34), "inference": ("inference gap", 2.77)}
MARINO = {"direct": ("direct encoder", "84.14 ± 0.02"), "iterative": ("iterative, 5 steps from the prior", "83.84 ± 0.05"),
          "longer": ("direct encoder, 4 times the passes", "")}
HE = {"language model": ("no latent: a language model", "328.1", "", ""), "VAE": ("VAE", "328.8", "0.0", "0.0"),
      "annealing": ("VAE, KL annealing", "328.6", "0.0", "0.0"), "semi-amortised": ("semi-amortised VAE", "329.1", "0.1", "0.0"),
      "aggressive": ("aggressive training", "328.0", "5.4", "3.0")}


class Gaps(NamedTuple):
    """Passes; images of each kind; steps of Adam for each; samples of IS and of the bounds; temperatures of AIS."""

    passes: int
    images: int
    steps: int
    samples: int
    temperatures: int


class Encoders(NamedTuple):
    """Passes; latents; hidden layers; draws behind each gradient; Adam's rate; test images, samples, images for the gap."""

    passes: int
    latents: int
    hidden: tuple[int, ...]
    draws: int
    rate: float
    images: int
    samples: int
    best: int


class Sequences(NamedTuple):
    """Seeds; rows to learn from, and held out; passes; inner steps of the semi-amortised VAE."""

    seeds: int
    rows: int
    held_out: int
    passes: int
    steps: int


class Budget(NamedTuple):
    gaps: Gaps
    encoders: Encoders
    sequences: Sequences


BUDGETS = {
    "small": Budget(Gaps(4, 50, 100, 1_000, 50), Encoders(1, 20, (128,), 2, 1e-3, 500, 500, 50), Sequences(3, 2_000, 400, 14, 3)),
    "1h-cpu": Budget(Gaps(60, 200, 200, 5_000, 100), Encoders(12, 32, (200,), 2, 1e-3, 2_000, 2_000, 200),
                     Sequences(10, 2_000, 400, 14, 5)),
    "1h-gpu": Budget(Gaps(200, 500, 200, 5_000, 200), Encoders(40, 64, (256, 256), 4, 5e-4, 5_000, 2_000, 500),
                        Sequences(10, 2_000, 400, 14, 5)),
    "full": Budget(Gaps(FULL, 1_000, 500, 5_000, 500), Encoders(1_000, 64, (512, 512), 10, 2e-4, 10_000, 5_000, 1_000),
                   Sequences(10, 16_000, 2_000, 100, 20))}


def summary(each: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """The mean of each, over images or seeds, and its standard error."""
    each = {name: value.cpu().double() for name, value in each.items()}
    return {name: (float(value.mean()), float(value.std() / math.sqrt(len(value)))) for name, value in each.items()}


def some(x: Tensor, number: int) -> Tensor:
    """So many rows, drawn at random but always the same: the first test images are easier than the rest."""
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:number].to(x.device)]


# Parts -------------------------------------------------------------------------------------------------------------

def gaps(budget: Gaps, device: torch.device) -> Iterator[dict]:
    """The gaps of one VAE on training and on test images."""
    began = time.perf_counter()
    x, held_out = binarised_mnist("train").to(device), binarised_mnist("test").to(device)
    model = make(NETWORKS["vae1-1"], x)
    training.fit(model, x, vae.elbo, num_epochs=budget.passes, batch_size=100, precision="bfloat16", compiled=True, progress=False,
                 learning_rate=lambda epoch: rate(epoch, budget.passes, equal=budget.passes < FULL))
    for kind, images in (("training", x), ("test", held_out)):
        parts = [it.gaps(model, part, num_steps=budget.steps, num_samples=budget.samples,
                         num_temperatures=budget.temperatures, seed=k)
                 for k, part in enumerate(some(images, budget.images).split(100))]
        found = it.Gaps(*map(torch.cat, zip(*parts)))
        yield {"name": f"gaps, {kind}", **summary({name: getattr(found, name) for name in CREMER}), "images": len(found.bound),
               "evidence_error": float(found.standard_error.mean()), "seconds": round(time.perf_counter() - began)}
        began = time.perf_counter()


def inference(kind: str, x: Tensor, budget: Encoders) -> it.Inference:
    """A model that knows how often each pixel is black, and what is to infer its latents."""
    model = vae.make(784, budget.latents, hidden=budget.hidden, activation=nn.ELU)
    with torch.no_grad():
        model.decoder[-1].bias.copy_(torch.logit(x.mean(0), eps=1e-3))
    if kind != "iterative":
        return it.Inference(model, start="encoder", num_steps=0).to(x.device)
    rule = it.Learned(budget.latents, num_pixels=784, inputs="both", width=max(budget.hidden))
    return it.Inference(model, rule, num_steps=5, num_samples=budget.draws).to(x.device)


def encoders(budget: Encoders, device: torch.device) -> Iterator[dict]:
    """The same model with a direct encoder and with an iterative one, on the same test images."""
    x = mnist("train").images[:59_600].to(device)
    held_out = training.binarise(mnist("test").images, generator=torch.Generator().manual_seed(0))
    held_out = some(held_out.to(device), budget.images)
    first = None
    for name in MARINO:
        began, passes = time.perf_counter(), budget.passes * (4 if name == "longer" else 1)
        trained = inference(name, x, budget)
        training.fit(trained, x, it.unrolled, num_epochs=passes, batch_size=64, prepare=training.binarise, progress=False,
                     learning_rate=lambda epoch: budget.rate * (1 - 0.9 * epoch / passes))
        seconds, stream = time.perf_counter() - began, torch.Generator(device).manual_seed(0)
        with torch.no_grad():
            bound = torch.cat([vae.elbo(trained, part, 20, generator=stream) for part in held_out.split(100)])
        evidence = vae.importance_sampled(trained, held_out, budget.samples).log_evidence
        parts = [it.gaps(trained, images, log_evidence=known, num_steps=100, num_samples=1_000).amortisation
                 for images, known in zip(held_out[: budget.best].split(100), evidence[: budget.best].split(100))]
        first = evidence if first is None else first
        yield {"name": f"encoder, {name}", "images": len(bound), "passes": passes, "seconds": round(seconds),
               **summary({"value": -evidence, "bound": -bound, "gain": evidence - first, "amortisation": torch.cat(parts)})}


def sequence_model(name: str, learn: Tensor, seed: int, budget: Sequences):
    """A model of sequences and its inference, trained as the name says, by as many steps of the decoder each."""
    if name == "language model":
        model = vp.SentenceVAE(20, 0, width=32, embedding=12, seed=seed)
        slow, trained = [], model
    else:
        model, slow = it.sentence_vae(seed=seed)
        trained = model
    steps, passes, objective, optimiser = -(-len(learn) // 128), budget.passes, vp.Objective(), None
    if name == "annealing":
        objective = vp.Objective(warm_up=steps * passes // 2)
    if name == "semi-amortised":
        ascent = it.Ascent(0.3, momentum=0.5, through=True)
        trained = it.Inference(model, ascent, start="encoder", num_steps=budget.steps, num_samples=2)
        objective = functools.partial(it.unrolled, every=False)
    if name == "aggressive":  # one step of the decoder to five of the encoder, in the first two sevenths of its steps
        early = passes * 2 // 7
        optimiser, passes = it.aggressive(slow, inner=5, until=5 * early * steps), passes + 4 * early
    training.fit(trained, learn, objective, num_epochs=passes, learning_rate=5e-3, seed=seed, optimizer=optimiser,
                 progress=False)
    return model, trained


def sequence_scores(model, trained, test: Tensor) -> dict[str, float]:
    """-log p(x), the rate, what q tells of x (mutual information), and the gap to the best q: means over held-out rows."""
    if not model.dim:
        with torch.no_grad():
            return {"value": -float(vae.elbo(model, test).mean())}
    evidence = vp.grid_log_evidence(model, test, num_points=61)
    found = vp.surgery(trained, test)
    gap = it.gaps(trained, test[:200], log_evidence=evidence[:200], num_steps=60).amortisation
    return {"value": -float(evidence.mean()), "rate": found.rate, "information": found.information,
            "amortisation": float(gap.mean())}


def sequences(budget: Sequences, device: torch.device) -> Iterator[dict]:
    """Cures for an encoder that lags, over seeds; the data are the same."""
    x, _ = it.sequences(budget.rows + budget.held_out)
    learn, test, plain = x[:budget.rows], x[budget.rows:], None
    for name in ("VAE", *(other for other in HE if other != "VAE")):
        began, found = time.perf_counter(), []
        for seed in range(budget.seeds):
            found.append(sequence_scores(*sequence_model(name, learn, seed, budget), test))
        each = {score: torch.tensor([one[score] for one in found]) for score in found[0]}
        plain = each["value"] if plain is None else plain
        yield {"name": f"sequences, {name}", "seeds": budget.seeds, "passes": budget.passes, "rows": len(learn),
               **summary(each | {"gain": plain - each["value"]}), "seconds": round(time.perf_counter() - began)}


PARTS = {part.__name__: part for part in (gaps, encoders, sequences)}


def rows(budget_name: str, device: torch.device, parts=tuple(PARTS)) -> Iterator[dict]:
    """Every row of the tables, one after another."""
    facts = {"budget": budget_name, "command": f"python benchmarks/results/iterative.py --budget {budget_name}",
             "date": datetime.date.today().isoformat()}
    for part in parts:
        where, size = torch.device("cpu") if part == "sequences" else device, getattr(BUDGETS[budget_name], part)
        for row in PARTS[part](size, where):
            yield {"passes": size.passes, **row, **facts, "machine": machine(where)}


# The page ----------------------------------------------------------------------------------------------------------

def cell(pair, digits: int = 2) -> str:
    """A mean and its standard error; no -0.00."""
    mean, error = pair
    return f"{round(mean, digits) + 0.0:.{digits}f} ± {error:.{digits}f}"


def tables(results: list[dict]) -> str:
    found = shown(results)
    learnt, held_out = found["gaps, training"], found["gaps, test"]
    lines = [f"| nats | our {learnt['images']} training images | our {held_out['images']} test images | published |",
             "| --- | ---: | ---: | ---: |"]
    lines += [f"| {title} | {cell(learnt[name])} | {cell(held_out[name])} | {theirs:.2f} |"
              for name, (title, theirs) in CREMER.items()]
    lines += ["", "| inference | ours: −log p(x) | published | gain on direct | our −ELBO | our gap to the best q | passes | "
              "training |",
              "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, (title, theirs) in MARINO.items():
        row = found[f"encoder, {name}"]
        gain = "" if name == "direct" else cell(row["gain"])
        lines.append(f"| {title} | {cell(row['value'])} | {theirs} | {gain} | {cell(row['bound'])} | {cell(row['amortisation'])} | "
                     f"{row['passes']} | {row['seconds']:,} s |")
    lines += ["", "| sequences | ours: −log p(x) | gain on VAE | rate | information | gap to the best q | "
              "Yahoo: −log p(x), rate, information |",
              "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, (title, *theirs) in HE.items():
        row = found[f"sequences, {name}"]
        cells = [cell(row[score], 3) if score in row else "" for score in ("rate", "information", "amortisation")]
        gain = "" if name == "VAE" else cell(row["gain"], 3)
        lines.append(f"| {title} | {cell(row['value'], 3)} | {gain} | {' | '.join(cells)} | {', '.join(filter(None, theirs))} |")
    lines += ["", *made(found)]
    return "\n".join(lines)


def made(found: dict[str, dict]) -> list[str]:
    """How the rows shown came about, budget by budget."""
    lines = []
    for budget in dict.fromkeys(row["budget"] for row in found.values()):
        used = [row for row in found.values() if row["budget"] == budget]
        seconds = sum(row["seconds"] for row in used)
        lines.append(f"Made on {used[-1]['date']} by `{used[-1]['command']}` in {seconds:,} s and a little more "
                     f"({used[-1]['machine']}).")
    return lines


BEGIN, END = "<!-- iterative: begin -->", "<!-- iterative: end -->"


def write_page() -> None:
    write(PAGE, BEGIN, END, tables(json.loads(RESULTS.read_text())))


def main() -> None:
    parser = argparse.ArgumentParser(description="Iterative amortised inference beside the papers' results.")
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=tuple(PARTS))
    parser.add_argument("--page", action="store_true", help="only write the page's tables anew")
    options = parser.parse_args()
    if not options.page:
        for row in rows(options.budget, choose(), options.parts):
            score = row.get("value", row.get("inference"))
            print(f"{row['name']:28s} {cell(score, 3)} nats in {row['seconds']} s", flush=True)
            keep(RESULTS, row)
    write_page()


if __name__ == "__main__":
    main()
