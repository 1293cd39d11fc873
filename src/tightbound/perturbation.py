"""Perturbation theory: log p(x) as a series in what q leaves out.

With the log weight W(z) = log p(x, z) - log q(z) the evidence is an expectation, p(x) = E_q[exp W]. If W
hardly varies under q, a few terms of an expansion of it suffice::

    moments:    p(x)     ≈ exp(V0) sum_{k=0..K} E_q[(W - V0)^k] / k!        around a reference energy V0
    cumulants:  log p(x) ≈ sum_{n=1..K} kappa_n / n! = E_q[W] + 1/2 Var_q[W] + ...

For odd K the first is a lower bound, whatever V0; K = 1 is the ELBO. It converges if ``E_q[exp |W|]`` is
finite; the second, if ``E_q[exp(tW)]`` is analytic and has no zero in a disc of complex t around 0 that reaches
beyond 1. Both conditions are sufficient. Where they fail the series are often asymptotic.

Source: Bamler, Zhang, Opper & Mandt (2017), Perturbative black box variational inference; Bender & Orszag
(1999).
"""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from tightbound import laplace
from tightbound.approximation import Approximation
from tightbound.arguments import count, one_of, real
from tightbound.device import generator
from tightbound.distributions import Gaussian, draw
from tightbound.estimate import Estimate
from tightbound.problem import Problem

POINTS = {1: 128, 2: 64, 3: 20}  # of Gauss and Hermite's rule, an axis, by dimension
TUNING = {1: 64, 2: 32, 3: 12}   # the same, while q is being tuned
TOLERANCE = 0.01                 # nats by which two such rules may differ
BATCH = 2**14                    # points at which a log joint is evaluated at once


class PerturbationError(RuntimeError):
    """The expansion has no answer for this problem and this q; the message says why, and what may help."""


# ---- the expansion, from log weights -----------------------------------------------------------------------

def moments(log_weights: Tensor, order: int, about: Tensor | float = 0.0,
            probabilities: Tensor | None = None) -> Tensor:
    """The moments of W about a point, for k = 1, ..., K::

        E_q[(W - about)^k] = sum_s p_s (W_s - about)^k

    Args:
        log_weights: W_s in nats, (..., S).
        order: K.
        about: in nats, (...) or a number.
        probabilities: p_s, (S,), of a quadrature rule for q; 1/S each, for samples of q, if left out.

    Returns:
        (..., K), in powers of nats.
    """
    v = log_weights - torch.as_tensor(about, dtype=log_weights.dtype, device=log_weights.device).unsqueeze(-1)
    powers = torch.stack([v**k for k in range(1, count("order", order, least=1) + 1)], -2)  # (..., K, S)
    return powers.mean(-1) if probabilities is None else powers @ probabilities


def cumulants(moments: Tensor) -> Tensor:
    """Cumulants from the moments m_1, ..., m_K: (..., K) -> (..., K)::

        kappa_n = m_n - sum_{k=1..n-1} binom(n-1, k-1) kappa_k m_{n-k}

    They are the derivatives at 0 of log E[exp(t W)]: kappa_1 is the mean,
    kappa_2 the variance.
    """
    found: list[Tensor] = []
    for n in range(1, moments.shape[-1] + 1):
        known = sum(math.comb(n - 1, k - 1) * found[k - 1]
                    * moments[..., n - k - 1] for k in range(1, n))
        found.append(moments[..., n - 1] - known)
    return torch.stack(found, -1)


def truncated_exp(v: Tensor, order: int) -> Tensor:
    """sum_{k=0..K} v^k / k!, elementwise.

    For odd K it lies below exp(v) for every v, and touches it at 0.
    """
    order, total = count("order", order, least=0), torch.ones_like(v)
    for k in range(order, 0, -1):  # Horner's rule
        total = 1 + v / k * total
    return total


