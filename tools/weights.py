"""Trains the small models whose weights the package ships, and stores them: python tools/weights.py [name ...]

Training is seeded; on another machine the weights come out the same up to rounding.
"""

from __future__ import annotations

import sys

import torch

from tightbound import training, vae
from tightbound.vae import ready


def two_latents(num_epochs: int = 600) -> torch.nn.Module:
    """A VAE of the binary digits with two latents, trained by the evidence lower bound."""
    torch.manual_seed(0)
    model, (x, _), (held_out, _) = ready.two_latents_untrained(), vae.binary_digits(), vae.binary_digits("test")
    for rate in (3e-3, 1e-3, 3e-4):
        training.fit(model, x, vae.elbo, num_epochs=num_epochs // 3, batch_size=100, learning_rate=rate)
        for name, part in (("train", x), ("test", held_out)):
            truth, bound = vae.exact(model, part), vae.elbo(model, part, 200).detach()
            print(f"{name}: log p(x) {truth.mean():.3f}, elbo {bound.mean():.3f} nats")
    return model


MODELS = {"two_latents": two_latents}


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        model = MODELS[name]()
        ready.WEIGHTS.mkdir(exist_ok=True)
        torch.save({key: value.float() for key, value in model.state_dict().items()}, ready.WEIGHTS / f"{name}.pt")
        print(f"{name}: {(ready.WEIGHTS / f'{name}.pt').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
