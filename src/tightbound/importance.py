"""Importance sampling: an integral becomes an average over samples of something easier.

For any proposal q that covers the posterior, the evidence is a mean, and so is every posterior expectation::

    p(x)        = E_q[w(z)],                    w(z) = p(x, z) / q(z)
    log p(x)    ≈ log (1/S) sum_s w_s,          z_s ~ q
    E[f(z) | x] ≈ sum_s w_s f(z_s) / sum_s w_s  (self-normalised)

The average w is unbiased for p(x); its logarithm is low on average, by about Var(w) / (2 S p(x)^2). All of it hangs on the
variance of w, which may be infinite without looking so: `pareto_k_hat` tells.

Source: Kahn & Marshall (1953); Owen (2013), chapter 9; Vehtari, Simpson, Gelman, Yao & Gabry (2024); Neal (2001).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.distributions import Distribution

from tightbound import laplace
from tightbound.approximation import Approximation, log_mean_exp
from tightbound.arguments import count
from tightbound.device import generator
from tightbound.distributions import Particles, StudentT, choose, draw
from tightbound.estimate import Estimate
from tightbound.problem import Problem
from tightbound.problems.discrete import GaussianMixture

BATCH = 2**16    # samples at once
PART = 2**13     # points at once in the log joint, whose intermediate results then stay in the processor's cache
KEPT = 4_000     # draws from the posterior that are kept


class ImportanceError(RuntimeError):
    """Importance sampling has no answer for this problem and proposal; the message says why, and what may help."""


# The estimate ------------------------------------------------------------------------------------------------------

def approximate(problem: Problem, *, proposal: Distribution | None = None, num_samples: int = 100_000,
                of: Callable[[Tensor], Tensor] | None = None, batch: int = BATCH,
                seed: int | torch.Generator = 0) -> Approximation:
    """Importance sampling in one pass: memory does not grow with the number of samples.

    Args:
        problem: the question.
        proposal: q, a distribution over z in R^d with a density. Left out, it is a Student t of 5 degrees of
            freedom with the mean and the scale of Laplace's Gaussian, whose tails are heavier than the Gaussian's.
        num_samples: S, at least 25.
        of: a function f: (..., d) -> (..., k) whose posterior mean is wanted; z itself if left out.
        batch: samples at once.
        seed: of the samples.

    Returns:
        An `Approximation`. Its log evidence is a "consistent estimate" with the standard error
        ``sqrt(1/ESS - 1/S)`` (delta method); q holds up to 4,000 draws from the posterior by
        sampling-importance-resampling; `history` is the estimate after each batch. In `diagnostics`: `ess`,
        `k_hat`, and the posterior mean `expectation` (k,) of f with its `standard_error` (k,).

    Raises:
        ValueError: for too few samples, or a proposal of another dimension, or without a density.
        ImportanceError: when no sample falls where the log joint is finite.
        LaplaceError: when no proposal is given and Laplace's method finds none.
    """
    num_samples, batch = count("num_samples", num_samples, least=25), count("batch", batch, least=1)
    start, before = time.perf_counter(), problem.evaluations
    proposal = default_proposal(problem) if proposal is None else proposal
    of, stream = of or (lambda z: z), generator(seed, problem.device)
    sums, history = _Sums(num_samples), []
    with torch.no_grad():
        for first in range(0, num_samples, batch):
            z, log_q = _samples(problem, proposal, min(batch, num_samples - first), stream)
            log_joint = torch.cat([problem.log_joint(part) for part in z.split(PART)])
            sums.add(log_joint - log_q, of(z), z, stream)
            history.append(sums.log_evidence())
    if sums.top == -math.inf:
        raise ImportanceError(f"none of {num_samples} samples of the proposal falls where {problem.name!r} has density: "
                              "give a proposal that covers its support")
    ess = sums.effective_sample_size()
    estimate = Estimate(sums.log_evidence(), "consistent estimate",
                        standard_error=math.sqrt(max(1 / ess - 1 / num_samples, 0.0)))
    expectation, error = sums.expectation()
    return Approximation("importance", Particles(sums.kept), estimate, torch.tensor(history, dtype=torch.float64),
                         problem.evaluations - before, time.perf_counter() - start,
                         {"ess": ess, "k_hat": float(_k_hat_of_tail(sums.tail)), "expectation": expectation,
                          "standard_error": error, "proposal": proposal})


def default_proposal(problem: Problem, df: int = 5) -> StudentT:
    """A Student t with the mean and the scale of Laplace's Gaussian: the same middle, heavier tails."""
    q = laplace.approximate(problem).q
    return StudentT(df, q.loc, q.scale_tril)


