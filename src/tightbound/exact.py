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
        rtol: relative error that the adaptive rule is to reach.

    Returns:
        An `Estimate` of kind "exact" (or, with `of`, the posterior mean as an array).

    Raises:
        ValueError: for d > 3, or a density that does not decay (give a box).
        RuntimeError: when the rule does not reach its tolerance.

    Source: `scipy.integrate.cubature` (Gauss-Kronrod product rules, Genz & Malik 1980).
    """
    if problem.dim > 3:
        raise ValueError(f"quadrature serves up to three dimensions, {problem.name!r} has {problem.dim}: "
                         "its cost grows exponentially with the dimension")
    box = box or problem.box or find_box(problem)
    top = float(_on_grid(problem, box, 41)[1].max())

    def integrand(z: np.ndarray) -> np.ndarray:
        point = torch.as_tensor(z, dtype=problem.dtype, device=problem.device)
        density = torch.exp(problem.log_joint(point) - top).unsqueeze(-1)
        if of is not None:
            density = torch.cat([density, density * of(point)], -1)
        return density.cpu().numpy()

    low, high = np.array(box, dtype=float).T
    found = cubature(integrand, low, high, rule="gk21" if problem.dim == 1 else "gk15", rtol=rtol, atol=0.0,
                     max_subdivisions=20_000)
    if found.status != "converged" or not found.estimate[0] > 0:
        raise RuntimeError(f"quadrature of {problem.name!r} did not reach a relative error of {rtol:g}: "
                           "give a tighter box, or a larger rtol")
    if of is not None:
        return found.estimate[1:] / found.estimate[0]
    return Estimate(top + math.log(found.estimate[0]), "exact", source="quadrature")


def find_box(problem: Problem, num_points: int = 41) -> tuple[tuple[float, float], ...]:
    """A box outside of which the density is below exp(-50) of its maximum, found by growing and then shrinking a grid.

    Raises:
        ValueError: when the density still does not decay at a distance of 1e6.
    """
    middle = problem.points(1)[0].cpu()
    box = torch.stack([middle - 4, middle + 4], -1)
    for _ in range(60):
        grid, value = _on_grid(problem, box, num_points)
        live = value > value.max() - NEGLIGIBLE
        wider = box.clone()
        for i in range(problem.dim):
            width = box[i, 1] - box[i, 0]
            if bool(live.select(i, 0).any()):
                wider[i, 0] -= width
            if bool(live.select(i, -1).any()):
                wider[i, 1] += width
        if torch.equal(wider, box):
            break
        if wider.abs().max() > 1e6:
            raise ValueError(f"the density of {problem.name!r} does not decay: it may have no finite integral. "
                             "Give the box to integrate over")
        box = wider
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
        ValueError: for fewer than one state or site, or more than 2^34 configurations.
    """
    if num_states < 1 or num_sites < 1 or num_sites * math.log2(max(num_states, 2)) > 34:
        raise ValueError(f"cannot enumerate {num_states}^{num_sites} configurations: the sum must have between 1 and "
                         "2^34 terms")
    places = num_states ** torch.arange(num_sites)
    total = torch.tensor(-torch.inf, dtype=torch.float64)
    for start in itertools.count(0, batch):
        if start >= num_states**num_sites:
            break
        codes = torch.arange(start, min(start + batch, num_states**num_sites))
        states = codes.unsqueeze(-1) // places % num_states
        total = torch.logaddexp(total, log_joint(states).to(torch.float64).logsumexp(-1))
    return Estimate(float(total), "exact", source="enumeration")
