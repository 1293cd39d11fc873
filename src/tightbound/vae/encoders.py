"""Encoders: networks that map an image to a distribution over its latents.

A network gives features h = net(x); a linear layer, the head, turns h into the numbers that name a member of the family.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tightbound.distributions import DiagonalGaussian


def mlp(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A dense network: ``mlp(784, 400, 200)`` has two layers, each followed by its activation."""
    layers = [layer for a, b in zip(widths, widths[1:]) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers)


class DiagonalEncoder(nn.Module):
    """q(z | x) = N(mean(x), diag(exp(log_scale(x))^2)).

    Args:
        network: from x (B, D) to features (B, H).
        num_features: H.
        dim: d, the number of latents.
    """

    def __init__(self, network: nn.Module, num_features: int, dim: int):
        super().__init__()
        self.network, self.head = network, nn.Linear(num_features, 2 * dim)

    def forward(self, x: Tensor) -> DiagonalGaussian:
        mean, log_scale = self.head(self.network(x)).chunk(2, -1)
        return DiagonalGaussian(mean, log_scale.exp(), validate_args=False)
