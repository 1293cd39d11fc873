"""Stochastic variational inference: climb the bound by noisy steps, and know when to stop.

The bound is an average, over noise and over data. A few draws of either give a gradient that is right on average, and
steps rho_t along it that shrink slowly enough arrive (Robbins & Monro)::

    ELBO(lambda) = E_eps[log p(x, z_lambda(eps)) - log q_lambda(z_lambda(eps))]
    lambda_{t+1} = lambda_t + rho_t g_t,       E[g_t] = grad ELBO(lambda_t),     sum rho_t = inf,   sum rho_t^2 < inf

Where a step stays at a constant size the iterates end in a cloud around the optimum, whose average is far better than any of
them. `approximate` stands on that: it moves until the cloud stands still, averages, halves the step, and stops when the
bound no longer gains. `fit_topics` steps along the natural gradient of the global parameters of a conjugate model.

Source: Robbins & Monro (1951); Polyak & Juditsky (1992); Hoffman, Blei, Wang & Paisley (2013); Kucukelbir, Tran, Ranganath,
Gelman & Blei (2017); Dhaka, Catalina, Andersen, Magnusson, Huggins & Vehtari (2020); Welandawe, Andersen, Vehtari & Huggins
(2024).
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call, grad

from tightbound import families, importance
from tightbound.approximation import Approximation
from tightbound.arguments import count, one_of, positive
from tightbound.device import generator
from tightbound.distributions import standard_normal
from tightbound.estimate import Estimate
from tightbound.mean_field.topics import LOCAL_STEPS, LOCAL_TOLERANCE, exp_expected_log
from tightbound.problem import Problem

STEPS = 10         # between two looks at q
LOOKS = 20         # between two tests whether q still drifts
STATIONARY = 1.1   # R-hat below which it does not
PAIRED = 2_000     # samples on which two members of a family are compared
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # of Adam
DOCUMENTS = 16     # at once
AT_ONCE = 500      # fresh samples of q: what they need stays in the processor's cache
LONGEST = 0.5      # standard deviations that q moves in one natural step
UNROLLED = 5       # steps in one compiled graph

LOST = ("the bound of {0!r} is not finite: q reaches over an edge of the density (move the latents to all of R^d, with "
        "Problem.constrained), or the steps are too large (step_size)")

Engine = Callable[[float], Tensor]  # takes STEPS steps of a size, and returns the bound's estimate at the last one


class SVIError(RuntimeError):
    """The steps led nowhere; the message says why, and what may help."""


# Any log joint -------------------------------------------------------------------------------------------------------

def approximate(problem: Problem, *, family: str | nn.Module = "full", num_samples: int = 16, num_steps: int = 20_000,
                step_size: float = 0.1, search: str = "adam", tolerance: float = 0.02, batch_size: int | None = None, replicates: int = 1,
                num_fresh: int = 10_000, compiled: bool = False, seed: int | torch.Generator = 0) -> Approximation:
    """Automatic differentiation variational inference, with averaged iterates and a test of convergence.

    It works in rounds. In each the step size is constant, and steps are taken until q stands still: until `r_hat` of the means
    and log standard deviations of q, over the second half of the round, is below 1.1. That half is averaged. Then the step size
    is halved. When the bound at the new average exceeds that at the last one by less than `tolerance`, the fit has converged.

    Args:
        problem: the question; its log joint needs a gradient.
        family: "diagonal", "low rank", "full", "mixture" (see `families`), or an `nn.Module` that returns a distribution.
        num_samples: S, draws of z behind every gradient.
        num_steps: at most; what has not converged by then says so.
        step_size: in the first round: of Adam in the units of z and of log standard deviations; of natural gradients as the
            fraction of the way that one step should go.
        search: "adam"; or "natural", see `NaturalGradient`, for the families "diagonal" and "full".
        tolerance: nats.
        batch_size: how many data every gradient looks at, for a `DataProblem`; all if left out.
        replicates: how many runs side by side, each with a start (the origin, or the middle of the box, for the first, random
            points for the others) and noise of its own; minibatches are common to all. The family is given by a word.
        num_fresh: samples behind the log evidence and k-hat.
        compiled: take several steps in one compiled graph (see `torch.compile`). The first call with a problem compiles, for
            some ten seconds; without a C++ compiler it warns, and takes the plain steps.
        seed: of starts and noise.

    Returns:
        An `Approximation` with the q of greatest bound among the replicates. Its log evidence is a "lower bound", on fresh
        samples, with its standard error; `history` is the estimated bound at every tenth step. Its name says when it has not
        converged. In `diagnostics`: `converged`; `reason`, why not (or ""); `r_hat`, the largest; `change`, what the last
        halving brought, in nats (NaN where none was reached); `rounds`, the steps of each; `k_hat`; `family`, the fitted
        module; and of all replicates `bounds` (R,), `standard_errors` (R,), and `replicates`, a distribution of batch shape (R,).

    Raises:
        ValueError: for an unknown word, numbers out of range, minibatches of a problem without data, or replicates of a family
            that cannot be stacked.
        SVIError: when the bound or the parameters become infinite: a density with an edge, or a step too large.

    Source: Kucukelbir et al. (2017) for the method; Welandawe et al. (2024) for rounds, R-hat and averages.
    """
    began, spent = time.perf_counter(), problem.evaluations
    count("num_samples", num_samples, least=1), count("num_fresh", num_fresh, least=100)
    num_steps, step_size = count("num_steps", num_steps, least=STEPS * LOOKS), positive("step_size", step_size)
    positive("tolerance", tolerance)
    stream = generator(seed, problem.device)
    member = _members(problem, family, count("replicates", replicates, least=1), stream)
    batch_size = _batch(problem, batch_size)
    one_of("search", search, ("adam", "natural"))
    if compiled and (search != "adam" or batch_size or family not in ("diagonal", "low rank", "full")):
        raise ValueError("the compiled path is Adam's, with all data in every step and a family of normals given by its word: "
                         "leave out compiled, or what else was asked for")
    advance = (_compiled(problem, member, num_samples, stream) if compiled else
               _plain(problem, member, num_samples, batch_size, search, stream))
    bounds, rounds, average, change = [], [], None, math.nan
    while True:
        looks, states, settled = [], [], False
        while not settled and sum(rounds) + len(looks) * STEPS + STEPS * LOOKS <= num_steps:
            for _ in range(LOOKS):
                bounds.append(_safely(advance, step_size, member, problem))
                looks.append(_look(member))
                states.append([p.detach().clone() for p in member.parameters()])
            half = len(looks) // 2
            drift = float(r_hat(torch.stack(looks[half:])).max())
            settled = drift < STATIONARY
        if not looks:
            break
        rounds.append(len(looks) * STEPS)
        before, average = average, [torch.stack(values).mean(0) for values in zip(*states[half:])]
        if before is not None:
            change = _gain(problem, member, before, average)
        _put(member, average)
        if not settled or abs(change) < tolerance:
            break
        step_size /= 2
    q, estimate, found = _judged(problem, member, num_fresh, stream)
    reason = _doubt(settled, change, tolerance, found)
    name = f"SVI, {family if isinstance(family, str) else type(family).__name__}{' (not converged)' if reason else ''}"
    return Approximation(name, q, estimate, torch.stack(bounds).reshape(len(bounds), -1)[:, found.pop("best")],
                         round(problem.evaluations - spent), time.perf_counter() - began,
                         {"converged": not reason, "reason": reason, "r_hat": drift, "change": change, "rounds": rounds, **found})


def _doubt(settled: bool, change: float, tolerance: float, found: dict) -> str:
    """Why the fit has not converged, or nothing."""
    if not settled:
        return "the iterates still drift (R-hat): take more steps, or larger ones"
    if not abs(change) < tolerance:
        return "there were not steps enough to see whether a smaller step size still raises the bound"
    spread = float(found["bounds"].max() - found["bounds"].min())
    if spread > 5 * tolerance + 6 * float(found["standard_errors"].max()):
        return f"the replicates end at bounds that lie {spread:.2f} nats apart: there is more than one optimum"
    return ""


def r_hat(trace: Tensor) -> Tensor:
    """Does it still drift? Split R-hat of every quantity of a trace, (T, R, P) -> (P,)::

        R-hat = sqrt(((n - 1)/n W + B) / W),      n = T/2

    W is the variance within a half of the trace, and B that between the means of a run's two halves, both averaged over the R
    runs: each is compared with itself. Near 1: the second half looks like the first. A quantity that never moves has R-hat 1.

    Raises:
        ValueError: for fewer than four points, another number of axes, or numbers that are not finite.

    Source: Gelman & Rubin (1992); Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).
    """
    if trace.ndim != 3 or len(trace) < 4 or not bool(torch.isfinite(trace).all()):
        raise ValueError(f"a trace is finite and of shape (T, R, P), T at least 4, got {tuple(trace.shape)}")
    n = len(trace) // 2
    halves = torch.stack([trace[-2 * n:-n], trace[-n:]])       # (2, n, R, P)
    within = halves.var(1).mean((0, 1))
    between = halves.mean(1).var(0).mean(0)
    found = torch.sqrt((n - 1) / n + between / within)
    return torch.where(between > 0, found, 1.0)


def _members(problem: Problem, family: str | nn.Module, replicates: int, stream: torch.Generator) -> nn.Module:
    """The family at its start; of R replicates every parameter has R on a leading axis."""
    if not isinstance(family, str):
        if replicates > 1:
            raise ValueError("replicates need a family that is given by a word, which starts each at a point of its own")
        return families.make(family, problem.dim)
    points = problem.points(replicates, seed=stream)
    if len(points) < replicates:  # some points lie outside of the support
        points = points.repeat(math.ceil(replicates / len(points)), 1)[:replicates]
    members = [families.make(family, problem.dim, loc=point) for point in points]
    if replicates > 1:
        if family == "mixture":
            raise ValueError("a mixture has no replicates: its components are its leading axis. Fit it once a seed")
        _put(members[0], [torch.stack(values) for values in zip(*(list(m.parameters()) for m in members))])
    return members[0]


def _safely(advance: Engine, step_size: float, member: nn.Module, problem: Problem) -> Tensor:
    """A few steps; where they lead to infinity, the reason."""
    try:
        bound = advance(step_size)
    except ValueError:
        if all(bool(torch.isfinite(p).all()) for p in member.parameters()):
            raise
        bound = torch.tensor(math.nan)
    if not bool(torch.isfinite(bound).all()):
        raise SVIError(LOST.format(problem.name))
    return bound


def _put(member: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(member.parameters(), values):
        if parameter.shape == value.shape:
            parameter.detach().copy_(value)     # in the same memory
        else:
            parameter.data = value.detach().clone()


def _look(member: nn.Module) -> Tensor:
    """What is watched: means and log standard deviations of q, (R, 2d); of a q that has none, all its parameters."""
    with torch.no_grad():
        try:
            q = member()
            seen = torch.cat([q.mean, 0.5 * q.variance.log()], -1)
        except NotImplementedError:
            seen = torch.cat([p.flatten() for p in member.parameters()])
    return seen.reshape(-1, seen.shape[-1])


def _batch(problem: Problem, batch_size: int | None) -> int | None:
    if batch_size is None:
        return None
    if not hasattr(problem, "minibatch"):
        raise ValueError(f"{problem.name!r} has no data to take a few of: pose it as a DataProblem, by its prior and the likelihood "
                         "of each datum, or leave out batch_size")
    return count("batch_size", batch_size, least=1, most=problem.num_data)


def _plain(problem: Problem, member: nn.Module, num_samples: int, batch_size: int | None, search: str,
           stream: torch.Generator) -> Engine:
    """The loop as one reads it."""
    parameters = list(member.parameters())
    way = NaturalGradient(member) if search == "natural" else Adam(parameters)

    def log_joint(z: Tensor) -> Tensor:
        if batch_size is None:
            return problem.log_joint(z)
        return problem.minibatch(z, torch.randperm(problem.num_data, generator=stream, device=stream.device)[:batch_size])

    def advance(step_size: float) -> Tensor:
        for _ in range(STEPS):
            z, log_q = member().rsample_and_log_prob((num_samples,), generator=stream)   # (S, R, d), (S, R)
            bound = (log_joint(z) - log_q).mean(0)
            way.step(torch.autograd.grad(bound.sum(), parameters, allow_unused=True, materialize_grads=True), step_size)
        return bound.detach()

    return advance


class Adam:
    """Adam, uphill, in place: steps of about the same size in every coordinate, whatever the size of its gradient::

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   lambda += rho m/(1 - b1^t) / (sqrt(v/(1 - b2^t)) + epsilon)

    As `torch.optim.Adam` does it, without its overhead, which on small problems is a quarter of the time.

    Source: Kingma & Ba (2015).
    """

    def __init__(self, parameters: list[Tensor]):
        self.values = [p.detach() for p in parameters]  # the same memory, unseen by autograd
        self.m, self.v, self.t = [torch.zeros_like(p) for p in self.values], [torch.zeros_like(p) for p in self.values], 0

    def step(self, gradient: tuple[Tensor, ...], rho: float) -> None:
        self.t += 1
        torch._foreach_lerp_(self.m, gradient, 1 - BETA_1)
        torch._foreach_mul_(self.v, BETA_2)
        torch._foreach_addcmul_(self.v, gradient, gradient, value=1 - BETA_2)
        scale = torch._foreach_sqrt(self.v)
        torch._foreach_div_(scale, math.sqrt(1 - BETA_2**self.t))
        torch._foreach_add_(scale, EPSILON)
        torch._foreach_addcdiv_(self.values, self.m, scale, value=rho / (1 - BETA_1**self.t))


def _compiled(problem: Problem, member: nn.Module, num_samples: int, stream: torch.Generator) -> Engine:
    """The same steps, `UNROLLED` at a time in one graph; where no graph can be made, the loop itself."""
    parameters, t = list(member.parameters()), torch.zeros((), dtype=problem.dtype, device=problem.device)
    graph, state = _graph(problem, type(member)), ([torch.zeros_like(p) for p in parameters],) * 2 + (t,)
    shape = (UNROLLED, num_samples, *member().batch_shape, member().noise_dim)

    def advance(step_size: float) -> Tensor:
        nonlocal state
        for _ in range(STEPS // UNROLLED):
            noise = standard_normal(shape, generator=stream, dtype=problem.dtype, device=problem.device)
            with torch.no_grad():
                values, *state, bound = graph([p.detach() for p in parameters], *state, noise, t.new_tensor(step_size))
            _put(member, values)
            problem.evaluations += noise.shape[:-1].numel()
        return bound

    try:  # compiles
        with torch.no_grad():
            graph([p.detach() for p in parameters], *state, torch.zeros(shape, dtype=problem.dtype, device=problem.device), t)
    except Exception as error:  # of many kinds: no compiler, or a log joint that cannot be traced
        warnings.warn(f"no compiled path for {problem.name!r}, taking the plain steps: {str(error).strip().splitlines()[0]}",
                      stacklevel=3)
        return _plain(problem, member, num_samples, None, "adam", stream)
    return advance


@lru_cache(maxsize=8)
def _graph(problem: Problem, kind: type[nn.Module]) -> Callable:
    """Several steps of Adam as a function of parameters, state and noise. The bound is computed at the last step alone, so that
    the others are spared it: only gradients are needed."""
    template = kind(problem.dim)
    names = [name for name, _ in template.named_parameters()]

    def bound(values: list[Tensor], eps: Tensor) -> tuple[Tensor, Tensor]:
        z, log_q = functional_call(template, dict(zip(names, values)), ()).push(eps)
        each = (problem._unchecked(z) - log_q).mean(0)
        return each.sum(), each

    def several(values, m, v, t, noise, step_size):
        for eps in noise.unbind(0):
            gradient, each = grad(bound, has_aux=True)(values, eps)
            t = t + 1
            m = [BETA_1 * a + (1 - BETA_1) * g for a, g in zip(m, gradient)]
            v = [BETA_2 * b + (1 - BETA_2) * g * g for b, g in zip(v, gradient)]
            values = [p + step_size * (a / (1 - BETA_1**t)) / ((b / (1 - BETA_2**t)).sqrt() + EPSILON)
                      for p, a, b in zip(values, m, v)]
        return values, m, v, t, each

    return torch.compile(several, dynamic=False)


class NaturalGradient:
    """Steps in nats: steepest ascent of the bound where distance is KL divergence, for diagonal and full normals::

        full       m += rho L u,   L += rho L Phi(L' G),        u = L' grad_m,   G = grad_L,   Phi: below, and half the diagonal
        diagonal   m += rho sigma^2 grad_m,                     log sigma += rho/2 grad_{log sigma}

    On a Gaussian posterior the distance to the optimum shrinks by 1 - rho a step, on average, in whatever units the latents are
    counted. A step never moves q by more than LONGEST of its own standard deviations.

    Args:
        member: a `families.Diagonal` or `families.Full`, whose parameters `step` moves in place.

    Raises:
        ValueError: for another family.

    Source: Amari (1998); Hoffman et al. (2013); Tan (2021), Analytic natural gradient updates for Cholesky factor in Gaussian
    variational approximation.
    """

    def __init__(self, member: nn.Module):
        if not isinstance(member, (families.Diagonal, families.Full)):
            raise ValueError("natural gradients are known here for the families \"diagonal\" and \"full\" alone: take search=\"adam\"")
        self.member = member

    @torch.no_grad()
    def step(self, gradient: tuple[Tensor, ...], rho: float) -> None:
        """Takes one, given the gradient in each of the member's parameters, in their order."""
        (self._diagonal if isinstance(self.member, families.Diagonal) else self._full)(*gradient, rho)

    def _diagonal(self, slope: Tensor, slope_log_scale: Tensor, rho: float) -> None:
        member, scale = self.member, self.member.log_scale.exp()
        u, a = scale * slope, 0.5 * slope_log_scale
        rho = _shortened(rho, u.square().sum(-1) + a.square().sum(-1)).unsqueeze(-1)
        member.loc += rho * scale * u
        member.log_scale += rho * a

    def _full(self, slope: Tensor, slope_log_diagonal: Tensor, slope_below: Tensor, rho: float) -> None:
        member, L = self.member, self.member().scale_tril
        G = families.triangular(slope_log_diagonal / L.diagonal(dim1=-2, dim2=-1), slope_below)
        u, A = (L.mT @ slope.unsqueeze(-1)).squeeze(-1), (L.mT @ G).tril()
        A.diagonal(dim1=-2, dim2=-1).mul_(0.5)
        rho = _shortened(rho, u.square().sum(-1) + A.square().sum((-2, -1))).unsqueeze(-1)
        member.loc += rho * (L @ u.unsqueeze(-1)).squeeze(-1)
        L = torch.addcmul(L, rho.unsqueeze(-1), L @ A)
        member.log_diagonal.copy_(L.diagonal(dim1=-2, dim2=-1).log())
        member.below.copy_(families.below_diagonal(L))


def _shortened(rho: float, squared: Tensor) -> Tensor:
    """The step size at which a direction of this squared length is no longer than LONGEST."""
    return torch.clamp(LONGEST / squared.sqrt(), max=rho)


# The answer ----------------------------------------------------------------------------------------------------------

def _gain(problem: Problem, member: nn.Module, before: list[Tensor], after: list[Tensor]) -> float:
    """By how much the bound is higher with one set of parameters than with another, on the same noise; mean of replicates."""
    values = []
    with torch.no_grad():
        for parameters in (before, after):
            _put(member, parameters)
            z, log_q = member().rsample_and_log_prob((PAIRED,), generator=generator(1, problem.device))
            values.append((problem.log_joint(z) - log_q).mean())
    return float(values[1] - values[0])


def _judged(problem: Problem, member: nn.Module, num_fresh: int, stream: torch.Generator) -> tuple[Distribution, Estimate, dict]:
    """The best replicate, its bound on fresh samples, and what can be said of all."""
    def fresh() -> Tensor:
        drawn = []
        for part in torch.arange(num_fresh).split(AT_ONCE):
            z, log_q = q.rsample_and_log_prob(part.shape, generator=stream)
            drawn.append(problem.log_joint(z) - log_q)
        return torch.cat(drawn).reshape(num_fresh, -1)

    member.requires_grad_(False)
    with torch.no_grad():
        q, best = member(), 0
        log_weights = fresh()
        found = {"family": member, "bounds": log_weights.mean(0), "standard_errors": log_weights.std(0) / num_fresh**0.5,
                 "replicates": q, "best": best}
        if len(found["bounds"]) > 1:  # fresh samples once more: the best of several estimates flatters
            found["best"] = best = int(found["bounds"].argmax())
            chosen = copy.deepcopy(member)
            _put(chosen, [p[best] for p in member.parameters()])
            q = chosen()
            found["family"], log_weights = chosen, fresh()
    estimate = Estimate(log_weights.mean(), "lower bound", log_weights.std() / num_fresh**0.5)
    return q, estimate, found | {"k_hat": float(importance.pareto_k_hat(log_weights[:, 0]))}


# Robbins and Monro, bare ---------------------------------------------------------------------------------------------

def ascend(problem: Problem, step_sizes: Tensor, *, start: Tensor, num_samples: int = 1,
           seed: int | torch.Generator = 0) -> Tensor:
    """Plain stochastic gradient ascent on the bound of a diagonal normal, several runs side by side::

        lambda_{t+1} = lambda_t + rho_t g_t,       lambda = (mean, log standard deviation)

    Args:
        step_sizes: rho_t of every run, (T, R).
        start: lambda_0, (R, 2d).
        num_samples: S, draws behind every gradient.
        seed: of the noise.

    Returns:
        The path, (T + 1, R, 2d): every lambda_t, the start included.

    Raises:
        ValueError: for shapes that do not fit.
        SVIError: when a run leaves for infinity, because its steps are too large.

    Source: Robbins & Monro (1951).
    """
    if step_sizes.ndim != 2 or start.shape != (step_sizes.shape[1], 2 * problem.dim):
        raise ValueError(f"step_sizes must be (T, R) and start (R, {2 * problem.dim}), got {tuple(step_sizes.shape)} and "
                         f"{tuple(start.shape)}")
    noise = partial(standard_normal, generator=generator(seed, problem.device), dtype=start.dtype, device=start.device)
    path = [start]
    for rho in step_sizes:
        at = path[-1].detach().requires_grad_()
        mean, log_sd = at.chunk(2, -1)
        eps = noise((num_samples, *mean.shape))
        z = mean + log_sd.exp() * eps
        bound = problem.log_joint(z).mean(0) + log_sd.sum(-1)    # and a constant
        (gradient,) = torch.autograd.grad(bound.sum(), at)
        path.append(at.detach() + rho.unsqueeze(-1) * gradient)
        if not bool(torch.isfinite(path[-1]).all()):
            raise SVIError(f"after {len(path) - 1} steps a run has left for infinity: take smaller steps")
    return torch.stack(path)


# Global parameters of a conjugate model ------------------------------------------------------------------------------

@dataclass(frozen=True)
class StochasticTopics:
    """q(topics) of latent Dirichlet allocation, fitted by stochastic steps.

    Attributes:
        words: of the topics' Dirichlets, lambda, (K, V); of R runs side by side (R, K, V).
        seen: documents seen at every look, (L,).
        held_out: nats a word on the held-out documents at every look, (L,) or (L, R); empty where none were given.
    """

    words: Tensor
    seen: Tensor
    held_out: Tensor


def fit_topics(counts: Tensor, num_topics: int, *, batch_size: int = 16, delay: float | Tensor = 1.0,
               forgetting: float | Tensor = 0.7, num_seen: int = 5_000, concentration: float = 0.1,
               word_concentration: float = 0.05, start: Tensor | None = None, held_out: tuple[Tensor, Tensor] | None = None,
               num_looks: int = 20, seed: int | torch.Generator = 0) -> StochasticTopics:
    """Latent Dirichlet allocation by stochastic variational inference, a few documents a step::

        local:    gamma_d of every document of the batch, as in `mean_field.fit_topics`
        global:   lambda_hat = eta + D/b sum_{d in batch} (what the document's words add to the topics)
                  lambda <- (1 - rho_t) lambda + rho_t lambda_hat,      rho_t = (t + delay)^-forgetting

    lambda_hat - lambda is the natural gradient of the bound, estimated from b of D documents. With all documents in a batch
    and forgetting 0 it is coordinate ascent itself.

    Args:
        counts: how often word v stands in document d, (D, V).
        num_topics: K.
        batch_size: b.
        delay, forgetting: tau and kappa of the step sizes, rho_1 being (1 + delay)^-forgetting; tensors (R,) for R runs side by
            side, all with the same batches. Robbins and Monro ask for 0.5 < forgetting <= 1.
        num_seen: stop when so many documents have been seen.
        concentration, word_concentration: alpha and eta, of the priors.
        start: lambda to begin with, (K, V), or (R, K, V); K random documents, and one of every word, if left out.
        held_out: two halves of documents that are not among the counts, each (H, V); see `completion`.
        num_looks: how often they are looked at.
        seed: of the start and the batches.

    Raises:
        ValueError: for counts that are negative, not finite, or of another shape, documents without words, a batch larger than
            the corpus, step sizes out of range, or a start that does not fit.

    Source: Hoffman, Blei & Bach (2010); Hoffman, Blei, Wang & Paisley (2013).
    """
    C, K = torch.as_tensor(counts, dtype=torch.float64), count("num_topics", num_topics, least=1)
    if C.ndim != 2 or not bool((torch.isfinite(C) & (C >= 0)).all()) or not bool((C.sum(1) > 0).all()):
        raise ValueError("counts must be (documents, words), finite, not negative, and every document must have a word, got "
                         f"shape {tuple(C.shape)}")
    b = count("batch_size", batch_size, least=1, most=len(C))
    tau, kappa = (torch.as_tensor(v, dtype=C.dtype)[..., None, None] for v in (delay, forgetting))
    if not bool((tau >= 0).all() and (kappa >= 0).all()):
        raise ValueError("delay and forgetting must not be negative")
    alpha, eta = positive("concentration", concentration), positive("word_concentration", word_concentration)
    stream, looks, seen = generator(seed), [], []
    if start is None:
        start = 1 + C[torch.randperm(len(C), generator=stream).repeat(K)[:K]]
    if start.shape[-2:] != (K, C.shape[1]) or not bool((start > 0).all()):
        raise ValueError(f"start must be ({K}, {C.shape[1]}) and above zero, got shape {tuple(start.shape)}")
    words = start.to(C.dtype).expand(*torch.broadcast_shapes(tau.shape[:-2], kappa.shape[:-2], start.shape[:-2]), K, -1)
    steps = max(1, count("num_seen", num_seen, least=1) // b)
    looked = {round(steps ** (i / max(num_looks - 1, 1))) for i in range(num_looks)}       # closer together at the beginning
    order = _epochs(len(C), b, stream)
    for t in range(1, steps + 1):
        batch = C[next(order)]
        rho = (t + tau) ** -kappa
        words = (1 - rho) * words + rho * (eta + len(C) / b * _added(batch, words, alpha))
        if held_out is not None and t in looked:
            seen.append(t * b)
            looks.append(-completion(*held_out, words, concentration=alpha))
    return StochasticTopics(words, torch.tensor(seen), torch.stack(looks) if looks else torch.tensor([]))


def completion(observed: Tensor, hidden: Tensor, words: Tensor, *, concentration: float = 0.1) -> Tensor:
    """How well half of a document's words predicts the other half: the mean log probability of a hidden word, in nats::

        1/(number of hidden words) sum_{d, v} hidden_dv log sum_k E[shares_dk] E[topic_kv]

    The shares are those of the observed half (H, V). For topics (..., K, V) the result is (...).

    Source: Hoffman et al. (2013), section 4; Wallach, Murray, Salakhutdinov & Mimno (2009).
    """
    gamma = torch.cat([_local(part, B, concentration) for part, B, _ in _parts(observed, exp_expected_log(words))], -2)
    shares, topics = (v / v.sum(-1, keepdim=True) for v in (gamma, words))
    return torch.special.xlogy(hidden, shares @ topics).sum((-2, -1)) / hidden.sum()


def _added(C: Tensor, words: Tensor, alpha: float) -> Tensor:
    """sum_d C_dv q(topic k | word v of d): what these documents (b, V) add to the topics, (..., K, V)."""
    found = torch.zeros_like(words)
    for part, B, present in _parts(C, exp_expected_log(words)):
        T = exp_expected_log(_local(part, B, alpha))
        found[..., present] += B * (T.mT @ (part / (T @ B)))
    return found


def _parts(C: Tensor, B: Tensor):
    """A few documents (b, V) at a time, and of B (..., K, V) only their words: most words stand in none of a few documents."""
    for part in C.split(DOCUMENTS):
        present = part.sum(0) > 0
        yield part[:, present], B[..., present], present


def _local(C: Tensor, B: Tensor, alpha: float) -> Tensor:
    """gamma (..., b, K) of documents (b, V), from equal shares until it settles; B (..., K, V) = exp E[log topic]."""
    gamma = alpha + C.sum(1, keepdim=True) / B.shape[-2] * torch.ones_like(B[..., :1].mT)
    for _ in range(LOCAL_STEPS):
        T = exp_expected_log(gamma)
        before, gamma = gamma, alpha + T * ((C / (T @ B)) @ B.mT)
        if bool((gamma - before).abs().mean(-1).amax() < LOCAL_TOLERANCE):
            break
    return gamma


def _epochs(num_data: int, batch_size: int, stream: torch.Generator):
    """Batches of indices, every datum once before any comes again."""
    left = torch.tensor([], dtype=torch.long)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(num_data, generator=stream)])
        batch, left = left[:batch_size], left[batch_size:]
        yield batch
