"""The variational auto-encoder: a latent-variable model whose conditional distributions are networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tightbound.arguments import count
from tightbound.device import seeded
from tightbound.distributions import Chain, DiagonalGaussian
from tightbound.estimate import Estimate
from tightbound.problem import Problem
from tightbound.vae import encoders, evaluate, likelihoods


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
        return self.likelihood(encoders.single(self.decoder(z)))

    def check(self, x: Tensor) -> None:
        """Nothing, where the likelihood is meant for the images x (..., D); else a ValueError that says what to do."""
        self.likelihood.check(x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) = log p(z) + log p(x | z) in nats: x (B, D) and z (..., B, d) give (..., B)."""
        return self.prior().log_prob(z) + self.decode(z).log_prob(x)

    def problem(self, x: Tensor, *, name: str = "one image") -> Problem:
        """The posterior of one image x (D,) as a `Problem`, so that every method of the book can be tried on it.

        It works on a frozen copy of the network in double precision, and knows log p(x) where there are one or two latents.
        """
        if x.ndim != 1:
            raise ValueError(f"a problem is about one image (D,), got a tensor of shape {tuple(x.shape)}: take x[0]")
        self.check(x)
        model, x = evaluate.frozen(self, torch.float64), x.double()
        known = None
        if self.dim <= 2:
            known = Estimate(evaluate.exact(model, x[None])[0], "exact", source="quadrature")
        return Problem(lambda z: model.log_joint(x, z), self.dim, name=name, log_evidence=known, device=x.device)


class HierarchicalVAE(VAE):
    """A VAE with several layers of latents, laid side by side in z = (z_1, ..., z_L), z_1 being next to the image::

        z_L ~ N(0, I),  z_l | z_{l+1} ~ priors[l](z_{l+1}),  x | z_1 ~ likelihood(decoder(z_1))
        q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1})

    Args:
        encoders: L modules: the first maps x to a distribution over z_1, the next z_1 to one over z_2, and so on.
        priors: L - 1 modules: the first maps z_2 to a distribution over z_1, and so on.
        decoder, likelihood: as of `VAE`, the decoder's input being z_1.
        dims: d_1, ..., d_L.

    Raises:
        ValueError: when the numbers of layers do not agree.

    Source: Rezende, Mohamed & Wierstra (2014); Burda, Grosse & Salakhutdinov (2016), whose two-layer model it is for L = 2.
    """

    def __init__(self, encoders: list[nn.Module], priors: list[nn.Module], decoder: nn.Module, likelihood: nn.Module,
                 dims: list[int]):
        if not len(encoders) == len(dims) == len(priors) + 1:
            raise ValueError(f"L layers need L encoders, L - 1 priors and L dims, got {len(encoders)}, {len(priors)} and "
                             f"{len(dims)}")
        super().__init__(nn.ModuleList(encoders), decoder, likelihood, sum(dims))
        self.priors, self.dims = nn.ModuleList(priors), list(dims)

    def prior(self) -> Chain:
        """p(z), drawn from the top down."""
        origin = self.origin[: self.dims[-1]]
        top = DiagonalGaussian(origin, torch.ones_like(origin), validate_args=False)
        return Chain(top, reversed(self.priors), self.dims[::-1], backwards=True)

    def posterior(self, x: Tensor) -> Chain:
        """q(z | x), drawn from the bottom up."""
        return Chain(self.encoder[0](x), self.encoder[1:], self.dims)

    def decode(self, z: Tensor) -> Distribution:
        """p(x | z_1) for z (..., d)."""
        return super().decode(z[..., : self.dims[0]])


def make(num_pixels: int, dim: int | tuple[int, ...], *, hidden: tuple[int, ...] = (200,), likelihood="bernoulli",
         posterior: str = "diagonal", activation: type[nn.Module] = nn.Tanh, seed: int = 0) -> VAE:
    """A dense VAE: pixels - hidden - latents - hidden, backwards - pixels.

    Args:
        num_pixels: D.
        dim: d, the number of latents; or (d_1, ..., d_L) for L layers of them, between which `hidden` layers stand as well.
        hidden: the widths of the hidden layers, ``(400, 200)``; for L layers of latents, a tuple of L such tuples.
        likelihood: "bernoulli", "gaussian", "discretised logistic", or a module.
        posterior: "diagonal", "low rank", "full" or "piecewise".
        seed: of the weights to start from, which are torch's own.

    Raises:
        ValueError: for an unknown word, or numbers out of range.
    """
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    widths = (hidden,) if isinstance(dim, int) else tuple(hidden)
    if len(widths) != len(dims) or not all(widths):
        raise ValueError(f"{len(dims)} layer(s) of latents need {len(dims)} tuple(s) of hidden widths, got {hidden}")
    for number in (count("num_pixels", num_pixels, least=1), *dims, *(n for layers in widths for n in layers)):
        count("each width", number, least=1)
    likelihood = likelihoods.make(likelihood)

    def encoder(size: int, layers: tuple[int, ...], d: int) -> nn.Module:
        return encoders.make(posterior, encoders.mlp(size, *layers, activation=activation), layers[-1], d)

    with seeded(seed):
        up = [encoder(size, layers, d) for size, layers, d in zip((num_pixels, *dims), widths, dims)]
        down = [encoders.DiagonalEncoder(encoders.mlp(above, *layers[::-1], activation=activation), layers[0], d)
                for d, above, layers in zip(dims, dims[1:], widths[1:])]
        decoder = encoders.mlp(dims[0], *widths[0][::-1], activation=activation)
        decoder.append(nn.Linear(widths[0][0], num_pixels * likelihood.size))
    return VAE(up[0], decoder, likelihood, dim) if isinstance(dim, int) else \
        HierarchicalVAE(up, down, decoder, likelihood, dims)
