"""Flows on the circle, the torus and the sphere.

Points of a torus are angles (..., d), taken modulo 2 pi; points of the sphere are unit vectors (..., 3). A density there is one per
radian, or per steradian.

Source: Rezende et al. (2020), Normalizing flows on tori and spheres.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from tightbound.arguments import count
from tightbound.device import generator
from tightbound.flows.transforms import Bijection, InverseNotConverged, Network, Seed, bisect

TURN = 2 * math.pi


class UniformTorus(Distribution):
    """Angles (d,), each uniform on [0, 2 pi): log density -d log 2 pi."""

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, like: Tensor):
        self.like = like
        super().__init__(torch.Size(), like.shape, validate_args=False)

    support = constraints.real_vector

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        shape = (*sample_shape, *self.event_shape)
        x = TURN * torch.rand(shape, generator=generator, dtype=self.like.dtype, device=self.like.device)
        return x, self.log_prob(x)

    def log_prob(self, value):
        return torch.full(value.shape[:-1], -self.event_shape[0] * math.log(TURN), dtype=self.like.dtype, device=self.like.device)


class UniformSphere(UniformTorus):
    """Unit vectors (3,), uniform on the sphere: log density -log 4 pi."""

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        x = torch.randn((*sample_shape, 3), generator=generator, dtype=self.like.dtype, device=self.like.device)
        x = x / x.norm(dim=-1, keepdim=True)
        return x, self.log_prob(x)

    def log_prob(self, value):
        return torch.full(value.shape[:-1], -math.log(2 * TURN), dtype=self.like.dtype, device=self.like.device)


def moebius(angle: Tensor, centres: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """An average of K Möbius maps of the circle, each turned so that it leaves the angle 0 where it is.

    The map of centre ω (a point inside of the unit disc) takes z = (cos θ, sin θ) to ``(1 - |ω|^2) / |z - ω|^2 (z - ω) - ω``, and has the
    derivative ``(1 - |ω|^2) / |z - ω|^2``. Angles that increase from 0 to 2 pi stay so in the average.

    Args:
        angle: θ, (...), between 0 and 2 pi.
        centres: (..., K, 2), of length at most 0.99.
        weights: (..., K), summing to one.

    Returns:
        the new angle, between 0 and 2 pi, and its derivative in θ, both (...).
    """
    inside = 1 - centres.square().sum(-1)

    def turned(angle: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.stack([angle.cos(), angle.sin()], -1) - centres
        slope = inside / z.square().sum(-1)
        h = slope.unsqueeze(-1) * z - centres
        return torch.atan2(h[..., 1], h[..., 0]), slope

    angle = angle.unsqueeze(-1)
    new, slope = turned(angle)
    start, _ = turned(torch.zeros_like(angle))
    new = torch.remainder(new - start, TURN)
    # Rounding may put the end of the turn at its start, or the start at its end: with |ω| < 0.99 nothing else comes so near.
    new = torch.where((new < 1e-4) & (angle > 6), new + TURN, torch.where((new > TURN - 1e-4) & (angle < 0.3), new - TURN, new))
    return (weights * new).sum(-1), (weights * slope).sum(-1)


class TorusCoupling(Bijection):
    """Couplings on the torus, by Möbius maps: each angle in turn is moved by a map that depends on the cosines and sines of all
    others. For d = 1, the circle, the map is the same everywhere.

    Args:
        dim: d, the number of angles.
        num_layers: how many couplings; at least d, so that every angle is moved.
        num_centres: K, maps in an average.

    Raises:
        ValueError: for fewer layers than angles, or numbers out of range.
    """

    def __init__(self, dim: int = 1, num_layers: int | None = None, *, num_centres: int = 8, hidden=(32, 32), seed: Seed = 0):
        super().__init__(dim)
        stream, num_layers = generator(seed), num_layers or 2 * dim
        self.num_layers, self.K = count("num_layers", num_layers, least=dim), count("num_centres", num_centres, least=1)
        outputs = 3 * num_centres + 1  # centres, weights, and a turn
        if dim > 1:
            self.networks = nn.ModuleList(Network(2 * (dim - 1), outputs, hidden, seed=stream) for _ in range(num_layers))
        start = torch.randn(num_layers, outputs, generator=stream, dtype=torch.float64)
        self.numbers = nn.Parameter(0.5 * start)

    def _parts(self, k: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        numbers = self.numbers[k]
        if self.dim > 1:
            others = torch.cat([x[..., : k % self.dim], x[..., k % self.dim + 1:]], -1)
            numbers = numbers + self.networks[k](torch.cat([others.cos(), others.sin()], -1))
        raw = numbers[..., : 2 * self.K].unflatten(-1, (self.K, 2))
        centres = 0.99 * raw / (1 + raw.square().sum(-1, keepdim=True)).sqrt()
        return centres, numbers[..., 2 * self.K: -1].softmax(-1), numbers[..., -1]

    def _replaced(self, x: Tensor, i: int, angle: Tensor) -> Tensor:
        return torch.cat([x[..., :i], torch.remainder(angle, TURN).unsqueeze(-1), x[..., i + 1:]], -1)

    def call_and_ladj(self, x, context=None):
        *_, last = self.steps(x, context)
        return last

    def steps(self, x, context=None):
        total, x = 0.0, torch.remainder(x, TURN)
        for k in range(self.num_layers):
            i = k % self.dim
            centres, weights, turn = self._parts(k, x)
            angle, slope = moebius(x[..., i], centres, weights)
            x, total = self._replaced(x, i, angle + turn), total + slope.log()
            yield x, total

    def inverse_and_ladj(self, y, context=None):
        total, y = 0.0, torch.remainder(y, TURN)
        for k in reversed(range(self.num_layers)):
            i = k % self.dim
            centres, weights, turn = self._parts(k, y)
            target = torch.remainder(y[..., i] - turn, TURN)
            low = torch.zeros_like(target)
            angle = bisect(lambda angle: moebius(angle, centres, weights)[0], target, low, low + TURN)
            total = total + moebius(angle, centres, weights)[1].log()
            y = self._replaced(y, i, angle)
        return y, total


class ExponentialMap(Bijection):
    """On the sphere: walk from x along a great circle, in the direction in which a potential climbs, as far as it is steep::

        y = x cos r + v sin(r) / r,      v = (I - x x') grad φ(x),   r = |v|
        φ(x) = sum_k α_k / β_k exp(β_k (x'μ_k - 1)),      α_k > 0,   sum_k α_k < 1

    The condition on α keeps it invertible. With H the Hessian of φ on the sphere, (I - xx') (∇²φ - (x'∇φ) I) (I - xx'), taken along the
    walk (r) and across it (t), a small square at x becomes one of area::

        det = (1 + H_rr) (cos r + sin(r)/r H_tt) - sin(r)/r H_rt^2

    (how geodesics of the sphere spread). The inverse is found by Newton's method in the tangent plane.

    Args:
        num_centres: K.

    Source: Sei (2013), A Jacobian inequality for gradient maps on the sphere; Rezende et al. (2020), section 2.3.2.
    """

    def __init__(self, num_centres: int = 8, *, seed: Seed = 0):
        super().__init__(3)
        K, stream = count("num_centres", num_centres, least=1), generator(seed)
        self.centres = nn.Parameter(torch.randn(K, 3, generator=stream, dtype=torch.float64))
        self.raw_alpha = nn.Parameter(torch.zeros(K + 1, dtype=torch.float64))
        self.raw_beta = nn.Parameter(torch.zeros(K, dtype=torch.float64))

    def _map(self, x: Tensor) -> Tensor:
        return self._expanded(x)[0]

    def _expanded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y, (..., 3); orthonormal frames of the tangent planes at x and at y, along and across the walk, each (..., 2, 3); and the
        differential between them, (..., 2, 2)."""
        mu = self.centres / self.centres.norm(dim=-1, keepdim=True)
        alpha, beta = self.raw_alpha.softmax(0)[:-1], 0.1 + nn.functional.softplus(self.raw_beta)
        pull = alpha * torch.exp(beta * (x @ mu.mT - 1))  # (..., K)
        gradient = pull @ mu
        v = gradient - (gradient * x).sum(-1, keepdim=True) * x
        r = torch.sqrt(v.square().sum(-1, keepdim=True) + torch.finfo(x.dtype).tiny)
        sinc = torch.sinc(r / math.pi)
        along = torch.where(r > 1e-12, v / r, tangents(x)[..., 0, :])  # where nothing moves, any direction will do
        across = torch.linalg.cross(x, along)
        y = x * r.cos() + v * sinc
        start, end = torch.stack([along, across], -2), torch.stack([along * r.cos() - x * r.sin(), across], -2)
        seen = start @ mu.mT  # the centres in the tangent plane, (..., 2, K)
        H = (seen * (pull * beta).unsqueeze(-2)) @ seen.mT - (gradient * x).sum(-1)[..., None, None] * torch.eye(2, dtype=x.dtype, device=x.device)
        r, sinc, one = r.squeeze(-1), sinc.squeeze(-1), torch.ones_like(r.squeeze(-1))
        first = torch.stack([one + H[..., 0, 0], H[..., 0, 1]], -1)
        second = torch.stack([sinc * H[..., 1, 0], r.cos() + sinc * H[..., 1, 1]], -1)
        return y, start, end, torch.stack([first, second], -2)

    def call_and_ladj(self, x, context=None):
        y, _, _, J = self._expanded(x)
        return y, torch.log(J[..., 0, 0] * J[..., 1, 1] - J[..., 0, 1] * J[..., 1, 0])

    def inverse_and_ladj(self, y, context=None):
        with torch.no_grad():
            x = y.clone()
            for _ in range(60):
                at, *frames = self._expanded(x)
                if bool(((at - y).norm(dim=-1) < 1e-13).all()):
                    break
                x = self._newton(x, y, at, *frames)
            else:
                if not bool(((at - y).norm(dim=-1) < 1e-9).all()):
                    raise InverseNotConverged(f"Newton's method on the sphere is still {float((at - y).norm(dim=-1).max()):.2g} away "
                                              "after 60 steps: are the parameters finite?")
        at, *frames = self._expanded(x)  # once more, with gradients
        x = self._newton(x, y, at, *(part.detach() for part in frames))
        return x, self.call_and_ladj(x)[1]

    @staticmethod
    def _newton(x: Tensor, y: Tensor, at: Tensor, start: Tensor, end: Tensor, J: Tensor) -> Tensor:
        step = torch.linalg.solve(J, end @ (y - at).unsqueeze(-1))
        x = x + (start.mT @ step).squeeze(-1)
        return x / x.norm(dim=-1, keepdim=True)


def tangents(x: Tensor) -> Tensor:
    """Two orthonormal vectors of the tangent plane at x on the sphere: (..., 3) -> (..., 2, 3)."""
    axis = torch.zeros_like(x).scatter(-1, x.detach().abs().argmin(-1, keepdim=True), 1.0)
    first = torch.linalg.cross(x, axis)
    first = first / first.norm(dim=-1, keepdim=True)
    return torch.stack([first, torch.linalg.cross(x, first)], -2)
