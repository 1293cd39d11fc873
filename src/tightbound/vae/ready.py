"""Models that several chapters share, ready-made: trained by ``python tools/weights.py``, their weights in the package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tightbound.data import digits
from tightbound.vae.encoders import DiagonalEncoder, mlp
from tightbound.vae.likelihoods import Bernoulli
from tightbound.vae.model import VAE

WEIGHTS = Path(__file__).parent / "weights"


def binary_digits(split: str = "train") -> tuple[Tensor, Tensor]:
    """scikit-learn's digits in black and white, black where more than half: images (n, 64) of 0 and 1, and labels (n,).

    Args:
        split: "train" (1,500) or "test" (297).
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}: choose 'train' or 'test'")
    images, labels = digits(split)
    return (images > 0.5).float(), labels


def two_latents_untrained() -> VAE:
    """The model of `two_latents` before training: 64 pixels - 64 tanh - 2 latents - 32 - 64 tanh - 64 pixels."""
    decoder = mlp(2, 32, 64).append(torch.nn.Linear(64, 64))
    return VAE(DiagonalEncoder(mlp(64, 64), 64, 2), decoder, Bernoulli(), 2)


def two_latents() -> VAE:
    """A VAE of the 8x8 binary digits with two latents, trained: log p(x) of an image is known exactly.

    Its data are `binary_digits()`. A fresh copy in single precision; for the posterior of one image, in double::

        model = vae.two_latents()
        x, labels = vae.binary_digits("test")
        vae.exact(model, x)             # log p(x), (297,), nats
        model.problem(x[0])             # a Problem, its log_evidence exact
    """
    return load(two_latents_untrained(), WEIGHTS / "two_latents.pt").eval()


def load(model: torch.nn.Module, path: Path) -> torch.nn.Module:
    """The model, with the weights that lie at `path`."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model
