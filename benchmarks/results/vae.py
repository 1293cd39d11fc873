"""Results beside the papers': VAEs trained on MNIST, and their test log-likelihood beside the published one.

    python benchmarks/results/vae.py --budget small         a few networks, some minutes on two cores
    python benchmarks/results/vae.py --budget 1h-cpu        four of them, some passes more, a good hour on one core
    python benchmarks/results/vae.py --budget 1h-gpu         all of them, about an hour on one GPU
    python benchmarks/results/vae.py --budget full          as published: 3,280 passes each; days, on one GPU
    python benchmarks/results/vae.py --page                 only writes the tables of pages/results.md anew

A run that was broken off goes on where it stopped, when the same command is given again. What comes out replaces the row of the same
network and budget in benchmarks/results/vae.json, from which the page shows those of the largest budget.

Set-up of Burda, Grosse & Salakhutdinov (2016): two deterministic tanh layers of 200 units and 50 latents; or with a second
layer of latents, 100 and 50, and 100-100 units between; black and white drawn anew in every pass; Adam (eps 1e-4) at
10^(-3 - i/7) for 3^i passes, i = 0..7, in short runs for equally many; log p(x) by importance sampling with 5,000 samples.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from common import PAGE, keep, shown, write
from torch import nn

from tightbound import training, vae
from tightbound.data import binarised_mnist, mnist
from tightbound.device import choose

RESULTS = Path(__file__).with_suffix(".json")
CHECKPOINTS = Path(__file__).parents[2] / "_build" / "results"


class Network(NamedTuple):
    """One line of a table: how it is trained, and what was published (-log p(x) in nats)."""

    title: str
    published: float
    layers: int = 1
    samples: int = 1           # k, in training
    weighted: bool = False     # by importance (IWAE), or averaged (VAE)
    fixed: bool = False        # one binarisation for all time, and the network of jaanli/variational-autoencoder


PUBLISHED = {("VAE", 1): (86.76, 85.33), ("VAE", 5): (86.47, 85.01), ("VAE", 50): (86.35, 84.78),
             ("IWAE", 5): (85.54, 83.89), ("IWAE", 50): (84.78, 82.90)}
NETWORKS = {"fixed": Network("VAE, 128 latents, fixed binarisation", 97.10, fixed=True)} | {
    f"{kind.lower()}{k}-{layers}": Network(f"{kind}, k = {k}, {layers} layer{'s' * (layers > 1)}", values[layers - 1], layers, k,
                                           kind == "IWAE")
    for layers in (1, 2) for (kind, k), values in PUBLISHED.items()}


FULL = 3280  # passes, as published


class Budget(NamedTuple):
    """How much of it: passes for each network, images in a batch, test images, samples for each of them."""

    epochs: dict[str, int]
    batch_size: int
    images: int
    samples: int


BUDGETS = {
    "small": Budget({"fixed": 60, "vae1-1": 30, "iwae5-1": 20}, 100, 1_000, 1_000),
    "1h-cpu": Budget(dict.fromkeys(("vae1-1", "iwae5-1", "vae1-2", "iwae5-2"), 200), 100, 5_000, 5_000),
    "1h-gpu": Budget({name: 400 if network.samples < 50 else 200 for name, network in NETWORKS.items()}, 100, 10_000, 5_000),
    "full": Budget({name: FULL for name in NETWORKS} | {"fixed": 166}, 20, 10_000, 5_000),
}


def make(network: Network, x: torch.Tensor) -> vae.VAE:
    if network.fixed:
        model = vae.make(784, 128, hidden=(512, 512), activation=nn.ReLU)
    elif network.layers == 1:
        model = vae.make(784, 50, hidden=(200, 200))
    else:
        model = vae.make(784, (100, 50), hidden=((200, 200), (100, 100)))
    with torch.no_grad():  # as in the authors' code: start with the pixels' own frequencies
        model.decoder[-1].bias.copy_(torch.logit(x.mean(0), eps=1e-3))
    return model.to(x.device)


def rate(epoch: int, num_epochs: int, *, equal: bool = False) -> float:
    """10^(-3 - i/7) in stage i of 8, each three times as long as the one before, or all of equal length.

    The published shape leaves two thirds of the passes to the smallest step: too slow for a run of some dozen. But the
    rectified network of the fixed binarisation needs the small steps: at the large ones its latents die.
    """
    done = (epoch + 0.5) / num_epochs
    stage = 8 * done if equal else math.log(1 + done * (3**8 - 1), 3)
    return 10 ** (-3 - min(7, int(stage)) / 7)


def objective(network: Network):
    bound = vae.iwae_bound if network.weighted else vae.elbo
    return lambda model, x, *, generator: bound(model, x, network.samples, generator=generator)


def run(name: str, budget_name: str, device: torch.device) -> dict:
    network, budget = NETWORKS[name], BUDGETS[budget_name]
    if network.fixed:
        x, held_out = binarised_mnist("train"), binarised_mnist("test")
    else:
        x, held_out = mnist("train").images[:59_600], mnist("test").images
        held_out = training.binarise(held_out, generator=torch.Generator().manual_seed(0))
    x, held_out = x.to(device), held_out.to(device)
    chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(1))[: budget.images]
    model, epochs = make(network, x), budget.epochs[name]
    equal = epochs < FULL and not network.fixed
    clock = Clock(CHECKPOINTS / f"{name}-{budget_name}.seconds")
    training.fit(model, x, objective(network), num_epochs=epochs, batch_size=budget.batch_size, precision="bfloat16",
                 compiled=True, learning_rate=lambda epoch: clock.note() and rate(epoch, epochs, equal=equal), prepare=None if network.fixed else training.binarise,
                 optimizer=partial(torch.optim.Adam, eps=1e-4, fused=True), progress=True,
                 checkpoint=CHECKPOINTS / f"{name}-{budget_name}.pt")
    seconds, start = clock.note(), time.perf_counter()
    batch = 2**17 // network.layers if device.type == "cuda" else 2**12
    found = vae.importance_sampled(model, held_out[chosen.to(device)], budget.samples, batch=batch).log_evidence
    with torch.no_grad():
        bound = torch.cat([vae.elbo(model, part, 10) for part in held_out.split(1000)]).mean()
    return {"name": name, "budget": budget_name, "value": -float(found.mean()),
            "standard_error": float(found.std() / math.sqrt(len(found))), "bound": -float(bound), "images": len(found),
            "samples": budget.samples, "epochs": epochs, "batch_size": budget.batch_size, "precision": "bfloat16",
            "active": int(vae.active_units(model, held_out[:1000]).sum()), "seconds": round(seconds),
            "seconds_evaluation": round(time.perf_counter() - start), "machine": machine(device),
            "command": f"python benchmarks/results/vae.py --budget {budget_name} --networks {name}",
            "date": datetime.date.today().isoformat()}


class Clock:
    """Seconds of work, those before the run was broken off included."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.start = path, time.perf_counter()
        self.before = float(path.read_text()) if path.exists() else 0.0

    def note(self) -> float:
        total = self.before + time.perf_counter() - self.start
        self.path.write_text(str(total))
        return total


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = Path("/proc/cpuinfo")
    model = next((line.split(":")[1].strip() for line in names.read_text().splitlines() if line.startswith("model name")),
                 None) if names.exists() else None
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    return f"{model or platform.processor()}, {threads} thread{'s' * (threads > 1)}, load {load:.0f}"


