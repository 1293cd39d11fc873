"""Exact answers, to hold approximations against: quadrature up to three dimensions, and enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import cubature
from torch import Tensor

from tightbound.estimate import Estimate
from tightbound.problem import Problem

NEGLIGIBLE = 50.0  # nats below the maximum: exp(-50) = 2e-22 is below double precision's resolution


def quadrature(problem: Problem, *, box: tuple[tuple[float, float], ...] | None = None,
               of: Callable[[Tensor], Tensor] | None = None, rtol: float = 1e-9) -> Estimate | np.ndarray:
    """log p(x) = log ∫ exp(log_joint(z)) dz in nats, by adaptive cubature, for d <= 3.

    Args:
        problem: the question.
        box: ((low, high), ...) where to integrate; if left out, the problem's own or one found by `find_box`.
        of: a function f: (..., d) -> (..., k); given it, the posterior mean E[f(z) | x] is returned, (k,).
        rtol: relative error that the adaptive rule is to reach (absolute, for a mean below one).

    Returns:
        An `Estimate` of kind "exact" (or, with `of`, the posterior mean as an array).

    Raises:
        ValueError: for d > 3, a box of another length, or a density that does not decay (give a box).
        RuntimeError: when the rule does not reach its tolerance, or two ways to cut up the box differ by
            1000 times as much.

    Source: `scipy.integrate.cubature` (Gauss-Kronrod product rules, Genz & Malik 1980).
    """
    if problem.dim > 3:
        raise ValueError(f"quadrature serves up to three dimensions, {problem.name!r} has {problem.dim}: "
                         "its cost grows exponentially with the dimension")
    box = box or problem.box or find_box(problem)
    if len(box) != problem.dim or any(not -math.inf < low < high < math.inf for low, high in box):
        raise ValueError(f"the box for {problem.name!r} must hold {problem.dim} finite pairs (low, high) "
                         f"with low < high, got {box}")
    low, high = np.array(box, dtype=float).T
    top = float(_on_grid(problem, box, 41)[1].max())
    if top == -math.inf:
        raise RuntimeError(f"{problem.name!r} has no density on a grid in the box {box}: give a tighter box")
    rule = "gk21" if problem.dim == 1 else "gk15"

    def integral(f: Callable[[Tensor], Tensor], rtol: float, atol: float = 0.0, splits=None) -> np.ndarray:
        def integrand(z: np.ndarray) -> np.ndarray:
            point = torch.as_tensor(z, dtype=problem.dtype, device=problem.device)
            density = torch.exp(problem.log_joint(point) - top)
            return (density.unsqueeze(-1) * f(point)).cpu().numpy()

        found = cubature(integrand, low, high, rule=rule, rtol=rtol, atol=atol, points=splits,
                         max_subdivisions=5_000)
        if found.status != "converged" or not np.isfinite(found.estimate).all():
            raise RuntimeError(f"quadrature of {problem.name!r} did not reach a relative error of {rtol:g}: "
                               "give a tighter box, a larger rtol, or a smooth log joint in double precision")
        return found.estimate

    def one(z: Tensor) -> Tensor:
        return torch.ones_like(z[..., :1])

    # An adaptive rule can step over a thin part and not know: do it twice, the box being cut up in two ways.
    volume = float(integral(one, rtol)[0])
    again = float(integral(one, rtol, splits=[low + 0.41 * (high - low)])[0])
    if not (volume > 0 and abs(again / volume - 1) < 1000 * rtol):
        raise RuntimeError(f"quadrature of {problem.name!r} steps over a part of the density, too thin for "
                           f"the box {box}: give a tighter box")
    if of is not None:
        return integral(of, rtol, atol=rtol * volume) / volume
    return Estimate(top + math.log(volume), "exact", source="quadrature")


def find_box(problem: Problem, num_points: int | None = None) -> tuple[tuple[float, float], ...]:
    """A box outside of which the density is below exp(-50) of its maximum.

    A grid of `num_points` an axis (401, 101 and 41 in one, two and three dimensions, if left out) grows until
    nothing is left on its faces, and shrinks around what it saw. Then the faces are searched more closely,
    and moved to the edge of the support where there is one. A narrow mode far from the origin may slip
    through: give the box where that may be so.

    Raises:
        ValueError: when the density still does not decay at a distance of 1e6.
    """
    num_points = num_points or (401, 101, 41)[problem.dim - 1]
    middle = problem.points(1)[0].cpu()
    box, top = torch.stack([middle - 4, middle + 4], -1), -math.inf
    for _ in range(60):
        grid, value = _on_grid(problem, box, num_points)
        top = max(top, float(value.max()))  # of all grids: a wide one steps over the peak
        live = [(i, side) for i, side in _sides(problem)
                if float(value.select(i, -side).max()) >= top - NEGLIGIBLE]
        if not live:
            break
        box = _widened(problem, box, live, 1.0)
    for _ in range(60):
        tighter = torch.empty_like(box)
        inside = (value >= value.max() - NEGLIGIBLE).nonzero()
        for i in range(problem.dim):
            tighter[i, 0] = grid[i][max(int(inside[:, i].min()) - 1, 0)]
            tighter[i, 1] = grid[i][min(int(inside[:, i].max()) + 1, num_points - 1)]
        shrunk = bool((tighter.diff() < 0.7 * box.diff()).any())
        box = tighter
        if not shrunk:
            break
        grid, value = _on_grid(problem, box, num_points)
        top = max(top, float(value.max()))
    closer = (1, 40 * num_points, round(2.5 * num_points))[problem.dim - 1]  # points an axis of a face
    while live := [(i, side) for i, side in _sides(problem)
                   if _on_face(problem, box, i, float(box[i, side]), closer) >= top - NEGLIGIBLE]:
        box = _widened(problem, box, live, 0.2)
    for i, side in _sides(problem):
        box[i, side] = _edge(problem, box, i, side, num_points)
    return tuple((float(low), float(high)) for low, high in box)


def _sides(problem: Problem) -> list[tuple[int, int]]:
    """The sides of a box: (axis, 0 for its low and 1 for its high end)."""
    return list(itertools.product(range(problem.dim), (0, 1)))


def _widened(problem: Problem, box: Tensor, sides: list[tuple[int, int]], fraction: float) -> Tensor:
    """The box with each of these sides moved out by a fraction of its width."""
    wider, width = box.clone(), box.diff()[:, 0]
    for i, side in sides:
        wider[i, side] += (2 * side - 1) * fraction * width[i]
    if wider.abs().max() > 1e6:
        raise ValueError(f"the density of {problem.name!r} does not decay: it may have no finite integral. "
                         "Give the box to integrate over")
    return wider


def _on_face(problem: Problem, box: Tensor, i: int, c: float, num_points: int) -> float:
    """The highest log joint on a grid over the part of the plane z_i = c in the box."""
    face = [(c, c) if j == i else (float(low), float(high)) for j, (low, high) in enumerate(box)]
    return float(_on_grid(problem, face, [1 if j == i else num_points for j in range(problem.dim)])[1].max())


def _edge(problem: Problem, box: Tensor, i: int, side: int, num_points: int) -> float:
    """Where a side of the box lies; if the support ends before it, at some z_i = c, that c, by bisection."""
    outside, inside = float(box[i, side]), float(box[i].mean())

    def empty(c: float) -> bool:
        return _on_face(problem, box, i, c, num_points) == -math.inf

    if not empty(outside) or empty(inside):
        return outside
    for _ in range(60):
        middle = 0.5 * (outside + inside)
        outside, inside = (middle, inside) if empty(middle) else (outside, middle)
    return inside


def _on_grid(problem: Problem, box, num_points: int | list[int]) -> tuple[list[Tensor], Tensor]:
    """The log joint on a grid over the box: the axes, and a value a point."""
    counts = [num_points] * problem.dim if isinstance(num_points, int) else num_points
    grid = [torch.linspace(float(low), float(high), n, dtype=problem.dtype)
            for (low, high), n in zip(box, counts)]
    z = torch.stack(torch.meshgrid(*grid, indexing="ij"), -1).to(problem.device)
    return grid, problem.log_joint(z).cpu()


def enumeration(log_joint: Callable[[Tensor], Tensor], num_states: int, num_sites: int, *,
                batch: int = 2**16) -> Estimate:
    """log sum_z exp(log_joint(z)) over all num_states^num_sites configurations of discrete z, in nats.

    Args:
        log_joint: maps integer configurations (..., num_sites) to (...).
        batch: configurations evaluated at once; memory stays bounded.

    Raises:
        ValueError: for fewer than one state or site, more than 2^34 configurations, an empty batch, or a log
            joint that returns another shape.
    """
    if num_states < 1 or num_sites < 1 or num_sites * math.log2(max(num_states, 2)) > 34:
        raise ValueError(f"cannot enumerate {num_states}^{num_sites} configurations: the sum must have "
                         "between 1 and 2^34 terms")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    places = num_states ** torch.arange(num_sites)
    total = torch.tensor(-torch.inf, dtype=torch.float64)
    for start in itertools.count(0, batch):
        if start >= num_states**num_sites:
            break
        codes = torch.arange(start, min(start + batch, num_states**num_sites))
        states = codes.unsqueeze(-1) // places % num_states
        value = log_joint(states)
        if value.shape != codes.shape:
            raise ValueError(f"the log joint must map (..., {num_sites}) to (...): for states of shape "
                             f"{tuple(states.shape)} expected {tuple(codes.shape)}, got {tuple(value.shape)}")
        total = torch.logaddexp(total, value.to("cpu", torch.float64).logsumexp(-1))
    return Estimate(float(total), "exact", source="enumeration")
