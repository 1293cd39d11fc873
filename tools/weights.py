"""Trains the small models whose weights the package ships, and stores them: python tools/weights.py [name ...]

Training is seeded; on another machine the weights come out the same up to rounding.
"""

from __future__ import annotations

import sys
from functools import partial

import torch

from tightbound import training, vae
from tightbound.flows import amortised
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


def two_latents_encoder(posterior: str, num_epochs: int = 1200) -> torch.nn.Module:
    """Another encoder for the same model. Of each batch a quarter are training images, and the rest the model's own: it has as many
    of them as one likes, so that the encoder learns to infer rather than 1,500 answers by heart."""
    torch.manual_seed(0)
    model, (x, _), (held_out, _) = amortised.two_latents_untrained(posterior), vae.binary_digits(), vae.binary_digits("test")

    def dreams(batch: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        num = 3 * len(batch) // 4
        with torch.no_grad():
            grey = torch.sigmoid(model.decoder(torch.randn(num, 2, generator=generator)))
        return torch.cat([batch[num:], training.binarise(grey, generator=generator)])

    for rate in (3e-3, 1e-3, 3e-4):
        training.fit(model, x, vae.elbo, num_epochs=num_epochs // 3, batch_size=200, learning_rate=rate, prepare=dreams)
    for name, part in (("train", x), ("test", held_out)):
        gap = vae.exact(model, part, tolerance=1e-3) - vae.elbo(model, part, 200).detach()
        print(f"{posterior}, {name}: gap {gap.mean():.3f} nats")
    return model


MODELS = {"two_latents": two_latents} | {f"two_latents_{posterior}": partial(two_latents_encoder, posterior)
                                         for posterior in amortised.ENCODERS}


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        model = MODELS[name]()
        ready.WEIGHTS.mkdir(exist_ok=True)
        torch.save({key: value.float() for key, value in model.state_dict().items()}, ready.WEIGHTS / f"{name}.pt")
        print(f"{name}: {(ready.WEIGHTS / f'{name}.pt').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
