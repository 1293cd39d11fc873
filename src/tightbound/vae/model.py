"""The variational auto-encoder: a latent-variable model whose two conditional distributions are networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tightbound.distributions import DiagonalGaussian
from tightbound.estimate import Estimate
from tightbound.problem import Problem
from tightbound.vae import evaluate


class VAE(nn.Module):
    """A model p(z) p(x | z) and, beside it, a network that guesses its posterior::

        z ~ p(z) = N(0, I),    x | z ~ p(x | z) = likelihood(decoder(z)),    q(z | x) = encoder(x) ≈ p(z | x)

    All that objectives, evaluation and other chapters ask of a model are its `log_joint(x, z)` and its `posterior(x)`, a
    distribution that can draw and score in one pass. So a model with several layers of latents (laid side by side in z),
    another prior, or another posterior, is another class with these two.

    Args:
        encoder: maps x (B, D) to a distribution over z, batch shape (B,), event shape (d,); see `encoders`.
        decoder: a network from z (..., d) to (..., D * likelihood.size).
        likelihood: what the decoder's numbers mean; see `likelihoods`.
        dim: d, the number of latents.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: nn.Module, dim: int):
        super().__init__()
        self.encoder, self.decoder, self.likelihood, self.dim = encoder, decoder, likelihood, dim
        self.register_buffer("origin", torch.zeros(dim))

    def prior(self) -> Distribution:
        """p(z) = N(0, I)."""
        return DiagonalGaussian(self.origin, torch.ones_like(self.origin), validate_args=False)

    def posterior(self, x: Tensor) -> Distribution:
        """q(z | x), one member a row of x."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Distribution:
        """p(x | z) for z (..., d): batch shape (...), event shape (D,)."""
        return self.likelihood(self.decoder(z))

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) = log p(z) + log p(x | z) in nats: x (B, D) and z (..., B, d) give (..., B)."""
        return self.prior().log_prob(z) + self.decode(z).log_prob(x)

    def problem(self, x: Tensor, *, name: str = "one image") -> Problem:
        """The posterior of one image x (D,) as a `Problem`, so that every method of the book can be tried on it.

        It works on a frozen copy of the network in double precision, and knows log p(x) where there are one or two latents.
        """
        if x.ndim != 1:
            raise ValueError(f"a problem is about one image (D,), got a tensor of shape {tuple(x.shape)}: take x[0]")
        model, x = evaluate.frozen(self, torch.float64), x.double()
        known = None
        if self.dim <= 2:
            known = Estimate(evaluate.exact(model, x[None])[0], "exact", source="quadrature")
        return Problem(lambda z: model.log_joint(x, z), self.dim, name=name, log_evidence=known, device=x.device)
