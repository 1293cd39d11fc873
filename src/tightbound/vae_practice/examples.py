"""Networks for pictures, and data of known dimension."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tightbound.arguments import count, positive
from tightbound.device import generator, seeded
from tightbound.vae import VAE, Bernoulli, DiagonalEncoder, mlp


def dense_vae(dim: int, *, size: int = 64, width: int = 128, likelihood: nn.Module | None = None, seed: int = 0) -> VAE:
    """A VAE of two dense networks with one hidden layer of tanh units each; Bernoulli pixels unless another likelihood."""
    likelihood = likelihood or Bernoulli()
    with seeded(seed):
        decoder = nn.Sequential(mlp(dim, width), nn.Linear(width, size * likelihood.size))
        return VAE(DiagonalEncoder(mlp(size, width), width, dim), decoder, likelihood, dim)


def convolutional_vae(dim: int, *, channels: int = 16, seed: int = 0) -> VAE:
    """A VAE of 8x8 pixels with two strided convolutions each way, shaped like DCGAN's.

    Source: Radford, Metz & Chintala (2016), Unsupervised representation learning with deep convolutional GANs.
    """
    with seeded(seed):
        c = channels
        down = nn.Sequential(nn.Unflatten(-1, (1, 8, 8)), nn.Conv2d(1, c, 4, 2, 1), nn.ELU(),
                             nn.Conv2d(c, 2 * c, 4, 2, 1), nn.ELU(), nn.Flatten(-3))
        up = nn.Sequential(nn.Linear(dim, 8 * c), nn.ELU(), Folded(nn.Sequential(
            nn.Unflatten(-1, (2 * c, 2, 2)), nn.ConvTranspose2d(2 * c, c, 4, 2, 1), nn.ELU(),
            nn.ConvTranspose2d(c, 1, 4, 2, 1), nn.Flatten(-3))))
        return VAE(DiagonalEncoder(down, 8 * c, dim), up, Bernoulli(), dim)


class Folded(nn.Module):
    """Calls a network that takes one batch axis with any number of them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def curved(dim: int, num_data: int = 2000, *, size: int = 20, noise: float = 0.1, circle: bool = False,
           seed: int | torch.Generator = 0) -> Tensor:
    """Points on a curved sheet of `dim` dimensions in `size` of them, with Gaussian noise of variance `noise`: (num_data, size)::

        x = A_2 tanh(0.4 A_1 u + a) + noise^(1/2) eps,    u ~ N(0, I) of `dim` dimensions, or a point (cos, sin) of a circle

    Args:
        circle: u lies on a circle of radius 1.4, which has one dimension but fits into no line.

    Raises:
        ValueError: for a circle of more than one dimension.
    """
    if circle and dim != 1:
        raise ValueError(f"a circle has one dimension, got dim={dim}")
    stream, width = generator(seed), 3 * size

    def noise_of(*shape):
        return torch.randn(*shape, generator=stream)

    u = noise_of(num_data, count("dim", dim, least=1) + circle)
    u = 1.4 * F.normalize(u, dim=-1) if circle else u
    first, offset = 0.4 * noise_of(u.shape[-1], width), 0.5 * noise_of(width)
    second = 1.25 * noise_of(width, size) / math.sqrt(width / 4)
    return torch.tanh(u @ first + offset) @ second + math.sqrt(positive("noise", noise)) * noise_of(num_data, size)


def two_modes(num_data: int = 2000, *, seed: int | torch.Generator = 0) -> Tensor:
    """Numbers from 0.3 N(-4, 1/4) + 0.7 N(4, 1/4): (num_data, 1)."""
    stream = generator(seed)
    left = torch.rand(num_data, 1, generator=stream) < 0.3
    return torch.where(left, -4.0, 4.0) + 0.5 * torch.randn(num_data, 1, generator=stream)


def two_modes_log_prob(x: Tensor) -> Tensor:
    """The log density of `two_modes` in nats: (N, 1) gives (N,)."""
    parts = [math.log(weight) - 2 * (x - centre).square() for weight, centre in ((0.3, -4.0), (0.7, 4.0))]
    return torch.logaddexp(*parts).squeeze(-1) - math.log(0.5) - 0.5 * math.log(2 * math.pi)
