"""Results beside the papers': flow posteriors of a VAE on MNIST, and densities of small sets, in nats.

    python benchmarks/results/flows.py                        the smallest budget, some minutes on one core
    python benchmarks/results/flows.py --budget 1h-cpu        more passes, a good hour on one core
    python benchmarks/results/flows.py --budget 1h-gpu        many more, about an hour on one GPU
    python benchmarks/results/flows.py --budget full          as many steps as were published: days, on one GPU
    python benchmarks/results/flows.py --page                 only writes the tables of pages/results.md anew

What comes out replaces the rows of the same name and budget in benchmarks/results/flows.json, from which the page shows those of the
largest budget.

Posteriors (Rezende & Mohamed, 2015; Kingma et al., 2016): 40 latents, MNIST in one fixed binarisation, and K planar layers (or two
layers of IAF) whose numbers a network computes from the image. All rows of a budget start from the same Gaussian VAE, trained for
`start` passes, and are trained for `passes` more, the row without a flow as well: so what differs is the flow. Planar layers start
as the identity, the gates of IAF nearly so.

Densities: held-out log densities of standardised columns beside a Gaussian; and MADE's probabilities of binary vectors beside those
of Germain et al. (2015).
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from common import PAGE, keep, shown, write
from torch import Tensor, nn
from vae import machine

from tightbound import flows, training, vae
from tightbound.data import binarised_mnist, uci_binary, uci_regression
from tightbound.device import choose

RESULTS = Path(__file__).with_suffix(".json")
DIM, FEATURES = 40, 100
POSTERIORS = {"0": ("no flow", 89.9), "10": ("10 planar layers", 87.5), "20": ("20 planar layers", 86.5),
              "40": ("40 planar layers", 85.7), "80": ("80 planar layers", 85.1), "iaf": ("IAF, 2 layers of 320 units", None)}
TABLES = ("power_plant", "kin8nm", "protein")
DENSITIES = ("Gaussian", "MADE", "MAF (5)")
BINARY = {"dna": -83.63, "mushrooms": -9.68, "nips": -280.25}  # MADE with one mask, Germain et al. (2015), table 4


class Budget(NamedTuple):
    """How much of it: passes of the VAE before and with the flow, Adam's rate then (it falls in a line), steps of annealing, test
    images and samples, and steps of each density."""

    start: int
    passes: int
    rate: float
    warm_up: int
    images: int
    samples: int
    steps: int


BUDGETS = {"small": Budget(10, 2, 1e-4, 0, 300, 500, 1_000),
           "1h-cpu": Budget(20, 10, 1e-3, 0, 1_000, 2_000, 5_000),
           "1h-gpu": Budget(60, 60, 1e-3, 0, 10_000, 5_000, 5_000),
           "full": Budget(0, 1_000, 1e-4, 10_000, 10_000, 5_000, 50_000)}


# Posteriors --------------------------------------------------------------------------------------------------------

def gaussian(x: Tensor) -> vae.VAE:
    """784 - 400 - 100 rectified linear units - 40 latents - 400 - 784."""
    model = vae.make(784, DIM, hidden=(400, FEATURES), activation=nn.ReLU)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model.decoder = vae.mlp(DIM, 400, activation=nn.ReLU).append(nn.Linear(400, 784))
        model.decoder[-1].bias.copy_(torch.logit(x.mean(0), eps=1e-3))
    return model.to(x.device)


def with_flow(model: vae.VAE, what: str) -> vae.VAE:
    """A copy of the model whose posterior is carried on by a flow: "0", "10", ... planar layers, or "iaf"."""
    model = copy.deepcopy(model)
    if what == "0":
        return model
    if what == "iaf":
        first, second = (flows.Autoregressive(DIM, hidden=(320,), context_dim=FEATURES, seed=k) for k in range(2))
        with torch.no_grad():
            for made in (first.network, second.network):
                made.last.weight.zero_(), made.direct.weight.zero_(), made.direct.bias.zero_()
                made.last.bias.view(DIM, 2).copy_(torch.tensor([0.0, 5.0]))  # gates that are open
        turned = flows.Permute(range(DIM - 1, -1, -1))
        bijection: flows.Bijection = flows.Chain([first, turned, second, turned])
    else:
        bijection = flows.Planar(DIM, int(what), context_dim=FEATURES)
        with torch.no_grad():  # w'u = log(e - 1), where û = 0 and the layer is the identity
            bijection.u.copy_(math.log(math.e - 1) * bijection.w / bijection.w.square().sum(-1, keepdim=True))
            bijection.heads.weight.zero_(), bijection.heads.bias.zero_()
    encoder = flows.FlowEncoder(model.encoder.network, FEATURES, bijection)
    encoder.head = model.encoder.head
    model.encoder = encoder.to(next(model.parameters()).device)
    return model


def free_energy(model, x: Tensor, *, generator, beta: float = 1.0) -> Tensor:
    """One draw of the bound; the log joint counts beta times."""
    z, log_q = model.posterior(x).rsample_and_log_prob((1,), generator=generator)
    return (beta * model.log_joint(x, z) - log_q).mean(0)


def annealed(warm_up: int):
    """The free energy, with beta = min(1, 0.01 + step / warm_up) at first."""
    def objective(model, x: Tensor, *, generator, step: int) -> Tensor:
        return free_energy(model, x, generator=generator, beta=min(1.0, 0.01 + step / warm_up))
    return objective if warm_up else free_energy


def posterior(what: str, start: vae.VAE, x: Tensor, held_out: Tensor, budget: Budget) -> dict:
    began, model = time.perf_counter(), with_flow(start, what)
    training.fit(model, x, annealed(budget.warm_up), num_epochs=budget.passes, batch_size=100, compiled=not budget.warm_up,
                 learning_rate=lambda epoch: budget.rate * (1 - 0.9 * epoch / budget.passes), progress=False)
    seconds, stream = time.perf_counter() - began, torch.Generator(x.device).manual_seed(0)
    with torch.no_grad():
        bound = torch.cat([vae.elbo(model, part, 5, generator=stream) for part in held_out.split(500)]).double()
    some = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(1))[: budget.images]  # the first are easier
    found = vae.importance_sampled(model, held_out[some.to(x.device)], budget.samples).log_evidence.double()
    return {"value": -float(bound.mean()), "standard_error": float(bound.std() / math.sqrt(len(bound))),
            "log_likelihood": -float(found.mean()), "same_images": -float(bound[some.to(x.device)].mean()),
            "images": len(bound), "seconds": round(seconds)}


def posteriors(names: list[str], budget: Budget, device: torch.device):
    x, held_out = binarised_mnist("train").to(device), binarised_mnist("test").to(device)
    start = gaussian(x)
    if budget.start:
        training.fit(start, x, vae.elbo, num_epochs=budget.start, batch_size=100, learning_rate=1e-3, progress=False)
    for name in names:
        yield name, posterior(name, start, x, held_out, budget)


# Densities ---------------------------------------------------------------------------------------------------------

def table(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Columns and target together, standardised by the training rows: training, validation and test rows of the first split."""
    X, y, test = uci_regression(name)
    rows = torch.cat([X, y.unsqueeze(1)], 1)
    rest, held_out = rows[~test[0]], rows[test[0]]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))]
    cut = len(rest) // 10
    mean, scale = rest[cut:].mean(0), rest[cut:].std(0)
    return tuple((part - mean) / scale for part in (rest[cut:], rest[:cut], held_out))


