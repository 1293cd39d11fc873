"""Likelihoods p(x | z): what a decoder's numbers mean.

A likelihood is called with the decoder's output and returns a `torch.distributions.Distribution` over x, whose `log_prob`
is in nats and sums over the D pixels. `size` says how many numbers a pixel it takes from the decoder::

    Bernoulli              1    x in {0, 1}, or in [0, 1] as shares      logits
    Gaussian               1    x real, one learned scale for all        mean          (2 with a scale a pixel)
    Categorical(K)         K    x in {0, ..., K - 1}                     logits
    DiscretisedLogistic    2    x in {0, 1/255, ..., 1}                  mean, log scale

Source: Kingma & Welling (2014), Auto-encoding variational Bayes; Kingma et al. (2016), section on the discretised logistic.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints


class Pixels(Distribution):
    """A distribution over x (..., D) given by a function that scores it: what the likelihoods here have in common."""

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 1)

    def __init__(self, shape: torch.Size):
        super().__init__(shape[:-1], shape[-1:], validate_args=False)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """sum_i x_i y_i over the last dimension; as a matrix product where one side is to meet many of the other."""
    return (x * y).sum(-1) if x.numel() == y.numel() else torch.einsum("...i,...i->...", x, y)


class BernoulliPixels(Pixels):
    """x_i = 1 with probability sigmoid(logits_i)::

        log p(x) = sum_i x_i log mu_i + (1 - x_i) log(1 - mu_i),    mu = sigmoid(logits)        (nats)

    For x strictly between 0 and 1 this is no log density, for it does not integrate to one: a cross-entropy only.
    """

    def __init__(self, logits: Tensor):
        super().__init__(logits.shape)
        self.logits = logits

    mean = property(lambda self: torch.sigmoid(self.logits))

    def log_prob(self, x: Tensor) -> Tensor:
        return _inner(x, self.logits) - F.softplus(self.logits).sum(-1)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean.expand(torch.Size(sample_shape) + self.logits.shape)
        return torch.bernoulli(mean, generator=generator)


class Bernoulli(nn.Module):
    """Black or white: one logit a pixel."""

    size = 1

    def forward(self, output: Tensor) -> BernoulliPixels:
        return BernoulliPixels(output)


class GaussianPixels(Pixels):
    """x_i ~ N(mean_i, exp(log_scale_i)^2)::

        log p(x) = -1/2 sum_i [ (x_i - mean_i)^2 / s_i^2 + 2 log s_i + log 2 pi ]        (nats, of a density)
    """

    def __init__(self, mean: Tensor, log_scale: Tensor):
        super().__init__(mean.shape)
        self.mean, self.log_scale = mean, log_scale

    def log_prob(self, x: Tensor) -> Tensor:
        standardised = (x - self.mean) * torch.exp(-self.log_scale)
        return -(0.5 * standardised.square() + self.log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.Size(sample_shape) + self.mean.shape
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.log_scale.exp() * noise
