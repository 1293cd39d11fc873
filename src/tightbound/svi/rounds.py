"""A fit of any log joint, in rounds, with a test of convergence."""

from __future__ import annotations

import copy
import math
import time

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tightbound import families, importance
from tightbound.approximation import Approximation
from tightbound.arguments import count, one_of, positive
from tightbound.device import generator
from tightbound.estimate import Estimate
from tightbound.problem import Problem
from tightbound.svi.steps import STEPS, Engine, SVIError, compiled_steps, plain_steps, put

LOOKS = 20         # between two tests whether q still drifts
STATIONARY = 1.1   # R-hat below which it does not
PAIRED = 2_000     # samples on which two members of a family are compared
AT_ONCE = 500      # fresh samples of q: what they need stays in the processor's cache

LOST = ("the bound of {0!r} is not finite: q reaches over an edge of the density (move the latents to all of R^d, with "
        "Problem.constrained), or the steps are too large (step_size)")


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
    member = members(problem, family, count("replicates", replicates, least=1), stream)
    batch_size = _batch(problem, batch_size)
    one_of("search", search, ("adam", "natural"))
    if compiled and (search != "adam" or batch_size or family not in ("diagonal", "low rank", "full")):
        raise ValueError("the compiled path is Adam's, with all data in every step and a family of normals given by its word: "
                         "leave out compiled, or what else was asked for")
    advance = (compiled_steps(problem, member, num_samples, stream) if compiled else
               plain_steps(problem, member, num_samples, batch_size, search, stream))
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
        put(member, average)
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


def members(problem: Problem, family: str | nn.Module, replicates: int, stream: torch.Generator) -> nn.Module:
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
        put(members[0], [torch.stack(values) for values in zip(*(list(m.parameters()) for m in members))])
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


def _gain(problem: Problem, member: nn.Module, before: list[Tensor], after: list[Tensor]) -> float:
    """By how much the bound is higher with one set of parameters than with another, on the same noise; mean of replicates."""
    values = []
    with torch.no_grad():
        for parameters in (before, after):
            put(member, parameters)
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
            put(chosen, [p[best] for p in member.parameters()])
            q = chosen()
            found["family"], log_weights = chosen, fresh()
    estimate = Estimate(log_weights.mean(), "lower bound", log_weights.std() / num_fresh**0.5)
    return q, estimate, found | {"k_hat": float(importance.pareto_k_hat(log_weights[:, 0]))}
