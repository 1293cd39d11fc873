"""Variational families: the candidates among which a method looks for its q.

A family is an `nn.Module`; calling it returns the member that its parameters name at the moment, a
`torch.distributions.Distribution` with `log_prob` and `rsample_and_log_prob`. From the least to the most expressive::

    Diagonal    N(mean, diag(scale^2))            2 d numbers
    LowRank     N(mean, W W' + diag(scale^2))     d (2 + r)
    Full        N(mean, L L')                     d (d + 3) / 2,  L lower triangular with a positive diagonal
    Mixture     sum_k w_k N(mean_k, L_k L_k')     K (1 + d (d + 3) / 2)

Scales are held by their logarithms, so that every value of the parameters names a member.

Source: Ong, Nott & Smith (2018), Gaussian variational approximation with a factor covariance structure, for `LowRank`;
Jaakkola & Jordan (1998) for mixtures.
"""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tightbound.arguments import count, one_of, positive
from tightbound.device import generator
from tightbound.distributions import DiagonalGaussian, Gaussian, LowRankGaussian, MixtureOfGaussians


class Diagonal(nn.Module):
    """Normals with independent coordinates.

    Args:
        dim: d, the number of latents.
        loc: the mean to start from, (d,); zero if left out.
        scale: the standard deviation to start from.

    Raises:
        ValueError: for a dimension below one, a mean of another shape, or a scale not above zero.
    """

    def __init__(self, dim: int, *, loc: Tensor | None = None, scale: float = 1.0):
        super().__init__()
        self.loc = nn.Parameter(_location(dim, loc))
        self.log_scale = nn.Parameter(torch.full_like(self.loc, positive("scale", scale)).log())

    def forward(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.loc, self.log_scale.exp(), validate_args=False)


class LowRank(nn.Module):
    """Normals whose covariance is a diagonal plus a matrix of rank r.

    Args:
        dim, loc, scale: as of `Diagonal`.
        rank: r, from 1 to d.

    Raises:
        ValueError: as `Diagonal`, or for a rank out of range.
    """

    def __init__(self, dim: int, rank: int = 1, *, loc: Tensor | None = None, scale: float = 1.0):
        super().__init__()
        self.loc = nn.Parameter(_location(dim, loc))
        rank = count("rank", rank, least=1, most=dim)
        self.log_scale = nn.Parameter(torch.full_like(self.loc, positive("scale", scale)).log())
        rows = torch.arange(dim, device=self.loc.device)
        start = (rows.unsqueeze(-1) % rank == torch.arange(rank, device=self.loc.device)).to(self.loc)
        self.factor = nn.Parameter(0.3 * scale * start)  # not zero: there the gradient vanishes

    def forward(self) -> LowRankGaussian:
        return LowRankGaussian(self.loc, self.factor, (2 * self.log_scale).exp(), validate_args=False)


