"""Questions about discrete latents, answered by enumeration; each has its `log_joint` and `log_evidence`."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from tightbound.arguments import count, positive, real
from tightbound.device import choose, generator
from tightbound.estimate import Estimate
from tightbound.exact import enumeration

MOST_TERMS = 2**20  # of an enumeration that is made unasked


class GaussianMixture:
    """Which component did each observation come from? A conjugate mixture, of known scales, equal weights::

        mu_k ~ N(0, prior_scale^2),   z_n ~ uniform on 0..K-1,   x_n | z_n = k ~ N(mu_k, scale^2)
        log p(x, z) = -N log K + sum_k log ∫ N(mu; 0, prior_scale^2) prod_{n: z_n = k} N(x_n; mu, scale^2) dmu

    The means are integrated out. With n, S and Q the number, sum and sum of squares of component k's
    observations, s the scale and t the prior scale, its integral is::

        log ∫ ... dmu = -n/2 log(2 pi s^2) - 1/2 log(1 + n t^2/s^2) - Q / (2 s^2)
                        + t^2 S^2 / (2 s^2 (s^2 + n t^2))

    Args:
        x: observations (N,).
        num_components: K.
        scale, prior_scale: standard deviations of an observation about its mean, and of the means.
        device: where the data live.

    Attributes:
        num_states, num_sites: K and N, as `tightbound.exact.enumeration` asks for them.

    Raises:
        ValueError: for observations that are not a vector of finite numbers, or numbers out of range.
    """

    name = "Gaussian mixture"

    def __init__(self, x: Tensor, num_components: int = 3, scale: float = 1.0, prior_scale: float = 4.0, *,
                 device: str | torch.device | None = None):
        x = torch.as_tensor(x, dtype=torch.float64)
        if x.ndim != 1 or len(x) == 0 or not bool(torch.isfinite(x).all()):
            raise ValueError("x must be a vector of finite numbers, one an observation, got "
                             f"{tuple(x.shape) if x.ndim != 1 else x.tolist()}")
        self.num_states, self.num_sites = count("num_components", num_components, least=1), len(x)
        self.scale, self.prior_scale = positive("scale", scale), positive("prior_scale", prior_scale)
        self.x = x.to(choose(device or "cpu", dtype=torch.float64))

    def log_joint(self, assignments: Tensor) -> Tensor:
        """log p(x, z) in nats: component indices (..., N), integers from 0 to K-1 -> (...).

        Raises:
            ValueError: for another shape, or other values.
        """
        z = _codes(assignments, self.num_states, self.num_sites, "assignments").to(self.x.device)
        components = torch.arange(self.num_states, device=z.device)
        member = (z.unsqueeze(-1) == components).to(self.x.dtype)  # (..., N, K)
        n, S, Q = member.sum(-2), self.x @ member, self.x**2 @ member
        s2, t2 = self.scale**2, self.prior_scale**2
        marginal = (-0.5 * n * math.log(2 * math.pi * s2) - 0.5 * torch.log1p(n * t2 / s2) - Q / (2 * s2)
                    + t2 * S**2 / (2 * s2 * (s2 + n * t2)))
        return marginal.sum(-1) - self.num_sites * math.log(self.num_states)

    @cached_property
    def log_evidence(self) -> Estimate | None:
        """log p(x) = log sum_z p(x, z) over the K^N assignments; None where they are more than 2^20."""
        return _sum(self)


def gaussian_mixture(num_components: int = 3, num_data: int = 10, seed: int | torch.Generator = 0, *,
                     device: str | torch.device | None = None) -> GaussianMixture:
    """A `GaussianMixture` of unit scale whose observations are drawn from the model itself.

    Raises:
        ValueError: for fewer than one component or observation.
    """
    num_components = count("num_components", num_components, least=1)
    num_data, stream = count("num_data", num_data, least=1), generator(seed)
    means = 4.0 * torch.randn(num_components, generator=stream, dtype=torch.float64)
    z = torch.randint(num_components, (num_data,), generator=stream)
    x = means[z] + torch.randn(num_data, generator=stream, dtype=torch.float64)
    return GaussianMixture(x, num_components, scale=1.0, prior_scale=4.0, device=device)


class Ising:
    """Ising's model on a square torus: spins s_i = -1 or +1, each with four neighbours::

        log_joint(s) = beta J sum_{<i, j>} s_i s_j,      log evidence = log sum_s exp(log_joint(s)) = log Z

    Each site is paired with its right and its lower neighbour, so there are 2 size^2 pairs <i, j> (at size 2
    every pair counts twice, as the torus has it). A state is written in codes: 0 for spin -1 and 1 for spin
    +1, row by row.

    Args:
        size: sites along an edge.
        beta: inverse temperature, not negative.
        J: coupling; J > 0 favours equal neighbours.

    Attributes:
        num_states, num_sites: 2 and size^2, as `tightbound.exact.enumeration` asks for them.

    Raises:
        ValueError: for a size below two, beta negative or not finite, or J not finite.

    Source: Ising (1925); Onsager (1944).
    """

    name = "Ising"

    def __init__(self, size: int = 4, beta: float = 0.3, J: float = 1.0):
        self.size, self.beta, self.J = count("size", size, least=2), real("beta", beta), real("J", J)
        if self.beta < 0:
            raise ValueError(f"beta must not be negative, got {beta!r}: "
                             "give a negative J to make neighbours repel")
        self.num_states, self.num_sites = 2, self.size**2

    def log_joint(self, states: Tensor) -> Tensor:
        """beta J sum s_i s_j in nats: codes (..., size^2), 0 for spin -1 and 1 for +1 -> (...).

        Raises:
            ValueError: for another shape, or other values (spins of -1 and +1 among them).
        """
        codes = _codes(states, 2, self.num_sites, "states (codes 0 for spin -1, 1 for spin +1)")
        spins = (2.0 * codes.to(torch.float64) - 1).unflatten(-1, (self.size, self.size))
        pairs = spins * (spins.roll(-1, -1) + spins.roll(-1, -2))
        return self.beta * self.J * pairs.sum((-2, -1))

    @cached_property
    def log_evidence(self) -> Estimate | None:
        """log Z, the sum over all 2^(size^2) states; None for a size above four."""
        return _sum(self)


def _codes(z: Tensor, num_states: int, num_sites: int, what: str) -> Tensor:
    if not isinstance(z, Tensor) or z.shape[-1:] != (num_sites,):
        shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"{what} must be a tensor of shape (..., {num_sites}), got {shape}")
    if not bool(((z >= 0) & (z < num_states) & (z == z.round())).all()):
        raise ValueError(f"{what} must be integers from 0 to {num_states - 1}")
    return z


def _sum(model: GaussianMixture | Ising) -> Estimate | None:
    if model.num_states**model.num_sites > MOST_TERMS:
        return None
    return enumeration(model.log_joint, model.num_states, model.num_sites)
