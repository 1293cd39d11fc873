"""Monotone splines made of rational quadratic pieces: flexible, smooth, and inverted in closed form.

Source: Durkan, Bekasov, Murray & Papamakarios (2019), Neural spline flows; Gregory & Delbourgo (1982).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tightbound.arguments import count, positive
from tightbound.device import generator
from tightbound.flows.transforms import Bijection, Seed

LEAST = 1e-3  # width and height of a bin, as a share of the whole, and slope at a knot


def num_parameters(bins: int) -> int:
    """How many numbers a spline of so many bins takes: widths, heights, and slopes at the inner knots."""
    return 3 * bins - 1


def rational_quadratic(x: Tensor, parameters: Tensor, bound: float, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """A monotone spline on [-bound, bound], the identity outside of it, and its log-derivative.

    The knots (x_k, y_k) and slopes d_k come from the parameters. Within a bin of width w and height h, with s = h / w and
    θ = (x - x_k) / w::

        y = y_k + h (s θ^2 + d_k θ (1 - θ)) / D,      D = s + (d_k + d_k+1 - 2 s) θ (1 - θ)
        dy/dx = s^2 (d_k+1 θ^2 + 2 s θ (1 - θ) + d_k (1 - θ)^2) / D^2

    At both ends the slope is 1, so that the spline runs smoothly into the identity: a point on the boundary is as good as any.

    Args:
        x: points (...); with `inverse`, values y.
        parameters: any numbers (..., 3 K - 1) for K bins; all zero give nearly the identity.
        bound: half the length of the interval.
        inverse: solve for x. The log-derivative returned is still that of x -> y.

    Returns:
        y (or x), and log dy/dx in nats, both (...).
    """
    K = (parameters.shape[-1] + 1) // 3
    widths, heights, slopes = parameters.split((K, K, K - 1), -1)
    knots_x, knots_y = _knots(widths, bound), _knots(heights, bound)
    slopes = LEAST + softplus(slopes + math.log(math.expm1(1 - LEAST)))  # 1 where the parameter is 0
    one = torch.ones_like(slopes[..., :1])
    slopes = torch.cat([one, slopes, one], -1)

    inside = (x >= -bound) & (x <= bound)
    clamped = x.clamp(-bound, bound)
    at = ((knots_y if inverse else knots_x)[..., 1:-1] <= clamped.unsqueeze(-1)).sum(-1, keepdim=True)

    def take(values: Tensor, offset: int = 0) -> Tensor:
        return values.expand(*at.shape[:-1], K + 1).gather(-1, at + offset).squeeze(-1)

    x0, y0, d0, d1 = take(knots_x), take(knots_y), take(slopes), take(slopes, 1)
    w, h = take(knots_x, 1) - x0, take(knots_y, 1) - y0
    s, bend = h / w, d0 + d1 - 2 * h / w
    if inverse:
        offset = clamped - y0  # a θ^2 + b θ + c = 0, in the form that does not cancel
        a, b, c = h * (s - d0) + offset * bend, h * d0 - offset * bend, -s * offset
        root = torch.sqrt((b.square() - 4 * a * c).clamp(min=torch.finfo(x.dtype).tiny))
        falls = b < 0
        theta = torch.where(falls, root - b, 2 * c) / torch.where(falls, 2 * a, -b - root)
    else:
        theta = (clamped - x0) / w
    between = theta * (1 - theta)
    D = s + bend * between
    log_slope = (2 * s.log() + torch.log(d1 * theta.square() + 2 * s * between + d0 * (1 - theta).square()) - 2 * D.log())
    moved = x0 + w * theta if inverse else y0 + h * (s * theta.square() + d0 * between) / D
    return torch.where(inside, moved, x), torch.where(inside, log_slope, 0.0)


def _knots(raw: Tensor, bound: float) -> Tensor:
    """From -bound to bound, (..., K + 1)."""
    share = LEAST + (1 - LEAST * raw.shape[-1]) * raw.softmax(-1)
    inner = 2 * bound * share[..., :-1].cumsum(-1) - bound
    end = torch.full_like(inner[..., :1], bound)
    return torch.cat([-end, inner, end], -1)


class Spline(Bijection):
    """A rational quadratic spline for every coordinate by itself.

    Args:
        dim: d.
        bins: K, at least 2.
        bound: outside of [-bound, bound] it is the identity.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(self, dim: int, *, bins: int = 8, bound: float = 5.0, seed: Seed = 0):
        super().__init__(dim)
        self.bins, self.bound = count("bins", bins, least=2, most=200), positive("bound", bound)
        start = 0.01 * torch.randn(dim, num_parameters(bins), generator=generator(seed), dtype=torch.float64)
        self.parameters_ = nn.Parameter(start)

    def call_and_ladj(self, x, context=None):
        y, ladj = rational_quadratic(x, self.parameters_, self.bound)
        return y, ladj.sum(-1)

    def inverse_and_ladj(self, y, context=None):
        x, ladj = rational_quadratic(y, self.parameters_, self.bound, inverse=True)
        return x, ladj.sum(-1)
