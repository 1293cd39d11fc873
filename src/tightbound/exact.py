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
        box: ((low, high), ...) where to integrate; the problem's own box, or one found by `find_box`, if left out.
        of: a function f: (..., d) -> (..., k); with it the posterior mean E[f(z) | x] is returned, shape (k,).
        rtol: relative error that the adaptive rule is to reach; a mean below one is known to as much absolutely.

    Returns:
        An `Estimate` of kind "exact" (or, with `of`, the posterior mean as an array).

    Raises:
        ValueError: for d > 3, a box of another length, or a density that does not decay (give a box).
        RuntimeError: when the rule does not reach its tolerance.

    Source: `scipy.integrate.cubature` (Gauss-Kronrod product rules, Genz & Malik 1980).
    """
    if problem.dim > 3:
        raise ValueError(f"quadrature serves up to three dimensions, {problem.name!r} has {problem.dim}: "
                         "its cost grows exponentially with the dimension")
    box = box or problem.box or find_box(problem)
    if len(box) != problem.dim or any(not -math.inf < low < high < math.inf for low, high in box):
        raise ValueError(f"the box for {problem.name!r} must hold {problem.dim} finite pairs (low, high), low < high, "
                         f"got {box}")
    low, high = np.array(box, dtype=float).T
    top = float(_on_grid(problem, box, 41)[1].max())
    if top == -math.inf:
        raise RuntimeError(f"{problem.name!r} has no density anywhere on a grid in the box {box}: give a tighter box")

    def integral(f: Callable[[Tensor], Tensor], atol: float) -> np.ndarray:
        def integrand(z: np.ndarray) -> np.ndarray:
            point = torch.as_tensor(z, dtype=problem.dtype, device=problem.device)
            density = torch.exp(problem.log_joint(point) - top)
            return (density.unsqueeze(-1) * f(point)).cpu().numpy()

        found = cubature(integrand, low, high, rule="gk21" if problem.dim == 1 else "gk15", rtol=rtol, atol=atol,
                         max_subdivisions=20_000)
        if found.status != "converged" or not np.isfinite(found.estimate).all():
            raise RuntimeError(f"quadrature of {problem.name!r} did not reach a relative error of {rtol:g}: "
                               "give a tighter box, or a larger rtol")
        return found.estimate

    volume = float(integral(lambda z: torch.ones_like(z[..., :1]), 0.0)[0])
    if not volume > 0:
        raise RuntimeError(f"quadrature of {problem.name!r} found no density in the box {box}: give a tighter box")
    if of is not None:  # an absolute tolerance, for a mean may be zero
        return integral(of, rtol * volume) / volume
    return Estimate(top + math.log(volume), "exact", source="quadrature")


def find_box(problem: Problem, num_points: int | None = None) -> tuple[tuple[float, float], ...]:
    """A box outside of which the density is below exp(-50) of its maximum, found by growing and then shrinking a grid.

    The grid has `num_points` an axis (401, 101 and 41 in one, two and three dimensions, if left out). A density may slip
    between its points: a far, narrow mode, or the far end of a thin ridge. Give the box where that may be so.

    Raises:
        ValueError: when the density still does not decay at a distance of 1e6.
    """
    num_points = num_points or (401, 101, 41)[problem.dim - 1]
    middle = problem.points(1)[0].cpu()
    box, top = torch.stack([middle - 4, middle + 4], -1), -math.inf
    for _ in range(60):
        grid, value = _on_grid(problem, box, num_points)
        top = max(top, float(value.max()))  # of all grids: a wide one steps over the peak
        wider = box.clone()
        for i in range(problem.dim):
            width = box[i, 1] - box[i, 0]
            if float(value.select(i, 0).max()) > top - NEGLIGIBLE:
                wider[i, 0] -= width
            if float(value.select(i, -1).max()) > top - NEGLIGIBLE:
                wider[i, 1] += width
        if torch.equal(wider, box):
            break
        if wider.abs().max() > 1e6:
            raise ValueError(f"the density of {problem.name!r} does not decay: it may have no finite integral. "
                             "Give the box to integrate over")
        box = wider
    live = value > value.max() - NEGLIGIBLE
    for _ in range(60):
        tighter = torch.empty_like(box)
        for i in range(problem.dim):
            others = tuple(j for j in range(problem.dim) if j != i)
            inside = (live.any(dim=others) if others else live).nonzero()[:, 0]
            tighter[i, 0] = grid[i][max(int(inside[0]) - 1, 0)]
            tighter[i, 1] = grid[i][min(int(inside[-1]) + 1, num_points - 1)]
        shrunk = bool(((tighter[:, 1] - tighter[:, 0]) < 0.7 * (box[:, 1] - box[:, 0])).any())
        box = tighter
        if not shrunk:
            break
        grid, value = _on_grid(problem, box, num_points)
        live = value > value.max() - NEGLIGIBLE
    return tuple((float(low), float(high)) for low, high in box)


def _on_grid(problem: Problem, box, num_points: int) -> tuple[list[Tensor], Tensor]:
    grid = [torch.linspace(float(low), float(high), num_points, dtype=problem.dtype) for low, high in box]
    z = torch.stack(torch.meshgrid(*grid, indexing="ij"), -1).to(problem.device)
    return grid, problem.log_joint(z).cpu()


def enumeration(log_joint: Callable[[Tensor], Tensor], num_states: int, num_sites: int, *,
                batch: int = 2**16) -> Estimate:
    """log sum_z exp(log_joint(z)) over all num_states^num_sites configurations of discrete z, in nats.

    Args:
        log_joint: maps integer configurations (..., num_sites) to (...).
        batch: configurations evaluated at once; memory stays bounded.

    Raises:
        ValueError: for fewer than one state or site, more than 2^34 configurations, an empty batch, or a log joint that
            returns another shape.
    """
    if num_states < 1 or num_sites < 1 or num_sites * math.log2(max(num_states, 2)) > 34:
        raise ValueError(f"cannot enumerate {num_states}^{num_sites} configurations: the sum must have between 1 and "
                         "2^34 terms")
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
