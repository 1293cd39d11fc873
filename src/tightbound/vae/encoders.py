"""Encoders: networks that map an image to a distribution over its latents.

A network gives features h = net(x); a linear layer, the head, turns h into the numbers that name a member of the family::

    DiagonalEncoder     N(mean, diag(scale^2))            2 d numbers
    LowRankEncoder      N(mean, W W' + diag(scale^2))     d (2 + r)
    FullEncoder         N(mean, L L')                     d (d + 3) / 2
    PiecewiseEncoder    K steps of uneven height          d K

All of them return distributions with `rsample_and_log_prob`, all but the last Gaussian.

Source: Kingma & Welling (2014); Rezende, Mohamed & Wierstra (2014) for covariances of low rank; Serban, Ororbia, Pineau &
Courville (2017), Piecewise latent variables for neural variational text processing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tightbound.arguments import count, one_of
from tightbound.distributions import DiagonalGaussian, Gaussian, LowRankGaussian, PiecewiseConstant
from tightbound.families import _cholesky


def mlp(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A dense network: ``mlp(784, 400, 200)`` has two layers, each followed by its activation."""
    layers = [layer for a, b in zip(widths, widths[1:]) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers)


def single(output: Tensor) -> Tensor:
    """A network's output in at least single precision: distributions add up hundreds of terms, too many for bfloat16."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


class DiagonalEncoder(nn.Module):
    """q(z | x) = N(mean(x), diag(exp(log_scale(x))^2)).

    Args:
        network: from x (B, D) to features (B, H).
        num_features: H.
        dim: d, the number of latents.
    """

    def __init__(self, network: nn.Module, num_features: int, dim: int):
        super().__init__()
        self.network, self.head = network, nn.Linear(num_features, 2 * dim)

    def forward(self, x: Tensor) -> DiagonalGaussian:
        mean, log_scale = single(self.head(self.network(x))).chunk(2, -1)
        return DiagonalGaussian(mean, log_scale.exp(), validate_args=False)


class LowRankEncoder(nn.Module):
    """q(z | x) = N(mean(x), W(x) W(x)' + diag(exp(log_scale(x))^2)), W being (d, r).

    Args:
        network, num_features, dim: as of `DiagonalEncoder`.
        rank: r, from 1 to d.
    """

    def __init__(self, network: nn.Module, num_features: int, dim: int, rank: int = 1):
        super().__init__()
        self.dim, rank = dim, count("rank", rank, least=1, most=dim)
        self.network, self.head = network, nn.Linear(num_features, dim * (2 + rank))

    def forward(self, x: Tensor) -> LowRankGaussian:
        numbers = single(self.head(self.network(x))).unflatten(-1, (self.dim, -1))                # (B, d, 2 + r)
        mean, log_scale, factor = numbers[..., 0], numbers[..., 1], numbers[..., 2:]
        return LowRankGaussian(mean, factor, (2 * log_scale).exp(), validate_args=False)


class FullEncoder(nn.Module):
    """q(z | x) = N(mean(x), L(x) L(x)'), L lower triangular, the logarithms of its diagonal given by the head.

    Args:
        network, num_features, dim: as of `DiagonalEncoder`.
    """

    def __init__(self, network: nn.Module, num_features: int, dim: int):
        super().__init__()
        self.sizes = [dim, dim, dim * (dim - 1) // 2]
        self.network, self.head = network, nn.Linear(num_features, sum(self.sizes))

    def forward(self, x: Tensor) -> Gaussian:
        mean, log_diagonal, below = single(self.head(self.network(x))).split(self.sizes, -1)
        return Gaussian(mean, scale_tril=_cholesky(log_diagonal, below), validate_args=False)


class PiecewiseEncoder(nn.Module):
    """q(z | x) with K steps a coordinate, so that it may have several modes; see `distributions.PiecewiseConstant`.

    Args:
        network, num_features, dim: as of `DiagonalEncoder`.
        num_pieces: K, at least 2.
    """

    def __init__(self, network: nn.Module, num_features: int, dim: int, num_pieces: int = 8):
        super().__init__()
        self.dim, num_pieces = dim, count("num_pieces", num_pieces, least=2)
        self.network, self.head = network, nn.Linear(num_features, dim * num_pieces)

    def forward(self, x: Tensor) -> PiecewiseConstant:
        return PiecewiseConstant(single(self.head(self.network(x))).unflatten(-1, (self.dim, -1)))


WORDS = {"diagonal": DiagonalEncoder, "low rank": LowRankEncoder, "full": FullEncoder, "piecewise": PiecewiseEncoder}


def make(posterior: str, network: nn.Module, num_features: int, dim: int) -> nn.Module:
    """An encoder by its family's word: "diagonal", "low rank", "full" or "piecewise".

    Raises:
        ValueError: for an unknown word.
    """
    return WORDS[one_of("posterior", posterior, tuple(WORDS))](network, num_features, dim)