class Full(nn.Module):
    """Normals with any covariance L L', by its Cholesky factor.

    Args:
        dim, loc, scale: as of `Diagonal`.

    Raises:
        ValueError: as `Diagonal`.
    """

    def __init__(self, dim: int, *, loc: Tensor | None = None, scale: float = 1.0):
        super().__init__()
        self.loc = nn.Parameter(_location(dim, loc))
        self.log_diagonal = nn.Parameter(torch.full_like(self.loc, positive("scale", scale)).log())
        self.below = nn.Parameter(self.loc.new_zeros(dim * (dim - 1) // 2))

    def forward(self) -> Gaussian:
        L = _cholesky(self.log_diagonal, self.below)
        q = Gaussian(self.loc, scale_tril=L, validate_args=False)
        q.log_det_scale = self.log_diagonal.sum(-1)
        return q


class Mixture(nn.Module):
    """Mixtures of K normals.

    Args:
        dim, loc, scale: as of `Diagonal`; the means start at random, a `scale` around `loc`.
        num_components: K.
        covariance: "full" or "diagonal", of each component.
        seed: of the random means.

    Raises:
        ValueError: as `Diagonal`, or for no component, or another word for the covariance.
    """

    def __init__(self, dim: int, num_components: int = 3, *, covariance: str = "full", loc: Tensor | None = None,
                 scale: float = 1.0, seed: int | torch.Generator = 0):
        super().__init__()
        centre, K = _location(dim, loc), count("num_components", num_components, least=1)
        one_of("covariance", covariance, ("full", "diagonal"))
        spread = torch.randn(K, dim, generator=generator(seed), dtype=centre.dtype).to(centre.device)
        self.logits = nn.Parameter(centre.new_zeros(K))
        self.loc = nn.Parameter(centre + positive("scale", scale) * spread)
        self.log_diagonal = nn.Parameter(torch.full_like(self.loc, scale).log())
        below = self.loc.new_zeros(K, dim * (dim - 1) // 2)
        if covariance == "full":
            self.below = nn.Parameter(below)
        else:
            self.register_buffer("below", below)

    def forward(self) -> MixtureOfGaussians:
        return MixtureOfGaussians(self.logits, self.loc, _cholesky(self.log_diagonal, self.below))


WORDS = {"diagonal": Diagonal, "low rank": LowRank, "full": Full, "mixture": Mixture}


def make(family: str | nn.Module, dim: int, *, loc: Tensor | None = None) -> nn.Module:
    """A family by its word ("diagonal", "low rank", "full", "mixture"), started at `loc`; or a copy of a module, as it is.

    Raises:
        ValueError: for an unknown word, or a family of another dimension.
        TypeError: for what is neither a word nor a module that returns a distribution.
    """
    if isinstance(family, str):
        return WORDS[one_of("family", family, tuple(WORDS))](dim, loc=loc)
    if not isinstance(family, nn.Module):
        raise TypeError(f"a family is one of {', '.join(map(repr, WORDS))} or an nn.Module that returns a distribution, "
                        f"got {family!r}")
    member = family()
    if not isinstance(member, Distribution):
        raise TypeError("a family returns a torch Distribution when it is called, but this one returns "
                        f"{type(member).__name__}")
    if member.event_shape != (dim,):
        raise ValueError(f"the problem has {dim} latents, but the family is over {tuple(member.event_shape)}: make it with "
                         f"dim={dim}")
    return copy.deepcopy(family)


def _location(dim: int, loc: Tensor | None) -> Tensor:
    count("dim", dim, least=1)
    if loc is None:
        return torch.zeros(dim, dtype=torch.float64)
    if loc.shape != (dim,) or not torch.isfinite(loc).all():
        raise ValueError(f"loc must be a finite point of shape ({dim},), got {loc}")
    return loc.detach().clone()


def _cholesky(log_diagonal: Tensor, below: Tensor) -> Tensor:
    """L (..., d, d) from the logarithms of its diagonal (..., d) and what stands below it, row by row."""
    return triangular(log_diagonal.exp(), below)


def triangular(diagonal: Tensor, below: Tensor) -> Tensor:
    """The lower triangular matrix (..., d, d) with this diagonal (..., d), and (..., d (d - 1)/2) below it, row by row."""
    d, values = diagonal.shape[-1], torch.cat([diagonal, below], -1)
    flat = values.new_zeros(*values.shape[:-1], d * d)  # of many matrices, one scatter writes all in half the time of L[..., i, j] = below
    return flat.scatter_(-1, _places(d, values.device).expand(values.shape), values).unflatten(-1, (d, d))


def below_diagonal(matrix: Tensor) -> Tensor:
    """What stands below the diagonal of a matrix (..., d, d), row by row: (..., d (d - 1)/2)."""
    d = matrix.shape[-1]
    return matrix.flatten(-2).index_select(-1, _places(d, matrix.device)[d:])


def _places(dim: int, device: torch.device) -> Tensor:
    """Where they stand in the matrix, its rows laid end to end: the diagonal, then what is below it."""
    return (_flat if torch.compiler.is_compiling() else _kept)(dim, device)  # a compiler looks through no cache, and warns


def _flat(dim: int, device: torch.device) -> Tensor:
    rows, columns = torch.tril_indices(dim, dim, -1, device=device)
    return torch.cat([torch.arange(dim, device=device) * (dim + 1), rows * dim + columns])


_kept = lru_cache(maxsize=64)(_flat)
