"""One training loop that takes any estimator, and the measurements by which estimators are compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tightbound import families
from tightbound.approximation import Approximation
from tightbound.arguments import count, positive
from tightbound.device import generator
from tightbound.estimate import Estimate
from tightbound.gradients.estimators import leave_one_out
from tightbound.problem import Problem

Estimator = Callable[..., tuple[Tensor, Tensor]]
Objective = Callable[[], tuple[Callable[[Tensor], Tensor], Distribution]]


def climb(objective: Objective, parameters: Iterable[Tensor], estimator: Estimator, *, num_samples: int = 1,
          num_steps: int = 1000, step_size: float = 0.01, seed: int | torch.Generator = 0) -> Tensor:
    """Raises E_q[f] by stochastic gradient ascent (Adam), with any estimator.

    Args:
        objective: called once a step; returns f and q at the present parameters (and for the next minibatch).
        parameters: what f and q are made of; the estimator's own, if it has any, learn along.

    Returns:
        The values on the way, (num_steps, \\*batch).
    """
    stream = generator(seed)
    count("num_steps", num_steps, least=1)
    positive("step_size", step_size)
    own = estimator.parameters() if isinstance(estimator, nn.Module) else []
    learned = [*parameters, *own]
    optimizer = torch.optim.Adam(learned, lr=step_size, maximize=True)
    history = []
    for _ in range(num_steps):
        f, q = objective()
        value, surrogate = estimator(f, q, num_samples, generator=stream)
        optimizer.zero_grad()
        surrogate.sum().backward()
        optimizer.step()
        history.append(value)
    return torch.stack(history)


def replicate(estimator: Estimator, objective: Callable[[Tensor], tuple], parameters: Tensor, num_replicates: int = 10_000, *,
              num_samples: int = 1, seed: int | torch.Generator = 0) -> Tensor:
    """Independent repetitions of one gradient estimate, as one tensor operation: (num_replicates, \\*parameters.shape).

    Args:
        objective: maps parameters with a leading axis, (R, ...), to f and q with that batch axis.
        parameters: the point at which the gradient is asked for.
    """
    count("num_replicates", num_replicates, least=1)
    copies = parameters.detach().expand(num_replicates, *parameters.shape).clone().requires_grad_()
    f, q = objective(copies)
    _, surrogate = estimator(f, q, num_samples, generator=generator(seed))
    return torch.autograd.grad(surrogate.sum(), copies)[0]


class Moments(NamedTuple):
    """Mean and variance over repetitions, each with its standard error."""

    mean: Tensor
    mean_error: Tensor
    variance: Tensor
    variance_error: Tensor

    def z(self, exact: Tensor) -> Tensor:
        """How many standard errors the mean is from the truth; 0 where both agree and nothing varies."""
        off = self.mean - exact
        tiny = 1e-12 * (1 + exact.abs())
        return torch.where(off.abs() <= tiny, torch.zeros_like(off), off / self.mean_error.clamp(min=1e-300))


def moments(gradients: Tensor) -> Moments:
    """Mean and variance over the first axis, (R, ...) -> (...), with standard errors::

        s.e.(mean)² = v / R,      s.e.(variance)² = (m4 - v²) / R

    v is the variance, and m4 the fourth central moment.

    Raises:
        ValueError: for fewer than two repetitions.
    """
    R = count("the number of repetitions", len(gradients), least=2)
    mean = gradients.mean(0)
    square = (gradients - mean).square()
    v = square.sum(0) / (R - 1)
    return Moments(mean, (v / R).sqrt(), v, ((square.square().mean(0) - v.square()).clamp(min=0) / R).sqrt())


def toy(b: Tensor, t: float = 0.45) -> Tensor:
    """-sum_i (b_i - t)²: (..., d) -> (...), the test bench of gradients through bits, to be raised."""
    return -(b - t).square().sum(-1)


def toy_gradient(logits: Tensor, t: float = 0.45) -> Tensor:
    """The exact gradient of E[toy(b)] in the logits, (..., d): -(1 - 2t) m (1 - m), as f(1) - f(0) = 2t - 1."""
    m = torch.sigmoid(logits)
    return (2 * t - 1) * m * (1 - m)


def approximate(problem: Problem, *, estimator: Estimator = leave_one_out, family: str | nn.Module = "diagonal",
                num_samples: int = 10, num_steps: int = 1000, step_size: float = 0.05,
                seed: int | torch.Generator = 0) -> Approximation:
    """Raises the evidence lower bound of a family of q's, f(z) = log p(x, z) - log q(z), with any gradient estimator.

    The last half of the steps takes ever smaller ones, and their bound is estimated anew by 10,000 samples.

    Args:
        problem: the question.
        estimator: any of this module's for continuous latents; one that needs no derivative of the log joint by default.
        family: a word or a module, as `tightbound.families.make` takes them.
        num_samples: S, log joints a step (the most of them must be finite under q).
        num_steps, step_size: of Adam.

    Returns:
        An `Approximation` with the fitted q, and its bound ("lower bound", with a standard error).
    """
    began, spent, stream = time.perf_counter(), problem.evaluations, generator(seed, problem.device)
    member = families.make(family, problem.dim).to(problem.device)
    half = count("num_steps", num_steps, least=2) // 2

    def objective():
        q = member()
        return (lambda z: problem.log_joint(z) - q.log_prob(z)), q

    settings = {"num_samples": num_samples, "seed": stream}
    history = [climb(objective, member.parameters(), estimator, num_steps=half, step_size=step_size, **settings)]
    for part in range(4):
        steps = (num_steps - half) // 4 + (part < (num_steps - half) % 4)
        if steps:
            history.append(climb(objective, member.parameters(), estimator, num_steps=steps,
                                 step_size=step_size / 4 ** (part + 1), **settings))
    for parameter in member.parameters():
        parameter.requires_grad_(False)
    q = member()
    with torch.no_grad():
        z = q.rsample_and_log_prob((10_000,), generator=stream)[0]
        log_weights = problem.log_joint(z) - q.log_prob(z)
    bound = Estimate(float(log_weights.mean()), "lower bound", float(log_weights.std()) / math.sqrt(len(log_weights)))
    name = getattr(estimator, "__name__", type(estimator).__name__).replace("_", " ")
    return Approximation(method=f"bound by {name}", q=q, log_evidence=bound, history=torch.cat(history),
                         evaluations=problem.evaluations - spent, seconds=time.perf_counter() - began)
