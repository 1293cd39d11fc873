"""Trains the network behind the explorers of MNIST, and stores it: python tools/explorer_weights.py

MNIST is read from the folder that TIGHTBOUND_DATA names, or fetched. One thread takes three to eight minutes. Training is
seeded; on another machine the weights come out alike, not equal.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from tightbound import data, vae
from tightbound.device import generator
from tightbound.explore import plane
from tightbound.explore.lattice import rounded
from tightbound.training import fit

SCHEDULE = ((40, 2e-3), (30, 1e-3), (20, 3e-4), (15, 1e-4), (15, 2e-5))  # epochs, learning rate
IN_STEPS = 3  # from this stage on the weights go in steps


class Coarse(nn.Module):
    """Weights rounded as they are stored, with the gradient passed straight through: training makes up for the rounding."""

    def forward(self, weight):
        return weight + (torch.tensor(rounded(weight.detach().numpy(), plane.STEPS)) - weight).detach()


def dynamic_elbo(model, x, *, generator):
    """The bound of a fresh black-and-white version of grey images: each pixel is black with the probability of its grey."""
    reconstruction, rate = vae.split(model, torch.bernoulli(x, generator=generator), generator=generator)
    return reconstruction - rate


def bound(model, x) -> float:
    """The mean bound over images in nats, from the same noise at each call."""
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        x = torch.bernoulli(x, generator=generator(1)).to(dtype)
        return float(vae.elbo(model, x, 20, generator=generator(2)).mean())


def main() -> None:
    began = time.perf_counter()
    train, test = data.mnist("train").images, data.mnist("test")
    torch.manual_seed(0)
    model = plane.untrained()
    for seed, (num_epochs, rate) in enumerate(SCHEDULE):
        if seed == IN_STEPS:
            layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
            for layer in layers:
                parametrize.register_parametrization(layer, "weight", Coarse())
        fit(model, train, dynamic_elbo, num_epochs=num_epochs, batch_size=200, learning_rate=rate, seed=seed)
        print(f"{time.perf_counter() - began:.0f} s: bound on the test set {bound(model, test.images):.2f} nats", flush=True)
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    model = model.double()
    before = bound(model, test.images)
    with torch.no_grad():
        means = model.posterior(test.images[:1000].double()).mean
    examples = np.stack([test.images[1000:][test.labels[1000:] == digit][0] for digit in range(10)])
    plane.save(model, examples=np.rint(255 * examples).astype(np.uint8), means=means.float().numpy(),
               labels=test.labels[:1000].numpy().astype(np.uint8))
    after = bound(plane.load()[0], test.images)
    print(f"in steps: {after:.3f} nats, {before - after:+.3f} lost; {plane.WEIGHTS.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
