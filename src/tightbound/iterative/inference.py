"""Inference with a start, a rule and a number of steps: the direct encoder, ascent and learned optimisers are all of this kind.

==============================  =========  ==============  =====  ===========================
method                          start      rule            steps  trained
==============================  =========  ==============  =====  ===========================
direct encoder                  encoder    none            0      encoder
ascent for each datum           prior      Ascent, Adam    many   nothing
encoder, then refinement        encoder    Ascent, Adam    a few  encoder, at step 0
semi-amortised VAE              encoder    Ascent          a few  encoder and rate, through the steps
iterative inference model       prior      Learned         a few  the rule
encoder, then learned steps     encoder    Learned         a few  both
==============================  =========  ==============  =====  ===========================
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tightbound import vae
from tightbound.approximation import Approximation, effective_sample_size, log_mean_exp
from tightbound.arguments import count
from tightbound.device import generator as stream_of, meet
from tightbound.distributions import DiagonalGaussian, standard_normal
from tightbound.estimate import Estimate
from tightbound.iterative.bound import Nodes, draws, elbo, errors, gradient, hermite, log_weights, member, numbers
from tightbound.iterative.rules import Adam, Signal
from tightbound.problem import Problem


class Inference(nn.Module):
    """A model whose q(z | x) comes from a start and some steps::

        lambda_0 = start(x),    lambda_{t+1} = rule(lambda_t, gradient of L(x; lambda_t), errors),    q = N(mu_T, diag(s_T^2))

    It can stand wherever a model of `tightbound.vae` can: it has the model's `log_joint`, and a `posterior` of its own. The
    structure of the model is nowhere written down here. It defines the gradient, and the gradient defines the inference.

    Args:
        model: anything with `log_joint(x, z)`, `prior()` and `dim`; `decode` too, where errors are asked for.
        rule: `Ascent`, `Adam`, `Learned`, or none.
        start: "encoder" (the model's own), "prior" (mu = 0, s = 1), or a module from x to a `DiagonalGaussian`.
        num_steps: T.
        num_samples: of the noise behind each gradient, fresh at each step: one, or an even number.
        nodes: points to use in place of fresh noise, see `hermite`.

    Raises:
        ValueError: for an unknown start, or steps without a rule.
    """

    def __init__(self, model: nn.Module, rule: nn.Module | None = None, *, start: str | nn.Module = "prior",
                 num_steps: int = 5, num_samples: int = 10, nodes: Nodes | None = None):
        super().__init__()
        if isinstance(start, str) and start not in ("encoder", "prior"):
            raise ValueError(f"unknown start {start!r}: choose 'encoder' or 'prior', or give a module")
        if rule is None and num_steps:
            raise ValueError("steps need a rule: give Ascent, Adam or Learned, or num_steps=0")
        self.model, self.rule, self.start = model, rule, start
        self.num_steps, self.num_samples, self.nodes = count("num_steps", num_steps), num_samples, nodes

    dim = property(lambda self: self.model.dim)

    def prior(self):
        return self.model.prior()

    def decode(self, z: Tensor):
        return self.model.decode(z)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        return self.model.log_joint(x, z)

    def check(self, x: Tensor) -> None:
        if hasattr(self.model, "check"):
            self.model.check(x)

    def first(self, x: Tensor) -> Tensor:
        """lambda_0 of each datum, (B, 2, d)."""
        if self.start == "prior":
            like = next((p for p in self.model.parameters()), x)
            return like.new_zeros(len(x), 2, self.dim)
        return numbers(self.model.posterior(x) if self.start == "encoder" else self.start(x))

    def path(self, x: Tensor, num_steps: int | None = None, *, start: Tensor | None = None,
             generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """lambda (T + 1, B, 2, d) from the start on, and of the first T the bound (T, B) and its gradient (T, B, 2, d).

        Args:
            num_steps: T, if another than the one it was made with.
            start: lambda to start from, (B, 2, d).
            generator: of the noise behind the gradients.
        """
        meet(x, self.model)
        lam = self.first(x) if start is None else start
        memory = self.rule.remember(lam) if self.rule is not None else None
        lams, values, slopes = [lam], [], []
        for step in range(self.num_steps if num_steps is None else num_steps):
            nodes = self.nodes if self.nodes is not None else draws(self.num_samples, lam, generator)
            value, slope = gradient(self.model, x, lam, nodes, through=self.rule.through and torch.is_grad_enabled())
            here = lam

            def seen() -> Tensor:
                z = here[:, 0] + here[:, 1].exp() * nodes.points
                return (nodes.weights[:, None, None] * errors(self.model, x, z)).sum(0)

            lam, memory = self.rule(Signal(lam, slope, seen, step), memory)
            lams, values, slopes = [*lams, lam], [*values, value], [*slopes, slope]
        empty = lam.new_zeros(0, len(x))
        return (torch.stack(lams), torch.stack(values) if values else empty,
                torch.stack(slopes) if slopes else empty[..., None, None].expand(0, len(x), 2, self.dim))

    def posterior(self, x: Tensor, *, generator: torch.Generator | None = None) -> DiagonalGaussian:
        """q(z | x) after all steps. Without a generator the noise is the same at every call."""
        stream = generator if generator is not None or self.nodes is not None else stream_of(0, x.device)
        return member(self.path(x, generator=stream)[0][-1])

    def approximate(self, x: Tensor, *, num_samples: int = 1_000, seed: int = 0) -> Callable[[Problem], Approximation]:
        """The inference on one datum x (D,) as a method for the league, for the problem that is about this datum."""
        def approximate(problem: Problem) -> Approximation:
            before = time.perf_counter()
            with torch.no_grad():
                row = x[None].to(next((p for p in self.parameters()), x).dtype)
                lams, values, _ = self.path(row, generator=stream_of(seed, x.device))
                q = member(lams[-1, 0].to(problem.dtype))
                z, log_q = q.rsample_and_log_prob((num_samples,), generator=stream_of(seed + 1, x.device))
                log_w = problem.log_joint(z) - log_q
            each = self.num_samples if self.nodes is None else len(self.nodes.weights)
            bound = Estimate(log_w.mean(), "lower bound", float(log_w.std() / math.sqrt(num_samples)), "samples")
            return Approximation("iterative" if len(lams) > 1 else "encoder", q, bound, values[:, 0].double(),
                                 (len(lams) - 1) * each, time.perf_counter() - before)
        return approximate


def unrolled(inference: Inference, x: Tensor, *, generator: torch.Generator | None = None, every: bool = True,
             num_samples: int = 2, scatter: float = 0.0) -> Tensor:
    """What the training of an inference maximises, for `training.fit`: the bound along its own steps, (B,), in nats::

        1/T sum_{t=1}^T L(x; lambda_t)        (every=True),    or L(x; lambda_T)

    The gradients that come in as inputs are constants to it, unless the rule says `through`. Where the model's parameters ask
    for gradients they are trained along.

    Args:
        scatter: the standard deviation of noise that is added to the first mean, so that the rule learns to come from anywhere.

    Source: Marino, Yue & Mandt (2018); Andrychowicz et al. (2016).
    """
    start = inference.first(x)
    if scatter:
        eps = torch.randn(start[:, 0].shape, generator=generator, device=x.device)
        start = start + scatter * torch.stack([eps, torch.zeros_like(eps)], 1)
    lams, _, _ = inference.path(x, start=start, generator=generator)
    lams = lams[1:] if every and len(lams) > 1 else lams[-1:]
    flat = lams.flatten(0, 1)
    many = x.repeat(len(lams), 1)
    return elbo(inference.model, many, flat, draws(num_samples, flat, generator)).unflatten(0, lams.shape[:2]).mean(0)


class Alternating(torch.optim.Adam):
    """Adam that moves the generative model's parameters only at every `inner`-th step: the inference is trained harder.

    Args:
        parameters, lr: as of `torch.optim.Adam`.
        slow: those of the parameters that wait.
        inner: how many steps of the inference there are to one of theirs.
        until: the step from which on all move together, as in plain training.

    Source: He, Spokoyny, Neubig & Berg-Kirkpatrick (2019), Lagging inference networks and posterior collapse, who go on with
    the inference until its bound no longer rises; a fixed number is simpler, and does the same.
    """

    def __init__(self, parameters, lr: float = 1e-3, *, slow, inner: int = 10, until: float = math.inf):
        super().__init__(parameters, lr=lr)
        self.slow, self.inner, self.until, self.taken = set(slow), count("inner", inner, least=1), until, 0

    def step(self, closure=None):
        self.taken += 1
        if self.taken <= self.until and self.taken % self.inner:
            for parameter in self.slow:
                parameter.grad = None
        return super().step(closure)


def aggressive(slow: nn.Module | list[nn.Module], *, inner: int = 10, until: float = math.inf) -> Callable:
    """An optimiser for `training.fit` that trains the inference harder than the modules `slow`; see `Alternating`."""
    modules = [slow] if isinstance(slow, nn.Module) else list(slow)
    waiting = [p for module in modules for p in module.parameters()]
    return lambda parameters, lr: Alternating(parameters, lr, slow=waiting, inner=inner, until=until)


# What is missing, and where ------------------------------------------------------------------------------------------------

def optimise(model, x: Tensor, start: Tensor, *, num_steps: int = 200, rate: float = 0.1, num_samples: int = 20,
             nodes: Nodes | None = None, seed: int | torch.Generator = 0) -> Tensor:
    """The best lambda that Adam finds for each datum by itself, (B, 2, d); its rate falls to zero along a cosine."""
    falling = Adam(lambda step: 0.5 * rate * (1 + math.cos(math.pi * step / num_steps)))
    machine = Inference(model, falling, num_steps=num_steps, num_samples=num_samples, nodes=nodes)
    with torch.no_grad():
        return machine.path(x, start=start, generator=stream_of(seed, x.device))[0][-1]


class Gaps(NamedTuple):
    """What lies between q's bound and log p(x), each (B,), in nats: inference = approximation + amortisation.

    Attributes:
        log_evidence: log p(x).
        best: L*, the bound of the best member of the family.
        bound: L, that of the q which the inference returns.
        standard_error: of `log_evidence`, (B,); zero where it is exact.
        bound_error: of best - bound, (B,), for both are seen on the same noise; zero where they are exact.
        optimum: lambda of the best member, (B, 2, d).
    """

    log_evidence: Tensor
    best: Tensor
    bound: Tensor
    standard_error: Tensor
    bound_error: Tensor
    optimum: Tensor

    approximation = property(lambda self: self.log_evidence - self.best)
    amortisation = property(lambda self: self.best - self.bound)
    inference = property(lambda self: self.log_evidence - self.bound)


def gaps(model, x: Tensor, *, log_evidence: Tensor | None = None, num_steps: int = 200, num_samples: int = 5_000,
         num_temperatures: int = 200, num_points: int = 12, seed: int = 0) -> Gaps:
    """The two gaps of each datum x (B, D) in nats::

        approximation gap = log p(x) - L*(x)       >= 0: no member of the family is the posterior
        amortisation gap  = L*(x) - L(x; q)        >= 0: q is not the best member
        inference gap     = log p(x) - L(x; q) = KL(q || p(z | x)), their sum

    With one or two latents log p(x) is exact, the bounds by quadrature. With more of them log p(x) is the larger of importance
    sampling from the best q ("IS(5000)") and annealed importance sampling, which are both low on average, and bounds are by
    samples. L* is the best that Adam found from q and from the prior: if it is off it is low, the approximation gap then too
    large, the amortisation gap too small.

    Args:
        model: a model of `tightbound.vae` with a diagonal Gaussian encoder, or an `Inference`.
        log_evidence: log p(x) of each datum (B,), where it is known exactly.
        num_steps: of Adam, from each of the two starts.
        num_samples: of importance sampling, and of the final bounds, for more than two latents.
        num_temperatures: of annealing (25 chains a datum).
        num_points: of the quadrature, to an axis, for one or two latents.

    Source: Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders.
    """
    vae.evaluate._checked(model, x)
    exactly = model.dim <= 2
    # Eight points to an axis, in single precision, are good enough to find the way by.
    rough = hermite(model.dim, 8, dtype=torch.float32, device=x.device) if exactly else None
    quick, images = vae.evaluate.frozen(model, torch.float32 if exactly else None), x.float() if exactly else x
    with torch.no_grad():
        lam = numbers(quick.posterior(images))
        found = [optimise(quick, images, start, num_steps=num_steps, nodes=rough, seed=seed)
                 for start in (lam, torch.zeros_like(lam))]
        found = torch.stack([lam, *found])                                        # never worse than q itself
        if exactly:
            model, x, found = vae.evaluate.frozen(model, torch.float64), x.double(), found.double()
        nodes = hermite(model.dim, num_points, device=x.device) if exactly else None
        values = torch.stack([_values(quick if nodes is None else model, x, at, nodes, num_samples, seed) for at in found])
        weights = nodes.weights if exactly else values.new_full((num_samples,), 1 / num_samples)
        bounds = torch.einsum("s,ksb->kb", weights, values)                       # values: (3, S, B)
    which, row = bounds.argmax(0), torch.arange(len(x), device=x.device)
    best, bound, optimum = bounds[which, row].double(), bounds[0].double(), found[which, row]
    of_best, error, zero = values[which, :, row].double(), torch.zeros_like(best), torch.zeros_like(best)
    if log_evidence is not None:
        known = log_evidence.to(best)
    elif exactly:
        known = vae.exact(model, x)
    else:
        known, error = _larger(of_best, vae.annealed(quick, x, num_temperatures=num_temperatures, start="posterior", seed=seed))
    if exactly:
        return Gaps(known, best, bound, zero, zero, optimum)
    return Gaps(known, best, bound, error, (of_best - values[0].double().mT).std(1) / math.sqrt(num_samples), optimum)


def _values(model, x: Tensor, lam: Tensor, nodes: Nodes | None, num_samples: int, seed: int) -> Tensor:
    """Log weights at the nodes, or at samples that are the same for every lambda: (S, B), a part of them at a time."""
    at_once = max(1, vae.evaluate.PAIRS * 4 // len(x))
    if nodes is not None:
        parts = nodes.points.split(at_once)
    else:
        stream = stream_of(seed + 1, x.device)
        parts = (standard_normal((min(at_once, num_samples - start), *lam[:, 0].shape), generator=stream, dtype=lam.dtype,
                                 device=x.device)
                 for start in range(0, num_samples, at_once))
    return torch.cat([log_weights(model, x, lam, Nodes(part, part)) for part in parts])


def _larger(log_w: Tensor, annealed: vae.Evidence) -> tuple[Tensor, Tensor]:
    """The larger of two estimates of log p(x), by weights (B, S) and by annealing; both are low on average. And its error."""
    by_weights = log_mean_exp(log_w)
    error = (1 / effective_sample_size(log_w) - 1 / log_w.shape[-1]).clamp(min=0).sqrt()
    better = annealed.log_evidence > by_weights
    return torch.where(better, annealed.log_evidence, by_weights), torch.where(better, annealed.standard_error, error)
