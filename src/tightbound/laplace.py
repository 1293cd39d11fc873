"""Laplace's method: an integral becomes a height and a curvature.

Write the energy u(z) = -log p(x, z) and expand it to second order around a point mu, with gradient J and Hessian H::

    u(z) ≈ u(mu) + J'(z - mu) + 1/2 (z - mu)' H (z - mu)

Then exp(-u) is close to a Gaussian, and its integral is one of the few that can be done::

    log p(x) ≈ -u(mu) + 1/2 J' H^-1 J + d/2 log 2 pi - 1/2 log det H
    q(z)     = N(z; mu - H^-1 J, H^-1)

At a mode J = 0, and the second term is gone. H must be positive definite, or there is no Gaussian.

Source: Laplace (1774); Tierney & Kadane (1986); MacKay (2003), chapter 27.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from tightbound.approximation import Approximation
from tightbound.distributions import Gaussian
from tightbound.estimate import Estimate
from tightbound.problem import Problem

TOLERANCE = 1e-8  # nats that a further Newton step may still promise at what we call a mode


class LaplaceError(RuntimeError):
    """Laplace's method has no answer for this problem; the message says why, and what may help."""


class NotPositiveDefinite(LaplaceError):
    """The energy does not curve upwards in every direction, so that no Gaussian fits it there."""


class NotConverged(LaplaceError):
    """The search ended at a point that is no mode."""


class ModeAtInfinity(LaplaceError):
    """The log joint keeps rising as z runs away."""


@dataclass(frozen=True)
class Expansion:
    """The second-order expansion of u(z) = -log p(x, z) around `at`.

    Attributes:
        at: mu, (d,).
        energy: u(mu) in nats, ().
        gradient: J, (d,).
        hessian: H, (d, d).
    """

    at: Tensor
    energy: Tensor
    gradient: Tensor
    hessian: Tensor

    def newton_step(self) -> Tensor:
        """-H^-1 J, from mu to the top of the parabola: (d,)."""
        return -torch.cholesky_solve(self.gradient.unsqueeze(-1), torch.linalg.cholesky(self.hessian)).squeeze(-1)

    def decrement(self) -> float:
        """1/2 J' H^-1 J: the nats that a Newton step promises; 0 at a mode."""
        return float(-0.5 * self.gradient @ self.newton_step())

    def log_evidence(self) -> float:
        """-u(mu) + 1/2 J' H^-1 J + d/2 log 2 pi - 1/2 log det H, in nats."""
        half_log_det = torch.linalg.cholesky(self.hessian).diagonal().log().sum()
        occam = 0.5 * len(self.at) * math.log(2 * math.pi) - float(half_log_det)
        return -float(self.energy) + self.decrement() + occam

    def gaussian(self) -> Gaussian:
        """q(z) = N(z; mu - H^-1 J, H^-1)."""
        return Gaussian(self.at + self.newton_step(), precision_matrix=self.hessian)

    def smallest_curvature(self) -> tuple[float, Tensor]:
        """The smallest curvature of u once every axis is stretched to a curvature of size one, and its direction (d,).

        It is an eigenvalue of D^-1/2 H D^-1/2 with ``D = |diag H|``, so it does not depend on the units of z.
        """
        stretch = self.hessian.diagonal().abs().clamp(min=torch.finfo(self.hessian.dtype).tiny).rsqrt()
        values, vectors = torch.linalg.eigh(stretch.unsqueeze(-1) * self.hessian * stretch)
        direction = stretch * vectors[:, 0]
        return float(values[0]), direction / direction.norm()


def expand(problem: Problem, at: Tensor) -> Expansion:
    """The `Expansion` of the energy of `problem` around `at`, (d,).

    Raises:
        ValueError: when `at` has another shape, or the log joint or its derivatives are not finite there.
    """
    at = torch.as_tensor(at, dtype=problem.dtype, device=problem.device)
    if at.shape != (problem.dim,):
        raise ValueError(f"expected one point of shape ({problem.dim},), got {tuple(at.shape)}")
    value, gradient = problem.value_and_gradient(at)
    hessian = problem.hessian(at)
    if not (torch.isfinite(value) and torch.isfinite(gradient).all() and torch.isfinite(hessian).all()):
        raise ValueError(f"{problem.name!r} has no finite log joint, gradient and Hessian at {at.tolist()}: "
                         "expand around a point inside its support")
    return Expansion(at, -value, -gradient, -0.5 * (hessian + hessian.mT))