def density(kind: str, train: Tensor, valid: Tensor, steps: int):
    if kind == "Gaussian":
        return torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
    return flows.fit_density(train, "maf", num_layers=1 if kind == "MADE" else 5, hidden=(64, 64), num_steps=steps, learning_rate=3e-3,
                             validation=valid, every=100).q


def binary(name: str, steps: int) -> Tensor:
    """Log probabilities of the test rows under a MADE with one mask, stopped by the validation rows."""
    train, valid, test = (uci_binary(name, part) for part in ("train", "valid", "test"))
    made = flows.MADE(train.shape[1], 1, (500,)).float()
    adam, stream, best = torch.optim.Adam(made.parameters(), lr=1e-3), torch.Generator().manual_seed(0), (-math.inf, None)

    def log_prob(x: Tensor) -> Tensor:
        return -nn.functional.binary_cross_entropy_with_logits(made(x).squeeze(-1), x, reduction="none").sum(-1)

    for step in range(steps):
        if step % 25 == 0:
            with torch.no_grad():
                best = max(best, (float(log_prob(valid).mean()), copy.deepcopy(made.state_dict())), key=lambda pair: pair[0])
        adam.zero_grad()
        (-log_prob(train[torch.randint(len(train), (100,), generator=stream)]).mean()).backward()
        adam.step()
    made.load_state_dict(best[1])
    with torch.no_grad():
        return log_prob(test).double()


