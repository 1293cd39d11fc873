"""Mean field for any log joint in up to three dimensions: free-form factors, on grids."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from tightbound.approximation import Approximation
from tightbound.device import generator
from tightbound.estimate import Estimate
from tightbound.exact import find_box
from tightbound.problem import Problem

POINTS = (1001, 201, 41)  # of the grid on each axis, in one, two and three dimensions
FLOOR = 1e5               # nats below the highest point: what stands for a log joint of -inf
BATCH = 2**14             # points at which the log joint is evaluated at once


class MeanFieldError(RuntimeError):
    """Mean field has no answer for this problem; the message says why, and what may help."""


class TooManyDimensions(MeanFieldError):
    """A grid would need too many points."""


class GridTooCoarse(MeanFieldError):
    """On half as many points the bound would be another: the sums are not yet the integrals."""


class PiecewiseLinear(Distribution):
    """d independent latents, each with a density that is linear between the nodes of a grid.

    Args:
        nodes: (d, n), increasing along each row.
        density: (d, n), not negative; it is divided by its integral.

    Raises:
        ValueError: for shapes that differ, nodes that do not increase, or a density that is negative, or zero
            all over.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, nodes: Tensor, density: Tensor):
        if nodes.ndim != 2 or nodes.shape != density.shape or nodes.shape[1] < 2:
            raise ValueError("nodes and density must both be (d, n) with n > 1, "
                             f"got {tuple(nodes.shape)} and {tuple(density.shape)}")
        if not bool((nodes.diff() > 0).all()):
            raise ValueError("the nodes of every axis must increase")
        if not bool((density >= 0).all()) or not bool((density.sum(1) > 0).all()):
            raise ValueError("a density must not be negative or NaN, nor zero at every node of an axis")
        cells = 0.5 * (density[:, 1:] + density[:, :-1]) * nodes.diff()
        total = cells.sum(1, keepdim=True)
        self.nodes, self.density = nodes, density / total
        self._below = torch.nn.functional.pad((cells / total).cumsum(1), (1, 0))  # the mass below each node
        super().__init__(torch.Size(), nodes.shape[:1], validate_args=False)

    def _moment(self, power: int) -> Tensor:
        """E[z_i^power]; Simpson's rule is exact for polynomials up to the third degree."""
        def parts(t):
            z, f = self.nodes[:, :-1] + t * self.nodes.diff(), self.density[:, :-1] + t * self.density.diff()
            return z**power * f
        return ((parts(0) + 4 * parts(0.5) + parts(1)) * self.nodes.diff() / 6).sum(1)

    mean = property(lambda self: self._moment(1))
    variance = property(lambda self: self._moment(2) - self._moment(1) ** 2)

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples ``sample_shape + (d,)`` by the inverse of the distribution function, and their log density
        in nats.

        In the cell of a level u, of width h and heights f0 and f1, the mass r above its left end is reached
        at::

            f0 t + (f1 - f0) t^2 / (2h) = r,      t = 2r / (f0 + sqrt(f0^2 + 2 r (f1 - f0) / h))
        """
        shape, d = torch.Size(sample_shape), len(self.nodes)
        u = torch.rand((d, shape.numel()), generator=generator, dtype=self.nodes.dtype,
                       device=self.nodes.device)
        cell = (torch.searchsorted(self._below, u, right=True) - 1).clamp(0, self.nodes.shape[1] - 2)
        left, right = self.nodes.gather(1, cell), self.nodes.gather(1, cell + 1)
        f0, f1 = self.density.gather(1, cell), self.density.gather(1, cell + 1)
        r, slope = u - self._below.gather(1, cell), (f1 - f0) / (right - left)
        root = torch.sqrt((f0**2 + 2 * r * slope).clamp(min=0))
        t = 2 * r / (f0 + root).clamp(min=torch.finfo(r.dtype).tiny)
        t = torch.minimum(t, right - left)
        log_q = torch.log(f0 + slope * t).sum(0)
        return (left + t).T.reshape(*shape, d), log_q.reshape(shape)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        return self.rsample_and_log_prob(sample_shape, generator=generator)[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, (..., d) -> (...); -inf outside of the grid."""
        at = z.reshape(-1, len(self.nodes)).T.contiguous()
        cell = (torch.searchsorted(self.nodes, at, right=True) - 1).clamp(0, self.nodes.shape[1] - 2)
        left, right = self.nodes.gather(1, cell), self.nodes.gather(1, cell + 1)
        f0, f1 = self.density.gather(1, cell), self.density.gather(1, cell + 1)
        f = torch.where((at < left) | (at > right), 0.0, f0 + (f1 - f0) * (at - left) / (right - left))
        return torch.log(f.clamp(min=0)).sum(0).reshape(z.shape[:-1])