def _samples(problem: Problem, proposal: Distribution, num_samples: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples (S, d) of the proposal, and their log density (S,)."""
    try:
        z, log_q = draw(proposal, (num_samples,), generator=stream)
    except NotImplementedError:
        raise ValueError(f"{type(proposal).__name__} cannot be a proposal for {problem.name!r}: it needs samples and their "
                         "density, `sample` and `log_prob`") from None
    if z.shape != (num_samples, problem.dim) or log_q.shape != (num_samples,):
        raise ValueError(f"a proposal for {problem.name!r} makes samples of shape ({problem.dim},) with one log density "
                         f"each, got samples {tuple(z.shape[1:])} and log densities {tuple(log_q.shape[1:])}: wrap "
                         "independent coordinates in torch.distributions.Independent(..., 1)")
    return z, log_q


class _Sums:
    """Running sums of weights exp(l_s - top), top being the largest log weight so far::

        first = sum w,   second = sum w^2,   of f: sum w f, sum w^2 f, sum w^2 f^2

    beside the largest log weights, and draws of z in proportion to w. f is counted from a centre, its mean in the first
    batch, lest its squares lose their digits.
    """

    def __init__(self, num_samples: int):
        self.top, self.count, self.sums, self.centre = -math.inf, 0, None, None
        self.tail, self.length = None, _tail_length(num_samples) + 1  # one more: the threshold
        self.kept, self.slots = None, min(KEPT, num_samples)

    def add(self, log_weights: Tensor, f: Tensor, z: Tensor, stream: torch.Generator) -> None:
        self._keep_tail(log_weights)
        self.count += len(log_weights)
        if log_weights.amin() == -math.inf:  # f may have no value outside of the support
            inside = log_weights > -math.inf
            log_weights, f, z = log_weights[inside], f[inside], z[inside]
        if len(log_weights):
            before = float(self.sums[0]) if self.sums else 0.0
            weights, scale = self.add_weights(log_weights, f)
            self._resample(z, weights, 1 - scale * before / float(self.sums[0]), stream)

    def add_weights(self, log_weights: Tensor, f: Tensor) -> tuple[Tensor, float]:
        top = float(self.tail[0])                  # the largest log weight so far
        weights = torch.exp(log_weights - top)
        if self.centre is None:
            self.centre = weights @ f / weights.sum()
        f, squares = f - self.centre, weights.square()
        new = [weights.sum(), squares.sum(), *(torch.stack([weights, squares]) @ f), squares @ f.square()]
        scale = math.exp(self.top - top)           # of what was added up before
        if self.sums:
            new = [fresh + scale**power * old for fresh, old, power in zip(new, self.sums, (1, 2, 1, 2, 2))]
        self.sums, self.top = new, top
        return weights, scale

    def _keep_tail(self, log_weights: Tensor) -> None:
        """Keeps the largest log weights, in descending order."""
        if self.tail is not None:
            if len(self.tail) == self.length:
                log_weights = log_weights[~(log_weights <= self.tail[-1])]  # keeps a NaN
            log_weights = torch.cat([self.tail, log_weights])
        self.tail = log_weights.topk(min(self.length, len(log_weights))).values
        if not float(self.tail[0]) < math.inf:  # topk takes NaN for the largest of all
            raise ValueError("a log weight is NaN or +inf: the proposal must have density wherever it samples, and the "
                             "log joint be finite or -inf there")

    def _resample(self, z: Tensor, weights: Tensor, share: float, stream: torch.Generator) -> None:
        """Each slot takes one of the new z with the probability that their share of all weight so far gives them."""
        if self.kept is None:
            self.kept, share = z.new_zeros(self.slots, z.shape[-1]), 1.0
        taken = torch.rand(self.slots, generator=stream, dtype=z.dtype, device=z.device) < share
        self.kept[taken] = z[choose(weights, int(taken.sum()), stream)]

    def log_evidence(self) -> float:
        return self.top + math.log(float(self.sums[0]) / self.count) if self.sums else -math.inf

    def effective_sample_size(self) -> float:
        return float(self.sums[0] ** 2 / self.sums[1])

    def expectation(self) -> tuple[Tensor, Tensor]:
        """sum w f / sum w, and its standard error, the root of sum w^2 (f - mean)^2 / (sum w)^2."""
        first, second, wf, w2f, w2f2 = self.sums
        mean = wf / first
        return self.centre + mean, (w2f2 - 2 * mean * w2f + mean**2 * second).clamp(min=0).sqrt() / first


def iwae_bound(log_weights: Tensor) -> Tensor:
    """The importance-weighted bound, from R groups of K log weights, (..., R, K) -> (..., R), in nats::

        L_K = E[log (1/K) sum_k w_k] <= log p(x),      L_1 = ELBO,      L_K <= L_{K+1}

    Its mean over the groups estimates L_K, their standard deviation over the root of R is its standard error.

    Source: Burda, Grosse & Salakhutdinov (2016).
    """
    return log_mean_exp(log_weights)


def resample(z: Tensor, log_weights: Tensor, num_draws: int, *, seed: int | torch.Generator = 0) -> Tensor:
    """Sampling-importance-resampling: draws, with replacement, from z (S, d) in proportion to its weights, (num_draws, d).

    As S grows their distribution tends to the posterior; there are never more different ones than S.

    Raises:
        ValueError: when there is not one log weight a sample, or they are NaN, +inf or all -inf.

    Source: Rubin (1988).
    """
    if log_weights.shape != z.shape[:1]:
        raise ValueError(f"expected one log weight a sample, ({z.shape[0]},), got {tuple(log_weights.shape)}")
    _checked(log_weights)
    weights = torch.exp(log_weights - log_weights.max())
    return z[choose(weights, num_draws, generator(seed, z.device))]


# Pareto-smoothed importance sampling -------------------------------------------------------------------------------

def pareto_k_hat(log_weights: Tensor) -> Tensor:
    """The tail index k of the weights' distribution, (..., S) -> (...)::

        P(w > t) ~ t^(-1/k),     fitted to the min(S/5, 3 sqrt(S)) largest weights

    Moments up to order 1/k exist: from k = 1/2 on the variance is infinite, from k = 1 on the mean. In practice k-hat
    below 0.7 means that the estimate can be trusted, with its standard error below 0.5.

    Raises:
        ValueError: for fewer than 25 log weights, or NaN, +inf or all -inf among them.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling.
    """
    _checked(log_weights)
    if log_weights.shape[-1] < 25:
        raise ValueError(f"a tail needs at least 25 log weights, got {log_weights.shape[-1]}")
    return _k_hat_of_tail(log_weights.topk(_tail_length(log_weights.shape[-1]) + 1).values)


def pareto_smooth(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Pareto-smoothed log weights and k-hat: (..., S) -> (..., S), (...).

    The largest weights are replaced by what the fitted generalised Pareto distribution expects of the largest of as many
    draws, capped at the largest weight seen. That takes away variance, and adds a little bias. The other weights stay.

    Raises:
        ValueError: as `pareto_k_hat`.

    Source: Vehtari et al. (2024).
    """
    _checked(log_weights)
    if log_weights.shape[-1] < 25:
        raise ValueError(f"a tail needs at least 25 log weights, got {log_weights.shape[-1]}")
    values, places = log_weights.topk(_tail_length(log_weights.shape[-1]) + 1)
    top, log_threshold, tail = values[..., :1], values[..., -1:], values[..., :-1]
    threshold = torch.exp(log_threshold - top)
    k, sigma = fit_pareto(torch.exp(tail - top) - threshold)
    ranks = (torch.arange(tail.shape[-1], 0, -1, dtype=tail.dtype, device=tail.device) - 0.5) / tail.shape[-1]
    smooth = torch.log(threshold + pareto_quantile(ranks, k.unsqueeze(-1), sigma.unsqueeze(-1))).clamp(max=0.0) + top
    return log_weights.scatter(-1, places[..., :-1], torch.where(torch.isfinite(smooth), smooth, tail)), k


def fit_pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape k and scale sigma of a generalised Pareto distribution, fitted to (..., M) excesses: (...), (...)::

        p(y) = 1/sigma (1 + k y / sigma)^(-1/k - 1),    y > 0

    With b = k/sigma, the profile likelihood has k(b) = mean log(1 + b y) at its top. Zhang & Stephens (2009) average b over a
    grid of values weighted by that likelihood; a weak prior of ten observations draws k towards one half.

    Args:
        excess: numbers not below 0, in descending order, the largest about one.

    Returns:
        k and sigma; k is -inf where all are zero (weights that are all equal), +inf where only a quarter or more are.
    """
    m = excess.shape[-1]
    num = 30 + int(m**0.5)
    largest, quartile = excess[..., :1], excess[..., m - int(m / 4 + 0.5), None]
    steps = torch.arange(1, num + 1, dtype=excess.dtype, device=excess.device) - 0.5
    b = (1 - torch.sqrt(num / steps)) / (3 * quartile) + 1 / largest
    k = torch.log1p(-b.unsqueeze(-1) * excess.unsqueeze(-2)).mean(-1)
    log_likelihood = m * (torch.log(-b / k) - k - 1)
    b = (torch.softmax(log_likelihood, -1) * b).sum(-1, keepdim=True)
    k = torch.log1p(-b * excess).mean(-1)
    sigma, k = -k / b.squeeze(-1), (m * k + 5) / (m + 10)
    too_small = 1000 * torch.finfo(excess.dtype).tiny  # its inverse, b, would be infinite
    k = torch.where(quartile.squeeze(-1) > too_small, k, math.inf)  # much of the tail is nothing beside its largest weight
    return torch.where(largest.squeeze(-1) > 1e-12, k, -math.inf), sigma  # all weights are one


def pareto_quantile(probability: Tensor, k: Tensor, sigma: Tensor) -> Tensor:
    """The quantile of a generalised Pareto distribution, sigma ((1 - p)^-k - 1) / k."""
    log_tail = torch.log1p(-probability)
    return torch.where(k.abs() < 1e-30, -sigma * log_tail, sigma * torch.expm1(-k * log_tail) / k)


def _tail_length(num_samples: int) -> int:
    return int(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def _k_hat_of_tail(tail: Tensor) -> Tensor:
    """k-hat from the largest log weights (..., M + 1) in descending order, the last being the threshold."""
    weights = torch.exp(tail - tail[..., :1])
    return fit_pareto(weights[..., :-1] - weights[..., -1:])[0]


def _checked(log_weights: Tensor) -> None:
    if not bool(torch.isfinite(log_weights.amax(-1)).all()):
        raise ValueError("log weights must not be NaN or +inf, nor all be -inf: does the proposal cover the support of the log joint?")


# Markov chains: two other routes -----------------------------------------------------------------------------------

def gibbs(model: GaussianMixture, *, num_sweeps: int = 1_000, num_chains: int = 4,
          seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor]:
    """Gibbs sampling of a mixture: assignments given the means, means given the assignments, in turn::

        p(z_n = k | mu, x) ∝ N(x_n; mu_k, scale^2)
        p(mu_k | z, x)     = N(t^2 S_k / (s^2 + t^2 n_k),  s^2 t^2 / (s^2 + t^2 n_k))

    with n_k and S_k the number and the sum of the observations in component k, s the scale and t the prior scale.

    Args:
        model: which component did each observation come from?
        num_sweeps: sweeps of each chain; the first ones still remember where it started.
        num_chains: chains, started from draws of the prior, side by side.

    Returns:
        Assignments (num_sweeps, num_chains, N), integers, and means (num_sweeps, num_chains, K).

    Source: Geman & Geman (1984); Gelfand & Smith (1990).
    """
    if num_sweeps < 1 or num_chains < 1:
        raise ValueError(f"num_sweeps and num_chains must be at least 1, got {num_sweeps} and {num_chains}")
    x, K, s2, t2 = model.x, model.num_states, model.scale**2, model.prior_scale**2
    stream = generator(seed, x.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=stream, dtype=x.dtype, device=x.device)

    mu, assignments, means = t2**0.5 * normal(num_chains, K), [], []
    for _ in range(num_sweeps):
        logits = -0.5 * (x.unsqueeze(-1) - mu.unsqueeze(-2)).square() / s2              # (chains, N, K)
        gumbel = -torch.log(-torch.log(torch.rand(logits.shape, generator=stream, dtype=x.dtype, device=x.device)))
        z = (logits + gumbel).argmax(-1)
        member = torch.nn.functional.one_hot(z, K).to(x.dtype)
        precision = s2 + t2 * member.sum(-2)
        mu = t2 * (x @ member) / precision + (s2 * t2 / precision).sqrt() * normal(num_chains, K)
        assignments.append(z)
        means.append(mu)
    return torch.stack(assignments), torch.stack(means)


def anneal(problem: Problem, *, proposal: Distribution | None = None, num_samples: int = 1_000, num_temperatures: int = 100,
           step_size: float = 0.3, num_leapfrog: int = 5, seed: int | torch.Generator = 0) -> Approximation:
    """Annealed importance sampling: from the proposal to the posterior in many small steps, all samples side by side::

        f_b(z) = q(z)^(1 - b) p(x, z)^b,     0 = b_0 < b_1 < ... < b_T = 1
        log w  = sum_t (b_t - b_{t-1}) log(p(x, z_{t-1}) / q(z_{t-1})),     z_t ~ a Markov chain that leaves f_{b_t} alone

    The weights are unbiased for p(x) however badly the chain mixes; the better it does, the less they vary. The chain is one
    step of Hamiltonian Monte Carlo, in units of the proposal's standard deviation where it has one.

    Args:
        problem: the question; its log joint needs a gradient.
        proposal: q, from which the samples start, with a density on all of R^d; Laplace's mean and scale in a Student
            t, if left out.
        num_samples: S samples side by side, at least 25.
        num_temperatures: T; b_t = (t/T)^2.
        step_size, num_leapfrog: of the Hamiltonian dynamics; an acceptance rate of 0.6 to 0.9 is good.

    Returns:
        An `Approximation` with a "consistent estimate", q being the weighted samples, and in `diagnostics` `ess`, `k_hat`,
        `log_weights` and the mean `acceptance` rate at each temperature.

    Raises:
        ValueError: for numbers out of range, or a proposal of another dimension, or without a density.
        ImportanceError: when every weight is zero.

    Source: Neal (2001), Annealed importance sampling; Neal (2011), MCMC using Hamiltonian dynamics.
    """
    if num_samples < 25 or num_temperatures < 1 or num_leapfrog < 1 or not step_size > 0:
        raise ValueError("anneal needs num_samples >= 25, num_temperatures and num_leapfrog >= 1 and step_size > 0, got "
                         f"{num_samples}, {num_temperatures}, {num_leapfrog} and {step_size}")
    start, before = time.perf_counter(), problem.evaluations
    proposal = default_proposal(problem) if proposal is None else proposal
    stream = generator(seed, problem.device)
    with torch.no_grad():
        z, _ = _samples(problem, proposal, num_samples, stream)
    path, scale = Path(problem.value_and_gradient, proposal), step_size * _scale(proposal, z)
    history, acceptance = [], []
    for log_weights, here, accepted in journey(path, z, num_temperatures, num_leapfrog, lambda *_: scale, stream):
        history.append(float(log_mean_exp(log_weights)))
        if accepted is not None:
            acceptance.append(float(accepted.double().mean()))
    if log_weights.max() == -math.inf:
        raise ImportanceError(f"every weight of {problem.name!r} is zero: give a proposal inside its support")
    _checked(log_weights)
    q = Particles(here.z, log_weights)
    ess = float(q.effective_sample_size)
    estimate = Estimate(log_mean_exp(log_weights), "consistent estimate", math.sqrt(max(1 / ess - 1 / num_samples, 0.0)))
    return Approximation("annealed importance", q, estimate, torch.tensor(history, dtype=torch.float64),
                         problem.evaluations - before, time.perf_counter() - start,
                         {"ess": ess, "k_hat": float(pareto_k_hat(log_weights)), "log_weights": log_weights,
                          "acceptance": torch.tensor(acceptance, dtype=torch.float64), "proposal": proposal})


def journey(path: Path, z: Tensor, num_temperatures: int, num_leapfrog: int, step_size: Callable[..., Tensor],
            stream: torch.Generator) -> Iterator[tuple[Tensor, _Here, Tensor | None]]:
    """The chains of annealed importance sampling, started at draws z (..., d) of the proposal, one temperature after the other.

    Args:
        step_size: ``step_size(t, accepted)`` gives the leapfrog's steps at temperature t, (d,) or (..., d), knowing which moves
            were accepted at the one before (None at first).

    Yields:
        Log weights (...), where the chains are, and which moves were accepted (None at the last temperature).
    """
    log_weights, b, accepted = z.new_zeros(z.shape[:-1]), 0.0, None
    here = path(z)
    for t in range(1, num_temperatures + 1):
        b, step = (t / num_temperatures) ** 2, (t / num_temperatures) ** 2 - b
        log_weights = log_weights + step * (here.log_joint - here.log_q)
        if t < num_temperatures:  # the last move would change no weight
            here, accepted = _hamiltonian(path, here, b, step_size(t, accepted), num_leapfrog, stream)
        yield log_weights, here, accepted if t < num_temperatures else None


class Path:
    """Log joint and log proposal at z, with their gradients: all that a chain needs to know of a point."""

    def __init__(self, value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]], proposal: Distribution):
        self.value_and_gradient, self.proposal = value_and_gradient, proposal

    def __call__(self, z: Tensor) -> _Here:
        log_joint, joint_gradient = self.value_and_gradient(z)
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            log_q = self.proposal.log_prob(z)
            (q_gradient,) = torch.autograd.grad(log_q.sum(), z)
        return _Here(z.detach(), log_joint, log_q.detach(), joint_gradient, q_gradient)


@dataclass
class _Here:
    z: Tensor
    log_joint: Tensor
    log_q: Tensor
    joint_gradient: Tensor
    q_gradient: Tensor

    def log_f(self, b: float) -> Tensor:
        return (1 - b) * self.log_q + b * self.log_joint

    def gradient(self, b: float) -> Tensor:
        return (1 - b) * self.q_gradient + b * self.joint_gradient

    def where(self, accepted: Tensor, other: _Here) -> _Here:
        """`other` where accepted, else self."""
        pairs = [(getattr(other, name.name), getattr(self, name.name)) for name in fields(self)]
        return _Here(*(torch.where(accepted.unsqueeze(-1) if new.ndim > accepted.ndim else accepted, new, old) for new, old in pairs))


def _scale(proposal: Distribution, z: Tensor) -> Tensor:
    """The proposal's standard deviation (d,), or that of its samples where it knows none."""
    try:
        scale = torch.as_tensor(proposal.stddev, dtype=z.dtype, device=z.device)
    except NotImplementedError:
        scale = z.std(0)
    return torch.where(torch.isfinite(scale), scale, z.std(0)).expand(z.shape[-1])


def _hamiltonian(path: Path, here: _Here, b: float, step: Tensor, num_leapfrog: int,
                 stream: torch.Generator) -> tuple[_Here, Tensor]:
    """One step of Hamiltonian Monte Carlo on f_b for every sample: leapfrog, then accept or stay; and which were accepted."""
    momentum = torch.randn(here.z.shape, generator=stream, dtype=here.z.dtype, device=here.z.device)
    there, end = here, momentum
    for _ in range(num_leapfrog):
        end = end + 0.5 * step * there.gradient(b)
        z = there.z + step * end
        there = path(torch.where(z.abs() < 1e100, z, there.z))  # what ran away has a momentum that is never accepted
        end = end + 0.5 * step * there.gradient(b)
    change = there.log_f(b) - here.log_f(b) - 0.5 * (end.square() - momentum.square()).sum(-1)
    level = torch.rand(change.shape, generator=stream, dtype=change.dtype, device=change.device).log()
    accepted = level < change  # false for a NaN, where the dynamics ran away
    return here.where(accepted, there), accepted
