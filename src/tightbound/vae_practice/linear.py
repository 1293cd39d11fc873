"""The linear case, exactly: the rate-distortion function of Gaussian data, and VAEs that reach it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tightbound.arguments import positive
from tightbound.device import seeded
from tightbound.distributions import DiagonalGaussian
from tightbound.vae import VAE
from tightbound.vae.likelihoods import Likelihood
from tightbound.vae_practice.measures import gaussian_rates, rows


def principal_variances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (D,) of the data (N, D) along their principal directions, largest first, and the directions (D, D), a column
    each; in double precision."""
    values, vectors = torch.linalg.eigh(torch.cov(rows(x).double().mT, correction=0).reshape(x.shape[1], -1))
    return values.flip(0).clamp(min=0), vectors.flip(1)


class WaterFilling(NamedTuple):
    """What the best linear VAE does with each principal direction: rates (d,) in nats, distortions (d,) squared errors."""

    rates: Tensor
    distortions: Tensor


def water_filling(variances: Tensor, level: float) -> WaterFilling:
    """The optimum of the linear beta-VAE, a unit for every principal direction of variance lambda_j; level s = beta sigma^2::

        rate        R_j = 1/2 log(lambda_j / s)    where lambda_j > s, else 0: collapsed      (nats)
        distortion  D_j = min(lambda_j, s)                                                     (squared error)

    It is the rate-distortion function of a Gaussian source: no code of any kind does better on one.

    Raises:
        ValueError: for a level that is not above zero, or variances that are negative or not finite.

    Source: Tipping & Bishop (1999); Lucas et al. (2019); Cover & Thomas (2006), section 10.3.
    """
    level = positive("level", level)
    variances = torch.as_tensor(variances)
    if not bool((torch.isfinite(variances) & (variances >= 0)).all()):
        raise ValueError("variances must be finite and not negative: they are the eigenvalues of a covariance")
    return WaterFilling(0.5 * (variances.clamp(min=level) / level).log(), variances.clamp(max=level))


class FixedNoise(Likelihood):
    """x ~ N(mean, noise I), the noise a variance that is given and not learned; the decoder's numbers are the mean."""

    def __init__(self, noise: float):
        super().__init__()
        self.scale = math.sqrt(positive("noise", noise))

    def forward(self, output: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(output, torch.full_like(output, self.scale), validate_args=False)


class OwnNoise(Likelihood):
    """x ~ N(mean, s^2) with an s for every number, both from the decoder, s as its logarithm."""

    size = 2

    def forward(self, output: Tensor) -> DiagonalGaussian:
        mean, log_scale = output.chunk(2, -1)
        return DiagonalGaussian(mean, log_scale.exp(), validate_args=False)


class LinearEncoder(nn.Module):
    """q(z | x) = N(V x + c, diag(s^2)), with one s for all x: the form that the exact posterior has."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.mean, self.log_scale = nn.Linear(size, dim), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> DiagonalGaussian:
        mean = self.mean(x)
        return DiagonalGaussian(mean, self.log_scale.exp().expand_as(mean), validate_args=False)


def linear_vae(size: int, dim: int, noise: float, *, seed: int = 0) -> VAE:
    """A VAE with x | z ~ N(W z + b, noise I) and a linear encoder: probabilistic PCA, trained by the bound."""
    with seeded(seed):
        return VAE(LinearEncoder(size, dim), nn.Linear(dim, size), FixedNoise(noise), dim)


def linear_bound(model: VAE, x: Tensor) -> Tensor:
    """The ELBO of a `linear_vae`, averaged over x and with the mean over q done by hand: no sample, no noise in it::

        -1/(2 noise) E_x[ |x - W mu - b|^2 + sum_j s_j^2 |w_j|^2 ] - D/2 log(2 pi noise) - sum_j R_j,    mu = V x + c   (nats)
    """
    W, b, noise = model.decoder.weight, model.decoder.bias, model.likelihood.scale**2
    mean, log_scale = model.encoder.mean(x), model.encoder.log_scale
    squares = (x - mean @ W.mT - b).square().sum(-1).mean() + ((2 * log_scale).exp() * W.square().sum(0)).sum()
    rates = gaussian_rates(mean, log_scale).mean(0)
    return -0.5 * (squares / noise + x.shape[-1] * math.log(2 * math.pi * noise)) - rates.sum()


def fit_linear(model: VAE, x: Tensor, *, num_iterations: int = 600) -> float:
    """Maximises `linear_bound` by L-BFGS in double precision, the model in place; returns the bound in nats."""
    model.double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=num_iterations, history_size=30, tolerance_grad=1e-9,
                                  tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -linear_bound(model, x.double())
        value.backward()
        return value

    optimizer.step(loss)
    return -float(loss().detach())


def single_unit_bound(weight, slope, signal, beta=1.0):
    """The beta-bound of one datum x ~ N(0, signal), a unit x | z ~ N(w z, 1) and q = N(v x, s^2), at its best s::

        -1/2 [ signal (1 - w v)^2 + beta signal v^2 + beta log(1 + w^2 / beta) ] - 1/2 log 2 pi     (nats)

    At beta = 1 the origin, where the unit is collapsed, is the only maximum for signal <= 1 and a saddle for signal > 1.
    """
    return -0.5 * (signal * (1 - weight * slope) ** 2 + beta * signal * slope**2
                   + beta * torch.log1p(weight**2 / beta) + math.log(2 * math.pi))
