"""EM for a vector of latents: factor analysis and probabilistic PCA, and the auto-encoder that is left when their noise has gone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tightbound.arguments import count, positive
from tightbound.device import generator
from tightbound.em.data import rows


def factor_e_step(x: Tensor, loadings: Tensor, variance: Tensor | float) -> tuple[Tensor, Tensor]:
    """The posterior of a vector of latents: q(z_n) = N(mean_n, covariance), one covariance for all data::

        z_n ~ N(0, I_k),    x_n | z_n ~ N(W z_n, s^2 I),    M = W'W + s^2 I
        mean_n = M^-1 W' x_n,    covariance = s^2 M^-1

    With s^2 = 0 the mean is the least-squares fit of x_n by the columns of W: a projection.

    Args:
        x: data less their mean, (N, d).
        loadings: W, (..., d, k); leading axes are models side by side.
        variance: s^2, (...).

    Returns:
        The means (..., N, k) and the covariance (..., k, k).

    Source: Tipping & Bishop (1999); without noise, Roweis (1998).
    """
    x, variance = _centred(x), torch.as_tensor(variance, dtype=torch.float64, device=x.device)[..., None, None]
    if loadings.ndim < 2 or loadings.shape[-2] != x.shape[1] or bool((variance < 0).any()):
        raise ValueError(f"loadings of data with {x.shape[1]} columns have shape (..., {x.shape[1]}, k) and a variance of "
                         f"noise that is not negative, got shape {tuple(loadings.shape)} and variance {variance.squeeze()}")
    eye = torch.eye(loadings.shape[-1], dtype=x.dtype, device=x.device)
    M = loadings.mT @ loadings + variance * eye
    return torch.linalg.solve(M, (x @ loadings).mT).mT, variance * torch.linalg.inv(M)


def factor_m_step(x: Tensor, means: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The loadings and the noise of greatest bound, given q(z_n) = N(mean_n, covariance)::

        W   = (sum_n x_n E[z_n]') (sum_n E[z_n z_n'])^-1
        s^2 = 1/(N d) sum_n E|x_n - W z_n|^2 = 1/(N d) sum_n (|x_n|^2 - x_n' W E[z_n])

    a linear regression of the data on latents of which only a distribution is known.

    Args:
        x: data less their mean, (N, d).
        means, covariance: from `factor_e_step`, (..., N, k) and (..., k, k).

    Returns:
        W (..., d, k) and s^2 (...).
    """
    x = _centred(x)
    products, squares = means.mT @ x, means.mT @ means + len(x) * covariance
    loadings = torch.linalg.solve(squares, products).mT
    return loadings, (x.square().sum() - (loadings.mT * products).sum((-2, -1))) / x.numel()


def linear_autoencoder(x: Tensor, num_latents: int, *, num_steps: int = 1_000, learning_rate: float = 0.05,
                       num_starts: int = 1, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Trains z = V x to be decoded by W z, by gradients (Adam, its rate falling to zero), from several random starts::

        loss = 1/N sum_n |x_n - W V x_n|^2 = tr S - 2 tr(V S W) + tr(W'W V S V'),      S = 1/N sum_n x_n x_n'

    The second form asks for two products of a (k, d) with a (d, d) matrix a step, whatever N.

    Args:
        x: data less their mean, (N, d).
        num_latents: k, the width of the bottleneck.

    Returns:
        The encoders V (num_starts, k, d), the decoders W (num_starts, d, k), and the final losses (num_starts,).

    Source: Bourlard & Kamp (1988); Baldi & Hornik (1989).
    """
    x = _centred(x)
    d, k = x.shape[1], count("num_latents", num_latents, least=1, most=x.shape[1])
    shape, stream = (count("num_starts", num_starts, least=1), k, d), generator(seed)
    V, W = ((torch.randn(shape, generator=stream, dtype=x.dtype).to(x.device) / math.sqrt(d)).requires_grad_() for _ in range(2))
    S = x.T @ x / len(x)  # W is kept transposed, (num_starts, k, d)

    def loss() -> Tensor:
        VS = V @ S
        return S.trace() - 2 * (VS * W).sum((-2, -1)) + ((W @ W.mT) * (VS @ V.mT)).sum((-2, -1))

    optimizer = torch.optim.Adam([V, W], lr=positive("learning_rate", learning_rate))
    steps = count("num_steps", num_steps, least=1)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().sum().backward()
        optimizer.step()
        decay.step()
    return V.detach(), W.detach().mT, loss().detach()


def _centred(x: Tensor) -> Tensor:
    x = rows(x)
    if bool((x.mean(0).abs() > 1e-6 * x.abs().amax(0).clamp(min=1e-300)).any()):
        raise ValueError("the columns of x must have mean zero here: give x - x.mean(0)")
    return x
