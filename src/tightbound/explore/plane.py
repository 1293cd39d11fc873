"""A VAE of MNIST with two latents, small enough for a page: its weights take 51 steps each.

    python tools/explorer_weights.py        trains it anew

Every row of a weight matrix is stored in 51 equal steps between its least and its greatest number. The last passes of the
training go with weights so rounded, and make up for it: on MNIST's test set the bound was -140.5 nats before them, and is
-141.9 with the weights as they are stored, which take two thirds of the space of whole bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tightbound.explore.lattice import in_steps
from tightbound.vae import VAE, Bernoulli, DiagonalEncoder, mlp

WEIGHTS = Path(__file__).with_name("plane.npz")
SIDE = 28
STEPS = 51  # a divisor of 255, as bytes need; so few compress well


def untrained() -> VAE:
    """784 pixels - 64 - 64 - 2 latents - 96 - 64 - 784 pixels, with SiLU activations."""
    decoder = mlp(2, 96, 64, activation=nn.SiLU).append(nn.Linear(64, SIDE**2))
    return VAE(DiagonalEncoder(mlp(SIDE**2, 64, 64, activation=nn.SiLU), 64, 2), decoder, Bernoulli(), 2)


def load() -> tuple[VAE, dict[str, np.ndarray]]:
    """The trained model, in double precision, and some images of MNIST's test set that no training saw.

    The images are `examples` (10, 784), one of each class, in [0, 1]; and, of a thousand more, the encoder's `means`
    (1000, 2) with their `labels` (1000,).
    """
    with np.load(WEIGHTS) as file:
        stored = dict(file)
    state = {name: _unpacked(stored.pop(name), stored.pop(f"{name} ends", None)) for name in untrained().state_dict()}
    model = untrained().double()
    model.load_state_dict(state)
    return model.eval().requires_grad_(False), {**stored, "examples": stored["examples"] / 255}


def save(model: VAE, **more: np.ndarray) -> None:
    """Stores the model in bytes, beside other arrays."""
    stored = {}
    for name, value in model.state_dict().items():
        value = value.detach().double().numpy()
        if value.ndim == 2:
            low, span, stored[name] = in_steps(value, STEPS, np.uint8)
            stored[f"{name} ends"] = np.stack([low, span])
        else:
            stored[name] = value.astype(np.float32)
    np.savez_compressed(WEIGHTS, **stored, **more)


def _unpacked(stored: np.ndarray, ends: np.ndarray | None) -> Tensor:
    if ends is None:
        return torch.tensor(stored, dtype=torch.float64)
    low, span = ends[..., None]
    return torch.tensor(low + span / STEPS * stored)