def approximate(problem: Problem, *, num_points: int | None = None,
                box: tuple[tuple[float, float], ...] | None = None,
                num_starts: int = 8, num_sweeps: int = 500, tolerance: float = 1e-10,
                seed: int | torch.Generator = 0) -> Approximation:
    """Coordinate ascent over free-form factors, for any log joint in up to three dimensions::

        q_i(z_i) ∝ exp E_{q_-i}[log p(x, z)]
        ELBO     = E_q[log p(x, z)] + sum_i H[q_i]

    The integrals are trapezoidal sums over a grid, which converge fast for smooth densities that die out in
    the box. Every start is a point: its first factor is the log joint along a line through it. In one
    dimension q is the posterior. (Between nodes h apart q is linear, which adds h^2/6 to its variance.)

    Args:
        problem: the question.
        num_points: grid points an axis; 1001, 201 and 41 in one, two and three dimensions if left out.
        box: ((low, high), ...) of the grid; if left out, found, and then tightened around the factors.
        num_starts: the highest point of the grid, and random ones within 20 nats of it; the best bound is
            kept.
        num_sweeps: sweeps over all factors, at most.
        tolerance: stop when no start's bound rises by more, in nats.
        seed: of the random starts.

    Returns:
        An `Approximation` whose q is a `PiecewiseLinear`, with a log evidence of kind "lower bound".
        `history` is the bound after every sweep; in `diagnostics`: `nodes` and `factors` (d, n), and the
        `bounds` of all starts.

    Raises:
        TooManyDimensions: above three dimensions.
        GridTooCoarse: when the bound is off by more than 0.01 nats on every other point of the grid: the
            density is too thin or too wide for it. Both are a `MeanFieldError`.
        ValueError: for too few points, starts or sweeps, or a box that does not fit the problem.

    Source: Ormerod & Wand (2010), section 2.2.
    """
    if problem.dim > 3:
        raise TooManyDimensions(f"{problem.name!r} has {problem.dim} latents, and a grid of 41 points a side would "
                                f"have 41^{problem.dim}: "
                                "free-form factors on a grid serve up to three. "
                                "Give the factors a form (Gaussian ones: "
                                "stochastic variational inference), or integrate latents out first")
    num_points = POINTS[problem.dim - 1] if num_points is None else num_points
    if num_points < 3 or num_starts < 1 or num_sweeps < 1:
        raise ValueError("num_points must be at least 3, num_starts and num_sweeps 1, "
                         f"got {num_points}, {num_starts} and {num_sweeps}")
    began, spent = time.perf_counter(), problem.evaluations
    limits = torch.tensor(box or problem.box or find_box(problem, (401, 101, 21)[problem.dim - 1]),
                          dtype=problem.dtype)
    if limits.shape != (problem.dim, 2) or not bool((limits[:, 0] < limits[:, 1]).all()):
        raise ValueError(f"the box for {problem.name!r} must hold {problem.dim} pairs (low, high) "
                         f"with low < high, got {box}")
    if box is None:
        limits = _tightened(problem, limits, num_points // 4 * 2 + 1, num_starts, seed)
    nodes, log_joint, factors, histories = _ascend(problem, limits, num_points, num_starts, num_sweeps,
                                                   tolerance, seed)
    best = int(histories[-1].argmax())
    _require_fine(problem, nodes, log_joint, factors[:, best], float(histories[-1, best]))
    return Approximation("mean field", PiecewiseLinear(nodes, factors[:, best]),
                         Estimate(histories[-1, best], "lower bound", source="coordinate ascent"),
                         histories[:, best],
                         problem.evaluations - spent, time.perf_counter() - began,
                         {"nodes": nodes, "factors": factors[:, best], "bounds": histories[-1]})


def _ascend(problem: Problem, limits: Tensor, num_points: int, num_starts: int, num_sweeps: int,
            tolerance: float, seed):
    """Nodes (d, n), the log joint there, the factors' densities (d, starts, n), and the bound after each
    sweep (sweeps, starts)."""
    nodes = torch.stack([torch.linspace(float(low), float(high), num_points, dtype=problem.dtype)
                         for low, high in limits])
    log_joint, weights = _on_grid(problem, nodes), _trapezoidal(nodes)
    d, places = problem.dim, _starts(log_joint, num_starts, seed)
    # (starts, ...): one axis of the grid for each factor; a point to start from is a factor of one node.
    mass = [torch.nn.functional.one_hot(places[:, i], num_points).to(problem.dtype) for i in range(d)]
    history: list[Tensor] = []
    for _ in range(num_sweeps):
        entropy = torch.zeros(len(places), dtype=problem.dtype)
        for i in range(d):
            expected = _expected(log_joint, mass, i)      # E_{q_-i}[log p(x, z)], (starts, n)
            log_q = expected - torch.logsumexp(expected + weights[i].log(), 1, keepdim=True)
            mass[i] = torch.exp(log_q) * weights[i]
            entropy -= torch.special.xlogy(mass[i], mass[i] / weights[i]).sum(1)
        history.append((mass[-1] * expected).sum(1) + entropy)
        if len(history) > 1 and bool((history[-1] - history[-2] <= tolerance).all()):
            break
    factors = torch.stack([m / w for m, w in zip(mass, weights)])
    return nodes, log_joint, factors, torch.stack(history)


def _trapezoidal(nodes: Tensor) -> Tensor:
    """The weights of the trapezoidal rule, (d, n)."""
    weights = nodes.diff()[:, 0].unsqueeze(-1).expand_as(nodes).clone()
    weights[:, [0, -1]] *= 0.5
    return weights


def _require_fine(problem: Problem, nodes: Tensor, log_joint: Tensor, factors: Tensor, bound: float) -> None:
    """Raises GridTooCoarse unless every other point of the grid gives nearly the same bound."""
    every_other = (slice(None, None, 2),) * problem.dim
    mass = factors[:, ::2] * _trapezoidal(nodes[:, ::2])
    mass = mass / mass.sum(1, keepdim=True)
    entropy = -torch.special.xlogy(mass, mass / _trapezoidal(nodes[:, ::2])).sum()
    coarse = (_expected(log_joint[every_other], list(mass.unsqueeze(1)), 0)[0] * mass[0]).sum() + entropy
    if not abs(float(coarse) - bound) < 0.01:
        raise GridTooCoarse(f"on a grid of {nodes.shape[1]} points an axis the bound of {problem.name!r} is "
                            f"{bound:.4f} nats, on every "
                            f"other of them {float(coarse):.4f}: give more points (num_points), "
                            "a tighter box, or other coordinates")


def _on_grid(problem: Problem, nodes: Tensor) -> Tensor:
    """The log joint on the grid, (n, ..., n), at least FLOOR nats below its highest value where it is
    -inf."""
    z = torch.stack(torch.meshgrid(*nodes, indexing="ij"), -1)
    with torch.no_grad():
        parts = [problem.log_joint(part.to(problem.device)).cpu()
                 for part in z.reshape(-1, problem.dim).split(BATCH)]
    value = torch.cat(parts).reshape(z.shape[:-1])
    top = float(value.max())
    if top == -math.inf:
        raise MeanFieldError(f"{problem.name!r} has no density on a grid in this box: "
                             "give a box around its mass")
    return value.clamp(min=top - FLOOR)


def _starts(log_joint: Tensor, num_starts: int, seed) -> Tensor:
    """Places on the grid (starts, d): the highest, and random ones within 20 nats of it."""
    flat = log_joint.reshape(-1)
    near = (flat > flat.max() - 20).nonzero()[:, 0]
    some = near[torch.randint(len(near), (num_starts - 1,), generator=generator(seed))]
    chosen = torch.cat([flat.argmax().unsqueeze(0), some])
    return torch.stack(torch.unravel_index(chosen, log_joint.shape), 1)


def _expected(log_joint: Tensor, mass: list[Tensor], i: int) -> Tensor:
    """E over all factors but the i-th of the log joint, for every start: (starts, n)."""
    axes = "abc"[: len(mass)]
    others = [k for k in range(len(mass)) if k != i]
    if not others:
        return log_joint.unsqueeze(0).expand(len(mass[0]), -1)
    terms = ",".join([axes] + [f"s{axes[k]}" for k in others])
    return torch.einsum(f"{terms}->s{axes[i]}", log_joint, *(mass[k] for k in others))


def _tightened(problem: Problem, limits: Tensor, num_points: int, num_starts: int, seed) -> Tensor:
    """The box that holds all but exp(-20) of the peak of every factor of the best starts, found on coarse
    grids."""
    for _ in range(8):
        nodes, _, factors, history = _ascend(problem, limits, num_points, num_starts, 50, 1e-3, seed)
        good = factors[:, history[-1] > history[-1].max() - 3]
        alive = (good > math.exp(-20) * good.amax(2, keepdim=True)).any(1)
        ends = [(max(int(on.nonzero()[0]) - 1, 0),
                 min(int(on.nonzero()[-1]) + 1, num_points - 1)) for on in alive]
        tighter = torch.stack([torch.stack([row[low], row[high]]) for row, (low, high) in zip(nodes, ends)])
        shrunk, limits = bool((tighter.diff() < 0.8 * limits.diff()).any()), tighter
        if not shrunk:
            break
    return limits