def approximate(problem: Problem, *, at: Tensor | None = None, starts: Tensor | None = None, num_starts: int = 8,
                seed: int | torch.Generator = 0, max_iterations: int = 200) -> Approximation:
    """Laplace's approximation of the posterior and of the log evidence.

    Args:
        problem: the question.
        at: expand around this point (d,) as it is, mode or not; by default the highest mode found is used.
        starts: points (m, d) from which to climb; by default `num_starts` random ones and the origin.
        seed: of the random starts.
        max_iterations: Newton iterations a start.

    Returns:
        An `Approximation` with Gaussian q, a log evidence of kind "approximation", and in `diagnostics` the
        `expansion`, the distinct `modes` (k, d), highest first, and the `log_evidences` of the modes, each by itself.

    Raises:
        NotPositiveDefinite, NotConverged, ModeAtInfinity: all are a `LaplaceError`; the message says what may help.
        ValueError: for starting points of another shape, or where the log joint is not finite.
    """
    began, spent = time.perf_counter(), problem.evaluations
    if at is not None:
        expansions, history = [expand(problem, at)], torch.empty(0)
        _require_positive_definite(problem, expansions[0])
    else:
        expansions, history = _climb(problem, _starts(problem, starts, num_starts, seed), max_iterations)
    best = expansions[0]
    return Approximation(
        method="Laplace", q=best.gaussian(), log_evidence=Estimate(best.log_evidence(), "approximation"),
        history=history, evaluations=problem.evaluations - spent, seconds=time.perf_counter() - began,
        diagnostics={"expansion": best, "modes": torch.stack([e.at for e in expansions]),
                     "log_evidences": torch.tensor([e.log_evidence() for e in expansions], dtype=problem.dtype)})


def _starts(problem: Problem, starts: Tensor | None, num_starts: int, seed) -> Tensor:
    if starts is None:
        return problem.points(max(1, num_starts), seed=seed)
    starts = torch.as_tensor(starts, dtype=problem.dtype, device=problem.device)
    starts = starts.unsqueeze(0) if starts.ndim == 1 else starts
    if starts.ndim != 2 or len(starts) == 0 or starts.shape[1] != problem.dim:
        raise ValueError(f"starts must be points of shape (m, {problem.dim}), got {tuple(starts.shape)}")
    if not torch.isfinite(problem.log_joint(starts)).all():
        raise ValueError(f"the log joint of {problem.name!r} is not finite at every start: move the starts into its support")
    return starts


def _climb(problem: Problem, starts: Tensor, max_iterations: int) -> tuple[list[Expansion], Tensor]:
    """The distinct modes reached from the starts, highest first, and the history (log joint in nats) of the best climb."""
    climbs = sorted((_maximise(problem, start, max_iterations) for start in starts),
                    key=lambda climb: -climb[1][-1])
    found: list[Expansion] = []
    for i, (mode, _) in enumerate(climbs):
        try:
            expansion = _as_mode(problem, mode)
        except LaplaceError:
            if i == 0:  # where the highest point is no mode, a lower one would mislead
                raise
            continue
        if all(_distance(expansion.at, other) > 1e-2 for other in found):
            found.append(expansion)
    return found, torch.tensor(climbs[0][1])


