"""Where mean field can be seen whole: Gaussian posteriors, whose factors, bound and gap have closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tightbound.arguments import positive


@dataclass(frozen=True)
class GaussianPosterior:
    """The posterior N(mean, precision^-1) of a linear model with Gaussian noise, and its exact log evidence.

    Attributes:
        mean: (d,).
        precision: Lambda, (d, d).
        log_evidence: log p(x) in nats.
    """

    mean: Tensor
    precision: Tensor
    log_evidence: float = 0.0

    @property
    def covariance(self) -> Tensor:
        """Sigma = Lambda^-1, (d, d)."""
        return torch.linalg.inv(self.precision)


@dataclass(frozen=True)
class FactorisedGaussian:
    """The best Gaussian (and the best of all densities) whose blocks of latents are independent.

    Attributes:
        mean: (d,), the posterior's own.
        covariance: (d, d), zero between blocks.
        kl: KL(q ‖ posterior) in nats.
        elbo: log evidence minus kl, in nats.
    """

    mean: Tensor
    covariance: Tensor
    kl: float
    elbo: float


def factorise(posterior: GaussianPosterior, blocks: Sequence[Tensor] | None = None) -> FactorisedGaussian:
    """The fixed point of mean field on a Gaussian, factors being blocks b of latents::

        q_b(z_b) = N(mean_b, Lambda_bb^-1)
        KL(q ‖ p) = 1/2 (sum_b log det Lambda_bb - log det Lambda)        (nats)

    With one latent a block the variances are 1/Lambda_ii, never larger than the true Sigma_ii.

    Args:
        posterior: N(mean, Lambda^-1).
        blocks: index tensors that share out 0..d-1; one latent each if left out.

    Raises:
        ValueError: when the blocks leave out a latent, or name one twice.

    Source: Bishop (2006), section 10.1.2.
    """
    d, Lambda = len(posterior.mean), posterior.precision
    blocks = torch.arange(d).split(1) if blocks is None else [torch.as_tensor(block) for block in blocks]
    if sorted(torch.cat(list(blocks)).tolist()) != list(range(d)):
        raise ValueError(f"the blocks must share out the latents 0 to {d - 1}, each once, "
                         f"got {[b.tolist() for b in blocks]}")
    covariance, log_dets = torch.zeros_like(Lambda), 0.0
    for block in blocks:
        own = Lambda[block][:, block]
        covariance[block.unsqueeze(-1), block] = torch.linalg.inv(own)
        log_dets += torch.logdet(own)
    kl = 0.5 * float(log_dets - torch.logdet(Lambda))
    return FactorisedGaussian(posterior.mean, covariance, kl, posterior.log_evidence - kl)


def coordinate_steps(posterior: GaussianPosterior, start: Tensor, num_sweeps: int) -> Tensor:
    """The means of the factors under coordinate ascent, one latent after the other: (num_sweeps d + 1, d)::

        m_i <- mu_i - 1/Lambda_ii sum_{j ≠ i} Lambda_ij (m_j - mu_j)

    The variances are 1/Lambda_ii from the first step on. Each step is one of Gauss and Seidel's for Lambda m
    = Lambda mu.
    """
    m, mu, Lambda = start.clone(), posterior.mean, posterior.precision
    path = [m.clone()]
    for _ in range(num_sweeps):
        for i in range(len(m)):
            m[i] -= Lambda[i] @ (m - mu) / Lambda[i, i]
            path.append(m.clone())
    return torch.stack(path)


def linear_gaussian(y: Tensor, A: Tensor, prior_precision: Tensor, noise_scale: float,
                    prior_mean: Tensor | None = None) -> GaussianPosterior:
    """The posterior of z in y = A z + noise::

        z ~ N(m0, P^-1),   y ~ N(A z, s^2 I)
        Lambda = P + A'A / s^2,   mean = m0 + Lambda^-1 A'(y - A m0) / s^2
        log p(y) = -1/2 (n log 2 pi s^2 + log det Lambda - log det P
                         + |r|^2/s^2 - r'A Lambda^-1 A'r/s^4),   r = y - A m0

    Args:
        y: observations (n,).
        A: (n, d).
        prior_precision: P, (d, d).
        noise_scale: s.
        prior_mean: m0, (d,); zero if left out.

    Raises:
        ValueError: for shapes that do not fit, or a scale not above zero.
    """
    s, (n, d) = positive("noise_scale", noise_scale), A.shape
    if y.shape != (n,) or prior_precision.shape != (d, d):
        raise ValueError(f"for A of shape ({n}, {d}), y must be ({n},) and prior_precision ({d}, {d}), "
                         f"got {tuple(y.shape)} and {tuple(prior_precision.shape)}")
    m0 = torch.zeros(d, dtype=y.dtype) if prior_mean is None else prior_mean
    residual = y - A @ m0
    Lambda, pull = prior_precision + A.T @ A / s**2, A.T @ residual / s**2
    step = torch.linalg.solve(Lambda, pull)
    fit = residual.square().sum() / s**2 - pull @ step
    volume = n * math.log(2 * math.pi * s**2) + torch.logdet(Lambda) - torch.logdet(prior_precision)
    return GaussianPosterior(m0 + step, Lambda, float(-0.5 * (volume + fit)))


def local_level(y: Tensor, noise_scale: float, step_scale: float, *, first_mean: float = 0.0,
                first_scale: float = 1.0,
                ar_scale: float = 0.0, ar_memory: float = 0.7) -> GaussianPosterior:
    """A level that wanders, seen through noise: the simplest state-space model; with `ar_scale`, plus a
    passing spell::

        y_t = level_t + spell_t + noise_t,      noise_t ~ N(0, noise_scale^2)
        level_1 ~ N(first_mean, first_scale^2),   level_t ~ N(level_{t-1}, step_scale^2)
        spell_1 ~ N(0, ar_scale^2),   spell_t ~ N(a spell_{t-1}, (1 - a^2) ar_scale^2),   a = ar_memory

    Returns:
        The posterior of level_1..T (and then spell_1..T), T or 2T latents. The precision is banded:
        neighbours in time alone.

    Raises:
        ValueError: for scales not above zero, a memory not between -1 and 1, or y that is not two or more
            finite numbers.
    """
    if y.ndim != 1 or len(y) < 2 or not bool(torch.isfinite(y).all()):
        raise ValueError(f"y must be a series of two or more finite numbers, got shape {tuple(y.shape)}")
    step_scale, first_scale = positive("step_scale", step_scale), positive("first_scale", first_scale)
    T, eye = len(y), torch.eye(len(y), dtype=y.dtype)
    prior, mean, A = _chain(T, 1.0, first_scale, step_scale, y.dtype), torch.full((T,), float(first_mean),
                                                                                  dtype=y.dtype), eye
    if ar_scale:
        ar_scale = positive("ar_scale", ar_scale)
        if not -1 < ar_memory < 1:
            raise ValueError(f"ar_memory must lie between -1 and 1, got {ar_memory!r}")
        spell = _chain(T, ar_memory, ar_scale, ar_scale * math.sqrt(1 - ar_memory**2), y.dtype)
        prior, mean, A = torch.block_diag(prior,
                                          spell), torch.cat([mean, torch.zeros_like(mean)]), torch.cat([eye,
                                                                                                        eye],
                                                                                                       1)
    return linear_gaussian(y, A, prior, noise_scale, mean)


def _chain(length: int, memory: float, first_scale: float, step_scale: float, dtype: torch.dtype) -> Tensor:
    """The precision of a Gaussian Markov chain: D' D, the rows of D being the standardised steps."""
    D = (torch.eye(length, dtype=dtype) - memory * torch.diag(torch.ones(length - 1, dtype=dtype),
                                                              -1)) / step_scale
    D[0, 0] = 1 / first_scale
    return D.T @ D


