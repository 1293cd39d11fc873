"""Distributions of this book's own making: each can score its own samples in one pass."""

from __future__ import annotations

import math

import torch
from torch.distributions import MultivariateNormal


class Gaussian(MultivariateNormal):
    """The multivariate normal N(mean, Sigma), given its covariance or its precision (see `MultivariateNormal`).

    What it adds is `rsample_and_log_prob`, which takes a generator and never solves a system to score its own samples.
    """

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples z = mean + L eps, with Sigma = L L', and their log density, in one pass::

            log q(z) = -1/2 |eps|^2 - log det L - d/2 log 2 pi        (nats)

        Returns:
            z of shape ``sample_shape + batch_shape + (d,)`` and log q(z) of shape ``sample_shape + batch_shape``.
        """
        shape = torch.Size(sample_shape) + self.loc.shape
        eps = torch.randn(shape, generator=generator, dtype=self.loc.dtype, device=self.loc.device)
        z = self.loc + (self.scale_tril @ eps.unsqueeze(-1)).squeeze(-1)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return z, -0.5 * eps.square().sum(-1) - log_det - 0.5 * shape[-1] * math.log(2 * math.pi)