def _maximise(problem: Problem, start: Tensor, max_iterations: int) -> tuple[Tensor, list[float]]:
    """The end of a trust-region Newton climb of the log joint, and the heights on the way."""
    def tensor(z: np.ndarray) -> Tensor:
        return torch.as_tensor(z, dtype=problem.dtype, device=problem.device)

    def energy(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(tensor(z))
        return -float(value), -gradient.nan_to_num(0.0).cpu().numpy()

    def hessian(z: np.ndarray) -> np.ndarray:
        return -problem.hessian(tensor(z)).nan_to_num(0.0).cpu().numpy()

    history = [float(problem.log_joint(start))]
    result = minimize(energy, start.cpu().numpy(), jac=True, hess=hessian, method="trust-exact",
                      callback=lambda intermediate_result: history.append(-float(intermediate_result.fun)),
                      options={"gtol": 1e-9, "maxiter": max_iterations})
    return tensor(result.x), [*history, -float(result.fun)]


def _as_mode(problem: Problem, z: Tensor) -> Expansion:
    """The expansion at z, or the reason why z is no mode."""
    outward = z[None] * torch.tensor([[1.0], [2.0], [10.0]], dtype=z.dtype, device=z.device)
    if z.norm() > 10 and bool((problem.log_joint(outward).diff() >= 0).all()):
        raise ModeAtInfinity(f"the log joint of {problem.name!r} still rises at |z| = {float(z.norm()):.3g}: it has no "
                             "mode. A proper prior on every latent, or other coordinates, would give it one")
    expansion = expand(problem, z)
    _require_positive_definite(problem, expansion)
    if not expansion.decrement() < TOLERANCE:
        raise NotConverged(f"the search on {problem.name!r} stopped where a Newton step still promises "
                           f"{expansion.decrement():.3g} nats: give more iterations (max_iterations), other starts, or, if "
                           "it stopped at the edge of the support, other coordinates")
    return expansion


def _require_positive_definite(problem: Problem, expansion: Expansion) -> None:
    curvature, direction = expansion.smallest_curvature()
    if curvature <= 1e-10:
        along = ", ".join(f"{name} {float(part):+.2f}" for name, part in zip(problem.latents, direction)
                          if abs(part) > 0.1)
        raise NotPositiveDefinite(
            f"at z = {[round(float(c), 4) for c in expansion.at]} the Hessian of {problem.name!r} is not positive definite: "
            f"along ({along}) it does not curve upwards, so no Gaussian fits. Expand elsewhere, or in other "
            "coordinates; along a ridge no single point will do")


def _distance(z: Tensor, other: Expansion) -> float:
    """Mahalanobis distance of z from another mode, in standard deviations of its Gaussian."""
    offset = z - other.at
    return math.sqrt(max(float(offset @ other.hessian @ offset), 0.0))


# Many classes, and how far to trust what a classifier says --------------------------------------------------

class SoftmaxRegression:
    """Logistic regression with K classes, each with its own weights, all under one Gaussian prior::

        p(y = k | x, w) = exp(w_k'x) / sum_j exp(w_j'x),      w_k ~ N(0, s^2 I)

        J = sum_n (p_n - e_{y_n}) ⊗ x_n + w / s^2
        H = sum_n (diag p_n - p_n p_n') ⊗ x_n x_n' + I / s^2

    The log joint is concave, so it has one mode. H has a closed form, so hundreds of weights are no hardship.

    Args:
        X: (n, d), a row for each datum.
        y: classes 0 to K - 1, (n,).
        num_classes: K.
        prior_scale: s.

    Raises:
        ValueError: for data that are not finite or of other shapes, classes out of range, or a scale not above zero.
    """

    def __init__(self, X: Tensor, y: Tensor, num_classes: int, prior_scale: float = 1.0):
        self.X, y = torch.as_tensor(X, dtype=torch.float64), torch.as_tensor(y)
        if self.X.ndim != 2 or 0 in self.X.shape or not bool(torch.isfinite(self.X).all()):
            raise ValueError(f"X must be a finite matrix (n, d), a row for each datum, got shape {tuple(self.X.shape)}")
        if y.shape != self.X.shape[:1] or y.is_floating_point() or not 0 <= int(y.min()) <= int(y.max()) < num_classes:
            raise ValueError(f"y must hold a class from 0 to {num_classes - 1} for each of the {len(self.X)} rows of X")
        if not (math.isfinite(prior_scale) and prior_scale > 0):
            raise ValueError(f"prior_scale must be a finite number above zero, got {prior_scale!r}")
        self.targets = torch.nn.functional.one_hot(y.long(), num_classes).double()
        self.prior_scale, self.dim = float(prior_scale), num_classes * self.X.shape[1]

    def log_predict(self, w: Tensor, X: Tensor) -> Tensor:
        """log p(y | x, w): weights (..., K d), inputs (m, d) -> (..., m, K), in nats."""
        weights = w.unflatten(-1, (self.targets.shape[1], -1))
        return torch.log_softmax(X @ weights.mT, -1)

    def log_joint(self, w: Tensor) -> Tensor:
        """log p(y, w | X): (..., K d) -> (...), in nats."""
        log_prior = -0.5 * (w / self.prior_scale).square() - math.log(self.prior_scale * math.sqrt(2 * math.pi))
        return (self.targets * self.log_predict(w, self.X)).sum((-2, -1)) + log_prior.sum(-1)

    def gradient(self, w: Tensor) -> Tensor:
        """J, the gradient of the energy -log p(y, w | X): (K d,) -> (K d,)."""
        p = self.log_predict(w, self.X).exp()
        return ((p - self.targets).T @ self.X).flatten() + w / self.prior_scale**2

    def hessian(self, w: Tensor) -> Tensor:
        """H, the Hessian of the energy: (K d,) -> (K d, K d)."""
        p = self.log_predict(w, self.X).exp()
        classes = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)  # (n, K, K)
        inputs = self.X.unsqueeze(-1) * self.X.unsqueeze(-2)  # (n, d, d)
        products = classes.flatten(1).T @ inputs.flatten(1)
        blocks = products.reshape(*classes.shape[1:], *inputs.shape[1:]).transpose(1, 2)
        return blocks.reshape(self.dim, self.dim) + torch.eye(self.dim, dtype=w.dtype, device=w.device) / self.prior_scale**2

    def expansion(self) -> Expansion:
        """The `Expansion` at the mode, which L-BFGS climbs to."""
        def energy(w: np.ndarray) -> tuple[float, np.ndarray]:
            w = torch.from_numpy(w).to(self.X.device)
            return -float(self.log_joint(w)), self.gradient(w).cpu().numpy()

        found = minimize(energy, np.zeros(self.dim), jac=True, method="L-BFGS-B",
                         options={"maxiter": 5_000, "maxfun": 10_000, "gtol": 1e-6, "ftol": 0.0})
        at = torch.from_numpy(found.x).to(self.X.device)
        return Expansion(at, -self.log_joint(at), self.gradient(at), self.hessian(at))