def gaussian_process(x: Tensor, y: Tensor, *, length: float, scale: float = 1.0,
                     noise_scale: float = 1.0) -> GaussianPosterior:
    """Gaussian process regression: the posterior of a function's values at the inputs, here a once
    differentiable function::

        f ~ N(0, K),   K_ij = scale^2 (1 + r) exp(-r),   r = sqrt(3) |x_i - x_j| / length
        y ~ N(f, noise_scale^2 I)
        log p(y) = log N(y; 0, K + noise_scale^2 I)

    Source: Rasmussen & Williams (2006), chapters 2 and 4 (Matérn's covariance, nu = 3/2).

    Raises:
        ValueError: for inputs that repeat or are not as many as the observations, or numbers not above zero.
    """
    length, scale = positive("length", length), positive("scale", scale)
    if x.ndim != 1 or x.shape != y.shape or len(x.unique()) < len(x):
        raise ValueError("x and y must be of one length, and no x twice, "
                         f"got {tuple(x.shape)} and {tuple(y.shape)}")
    r = math.sqrt(3) * (x.unsqueeze(1) - x).abs() / length
    K = scale**2 * (1 + r) * torch.exp(-r)
    return linear_gaussian(y, torch.eye(len(x), dtype=y.dtype), torch.linalg.inv(K), noise_scale)
