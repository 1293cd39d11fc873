"""Densities of the plane that are easy to see and hard to fit, each with an exact density and entropy.

Source: the shapes are those in common use; ours are made so that their densities are known.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from tightbound.arguments import one_of

LOG_2PI = math.log(2 * math.pi)


class Plane(Distribution):
    """A density of the plane, by its word::

        "eight Gaussians"   an equal mixture of N(c_k, 0.2^2 I), the c_k on a circle of radius 2
        "pinwheel"          five arms: f ~ N((2, 0), diag(0.6^2, 0.2^2)) turned by 2 pi k / 5 + 0.9 |f|
        "moons"             two half circles of radius 1.3 that reach into each other, each a row of 60 normals N(c, 0.15^2 I)

    The turn of the pinwheel depends on the radius alone, so that it keeps areas: its density is a mixture of normals, looked up at the
    point turned back.

    Raises:
        ValueError: for another word.
    """

    WORDS = ("eight Gaussians", "pinwheel", "moons")
    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, name: str):
        self.name = one_of("name", name, self.WORDS)
        super().__init__(torch.Size(), torch.Size([2]), validate_args=False)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.Size(sample_shape)
        eps = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        if self.name == "pinwheel":
            f = eps * torch.tensor([0.6, 0.2], dtype=torch.float64) + torch.tensor([2.0, 0.0], dtype=torch.float64)
            arm = torch.randint(5, shape, generator=generator)
            return _turned(f, 2 * math.pi * arm.double() / 5 + 0.9 * f.norm(dim=-1))
        centres, width = self._normals()
        return centres[torch.randint(len(centres), shape, generator=generator)] + width * eps

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) in nats: (..., 2) -> (...)."""
        if self.name == "pinwheel":
            back = 2 * math.pi * torch.arange(5, dtype=torch.float64) / 5 + 0.9 * value.norm(dim=-1, keepdim=True)
            f = _turned(value.unsqueeze(-2), -back)
            square = ((f[..., 0] - 2) / 0.6).square() + (f[..., 1] / 0.2).square()
            return (-0.5 * square).logsumexp(-1) - math.log(5 * 0.6 * 0.2) - LOG_2PI
        centres, width = self._normals()
        square = torch.cdist(value.reshape(-1, 2), centres).square() / width**2
        log_p = (-0.5 * square).logsumexp(-1) - math.log(len(centres) * width**2) - LOG_2PI
        return log_p.reshape(value.shape[:-1])

    def _normals(self) -> tuple[Tensor, float]:
        """The centres and the width of an equal mixture."""
        if self.name == "eight Gaussians":
            return _circle(2 * math.pi * torch.arange(8, dtype=torch.float64) / 8, 2.0), 0.2
        arc = _circle(math.pi * torch.linspace(0, 1, 60, dtype=torch.float64), 1.3) - torch.tensor([0.65, 0.4], dtype=torch.float64)
        return torch.cat([arc, -arc]), 0.15

    @cached_property
    def _entropy(self) -> float:
        side = torch.linspace(-5.5, 5.5, 276, dtype=torch.float64)
        log_p = torch.cat([self.log_prob(torch.cartesian_prod(part, side)) for part in side.split(50)])
        return -float((log_p.exp() * log_p).sum()) * float(side[1] - side[0]) ** 2

    def entropy(self) -> Tensor:
        """H = -∫ p log p in nats, on a grid fine enough for ten digits."""
        return torch.tensor(self._entropy, dtype=torch.float64)


def _turned(f: Tensor, angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * f[..., 0] - s * f[..., 1], s * f[..., 0] + c * f[..., 1]], -1)


def _circle(angle: Tensor, radius: float) -> Tensor:
    return radius * torch.stack([angle.cos(), angle.sin()], -1).double()