def densities(budget: Budget):
    for name in TABLES:
        train, valid, test = table(name)
        for kind in DENSITIES:
            began = time.perf_counter()
            with torch.no_grad() if kind == "Gaussian" else torch.enable_grad():
                q = density(kind, train, valid, budget.steps)
            with torch.no_grad():
                yield f"{name}, {kind}", scored(q.log_prob(test), began)
    for name in BINARY:
        began = time.perf_counter()
        yield f"{name}, MADE", scored(binary(name, budget.steps), began)


def scored(log_q: Tensor, began: float) -> dict:
    return {"value": float(log_q.mean()), "standard_error": float(log_q.std() / math.sqrt(len(log_q))), "rows": len(log_q),
            "seconds": round(time.perf_counter() - began)}


# The page ----------------------------------------------------------------------------------------------------------

def tables(results: list[dict]) -> str:
    rows = shown(results)
    lines = ["| posterior | ours: −ELBO, nats | published −ELBO | gain on no flow | published gain | our gap to log p | passes | training |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for what, (title, theirs) in POSTERIORS.items():
        row, gain = rows[f"posterior {what}"], rows["posterior 0"]["value"] - rows[f"posterior {what}"]["value"]
        lines.append(f"| {title} | {row['value']:.2f} ± {row['standard_error']:.2f} | {theirs or ''} | "
                     f"{'' if what == '0' else f'{gain:.2f}'} | {'' if theirs is None or what == '0' else f'{89.9 - theirs:.1f}'} | "
                     f"{row['same_images'] - row['log_likelihood']:.2f} | {row['passes']} | {row['seconds']:,} s |")
    lines += ["", "| held-out rows of | columns | " + " | ".join(DENSITIES) + " |", "| --- | ---: |" + " ---: |" * len(DENSITIES)]
    for name in TABLES:
        cells = [rows[f"{name}, {kind}"] for kind in DENSITIES]
        lines.append(f"| {name.replace('_', ' ')} | {cells[0]['columns']} | "
                     + " | ".join(f"{cell['value']:.2f} ± {cell['standard_error']:.2f}" for cell in cells) + " |")
    lines += ["", "| binary vectors | columns | our MADE | published |", "| --- | ---: | ---: | ---: |"]
    for name, theirs in BINARY.items():
        row = rows[f"{name}, MADE"]
        lines.append(f"| {name} | {row['columns']} | {row['value']:.2f} ± {row['standard_error']:.2f} | {theirs} |")
    used = {(row["budget"], row["date"]): row for row in rows.values()}
    lines += ["", *(f"Made on {row['date']} by `{row['command']}` ({row['machine']})." for row in used.values())]
    return "\n".join(lines)


BEGIN, END = "<!-- flows: begin -->", "<!-- flows: end -->"


def write_page() -> None:
    write(PAGE, BEGIN, END, tables(json.loads(RESULTS.read_text())))


def rows(budget_name: str, device: torch.device, parts=("densities", "posteriors")):
    """Every row of the tables, one after another."""
    budget = BUDGETS[budget_name]
    widths = {name: uci_regression(name).X.shape[1] + 1 for name in TABLES} | {name: uci_binary(name).shape[1] for name in BINARY}
    facts = {"budget": budget_name, "machine": machine(device), "command": f"python benchmarks/results/flows.py --budget {budget_name}",
             "date": datetime.date.today().isoformat()}
    for name, found in densities(budget) if "densities" in parts else ():
        yield {"name": name, "columns": widths[name.split(",")[0]], **found, "steps": budget.steps, **facts}
    for name, found in posteriors(list(POSTERIORS), budget, device) if "posteriors" in parts else ():
        yield {"name": f"posterior {name}", **found, "passes": f"{budget.start} + {budget.passes}", **facts}


def main() -> None:
    parser = argparse.ArgumentParser(description="Flows beside the papers' results.")
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--parts", nargs="*", choices=("densities", "posteriors"), default=("densities", "posteriors"))
    parser.add_argument("--page", action="store_true", help="only write the page's tables anew")
    options = parser.parse_args()
    if not options.page:
        for row in rows(options.budget, choose(), options.parts):
            print(f"{row['name']:24s} {row['value']:9.3f} ± {row['standard_error']:.3f} nats in {row['seconds']} s", flush=True)
            keep(RESULTS, row)
    write_page()


if __name__ == "__main__":
    main()