# The page ----------------------------------------------------------------------------------------------------------

def tables(results: list[dict]) -> str:
    """Ours beside theirs, and how ours came about, as Markdown."""
    found = shown(results)
    rows = {name: found[name] for name in NETWORKS if name in found}
    lines = ["| network | ours, nats | published, nats | difference | our −ELBO | active units |",
             "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, row in rows.items():
        network = NETWORKS[name]
        lines.append(f"| {network.title} | {row['value']:.2f} ± {row['standard_error']:.2f} | {network.published:.2f} | "
                     f"{row['value'] - network.published:+.2f} | {row['bound']:.2f} | {row['active']} |")
    lines += ["", "| network | passes | batch | test images | samples | training | machine | date |",
              "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |"]
    for name, row in rows.items():
        lines.append(f"| {NETWORKS[name].title} | {row['epochs']:,} | {row['batch_size']} | {row['images']:,} | "
                     f"{row['samples']:,} | {row['seconds']:,} s | {row['machine']} | {row['date']} |")
    lines += ["", "Commands:", "", "```", *(row["command"] for row in rows.values()), "```"]
    return "\n".join(lines)


BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def write_page() -> None:
    write(PAGE, BEGIN, END, tables(json.loads(RESULTS.read_text())))


def main() -> None:
    parser = argparse.ArgumentParser(description="VAEs on MNIST beside the papers' results.")
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, help="all of the budget, if left out")
    parser.add_argument("--page", action="store_true", help="only write the page's tables anew")
    options = parser.parse_args()
    if not options.page:
        device = choose()
        for name in options.networks or BUDGETS[options.budget].epochs:
            if name not in BUDGETS[options.budget].epochs:
                parser.error(f"{name} is not part of the budget {options.budget}: choose a larger one")
            result = run(name, options.budget, device)
            keep(RESULTS, result)
            print(f"{NETWORKS[name].title}: {result['value']:.2f} ± {result['standard_error']:.2f} nats by IS("
                  f"{result['samples']}) on {result['images']:,} test images; published {NETWORKS[name].published:.2f}; "
                  f"{result['epochs']} passes in {result['seconds']} s", flush=True)
    write_page()


if __name__ == "__main__":
    main()