@dataclass(frozen=True)
class Reliability:
    """What a classifier says, beside how often it is right, in bins of equal width of what it says.

    Attributes:
        confidence: the mean probability that it gave to its guess, in each bin that holds a prediction (bins,).
        accuracy: the share of right guesses there (bins,).
        count: the number of predictions there (bins,).
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor

    @property
    def error(self) -> float:
        """The expected calibration error::

            sum_b count_b |accuracy_b - confidence_b| / sum_b count_b
        """
        return float(self.count / self.count.sum() @ (self.accuracy - self.confidence).abs())


def reliability(p: Tensor, y: Tensor, num_bins: int = 10) -> Reliability:
    """The `Reliability` of predicted probabilities p (n, K), where the classes y (n,) came true.

    Raises:
        ValueError: for rows of p that are no probabilities, or another number of classes y.

    Source: Guo, Pleiss, Sun & Weinberger (2017).
    """
    p, y = torch.as_tensor(p, dtype=torch.float64), torch.as_tensor(y)
    if p.ndim != 2 or not bool(((p >= 0).all() & ((p.sum(-1) - 1).abs() < 1e-4).all())):
        raise ValueError("p must hold probabilities (n, K), each row of which sums to one")
    if y.shape != p.shape[:1]:
        raise ValueError(f"y must hold one class for each of the {len(p)} rows of p, got shape {tuple(y.shape)}")
    confidence, guess = p.max(-1)
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    sums = torch.zeros(3, num_bins, dtype=torch.float64)
    sums.index_add_(1, bins, torch.stack([confidence, (guess == y).double(), torch.ones_like(confidence)]))
    said, right, count = sums[:, sums[2] > 0]
    return Reliability(said / count, right / count, count)
