"""Fitting flows: to the posterior of a problem by the evidence lower bound, to data by maximum likelihood."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tightbound.approximation import Approximation
from tightbound.arguments import count, positive
from tightbound.device import generator
from tightbound.estimate import Estimate
from tightbound.flows.flow import Flow, FlowDistribution, make
from tightbound.flows.transforms import FlowError
from tightbound.problem import Problem


class NoCompiler(FlowError):
    """A compiled path was asked for on a machine that cannot compile."""


def approximate(problem: Problem, flow: Flow | str = "spline", *, num_layers: int = 6, num_steps: int = 1_500, batch_size: int = 256,
                learning_rate: float = 0.01, warm_up: float = 0.25, num_samples: int = 20_000, seed: int | torch.Generator = 0,
                **options) -> Approximation:
    """A flow posterior: the flow whose evidence lower bound is largest, by stochastic gradients::

        ELBO = E_x~p_0 [log p(data, f(x)) - log p_0(x) + log |det df/dx|]

    In the first steps log p(data, z) counts only a part beta, growing from 0.01 to 1, so that the flow spreads before it settles
    (annealing). Adam's steps shrink to zero along half a cosine.

    Args:
        problem: the question.
        flow: a word that `make` knows, or a `Flow` over R^d to start from (a copy is trained). A problem in a box needs a flow that
            ends in a `Box`, which the words see to.
        num_layers, options: of `make`.
        num_steps, batch_size: steps, and samples a step: together the cost in log-joint evaluations.
        learning_rate: of the first step.
        warm_up: the share of the steps in which beta grows.
        num_samples: for the final estimate of the bound, fresh ones.
        seed: of weights and samples.

    Returns:
        An `Approximation` with q a `FlowDistribution`, a log evidence of kind "lower bound" with its standard error, `history` the
        ELBO of each step, and in `diagnostics` the trained `flow`.

    Raises:
        ValueError: for a flow of another dimension, or numbers out of range.
        FlowError: when q has mass where the log joint is -inf.
        NotFinite: when a step leads to a loss that is not finite; says which layer.

    Source: Rezende & Mohamed (2015), Variational inference with normalizing flows.
    """
    began, spent, stream = time.perf_counter(), problem.evaluations, generator(seed, problem.device)
    num_steps, batch_size = count("num_steps", num_steps, least=1), count("batch_size", batch_size, least=1)
    if isinstance(flow, str):
        flow = make(flow, problem.dim, num_layers=num_layers, box=problem.box, seed=generator(int(torch.randint(
            2**31, (), generator=stream, device=stream.device))), **options)
    elif flow.bijection.dim != problem.dim:
        raise ValueError(f"{problem.name!r} has {problem.dim} latents, but the flow is over {flow.bijection.dim}")
    else:
        flow = copy.deepcopy(flow)
    flow = flow.to(device=problem.device, dtype=problem.dtype)

    def loss(step: int) -> tuple[Tensor, Tensor]:
        z, log_q = flow().rsample_and_log_prob((batch_size,), generator=stream)
        log_joint = problem.log_joint(z)
        beta = min(1.0, 0.01 + 0.99 * step / max(warm_up * num_steps, 1))
        return (log_q - beta * log_joint).mean(), (log_joint - log_q).detach().mean()

    history = _descend(flow, loss, num_steps, positive("learning_rate", learning_rate), f"q has mass where the log joint of {problem.name!r} "
                       "is -inf: end the flow in a Box, or move the latents to all of R^d")
    q = flow(validate_args=False)
    with torch.no_grad():
        z, log_q = q.rsample_and_log_prob((count("num_samples", num_samples, least=2),), generator=stream)
        log_w = problem.log_joint(z) - log_q
    bound = Estimate(float(log_w.mean()), "lower bound", float(log_w.std() / len(log_w) ** 0.5))
    return Approximation("flow", _frozen(flow)(), bound, history, problem.evaluations - spent, time.perf_counter() - began,
                         {"flow": flow})


@dataclass(frozen=True)
class DensityFit:
    """A flow fitted to data.

    Attributes:
        flow: the trained `Flow`, and q its density.
        history: the average log density of each step's batch, in nats.
        validation: the average log density of the validation data after every `every` steps; empty without them.
        seconds: the wall-clock time it took.
    """

    flow: Flow
    q: FlowDistribution
    history: Tensor
    validation: Tensor
    seconds: float


def fit_density(data: Tensor | Callable[[torch.Generator], Tensor], flow: Flow | str = "affine", *, num_layers: int = 8,
                num_steps: int = 1_000, batch_size: int = 256, learning_rate: float = 5e-3, weight_decay: float = 0.0,
                validation: Tensor | None = None, every: int = 50, compile: bool = False, seed: int | torch.Generator = 0,
                **options) -> DensityFit:
    """A density for data by maximum likelihood: maximise the average of log q(x_n), which is minimising KL(data || q).

    Args:
        data: (N, d); or a function from a generator to a fresh batch (B, d), where data can be drawn without end.
        flow: a word that `make` knows, or a `Flow` to start from (a copy is trained).
        num_layers, options: of `make`.
        num_steps, batch_size, learning_rate, weight_decay: of Adam; its steps shrink to zero along half a cosine.
        validation: (M, d): every `every` steps their log density is taken, and the best state is what is returned.
        compile: compile the loss with `torch.compile` (half a minute, once; then each step is faster).
        seed: of weights and batches.

    Raises:
        ValueError: for data that are not (N, d), not finite, or fewer than two; for numbers out of range.
        NotFinite: when a step leads to a loss that is not finite; says which layer.
        NoCompiler: when `compile` is asked for where there is no C++ compiler.

    Source: Dinh, Krueger & Bengio (2015); Papamakarios, Pavlakou & Murray (2017).
    """
    began, stream = time.perf_counter(), generator(seed)
    batch_size, num_steps = count("batch_size", batch_size, least=1), count("num_steps", num_steps, least=1)
    draw = _sampler(data, batch_size)
    first = draw(stream) if callable(data) else data
    if isinstance(flow, str):
        flow = make(flow, first.shape[1], num_layers=num_layers, data=True, seed=generator(int(torch.randint(
            2**31, (), generator=stream))), **options).to(device=first.device, dtype=first.dtype)
        with torch.no_grad():
            flow.bijection.initialise(first)
    elif flow.bijection.dim != first.shape[1]:
        raise ValueError(f"the data have {first.shape[1]} columns, but the flow is over {flow.bijection.dim}")
    else:
        flow = copy.deepcopy(flow).to(device=first.device, dtype=first.dtype)
    negative = negative_log_likelihood(flow, compile=compile)
    scores, best = [], None

    def loss(step: int) -> tuple[Tensor, Tensor]:
        nonlocal best
        if validation is not None and step % every == 0:
            best = _better(flow, validation, scores, best)
        x = draw(stream)
        value = negative(x)
        if not bool(torch.isfinite(value.detach())):
            flow().log_prob(x)  # raises, and names the layer
        return value, -value.detach()

    history = _descend(flow, loss, num_steps, positive("learning_rate", learning_rate), "the density is zero at a datum", weight_decay)
    if validation is not None:
        flow.load_state_dict(_better(flow, validation, scores, best))
    return DensityFit(flow, _frozen(flow)(), history, torch.tensor(scores, dtype=torch.float64), time.perf_counter() - began)


def negative_log_likelihood(flow: Flow, *, compile: bool = False) -> Callable[[Tensor], Tensor]:
    """The loss of a batch, (B, d) -> (): minus the average log density in nats; compiled on request.

    Raises:
        NoCompiler: where there is no C++ compiler (a CPU's compiled code needs one).
    """
    def loss(x: Tensor) -> Tensor:
        return -flow(validate_args=False).log_prob(x).mean()

    return compiled(loss) if compile else loss


def training_step(parameters: Sequence[nn.Parameter], loss: Callable[..., Tensor], *, learning_rate: float = 1e-3,
                  compile: bool = False) -> Callable[..., Tensor]:
    """A function of the loss's inputs that takes one step of (fused) Adam along its gradient, and returns the loss; for loops of one's
    own. With `compile` the loss and its gradient are compiled, in half a minute, at the first step.

    Raises:
        NoCompiler: where there is no C++ compiler.
    """
    optimizer = torch.optim.Adam(list(parameters), lr=positive("learning_rate", learning_rate), fused=True)
    loss = compiled(loss) if compile else loss

    def step(*inputs: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss(*inputs)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def compiled(function: Callable) -> Callable:
    """`torch.compile(function)`, after a look at whether this machine can.

    Raises:
        NoCompiler: where a CPU's code cannot be compiled; says what to install.
    """
    if not torch.cuda.is_available():
        from torch._inductor import cpp_builder, exc  # loaded only where it is asked for

        try:
            cpp_builder.get_cpp_compiler()
        except (exc.InvalidCxxCompiler, RuntimeError):
            raise NoCompiler("a compiled flow needs a C++ compiler, and this machine has none: install g++ or clang++ (and set the "
                             "environment variable CXX to it), or leave compile=False") from None
    return torch.compile(function)


def _sampler(data, batch_size: int) -> Callable[[torch.Generator], Tensor]:
    if callable(data):
        return data
    if not isinstance(data, Tensor) or data.ndim != 2 or len(data) < 2:
        raise ValueError("data must be a tensor (N, d) of two or more rows, or a function that draws a batch, got "
                         f"{tuple(data.shape) if isinstance(data, Tensor) else type(data).__name__}")
    if not bool(torch.isfinite(data).all()):
        raise ValueError("data must be finite: drop or fill the missing entries first")
    return lambda stream: data[torch.randint(len(data), (batch_size,), generator=stream)]


def _descend(flow: Flow, loss: Callable[[int], tuple[Tensor, Tensor]], num_steps: int, learning_rate: float, reason: str,
             weight_decay: float = 0.0) -> Tensor:
    """Adam along the loss; the history of what it is to be judged by."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 + 0.5 * math.cos(math.pi * t / num_steps))
    history = []
    for step in range(num_steps):
        value, score = loss(step)
        if not math.isfinite(at := float(value.detach())):
            raise FlowError(f"in step {step} the loss is {at}: {reason}")
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        history.append(score)
    return torch.stack(history).double().cpu()


def _better(flow: Flow, validation: Tensor, scores: list[float], best):
    with torch.no_grad():
        scores.append(float(flow(validate_args=False).log_prob(validation).mean()))
    return copy.deepcopy(flow.state_dict()) if best is None or scores[-1] >= max(scores) else best


def _frozen(flow: Flow) -> Flow:
    return flow.requires_grad_(False)