def best_reference(log_weights: Tensor, order: int, probabilities: Tensor | None = None) -> Tensor:
    """The V0 of the highest bound of odd order K: (..., S) -> (...), in nats. There the last term vanishes::

        E_q[(W - V0)^K] = 0

    The left side falls as V0 grows, so there is one root only; it is found by bisection. For K = 1 it is
    E_q[W]. For an even order there is none: the truncated series grows with V0 for ever.

    Raises:
        ValueError: for an even order.
    """
    if count("order", order, least=1) % 2 == 0:
        raise ValueError(f"there is no best reference energy of even order {order}: the series grows with V0 "
                         "without limit. "
                         "Choose an odd order, or a reference of your own")
    W = log_weights.detach()
    if order == 1:
        return moments(W, 1, probabilities=probabilities)[..., 0]
    low, high = W.amin(-1), W.amax(-1)
    while bool((high - low > 1e-13 * (1 + low.abs() + high.abs())).any()):
        middle = 0.5 * (low + high)
        v = (W - middle.unsqueeze(-1)) / (W.amax(-1) - W.amin(-1)).unsqueeze(-1)  # no power overflows
        last = (v**order).mean(-1) if probabilities is None else v**order @ probabilities
        low, high = torch.where(last > 0, middle, low), torch.where(last > 0, high, middle)
    return 0.5 * (low + high)


def bound(log_weights: Tensor, order: int, reference: Tensor | float | None = None,
          probabilities: Tensor | None = None) -> Tensor:
    """The truncated series of order K, a lower bound of log p(x) if K is odd: (..., S) -> (...), in nats::

        V0 + log sum_{k=0..K} E_q[(W - V0)^k] / k!  <=  log p(x)        for odd K and every V0

    Args:
        log_weights: W_s in nats, (..., S).
        order: K; with an even K the result is no bound.
        reference: V0 in nats, (...) or a number; the best one if left out, E_q[W] for an even order.
        probabilities: p_s, (S,), as for `moments`.

    Returns:
        (...); -inf where the sum is not positive, and so says nothing.

    Source: Bamler, Zhang, Opper & Mandt (2017).
    """
    W, p = log_weights, probabilities
    if reference is None:
        reference = best_reference(W, order if order % 2 else 1, p)
    V0 = torch.as_tensor(reference, dtype=W.dtype, device=W.device)
    series = truncated_exp(W - V0.unsqueeze(-1), order)
    total = series.mean(-1) if p is None else series @ p
    return V0 + torch.where(total > 0, total, 0.0).log()


# ---- the method --------------------------------------------------------------------------------------------

