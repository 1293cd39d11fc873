"""The bound as a function of the numbers that name q, and the signals that it sends: gradients and errors.

Everywhere here q(z | x) = N(mu, diag(s^2)) over all latents of a model, and its numbers are a tensor (B, 2, d)::

    lambda = (mu, log s),    L(x; lambda) = E_q[log p(x, z)] + H(q),    H(q) = sum_j log s_j + d/2 log(2 pi e)     (nats)

Source: Marino, Yue & Mandt (2018), Iterative amortized inference.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tightbound.arguments import count
from tightbound.distributions import Chain, DiagonalGaussian, standard_normal
from tightbound.vae.likelihoods import BernoulliPixels


class Nodes(NamedTuple):
    """Where an expectation over standard normal noise is taken: points (S, 1 or B, d) and weights (S,), which add up to one."""

    points: Tensor
    weights: Tensor


def draws(num_samples: int, like: Tensor, generator: torch.Generator | None = None) -> Nodes:
    """Fresh noise for each datum: S points and their mirror images -eps, for lambda (B, 2, d); S is even, or one.

    A point and its mirror image together have mean zero, as the noise has: whatever is linear in z comes out exact.
    """
    shape = (len(like), like.shape[-1])
    if num_samples == 1:
        eps = standard_normal((1, *shape), generator=generator, dtype=like.dtype, device=like.device)
    elif num_samples % 2:
        raise ValueError(f"num_samples must be one or even, for points come with their mirror images, got {num_samples}")
    else:
        half = standard_normal((count("num_samples", num_samples, least=1) // 2, *shape), generator=generator,
                               dtype=like.dtype, device=like.device)
        eps = torch.cat([half, -half])
    return Nodes(eps, like.new_full((len(eps),), 1 / len(eps)))


def hermite(dim: int, num_points: int = 8, *, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu") -> Nodes:
    """Gauss-Hermite points, `num_points` to an axis: exact where log p(x, z) is a polynomial of degree 2 num_points - 1.

    Raises:
        ValueError: for more than three dimensions, whose points are too many.
    """
    if dim > 3:
        raise ValueError(f"quadrature serves up to three latents, this model has {dim}: take draws instead")
    x, w = np.polynomial.hermite_e.hermegauss(count("num_points", num_points, least=1))
    points = torch.cartesian_prod(*[torch.tensor(x, dtype=dtype)] * dim).reshape(-1, 1, dim)
    weights = torch.cartesian_prod(*[torch.tensor(w / w.sum(), dtype=dtype)] * dim).reshape(-1, dim).prod(-1)
    return Nodes(points.to(device), weights.to(device))


def member(lam: Tensor) -> DiagonalGaussian:
    """The distribution that lambda (B, 2, d) names."""
    return DiagonalGaussian(lam[..., 0, :], lam[..., 1, :].exp(), validate_args=False)


def numbers(q: DiagonalGaussian) -> Tensor:
    """The lambda (B, 2, d) of a distribution with independent normal coordinates.

    Raises:
        TypeError: for another distribution.
    """
    if not isinstance(q, DiagonalGaussian):
        raise TypeError("iterative inference moves the mean and the scale of a diagonal Gaussian, but this model's encoder "
                        f"gives a {type(q).__name__}: start from the prior, or give an encoder of your own")
    return torch.stack([q.mean, q.stddev.log()], -2)


def elbo(model, x: Tensor, lam: Tensor, nodes: Nodes) -> Tensor:
    """The bound of each datum at lambda: x (B, D) and lambda (B, 2, d) give (B,)::

        L(x; lambda) = sum_k w_k [ log p(x, z_k) - log q(z_k) ],    z_k = mu + s * eps_k        (nats)

    It is as good as the nodes: by `hermite` almost exact, by `draws` unbiased.
    """
    return nodes.weights @ log_weights(model, x, lam, nodes)


def log_weights(model, x: Tensor, lam: Tensor, nodes: Nodes) -> Tensor:
    """log p(x, z_k) - log q(z_k) at every node, (S, B), in nats. Where q is the posterior they are all the same."""
    mean, log_scale = lam.unbind(-2)
    log_q = -0.5 * nodes.points.square().sum(-1) - log_scale.sum(-1) - 0.5 * lam.shape[-1] * math.log(2 * math.pi)
    return model.log_joint(x, mean + log_scale.exp() * nodes.points) - log_q


def gradient(model, x: Tensor, lam: Tensor, nodes: Nodes, *, through: bool = False) -> tuple[Tensor, Tensor]:
    """The bound (B,) and its gradient in lambda (B, 2, d), in nats.

    Args:
        through: keep the graph, so that a gradient can be taken of the gradient; else both are constants.
    """
    with torch.enable_grad():
        at = lam if through and lam.requires_grad else lam.detach().requires_grad_(True)
        value = elbo(model, x, at, nodes)
        (slope,) = torch.autograd.grad(value.sum(), at, create_graph=through)
    return (value, slope) if through else (value.detach(), slope)


def errors(model, x: Tensor, z: Tensor) -> Tensor:
    """What data and latents are more than was expected of them: x (B, D) and z (..., B, d) give (..., B, D + d)::

        eps_x = (x - mu_x(z)) / s_x        (counted: for Bernoulli pixels x - mu_x, the slope in the logit)
        eps_z = (z - mu_z) / s_z           (with layers, mu_z and s_z of each given the one above)

    The sign is observed minus expected. With normal noise of fixed scales the gradient is made of nothing else::

        grad_z log p(x, z) = J' eps_x / s_x - eps_z / s_z,    J = d mu_x / dz

    Source: Marino, Yue & Mandt (2018); Rao & Ballard (1999).
    """
    seen = model.decode(z)
    of_data = x - seen.mean
    if not isinstance(seen, BernoulliPixels):
        of_data = of_data / seen.stddev
    return torch.cat([of_data, _latent_errors(model.prior(), z)], -1)


def _latent_errors(prior, z: Tensor) -> Tensor:
    if not isinstance(prior, Chain):
        return (z - prior.mean) / prior.stddev
    layers = prior.layers(z)
    expected = [prior.first, *(link(above) for link, above in zip(prior.links, layers))]
    found = [(here - p.mean) / p.stddev for here, p in zip(layers, expected)]
    return torch.cat(found[::-1] if prior.backwards else found, -1)
