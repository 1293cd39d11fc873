"""Steps up the bound: of Adam, along the natural gradient, several in one compiled graph, and bare ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from tightbound import families
from tightbound.device import generator
from tightbound.distributions import standard_normal
from tightbound.problem import Problem

STEPS = 10         # between two looks at q
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # of Adam
LONGEST = 0.5      # standard deviations that q moves in one natural step
UNROLLED = 5       # steps in one compiled graph

Engine = Callable[[float], Tensor]  # takes STEPS steps of a size, and returns the bound's estimate at the last one


class SVIError(RuntimeError):
    """The steps led nowhere; the message says why, and what may help."""


def plain_steps(problem: Problem, member: nn.Module, num_samples: int, batch_size: int | None, search: str,
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


def compiled_steps(problem: Problem, member: nn.Module, num_samples: int, stream: torch.Generator) -> Engine:
    """The same steps, `UNROLLED` at a time in one graph; where no graph can be made, the loop itself."""
    parameters, t = list(member.parameters()), torch.zeros((), dtype=problem.dtype, device=problem.device)
    graph, state = graph_of(problem, type(member)), ([torch.zeros_like(p) for p in parameters],) * 2 + (t,)
    shape = (UNROLLED, num_samples, *member().batch_shape, member().noise_dim)

    def advance(step_size: float) -> Tensor:
        nonlocal state
        for _ in range(STEPS // UNROLLED):
            noise = standard_normal(shape, generator=stream, dtype=problem.dtype, device=problem.device)
            with torch.no_grad():
                values, *state, bound = graph([p.detach() for p in parameters], *state, noise, t.new_tensor(step_size))
            put(member, values)
            problem.evaluations += noise.shape[:-1].numel()
        return bound

    try:  # compiles
        with torch.no_grad():
            graph([p.detach() for p in parameters], *state, torch.zeros(shape, dtype=problem.dtype, device=problem.device), t)
    except Exception as error:  # of many kinds: no compiler, or a log joint that cannot be traced
        warnings.warn(f"no compiled path for {problem.name!r}, taking the plain steps: {str(error).strip().splitlines()[0]}",
                      stacklevel=3)
        return plain_steps(problem, member, num_samples, None, "adam", stream)
    return advance


@lru_cache(maxsize=8)
def graph_of(problem: Problem, kind: type[nn.Module]) -> Callable:
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


def put(member: nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(member.parameters(), values):
        if parameter.shape == value.shape:
            parameter.detach().copy_(value)     # in the same memory
        else:
            parameter.data = value.detach().clone()


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
