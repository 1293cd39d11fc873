"""What a latent is worth: rates of units, the parts of the rate, and log p(x) where the posterior may hide."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tightbound.arguments import count
from tightbound.device import generator

PAIRS = 2**18   # log densities at once


def unit_rates(model, x: Tensor) -> Tensor:
    """The rate of every unit: rows x (N, D) give (d,), in nats::

        R_j = E_x KL(q(z_j | x) || N(0, 1))
            = E_x 1/2 (mu_j^2 + s_j^2 - 1 - log s_j^2)

    The model's q is a diagonal Gaussian, its prior standard normal.
    """
    with torch.no_grad():
        q = model.posterior(rows(x))
        return gaussian_rates(q.mean, q.stddev.log()).mean(0)


def gaussian_rates(mean: Tensor, log_scale: Tensor) -> Tensor:
    """KL(N(mean, s^2) || N(0, 1)) in nats, element by element, from the logarithm of s: no ratio, and no root."""
    return 0.5 * (mean.square() + torch.expm1(2 * log_scale)) - log_scale


class Surgery(NamedTuple):
    """The two parts of a rate, in nats: rate = information + mismatch.

    Attributes:
        rate: E_x KL(q(z | x) || p(z)).
        information: I_q(x; z), what z says of *which* x it was; at most log N.
        mismatch: KL(q(z) || p(z)), between the aggregated posterior and the prior.
    """

    rate: float
    information: float
    mismatch: float


def surgery(model, x: Tensor, *, num_samples: int = 4, seed: int = 0) -> Surgery:
    """The parts of the rate, by samples held against all N posteriors::

        I_q(x; z) = E_n E_q(z | x_n) [log q(z | x_n) - log q(z)]
        mismatch  = E_n E_q(z | x_n) [log q(z) - log p(z)]
        q(z)      = 1/N sum_m q(z | x_m)

    The information is that about which row it was: it depends on N, and
    is at most log N. Source: Hoffman & Johnson (2016), ELBO surgery.
    """
    stream = generator(seed, rows(x).device)
    draws = torch.Size([count("num_samples", num_samples, least=1)])
    with torch.no_grad():
        q = model.posterior(x)
        z, log_q = q.rsample_and_log_prob(draws, generator=stream)
        parts = z.flatten(0, 1).split(max(1, PAIRS // len(x)))
        pairs = (q.log_prob(part.unsqueeze(1)).logsumexp(-1) for part in parts)
        aggregated = torch.cat(list(pairs)) - math.log(len(x))
        log_prior = model.prior().log_prob(z).flatten()
        information = float((log_q.flatten() - aggregated).double().mean())
        mismatch = float((aggregated - log_prior).double().mean())
    return Surgery(information + mismatch, information, mismatch)


def defended_log_evidence(model, x: Tensor, num_samples: int = 200, *, seed: int | torch.Generator = 0) -> Tensor:
    """log p(x) of each row by importance sampling from half encoder, half prior, (N, ...) gives (N,), in nats::

        log p(x) ≈ log 1/S sum_s p(x, z_s) / m(z_s),    m(z) = 1/2 q(z | x) + 1/2 p(z)

    The prior defends the estimate where q is too narrow: no weight exceeds 2 p(x | z). It is a consistent estimate, low on
    average.

    Source: Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions.
    """
    half, stream = count("num_samples", num_samples, least=2) // 2, generator(seed, x.device)
    found = []
    with torch.no_grad():
        for part in x.split(128):
            q, prior = model.posterior(part), model.prior()
            guessed, _ = q.rsample_and_log_prob((half,), generator=stream)
            blind, _ = prior.rsample_and_log_prob((half, len(part)), generator=stream)
            z = torch.cat([guessed, blind])
            log_mixture = torch.logaddexp(q.log_prob(z), prior.log_prob(z)) - math.log(2)
            found.append((model.log_joint(part, z) - log_mixture).logsumexp(0) - math.log(2 * half))
    return torch.cat(found)


def grid_log_evidence(model, x: Tensor, *, half: float = 6.0, num_points: int | None = None) -> Tensor:
    """log p(x) = log ∫ p(x, z) dz of each row, by equal weights on a grid of [-half, half], (N, ...) gives (N,), in nats.

    `vae.exact` refines its grid until the answer stands, at a cost that a recurrent decoder makes long; this grid is what you
    say, and exact as long as its spacing is below the width of the posteriors.

    Args:
        model: anything with `log_joint` and one or two latents.
        num_points: on each axis; 2001 for one latent and 61 for two if left out.
    """
    if model.dim not in (1, 2):
        raise ValueError(f"a grid serves models with one or two latents, this one has {model.dim}, got none for them")
    num_points = num_points or {1: 2001, 2: 61}[model.dim]
    axis = torch.linspace(-half, half, num_points, device=x.device)
    z = torch.cartesian_prod(*[axis] * model.dim).reshape(-1, 1, model.dim)
    with torch.no_grad():
        parts = [model.log_joint(part, z).double().logsumexp(0) for part in x.split(8 if model.dim == 2 else 500)]
    return torch.cat(parts) + model.dim * math.log(2 * half / (num_points - 1))


def rows(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim != 2 or not len(x):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"expected a tensor (N, D) with a row a datum, got {got}: one datum x is x[None]")
    return x
