"""Which q is best? That depends on how its distance from the posterior is measured.

One dial, alpha, runs through the divergences of this chapter::

    C_alpha(q, p) = 1 / (alpha (alpha - 1)) log ∫ q(z)^alpha p(z)^(1 - alpha) dz          (nats, never negative)

    alpha -> 1: KL(q || p), the reverse KL      alpha -> 0: KL(p || q), the forward KL      alpha = 1/2: -4 log ∫ sqrt(q p)

It is Rényi's divergence D_alpha(q || p) over alpha, and the same with q and p exchanged and 1 - alpha for alpha. Towards large
alpha it forbids q to be where p is not; towards small alpha it forbids q not to be where p is. With p the posterior it is what
separates a bound from the log evidence::

    L_alpha = 1 / (1 - alpha) log E_q[(p(x, z) / q(z))^(1 - alpha)] = log p(x) - alpha C_alpha(q, p(z | x))

a lower bound for alpha > 0 (the ELBO at 1), log p(x) itself at 0, an upper bound for alpha < 0.

Source: Rényi (1961); Minka (2005); Li & Turner (2016), Rényi divergence variational inference.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tightbound import exact, families, importance
from tightbound.approximation import Approximation, log_mean_exp
from tightbound.arguments import count, one_of, positive, real
from tightbound.device import generator
from tightbound.distributions import Gaussian, MixtureOfGaussians
from tightbound.estimate import Estimate
from tightbound.problem import Problem

WORDS = {"reverse KL": 1.0, "forward KL": 0.0}
LOGISTIC_NODES = 257
EXPLOITED = 1.0  # nats by which the nodes may flatter a fit


class FitError(RuntimeError):
    """No member of the family could be fitted to this problem; the message says why, and what may help."""


class EPError(RuntimeError):
    """Expectation propagation did not arrive; the message says why, and what may help."""


# Bounds from log weights ---------------------------------------------------------------------------------------------

def renyi_bound(log_weights: Tensor, alpha: float) -> Tensor:
    """The Rényi bound from S log weights, (..., S) -> (...), in nats::

        L_alpha = 1 / (1 - alpha) log (1/S) sum_s w_s^(1 - alpha),      w_s = p(x, z_s) / q(z_s),   z_s ~ q

    At alpha = 1 it is the average log weight (the ELBO), at 0 the importance-weighted bound. It never grows with alpha. From S
    samples it lies, on average, below log p(x) for every alpha >= 0. For alpha < 0 only its limit of many samples is an upper
    bound: with few it comes out too low, and no side is certain.

    Raises:
        ValueError: for alpha that is not finite.

    Source: Li & Turner (2016), theorem 1 and 2.
    """
    alpha = real("alpha", alpha)
    if alpha == 1:
        return log_weights.mean(-1)
    return log_mean_exp((1 - alpha) * log_weights) / (1 - alpha)


def _standard_error(log_weights: Tensor, alpha: float) -> float:
    """Of `renyi_bound`, by the delta method."""
    if alpha == 1:
        return float(log_weights.std() / len(log_weights) ** 0.5)
    powers = torch.exp((1 - alpha) * log_weights - ((1 - alpha) * log_weights).max())
    return float(powers.std() / powers.mean() / len(log_weights) ** 0.5 / abs(1 - alpha))


# Divergences between densities ----------------------------------------------------------------------------------------

def kl(q: Distribution, p: Distribution) -> Tensor:
    """KL(q || p) of two multivariate normals, in nats::

        KL = 1/2 (tr(Sp^-1 Sq) + (mp - mq)' Sp^-1 (mp - mq) - d + log det Sp - log det Sq)

    Args:
        q, p: distributions with a `mean` (d,) and a `covariance_matrix` (d, d), taken to be normal.

    Raises:
        ValueError: for different dimensions, or a covariance that is not positive definite.
    """
    if q.mean.shape != p.mean.shape:
        raise ValueError("q and p must have one dimension, got means of shape "
                         f"{tuple(q.mean.shape)} and {tuple(p.mean.shape)}")
    try:
        Lq, Lp = torch.linalg.cholesky(q.covariance_matrix), torch.linalg.cholesky(p.covariance_matrix)
    except torch.linalg.LinAlgError:
        raise ValueError("a covariance is not positive definite: the divergence is infinite, or there is no "
                         "density") from None
    ratio = torch.linalg.solve_triangular(Lp, Lq, upper=False)
    offset = torch.linalg.solve_triangular(Lp, (p.mean - q.mean).unsqueeze(-1), upper=False)
    return 0.5 * (ratio.square().sum() + offset.square().sum() - len(p.mean)) - ratio.diagonal().log().sum()


def criterion(log_q: Tensor, log_p: Tensor, step: float, alpha: float) -> Tensor:
    """C_alpha(q, p) of two densities on a line, known on a grid (..., G) of spacing `step`; (...), in nats.

    Where the integral diverges (alpha > 1 and q has the heavier tails, or alpha < 0 and p has them) the grid gives a large number
    that grows as it widens.

    Raises:
        ValueError: for different shapes, or a step not above zero.
    """
    _on_one_grid(log_q, log_p, step)
    if alpha == 1:
        return step * (log_q.exp() * (log_q - log_p)).sum(-1)
    if alpha == 0:
        return step * (log_p.exp() * (log_p - log_q)).sum(-1)
    return ((alpha * log_q + (1 - alpha) * log_p).logsumexp(-1) + math.log(step)) / (alpha * (alpha - 1))


F_DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # q f(p/q) from log p and log q
    "forward KL": lambda log_p, log_q: log_p.exp() * (log_p - log_q),
    "reverse KL": lambda log_p, log_q: log_q.exp() * (log_q - log_p),
    "Jensen–Shannon": lambda log_p, log_q: 0.5 * (_against_middle(log_p, log_q) + _against_middle(log_q, log_p)),
    "squared Hellinger": lambda log_p, log_q: 0.5 * (torch.exp(0.5 * log_p) - torch.exp(0.5 * log_q)).square(),
    "total variation": lambda log_p, log_q: 0.5 * (log_p.exp() - log_q.exp()).abs(),
    "chi-squared": lambda log_p, log_q: torch.exp(2 * log_p - log_q) - 2 * log_p.exp() + log_q.exp(),
}


def _against_middle(log_a: Tensor, log_b: Tensor) -> Tensor:
    return log_a.exp() * (log_a - torch.logaddexp(log_a, log_b) + math.log(2))


def f_divergence(name: str, log_p: Tensor, log_q: Tensor, step: float) -> Tensor:
    """D_f(p || q) = ∫ q f(p/q) dz of two densities on a grid (..., G) of spacing `step`; (...)::

        forward KL  r log r           reverse KL  -log r         Jensen–Shannon  1/2 (r log r - (1 + r) log((1 + r)/2))
        squared Hellinger  1/2 (sqrt r - 1)^2       total variation  1/2 |r - 1|       chi-squared  (r - 1)^2

    f(r) is convex with f(1) = 0. The first three are in nats (Jensen–Shannon at most log 2), the next two lie between 0 and 1.

    Raises:
        ValueError: for an unknown name, different shapes, or a step not above zero.

    Source: Csiszár (1967); Ali & Silvey (1966).
    """
    one_of("f-divergence", name, tuple(F_DIVERGENCES))
    _on_one_grid(log_q, log_p, step)
    return step * F_DIVERGENCES[name](log_p, log_q).sum(-1)


def wasserstein(log_p: Tensor, log_q: Tensor, step: float) -> Tensor:
    """The Wasserstein distance of order one on a line: how far, on average, mass must be moved, in the units of z::

        W_1 = ∫ |F_p(z) - F_q(z)| dz,      F a distribution function

    Raises:
        ValueError: for different shapes, or a step not above zero.

    Source: Vallender (1974).
    """
    _on_one_grid(log_q, log_p, step)
    return step * (step * (log_p.exp() - log_q.exp()).cumsum(-1)).abs().sum(-1)


def _on_one_grid(log_q: Tensor, log_p: Tensor, step: float) -> None:
    positive("step", step)
    if log_q.shape[-1] != log_p.shape[-1] or log_q.shape[-1] < 2:
        raise ValueError("the two log densities must live on one grid of at least two points, got "
                         f"{tuple(log_q.shape)} and {tuple(log_p.shape)}")


def best_gaussian(log_p: Tensor, grid: Tensor, alpha: Tensor, starts: Tensor, *, max_iterations: int = 100) -> Tensor:
    """The normal density nearest to p by `criterion`, for densities on a line and many values of alpha at once.

    Newton's method in (mean, log standard deviation), all problems side by side; where the criterion does not curve upwards it
    follows the absolute curvature, and steps are halved until they help.

    Args:
        log_p: log densities (B, G) on the grid.
        grid: equally spaced points (G,), wide enough for p and for q.
        alpha: (B,).
        starts: (B, M, 2), means and standard deviations.

    Returns:
        The best end of each problem's M climbs: mean and standard deviation, (B, 2).
    """
    step, log_2pi = float(grid[1] - grid[0]), math.log(2 * math.pi)

    def value(point: Tensor, log_p: Tensor, alpha: Tensor) -> Tensor:
        log_q = -0.5 * ((grid - point[0]) * torch.exp(-point[1])).square() - point[1] - 0.5 * log_2pi
        middle = torch.where((alpha == 0) | (alpha == 1), 0.5, alpha)
        general = torch.logsumexp(middle * log_q + (1 - middle) * log_p, -1) + math.log(step)
        reverse, forward = (log_q.exp() * (log_q - log_p)).sum(-1), (log_p.exp() * (log_p - log_q)).sum(-1)
        general = general / (middle * (middle - 1))
        return torch.where(alpha == 1, step * reverse, torch.where(alpha == 0, step * forward, general))

    B, M, _ = starts.shape
    log_p, alpha = log_p.repeat_interleave(M, 0), alpha.repeat_interleave(M)
    point = torch.stack([starts[..., 0], starts[..., 1].log()], -1).reshape(-1, 2)
    f, gradient, hessian = (torch.func.vmap(g) for g in (value, torch.func.grad(value), torch.func.hessian(value)))
    best, going = f(point, log_p, alpha), torch.arange(B * M)
    for _ in range(max_iterations):
        at, here = point[going], (log_p[going], alpha[going])
        curvature, axes = torch.linalg.eigh(hessian(at, *here))
        slope = (axes.mT @ gradient(at, *here).unsqueeze(-1)).squeeze(-1)
        move = -(axes @ (slope / curvature.abs().clamp(min=1e-6)).unsqueeze(-1)).squeeze(-1)
        move = move / (move.norm(dim=-1, keepdim=True) / 0.5).clamp(min=1.0)
        left = torch.arange(len(going))  # those that no step has helped yet
        for halving in range(8):
            trial = at[left] + 0.5**halving * move[left]
            there = f(trial, log_p[going[left]], alpha[going[left]])
            better = there < best[going[left]]
            point[going[left[better]]], best[going[left[better]]] = trial[better], there[better]
            left = left[~better]
            if not len(left):
                break
        moved = (point[going] - at).norm(dim=-1) > 1e-8
        going = going[moved]
        if not len(going):
            break
    pick = best.reshape(B, M).argmin(-1)
    point = point.reshape(B, M, 2)[torch.arange(B), pick]
    return torch.stack([point[:, 0], point[:, 1].exp()], -1)


# Fitting a family ----------------------------------------------------------------------------------------------------

def approximate(problem: Problem, *, family: str | nn.Module = "full", divergence: str | float = "reverse KL",
                num_starts: int = 4, starts: Tensor | None = None, num_nodes: int | None = None, num_samples: int = 10_000,
                seed: int | torch.Generator = 0, max_iterations: int = 500) -> Approximation:
    """The member of a family that is nearest to the posterior, by a divergence of your choice.

    The fit is deterministic. For alpha >= 1/2 the criterion is an average over q, done with noise that stays put: the nodes of
    `normal_nodes`, pushed through q (for alpha other than 1 a fit by reverse KL comes first). For alpha < 1/2 it is an average
    over the posterior, done with `posterior_points`. Both are minimised by L-BFGS. The result is then judged on fresh samples of q.

    A criterion may be infinite: for alpha < 0 when q has lighter tails than the posterior, for alpha > 1 when it has heavier ones.
    Nodes and points reach only so far, and do not show it; `diagnostics["k_hat"]` may.

    Args:
        problem: the question; its log joint needs a gradient.
        family: "diagonal", "low rank", "full", "mixture" (see `families`), or an `nn.Module` that returns a distribution.
        divergence: "reverse KL" (alpha = 1), "forward KL" (alpha = 0), or alpha.
        num_starts: how many starts, at random points, for families given by a word.
        starts: where to start from, (m, d), in place of random points.
        num_nodes: how many nodes.
        num_samples: fresh samples behind the log evidence and k-hat.
        seed: of the starts, of the samples, and of the draws behind `posterior_points`.

    Returns:
        An `Approximation` whose log evidence is `renyi_bound` on the fresh samples: for alpha > 0 a "lower bound"; for alpha = 0
        a "consistent estimate" (plain importance sampling from q); for alpha < 0 an "approximation", since from samples the upper
        bound is not certain to be one. `history` is minus the criterion of the best start, in nats, up to a constant. In
        `diagnostics`: `alpha`, the fitted `family`, the `objectives` that the starts reached, best first, and `k_hat`.

    Raises:
        ValueError: for an unknown word, numbers out of range, or starts of another shape.
        FitError: when the criterion is finite at none of the starts (with reverse KL: the density has an edge), or when fresh
            samples judge q worse by more than a nat than the nodes did.
    """
    began, spent = time.perf_counter(), problem.evaluations
    alpha = _alpha(divergence)
    count("max_iterations", max_iterations, least=1)
    count("num_samples", num_samples, least=100)
    stream = generator(seed, problem.device)
    if alpha >= 0.5:
        objective = _average_over_q(problem, alpha, num_nodes)
    else:
        objective = _average_over_p(problem, alpha, num_nodes, seed)
    members = _starts(problem, family, starts, num_starts, seed)
    if alpha >= 0.5 and alpha != 1:  # far from the posterior one node outweighs all others: come near by the reverse KL first
        near = _average_over_q(problem, 1.0, num_nodes)
        nearer = [_minimise(copy.deepcopy(member), near, max_iterations)[0] for member in members]
        members = nearer + (members if problem.dim <= 2 else [])
    fits = [_minimise(member, objective, max_iterations) for member in members]
    fits = sorted((fit for fit in fits if math.isfinite(fit[1][-1])), key=lambda fit: fit[1][-1])
    if not fits:
        raise FitError(f"the criterion is not finite for any start on {problem.name!r}: where the density has an edge, a q that "
                       "reaches over it is infinitely far away by the reverse KL. Move the latents to all of R^d "
                       "(`Problem.constrained`), or start elsewhere")
    member, history = fits[0]
    with torch.no_grad():
        q = copy.deepcopy(member).requires_grad_(False)()
        z, log_q = q.rsample_and_log_prob((num_samples,), generator=stream)
        log_weights = problem.log_joint(z) - log_q
    estimate = Estimate(renyi_bound(log_weights, alpha), _kind(alpha), _standard_error(log_weights, alpha))
    if alpha >= 0.5 and -alpha * history[-1] - float(estimate) > EXPLOITED:
        raise FitError(f"on its nodes q seems better by {-alpha * history[-1] - float(estimate):.1f} nats than on fresh samples: the "
                       "search has exploited gaps between them. Give more nodes (num_nodes), a simpler family, or reverse KL, "
                       "whose average depends least on single nodes")
    return Approximation(f"{_name(family)}, {_words(alpha)}", q, estimate, -torch.tensor(history, dtype=torch.float64),
                         problem.evaluations - spent, time.perf_counter() - began,
                         {"alpha": alpha, "family": member, "objectives": [fit[1][-1] for fit in fits],
                          "k_hat": float(importance.pareto_k_hat(log_weights))})


def _alpha(divergence: str | float) -> float:
    return WORDS[one_of("divergence", divergence, tuple(WORDS))] if isinstance(divergence, str) else real("alpha", divergence)


def _words(alpha: float) -> str:
    return {value: word for word, value in WORDS.items()}.get(alpha, f"alpha {alpha:g}")


def _name(family: str | nn.Module) -> str:
    return family if isinstance(family, str) else type(family).__name__


def _kind(alpha: float) -> str:
    return "lower bound" if alpha > 0 else "consistent estimate" if alpha == 0 else "approximation"


def _starts(problem: Problem, family: str | nn.Module, starts: Tensor | None, num_starts: int, seed) -> list[nn.Module]:
    if not isinstance(family, str):
        return [families.make(family, problem.dim)]
    if starts is None:
        starts = problem.points(count("num_starts", num_starts, least=1), seed=seed)
    starts = torch.atleast_2d(torch.as_tensor(starts, dtype=problem.dtype, device=problem.device))
    if starts.ndim != 2 or starts.shape[1] != problem.dim or len(starts) == 0:
        raise ValueError(f"starts must be points of shape (m, {problem.dim}), got {tuple(starts.shape)}")
    return [families.make(family, problem.dim, loc=point) for point in starts]


def _average_over_q(problem: Problem, alpha: float, num_nodes: int | None) -> Callable[[Distribution], Tensor]:
    """-L_alpha / alpha, which is C_alpha up to a constant, by nodes pushed through q."""
    def objective(q: Distribution) -> Tensor:
        eps, log_share = _nodes_for(q, num_nodes)
        z, log_q = q.push(eps)
        log_w = problem.log_joint(z) - log_q
        if isinstance(q, MixtureOfGaussians):  # every component has all the nodes: (M, K)
            log_share = log_share.unsqueeze(-1) + q.log_weights
        if alpha == 1:
            return -(log_share.exp() * log_w).sum()
        return (log_share + (1 - alpha) * log_w).flatten().logsumexp(0) / (alpha * (alpha - 1))

    def with_common_numbers(q: Distribution) -> Tensor:  # for a q that cannot be pushed: the same stream at every call
        z, log_q = q.rsample_and_log_prob((num_nodes or 512,), generator=generator(0, problem.device))
        return -renyi_bound(problem.log_joint(z) - log_q, alpha) / alpha

    return lambda q: objective(q) if hasattr(q, "push") else with_common_numbers(q)


def _average_over_p(problem: Problem, alpha: float, num_nodes: int | None, seed) -> Callable[[Distribution], Tensor]:
    """C_alpha by points that stand for the posterior."""
    z, log_p, log_share = posterior_points(problem, num_points=num_nodes, seed=seed)

    def objective(q: Distribution) -> Tensor:
        log_ratio = q.log_prob(z) - log_p
        if alpha == 0:
            return -(log_share.exp() * log_ratio).sum()
        return (log_share + alpha * log_ratio).logsumexp(0) / (alpha * (alpha - 1))

    return objective


def _minimise(family: nn.Module, objective: Callable[[Distribution], Tensor],
              max_iterations: int) -> tuple[nn.Module, list[float]]:
    """The family at the minimum that L-BFGS finds, and the objective on the way."""
    parameters = [p for p in family.parameters() if p.requires_grad]
    like = parameters_to_vector(parameters)

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        vector_to_parameters(torch.as_tensor(x, dtype=like.dtype, device=like.device), parameters)
        family.zero_grad()
        with torch.enable_grad():
            loss = objective(family())
        if not torch.isfinite(loss):
            return math.inf, np.zeros_like(x)  # the line search takes a shorter step
        loss.backward()
        gradient = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
        return float(loss.detach()), gradient.nan_to_num(0.0).cpu().double().numpy()

    history: list[float] = []
    with np.errstate(invalid="ignore"):
        found = minimize(value, like.detach().cpu().double().numpy(), jac=True, method="L-BFGS-B",
                         callback=lambda intermediate_result: history.append(float(intermediate_result.fun)),
                         options={"maxiter": max_iterations, "maxfun": 4 * max_iterations, "ftol": 1e-12, "gtol": 1e-7})
    value(found.x)
    return family, [*history, float(found.fun)]


def _nodes_for(q: Distribution, num_nodes: int | None) -> tuple[Tensor, Tensor]:
    eps, log_share = normal_nodes(q.noise_dim, num_nodes)
    return eps.to(q.mean), log_share.to(q.mean)


@lru_cache(maxsize=32)
def normal_nodes(dim: int, num_nodes: int | None = None) -> tuple[Tensor, Tensor]:
    """Points (M, dim) and log weights (M,) that stand for N(0, I), the same ones every time.

    In up to three dimensions they are the product of Gauss-Hermite rules (exact for polynomials); beyond, a Sobol sequence put
    through the normal quantile, with each point's mirror image, and stretched so that their covariance is I.

    Raises:
        ValueError: for a dimension below one, or too few nodes.
    """
    count("dim", dim, least=1)
    if dim <= 3:
        side = (64, 40, 12)[dim - 1]
        if num_nodes is not None:
            side = max(2, round(count("num_nodes", num_nodes, least=2) ** (1 / dim)))
        x, w = np.polynomial.hermite_e.hermegauss(side)
        eps = np.stack(np.meshgrid(*[x] * dim, indexing="ij"), -1).reshape(-1, dim)
        log_w = sum(np.meshgrid(*[np.log(w / w.sum())] * dim, indexing="ij")).reshape(-1)
        return torch.tensor(eps), torch.tensor(log_w)
    half = 2 ** math.ceil(math.log2(max(count("num_nodes", num_nodes or 1024, least=4 * dim), 2) / 2))
    from scipy.stats import qmc  # here, for it takes half a second to import

    uniform = qmc.Sobol(dim, scramble=True, rng=np.random.default_rng(0)).random(half)
    eps = torch.special.ndtri(torch.tensor(uniform).clamp(1e-12, 1 - 1e-12))
    eps = torch.cat([eps, -eps])
    eps = torch.linalg.solve_triangular(torch.linalg.cholesky(eps.T @ eps / len(eps)), eps.T, upper=False).T
    return eps.contiguous(), torch.full((len(eps),), -math.log(len(eps)), dtype=eps.dtype)


def posterior_points(problem: Problem, *, num_points: int | None = None,
                     seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points that stand for the posterior: z (M, d), its log density there (M,), and normalised log weights (M,), in nats.

    In one and two dimensions they are a grid, refined until the evidence settles. Beyond, `num_points` draws (50,000 if left out)
    from the proposal of `importance.approximate`, with their self-normalised importance weights: as good as those are.

    Raises:
        FitError: when no grid of up to 1,601 points a side settles.
        LaplaceError: when the proposal has no mode to stand on.
    """
    if problem.dim > 2:
        proposal = importance.default_proposal(problem)
        with torch.no_grad():
            z, log_q = proposal.rsample_and_log_prob((num_points or 50_000,), generator=generator(seed, problem.device))
            log_joint = problem.log_joint(z)
        log_w = log_joint - log_q
        return z, log_joint - log_mean_exp(log_w), log_w.log_softmax(0)
    box, before = problem.box or exact.find_box(problem), math.inf
    for side in (101, 201, 401, 801, 1601):
        axes = [torch.linspace(low, high, side, dtype=problem.dtype, device=problem.device) for low, high in box]
        z = torch.cartesian_prod(*axes).reshape(-1, problem.dim)
        with torch.no_grad():
            log_joint = torch.cat([problem.log_joint(part) for part in z.split(2**14)])
        cell = math.prod((high - low) / (side - 1) for low, high in box)
        log_evidence = float(log_joint.logsumexp(0)) + math.log(cell)
        if abs(log_evidence - before) < 1e-7:
            log_p = log_joint - log_evidence
            kept = log_p > log_p.max() - 40.0
            return z[kept], log_p[kept], log_p[kept].log_softmax(0)
        before = log_evidence
    raise FitError(f"no grid over {problem.name!r} settles: its density is too thin for the box {box}, or has an "
                   "edge inside it")


# Expectation propagation ---------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Sites:
    """The N normal factors that stand in for the likelihood's, as functions of the activation a_n = s_n x_n'w::

        t_n(a) ∝ exp(nu_n a - 1/2 tau_n a^2)

    Attributes:
        tau, nu: (N,).
    """

    tau: Tensor
    nu: Tensor


def tilted_moments(mean: Tensor, variance: Tensor, link: str = "logistic") -> tuple[Tensor, Tensor, Tensor]:
    """Log normaliser, mean and variance of f(a) N(a; mean, variance), each (...), for one observation's likelihood f::

        probit    f = Phi(a):      Z = Phi(z),  z = m / sqrt(1 + v),   r = N(z) / Phi(z)
                  mean m + v r / sqrt(1 + v),   variance v - v^2 r (z + r) / (1 + v)
        logistic  f = 1/(1 + exp(-a)): by the trapezoidal rule on 257 points over mean ± 9 standard deviations, which is exact
                  to 1e-9 up to a standard deviation of 14 (Gauss-Hermite rules of as many nodes step over the bend at a = 0)

    Raises:
        ValueError: for another link.

    Source: Rasmussen & Williams (2006), section 3.6 and 3.9.
    """
    one_of("link", link, ("logistic", "probit"))
    if link == "probit":
        root = torch.sqrt(1 + variance)
        z = mean / root
        log_z = torch.special.log_ndtr(z)
        r = torch.exp(-0.5 * z.square() - 0.5 * math.log(2 * math.pi) - log_z)
        return log_z, mean + variance * r / root, variance - variance.square() * r * (z + r) / (1 + variance)
    eps = torch.linspace(-9, 9, LOGISTIC_NODES, dtype=mean.dtype, device=mean.device)
    a = mean.unsqueeze(-1) + variance.sqrt().unsqueeze(-1) * eps
    log_f = torch.nn.functional.logsigmoid(a) + (-0.5 * eps.square()).log_softmax(0)
    log_z, share = log_f.logsumexp(-1), log_f.softmax(-1)
    centre = (share * a).sum(-1)
    return log_z, centre, (share * (a - centre.unsqueeze(-1)).square()).sum(-1)


def expectation_propagation(X: Tensor, y: Tensor, prior_scale: float = 2.5, *, link: str = "logistic", damping: float = 0.5,
                            tolerance: float = 1e-8, max_sweeps: int = 1000) -> Approximation:
    """Expectation propagation for a classifier with a normal prior: p(y_n = 1 | x_n, w) = f(w'x_n), w ~ N(0, prior_scale^2 I).

    Each likelihood factor is replaced by a normal one, its *site*. In turn every site is taken out of q (what is left is the
    *cavity*), the true factor is put in (the *tilted* density), and the site is set so that q gets the tilted mean and variance::

        cavity        1/v_c = 1/v - tau,        m_c / v_c = m / v - nu
        new site      tau = 1/v_t - 1/v_c,      nu = m_t / v_t - m_c / v_c
        q             Lambda = I / s^2 + A' diag(tau) A,      Lambda mean = A' nu
        log p(y)   ≈  sum_n [log Z_n + phi(m_c, v_c) - phi(m, v)] + phi(q) - phi(prior),   phi(m, v) = 1/2 (m^2/v + log v)

    Here all sites move at once, by a fraction (`damping`) of the way.

    Args:
        X: design matrix (N, d).
        y: labels (N,), 0 or 1.
        prior_scale: s.
        link: "logistic" or "probit".
        damping: above 0 and at most 1; smaller is slower and safer.
        tolerance: stop when no site moves the mean or the deviation of its activation by more than this fraction of it.
        max_sweeps: stop there at the latest, with an error.

    Returns:
        An `Approximation` with a normal q over w and a log evidence of kind "approximation". `evaluations` counts the points at
        which all factors were evaluated (257 a sweep; 1 for the probit, whose integrals are closed). In `diagnostics`: the
        `sites`, and `change`, the largest change of each sweep.

    Raises:
        ValueError: for shapes that do not fit, labels other than 0 and 1, an x_n of zeros, or numbers out of range.
        EPError: when the sites still move after `max_sweeps`, or when rounding leaves a cavity without a positive variance (in
            exact arithmetic it has one: both links are log-concave, so that no tau is negative).

    Source: Minka (2001), Expectation propagation for approximate Bayesian inference; Opper & Winther (2000).
    """
    began = time.perf_counter()
    A, s2 = _signed(X, y), positive("prior_scale", prior_scale) ** 2
    one_of("link", link, ("logistic", "probit"))
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be above 0 and at most 1, got {damping!r}")
    sites = Sites(A.new_zeros(len(A)), A.new_zeros(len(A)))
    history, changes = [], []
    for _ in range(count("max_sweeps", max_sweeps, least=1)):
        q = _from_sites(A, sites, s2)
        mean, variance, cavity_mean, cavity_variance = _cavities(A, q, sites)
        log_z, tilted_mean, tilted_variance = tilted_moments(cavity_mean, cavity_variance, link)
        history.append(_ep_evidence(q, s2, log_z, (cavity_mean, cavity_variance), (mean, variance)))
        change = ((tilted_mean - mean).abs() / variance.sqrt()).max() + (tilted_variance / variance - 1).abs().max()
        changes.append(float(change))
        if changes[-1] < tolerance:
            break
        tau = 1 / tilted_variance - 1 / cavity_variance
        nu = tilted_mean / tilted_variance - cavity_mean / cavity_variance
        sites = Sites(sites.tau + damping * (tau - sites.tau), sites.nu + damping * (nu - sites.nu))
    else:
        raise EPError(f"the sites still move by {changes[-1]:.2g} after {max_sweeps} sweeps: try a smaller damping (it is "
                      f"{damping:g}), more sweeps (max_sweeps), or a narrower prior")
    return Approximation("EP", q, Estimate(history[-1], "approximation"), torch.tensor(history, dtype=torch.float64),
                         len(history) * (LOGISTIC_NODES if link == "logistic" else 1), time.perf_counter() - began,
                         {"sites": sites, "change": torch.tensor(changes, dtype=torch.float64)})


def _signed(X: Tensor, y: Tensor) -> Tensor:
    """Rows (2 y_n - 1) x_n, so that every likelihood factor is f(a_n) with a = A w."""
    if X.ndim != 2 or y.shape != X.shape[:1] or len(y) == 0:
        raise ValueError(f"expected X (N, d) and y (N,), N at least 1, got {tuple(X.shape)} and {tuple(y.shape)}")
    if not bool(((y == 0) | (y == 1)).all()) or not bool(torch.isfinite(X).all()):
        raise ValueError("the labels y must be 0 or 1, and X finite")
    if bool((X == 0).all(-1).any()):
        raise ValueError("an observation has a row of zeros in X: it says nothing of w, leave it out")
    return (X * (2 * y.to(X.dtype) - 1).unsqueeze(-1)).double()


def _from_sites(A: Tensor, sites: Sites, s2: float) -> Gaussian:
    precision = torch.eye(A.shape[1], dtype=A.dtype, device=A.device) / s2 + A.T @ (sites.tau.unsqueeze(-1) * A)
    mean = torch.cholesky_solve((A.T @ sites.nu).unsqueeze(-1), torch.linalg.cholesky(precision)).squeeze(-1)
    return Gaussian(mean, precision_matrix=precision)


def _cavities(A: Tensor, q: Gaussian, sites: Sites) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of every activation under q, and under q without its own site."""
    mean, variance = A @ q.loc, ((A @ q.covariance_matrix) * A).sum(-1)
    precision = 1 / variance - sites.tau
    if not bool((precision > 0).all()):
        raise EPError("rounding leaves a cavity without a positive variance: scale the columns of X to size one, or take a "
                      "narrower prior or a smaller damping")
    return mean, variance, (mean / variance - sites.nu) / precision, 1 / precision


def _ep_evidence(q: Gaussian, s2: float, log_z: Tensor, cavity: tuple[Tensor, Tensor], marginal: tuple[Tensor, Tensor]) -> float:
    def phi(mean: Tensor, variance: Tensor) -> Tensor:
        return 0.5 * (mean.square() / variance + variance.log())

    whole = 0.5 * q.loc @ q.precision_matrix @ q.loc + q.scale_tril.diagonal().log().sum()
    return float((log_z + phi(*cavity) - phi(*marginal)).sum() + whole - 0.5 * len(q.loc) * math.log(s2))