def approximate(problem: Problem, q: Distribution | None = None, *, order: int = 3,
                expansion: str = "moments", reference: float | None = None, tuned: bool = False,
                num_points: int | None = None, num_samples: int | None = None,
                seed: int | torch.Generator = 0) -> Approximation:
    """The log evidence of `problem`, expanded around q to a finite order.

    Args:
        problem: the question.
        q: a distribution over z; Laplace's Gaussian if left out.
        order: K.
        expansion: "moments" (a lower bound if K is odd) or "cumulants" (no bound beyond K = 1).
        reference: V0 in nats, for "moments"; by default the best one (of an even order, which has none,
            E_q[W]).
        tuned: `tune` q first, so that its bound of this odd order is the highest.
        num_points: points an axis of Gauss and Hermite's rule, which serves a Gaussian q in up to three
            dimensions.
        num_samples: draw so many samples of q in place of that rule. It is what happens, with 20,000, where
            it does not serve.
        seed: of the samples.

    By quadrature the expectations have no randomness and no standard error. From samples, the standard error
    is that of the delta method, and a bound is one in expectation, even though V0 is made for the samples
    that it is used on: whatever V0, the truncated series is at most (1/S) sum_s exp(W_s), the logarithm of
    which is on average at most log p(x).

    Returns:
        An `Approximation` with this q. Its log evidence is a "lower bound" for moments of odd order (and
        cumulants of order one), else an "approximation". `history` holds the results of orders 1 to K.
        `diagnostics` holds the `reference`; `terms`, the (K,) terms of the series, E_q[(W - V0)^k] / k! or
        kappa_n / n!; their `term_errors`, their standard errors (samples only); and the `quadrature_error` in
        nats (quadrature only), the difference to a rule of two thirds as many points an axis.

    Raises:
        ValueError: for a bad order, an unknown expansion, a q of another dimension, too few points or
            samples.
        PerturbationError: where W is -inf, or too rough for the rule, or the truncated series is not
            positive.

    Source: Bamler, Zhang, Opper & Mandt (2017).
    """
    began, spent = time.perf_counter(), problem.evaluations
    order = count("order", order, least=1)
    one_of("expansion", expansion, ("moments", "cumulants"))
    if reference is not None:
        reference = real("reference", reference)
        if expansion == "cumulants":
            raise ValueError("an expansion in cumulants has no reference energy: leave the reference out")
    q = laplace.approximate(problem).q if q is None else _fitting(q, problem)
    q = tune(problem, q, order=order) if tuned else q
    by_rule = num_samples is None and problem.dim in POINTS and isinstance(q, MultivariateNormal)
    if num_points is not None and not by_rule:
        raise ValueError(f"num_points is for quadrature, which needs a Gaussian q, at most three latents and "
                         "no num_samples; "
                         f"{problem.name!r} has {problem.dim}, and q is a {type(q).__name__}: leave "
                         "num_points out")
    series = _Series(order, expansion, reference)
    if by_rule:
        num_points = POINTS[problem.dim] if num_points is None else count("num_points", num_points, least=3)
        W, probabilities = by_quadrature(problem, q, num_points)
        coarse = series.summed(*by_quadrature(problem, q, 2 * num_points // 3))
    else:
        num_samples = 20_000 if num_samples is None else count("num_samples", num_samples, least=2)
        W, probabilities = _by_samples(problem, q, num_samples, seed), None
    value, terms, V0 = series.summed(W, probabilities)
    if not math.isfinite(value):
        raise PerturbationError(
            f"the series of order {order} on {problem.name!r} sums to a number that is not positive, and its "
            "logarithm says "
            "nothing: try a lower reference energy, another q or a lower order")
    diagnostics, error = {"reference": V0, "terms": terms}, None
    if by_rule:
        diagnostics["quadrature_error"] = _quadrature_error(problem, value, coarse[0], num_points)
    else:
        error, diagnostics["term_errors"] = series.errors(W, V0)
    bounded = order == 1 or expansion == "moments" and order % 2
    return Approximation(
        method=f"perturbation ({expansion}, order {order})", q=q, history=series.history(W, probabilities),
        log_evidence=Estimate(value, "lower bound" if bounded else "approximation", error),
        evaluations=problem.evaluations - spent, seconds=time.perf_counter() - began, diagnostics=diagnostics)


@dataclasses.dataclass(frozen=True)
class _Series:
    """Which series is asked for: what it sums to, for log weights (S,) and their probabilities."""

    order: int
    expansion: str
    reference: float | None

    def summed(self, W: Tensor, probabilities: Tensor | None) -> tuple[float, Tensor, float]:
        """The value in nats (-inf where the sum is not positive), the terms (K,), and V0."""
        V0 = self.reference
        if V0 is None:
            odd = self.expansion == "moments" and self.order % 2
            V0 = float(best_reference(W, self.order if odd else 1, probabilities))
        value, terms = self._from_moments(moments(W, self.order, V0, probabilities), V0)
        return float(value.nan_to_num(-torch.inf)), terms, V0

    def _from_moments(self, m: Tensor, V0: float) -> tuple[Tensor, Tensor]:
        """The value in nats and the terms (K,), from the moments m (K,) about V0."""
        factorials = m.new_tensor([float(math.factorial(k)) for k in range(1, len(m) + 1)])
        if self.expansion == "moments":
            terms = m / factorials
            return V0 + torch.log1p(terms.sum()), terms
        first = torch.cat([torch.full_like(m[:1], V0), torch.zeros_like(m[1:])])  # the others do not shift
        terms = (cumulants(m) + first) / factorials
        return terms.sum(), terms

    def errors(self, W: Tensor, V0: float) -> tuple[float, Tensor]:
        """Standard errors of the value and of the terms, by the delta method.

        Both are smooth functions of averages, so to first order they err as an average does, of slopes times
        powers. At the best V0 the value does not change with V0, so that V0 may be held.
        """
        powers = torch.stack([(W - V0) ** k for k in range(1, self.order + 1)])  # (K, S)

        def value_and_terms(m: Tensor) -> Tensor:
            return torch.cat([x.reshape(-1) for x in self._from_moments(m, V0)])

        slopes = torch.func.jacrev(value_and_terms)(powers.mean(-1))
        found = (slopes @ powers).std(-1) / math.sqrt(len(W))
        return float(found[0]), found[1:]

    def history(self, W: Tensor, probabilities: Tensor | None) -> Tensor:
        """The values of orders 1 to K."""
        return torch.tensor([dataclasses.replace(self, order=n).summed(W, probabilities)[0]
                             for n in range(1, self.order + 1)], dtype=W.dtype)


def _quadrature_error(problem: Problem, value: float, coarse: float, num_points: int) -> float:
    error = abs(value - coarse)
    if not error < TOLERANCE:
        raise PerturbationError(f"the moments of {problem.name!r} under q are too rough for quadrature: "
                                f"{num_points} points an axis "
                                f"and two thirds of them differ by {error:.3g} nats. Give more (num_points), "
                                "or num_samples")
    return error


def by_quadrature(problem: Problem, q: MultivariateNormal, num_points: int) -> tuple[Tensor, Tensor]:
    """W = log p(x, z) - log q(z) in nats at the nodes of a quadrature rule for q, and their probabilities::

        E_q[f(W)] ≈ sum_s p_s f(W_s)        by Gauss and Hermite's product rule, S = num_points^d

    Returns:
        W and p, (S,) each; `moments`, `best_reference` and `bound` take them.

    Raises:
        PerturbationError: where W is not finite.
    """
    eps, probabilities = _standard_nodes(q, num_points)
    with torch.no_grad():
        return _log_weights(problem, *_moved(eps, q.loc, q.scale_tril)), probabilities


def _standard_nodes(q: MultivariateNormal, num_points: int) -> tuple[Tensor, Tensor]:
    """The rule for a standard normal density of the dimension of q: nodes (S, d), probabilities (S,)."""
    nodes, weights = (torch.tensor(x).to(q.loc) for x in np.polynomial.hermite_e.hermegauss(num_points))
    dim = len(q.loc)
    grid = torch.cartesian_prod(*[nodes] * dim).reshape(-1, dim)
    return grid, torch.cartesian_prod(*[weights / weights.sum()] * dim).reshape(-1, dim).prod(-1)


def _moved(eps: Tensor, mean: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    """z = mean + L eps and log q(z), for standard normal eps: (S, d) -> (S, d), (S,)."""
    log_det = L.diagonal().log().sum()
    return mean + eps @ L.T, -0.5 * eps.square().sum(-1) - log_det - 0.5 * len(mean) * math.log(2 * math.pi)


def _by_samples(problem: Problem, q: Distribution, num_samples: int, seed) -> Tensor:
    """W at `num_samples` draws of q, a batch at a time: (S,)."""
    stream, found = generator(seed, problem.device), []
    with torch.no_grad():
        for start in range(0, num_samples, BATCH):
            z, log_q = draw(q, (min(BATCH, num_samples - start),), generator=stream)
            found.append(_log_weights(problem, z, log_q))
    return torch.cat(found)


def _log_weights(problem: Problem, z: Tensor, log_q: Tensor) -> Tensor:
    """W = log p(x, z) - log q(z) in nats, (S, d) -> (S,); refuses what is not finite."""
    W = torch.cat([problem.log_joint(part) for part in z.split(BATCH)]) - log_q
    if not bool(torch.isfinite(W).all()):
        bad = z[~torch.isfinite(W)][0].detach()
        raise PerturbationError(
            f"log p(x, z) - log q(z) of {problem.name!r} is not finite at z = "
            f"{[round(float(c), 4) for c in bad]}, which q can reach: then "
            "E_q[W] is not finite and no term of the series exists. Choose a q that stays in the support, or "
            "coordinates "
            "without an edge")
    return W


def _fitting(q: Distribution, problem: Problem) -> Distribution:
    if not isinstance(q, Distribution):
        raise TypeError(f"q must be a torch Distribution over z, got {type(q).__name__}")
    if tuple(q.event_shape) != (problem.dim,) or tuple(q.batch_shape):
        raise ValueError(f"q must be one distribution over the {problem.dim} latents of {problem.name!r}: "
                         "expected event shape "
                         f"({problem.dim},) and no batch, got {tuple(q.event_shape)} and "
                         f"{tuple(q.batch_shape)}")
    return q


# ---- a better q --------------------------------------------------------------------------------------------

def tune(problem: Problem, q: MultivariateNormal | None = None, *, order: int = 3,
         num_points: int | None = None, max_iterations: int = 200) -> Gaussian:
    """The Gaussian q whose bound of odd order K is highest (K = 1: highest ELBO), for d <= 3::

        max over mean, L of  max_V0  V0 + log sum_{k=0..K} E_eps[(W(mean + L eps) - V0)^k] / k!

    The expectation is one of Gauss and Hermite's rule; the climb is BFGS, in coordinates that whiten the
    starting q. At the best V0 the bound does not change with V0, so its gradient is that with V0 held.

    Args:
        problem: the question.
        q: where to start; Laplace's Gaussian if left out.
        order: K, odd.
        num_points: points an axis.
        max_iterations: of BFGS.

    Raises:
        ValueError: for an even order, more than three latents, or a q of another dimension.
        PerturbationError: where W is not finite, or the climb does not end at a summit.
    """
    if count("order", order, least=1) % 2 == 0:
        raise ValueError(f"only odd orders are bounds that one can climb, got order {order}")
    if problem.dim not in POINTS:
        raise ValueError(f"tune works by quadrature, in up to three dimensions; {problem.name!r} has "
                         f"{problem.dim}")
    start = laplace.approximate(problem).q if q is None else _fitting(q, problem)
    num_points = TUNING[problem.dim] if num_points is None else count("num_points", num_points, least=3)
    eps, probabilities = _standard_nodes(start, num_points)
    rows, columns = torch.tril_indices(problem.dim, problem.dim).to(eps.device)

    def gaussian(parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale L, from d numbers for the mean and d (d + 1) / 2 for L, all zero at the start."""
        below = torch.zeros_like(start.scale_tril).index_put((rows, columns), parameters[problem.dim:])
        turn = below.tril(-1) + below.diagonal().exp().diag()
        return start.loc + start.scale_tril @ parameters[:problem.dim], start.scale_tril @ turn

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.tensor(values).to(eps).requires_grad_(True)
        mean, L = gaussian(parameters)
        loss = -bound(_log_weights(problem, *_moved(eps, mean, L)), order, probabilities=probabilities)
        (slope,) = torch.autograd.grad(loss, parameters)
        return float(loss.detach()), slope.cpu().numpy()

    found = minimize(objective, np.zeros(problem.dim + len(rows)), jac=True, method="BFGS",
                     options={"gtol": 1e-7, "maxiter": max_iterations})
    if not np.abs(found.jac).max() < 1e-4:
        raise PerturbationError(f"the climb to the best q of order {order} on {problem.name!r} stopped on a "
                                "slope of "
                                f"{np.abs(found.jac).max():.3g}: give more iterations (max_iterations) or "
                                "another start (q)")
    mean, L = gaussian(torch.tensor(found.x).to(eps))
    return Gaussian(mean, scale_tril=L)


# ---- Laplace's method, one order on ------------------------------------------------------------------------

def laplace_correction(problem: Problem, mode: Tensor) -> float:
    """What Laplace's log evidence at a mode lacks, to the next order (1/n for n data), in nats::

        1/8 u_ijk u_lmn S_ij S_kl S_mn + 1/12 u_ijk u_lmn S_il S_jm S_kn - 1/8 u_ijkl S_ij S_kl
        in one dimension: 5 u'''^2 / (24 u''^3) - u'''' / (8 u''^2)

    S is the inverse Hessian; u_ijk and u_ijkl are third and fourth derivatives of the energy, found by
    automatic differentiation: d^4 numbers.

    Source: Tierney & Kadane (1986); Bender & Orszag (1999), section 6.4.

    Raises:
        ValueError: when `mode` has another shape, or the derivatives are not finite there.
    """
    around = laplace.expand(problem, mode)
    hessian = torch.func.hessian(lambda z: -problem.log_joint(z))
    third = torch.func.jacfwd(hessian)(around.at)
    fourth = torch.func.jacfwd(torch.func.jacfwd(hessian))(around.at)
    problem.evaluations += problem.dim**2 + problem.dim**3  # as a Hessian counts d
    S = torch.linalg.inv(around.hessian)
    inner = torch.einsum("ijk,ij->k", third, S)
    found = (torch.einsum("k,kl,l->", inner, S, inner) / 8
             + torch.einsum("ijk,lmn,il,jm,kn->", third, third, S, S, S) / 12
             - torch.einsum("ijkl,ij,kl->", fourth, S, S) / 8)
    if not bool(torch.isfinite(found)):
        raise ValueError(f"{problem.name!r} has no finite third and fourth derivatives at "
                         f"{around.at.tolist()}")
    return float(found)


def corrected_laplace(problem: Problem, **options) -> Approximation:
    """Laplace's method with `laplace_correction` added; the options are those of `laplace.approximate`."""
    began, spent = time.perf_counter(), problem.evaluations
    first = laplace.approximate(problem, **options)
    correction = laplace_correction(problem, first.diagnostics["expansion"].at)
    return dataclasses.replace(
        first, method="Laplace, next order",
        log_evidence=Estimate(float(first.log_evidence) + correction, "approximation"),
        evaluations=problem.evaluations - spent, seconds=time.perf_counter() - began,
        diagnostics={**first.diagnostics, "correction": correction})


# ---- the quartic integral ----------------------------------------------------------------------------------

def quartic_terms(g: float, num_terms: int) -> Tensor:
    """The terms of the perturbation series of the quartic integral, n = 0, ..., num_terms - 1::

        ∫ exp(-x^2/2 - g x^4) dx  ~  sqrt(2 pi) sum_n (-g)^n E[x^{4n}] / n!
        E[x^{4n}] = (4n - 1)!! = 1 * 3 * 5 * ... * (4n - 1)        under N(0, 1)

    They shrink until n is about 1/(16 g), and then grow for ever: the series diverges for every g > 0.

    Raises:
        ValueError: for g that is no finite number, or fewer than one term.
    """
    g, n = real("g", g), torch.arange(count("num_terms", num_terms, least=1), dtype=torch.float64)
    log_moment = torch.lgamma(4 * n + 1) - torch.lgamma(2 * n + 1) - n * math.log(4)  # (4n)! / (4^n (2n)!)
    size = torch.exp(log_moment - torch.lgamma(n + 1)) * abs(g) ** n
    return math.sqrt(2 * math.pi) * size * (-math.copysign(1.0, g)) ** n
