"""Flows that were trained beforehand, because training them takes minutes: `load(name)`.

`python -m tightbound.flows.shipped [name ...]` trains them all again, or those named, and writes shipped.json: numbers alone, to
five digits.
"""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tightbound.arguments import one_of
from tightbound.flows.fit import approximate, fit_density
from tightbound.flows.flow import Flow, make
from tightbound.flows.planes import Plane
from tightbound.problem import Problem
from tightbound.problems import energy

PATH = Path(__file__).with_name("shipped.json")
LAYERS = (2, 8, 32)
STARTS = 3
DIMS = (2, 8, 16)

MADE = {f"U{n}, {K} planar layers": partial(make, "planar", 2, num_layers=K, box=energy(n).box) for n in (1, 2, 3, 4) for K in LAYERS}
MADE |= {f"{name}, 8 couplings": partial(make, "affine", 2, num_layers=8, hidden=(16, 16), data=True) for name in Plane.WORDS}
PAIRS = {f"{d // 2} parabolas, {what}": (d, partial(make, kind, d, **options)) for d in DIMS for what, kind, options in (
    ("32 planar layers", "planar", {"num_layers": 32}), ("8 couplings", "affine", {"num_layers": 8, "hidden": (16,)}))}
MADE |= {name: flow for name, (_, flow) in PAIRS.items()}


def parabolas(dim: int) -> Problem:
    """dim / 2 pairs of latents, z_1 ~ N(0, 1), z_2 | z_1 ~ N(z_1^2 - 1, 0.5^2) in each; the log evidence is exactly zero."""
    def log_joint(z: Tensor) -> Tensor:
        a, b = z[..., 0::2], z[..., 1::2]
        return -0.5 * (a.square() + ((b - a.square() + 1) / 0.5).square()).sum(-1) - dim / 2 * math.log(math.pi)

    return Problem(log_joint, dim, name=f"{dim // 2} parabolas", log_evidence=0.0)


def load(name: str) -> Flow:
    """A trained flow, its parameters frozen: "U1, 8 planar layers" (U1 to U4; 2, 8 or 32 layers), "moons, 8 couplings" (any
    `Plane`), or "4 parabolas, 32 planar layers" ("8 couplings"; 1, 4 or 8 parabolas).

    Raises:
        ValueError: for another name.
    """
    flow = MADE[one_of("name", name, tuple(MADE))]()
    stored = json.loads(PATH.read_text())[name]
    flow.load_state_dict({key: _tensor(stored[key], value) for key, value in flow.state_dict().items()})
    return flow.requires_grad_(False)


def _tensor(numbers: list, like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype).reshape(like.shape)


def train(name: str) -> Flow:
    """The best of some starts, by the objective alone."""
    what = name.split(",")[0]
    found = []
    for seed in range(STARTS if what.startswith("U") else 1):
        if what in Plane.WORDS:
            plane = Plane(what)
            fit = fit_density(lambda stream: plane.sample((512,), generator=stream), "affine", num_layers=8, hidden=(16, 16),
                              num_steps=3_000, learning_rate=0.01, seed=seed)
            found.append((float(fit.history[-200:].mean()), fit.flow))
        elif name in PAIRS:
            d, flow = PAIRS[name]
            fit = approximate(parabolas(d), flow(seed=seed), num_steps=3_000, learning_rate=0.02, seed=seed)
            found.append((float(fit.log_evidence), fit.diagnostics["flow"]))
        else:
            K = int(name.split()[1])
            fit = approximate(energy(int(what[1])), "planar", num_layers=K, num_steps=3_000, learning_rate=0.03, seed=seed)
            found.append((float(fit.log_evidence), fit.diagnostics["flow"]))
        print(f"{name}, start {seed}: {found[-1][0]:.4f} nats", flush=True)
    return max(found, key=lambda pair: pair[0])[1]


def main() -> None:
    stored = json.loads(PATH.read_text()) if sys.argv[1:] else {}
    for name in sys.argv[1:] or MADE:
        state = train(name).state_dict()
        stored[name] = {key: [float(f"{v:.5g}") for v in value.double().flatten().tolist()] for key, value in state.items()}
        PATH.write_text(json.dumps(stored, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
