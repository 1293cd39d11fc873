"""The evidence lower bound of a density, its three faces, and the bound of a discrete latent with the E step that closes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, biject_to

from tightbound import exact, laplace
from tightbound.approximation import Approximation
from tightbound.arguments import count
from tightbound.device import generator
from tightbound.distributions import draw
from tightbound.estimate import Estimate
from tightbound.problem import Problem


def approximate(problem: Problem, q: Distribution | None = None, *, num_samples: int | None = None,
                seed: int | torch.Generator = 0) -> Approximation:
    """A given q, and its evidence lower bound.

    Args:
        problem: the question.
        q: a distribution over z in R^d with a density; left out, Laplace's Gaussian.
        num_samples, seed: as in `elbo`.

    Returns:
        An `Approximation` with this q, and a log evidence of kind "lower bound".

    Raises:
        LaplaceError: when no q is given and Laplace's method finds none.
        ValueError: as `elbo`.
    """
    began, spent = time.perf_counter(), problem.evaluations
    name = "bound of q" if q is not None else "bound of Laplace's q"
    q = laplace.approximate(problem).q if q is None else q
    bound = elbo(problem, q, num_samples=num_samples, seed=seed)
    return Approximation(method=name, q=q, log_evidence=bound, history=torch.tensor([bound.value], dtype=torch.float64),
                         evaluations=problem.evaluations - spent, seconds=time.perf_counter() - began)


def elbo(problem: Problem, q: Distribution, *, num_samples: int | None = None,
         seed: int | torch.Generator = 0) -> Estimate:
    """The evidence lower bound of q in nats::

        ELBO(q) = E_q[log p(x, z) - log q(z)]  <=  log p(x)

    Args:
        problem: the question.
        q: a distribution over z, of event shape (d,), with a density.
        num_samples: average over so many draws from q (the estimate is unbiased, and has a standard error). Left out,
            the integral is done by quadrature where d <= 3, and otherwise over 10,000 draws.
        seed: of the draws.

    Returns:
        An `Estimate` of kind "lower bound". It is -inf where q has mass outside of the support of the log joint.

    Raises:
        ValueError: for q of another dimension or without a density, or fewer than two samples.
        RuntimeError: when the quadrature does not settle; give `num_samples` then.
    """
    _check_density(problem, q)
    if num_samples is None and problem.dim <= 3:
        try:
            (value,) = _mean(q, lambda z: _log_weight(problem, q, z).unsqueeze(-1))
        except _OutsideOfSupport:
            return Estimate(-math.inf, "lower bound", source="q has mass where p(x, z) has none")
        return Estimate(value, "lower bound", source="quadrature")
    num_samples = count("num_samples", 10_000 if num_samples is None else num_samples, least=2)
    with torch.no_grad():
        z, log_q = draw(q, (num_samples,), generator=generator(seed, problem.device))
        weights = problem.log_joint(z) - log_q
    error = float(weights.std()) / math.sqrt(num_samples) if bool(torch.isfinite(weights).all()) else None
    return Estimate(float(weights.mean()), "lower bound", standard_error=error, source=f"{num_samples} samples")


@dataclass(frozen=True)
class Faces:
    """The terms of the bound in nats: three ways to write one number.

    Attributes:
        energy: E_q[log p(x, z)], minus the mean energy.
        entropy: H[q].
        reconstruction: E_q[log p(x | z)].
        complexity: KL(q || prior).
        log_evidence: log p(x).
        gap: KL(q || posterior).
    """

    energy: float
    entropy: float
    reconstruction: float
    complexity: float
    log_evidence: float
    gap: float

    @property
    def elbos(self) -> tuple[float, float, float]:
        """The bound by each face: energy + entropy, reconstruction - complexity, log evidence - gap."""
        return self.energy + self.entropy, self.reconstruction - self.complexity, self.log_evidence - self.gap


def faces(problem: Problem, q: Distribution, prior: Distribution) -> Faces:
    """The `Faces` of the bound of q, each expectation under q by quadrature (d <= 3).

    Args:
        problem: the question; its log evidence must be known.
        q: a distribution over z, of event shape (d,), with a density.
        prior: p(z), of the same shape: what the likelihood was multiplied by to give the log joint.

    Raises:
        ValueError: when the log evidence is unknown, d > 3, or q or the prior has another dimension or no density.
        RuntimeError: when q has mass outside of the support of the log joint, or the quadrature does not settle.
    """
    if problem.log_evidence is None:
        raise ValueError(f"the exact log evidence of {problem.name!r} is unknown, so its gap is too: "
                         "in up to three dimensions tightbound.exact.quadrature finds it")
    if problem.dim > 3:
        raise ValueError(f"the faces are computed by quadrature, up to three dimensions; {problem.name!r} has "
                         f"{problem.dim}: use elbo with num_samples")
    _check_density(problem, q)
    _check_density(problem, prior)
    evidence = float(problem.log_evidence)

    def terms(z: Tensor) -> Tensor:
        log_q = q.log_prob(z)
        log_joint, log_prior = _log_weight(problem, q, z) + log_q, prior.log_prob(z)
        log_posterior = log_joint - evidence
        return torch.stack([log_joint, -log_q, log_joint - log_prior, log_q - log_prior, log_q - log_posterior], -1)

    energy, entropy, reconstruction, complexity, gap = _mean(q, terms)
    return Faces(energy, entropy, reconstruction, complexity, evidence, gap)


class _OutsideOfSupport(RuntimeError):
    pass


def _log_weight(problem: Problem, q: Distribution, z: Tensor) -> Tensor:
    log_joint = problem.log_joint(z)
    if bool((log_joint == -math.inf).any()):
        raise _OutsideOfSupport(f"q has mass where {problem.name!r} has no density, so the bound is -inf: "
                                "choose q inside the support, or coordinates that live on all of R^d")
    return log_joint - q.log_prob(z)


def _check_density(problem: Problem, q: Distribution) -> None:
    try:
        q.support
    except NotImplementedError:
        raise ValueError(f"a bound needs a q with a density, and {type(q).__name__} has none: "
                         "fit a density to its points") from None
    if q.batch_shape or q.event_shape != (problem.dim,):
        raise ValueError(f"a density over the latents of {problem.name!r} has event shape ({problem.dim},), got "
                         f"batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)}: wrap "
                         "independent coordinates in torch.distributions.Independent(..., 1)")


def _mean(q: Distribution, f: Callable[[Tensor], Tensor]) -> list[float]:
    """E_q[f(z)] by quadrature, f: (..., d) -> (..., k)."""
    found = _gauss_hermite(q, f) if isinstance(q, MultivariateNormal) else None
    return _cubature(q, f) if found is None else found.tolist()


def _gauss_hermite(q: MultivariateNormal, f: Callable[[Tensor], Tensor]) -> Tensor | None:
    """E_q[f(z)] by Gauss's rule with n^d points; None unless two rules agree to 1e-9, as they do where f is smooth."""
    before = None
    for n in (16, 24) if len(q.loc) == 3 else (32, 64, 128):
        nodes, weights = (torch.tensor(a, dtype=q.loc.dtype, device=q.loc.device) for a in hermegauss(n))
        u = torch.cartesian_prod(*[nodes] * len(q.loc)).reshape(-1, len(q.loc))
        weight = torch.cartesian_prod(*[weights / weights.sum()] * len(q.loc)).reshape(u.shape).prod(-1)
        now = weight @ f(q.loc + u @ q.scale_tril.T)
        if before is not None and bool(((now - before).abs() <= 1e-9 * now.abs().clamp(min=1.0)).all()):
            return now
        before = now
    return None


def _cubature(q: Distribution, f: Callable[[Tensor], Tensor]) -> list[float]:
    """E_q[f(z)] by adaptive quadrature over u in R^d, with z = T(m + s u).

    T maps R^d onto q's support; m and s, from draws, give u about unit width.
    """
    to_support = biject_to(q.support)
    z, _ = draw(q, (4096,), generator=generator(0))
    levels = torch.tensor([0.16, 0.5, 0.84], dtype=torch.float64)
    low, m, high = torch.quantile(to_support.inv(z).double(), levels, dim=0)
    s = 0.5 * (high - low)

    def log_density(u: Tensor) -> Tensor:
        y = m + s * u
        z = to_support(y)
        volume = to_support.log_abs_det_jacobian(y, z)
        return q.log_prob(z) + (volume.sum(-1) if volume.ndim == y.ndim else volume) + s.log().sum()

    def f_and_one(u: Tensor) -> Tensor:  # divided by the mean of one on the same mesh, sums of means are exact
        return torch.cat([f(to_support(m + s * u)), torch.ones_like(u[..., :1])], -1)

    found = exact.quadrature(Problem(log_density, len(m), name="q"), of=f_and_one, rtol=1e-9 if len(m) == 1 else 1e-7)
    return (found[:-1] / found[-1]).tolist()


# The bound of a discrete latent -----------------------------------------------------------------------------

def bound(log_joint: Tensor, q: Tensor) -> Tensor:
    """The evidence lower bound where z is one of K: a table (..., K) of log p(x, z = k) and q (..., K) -> (...)::

        ELBO = sum_k q_k (log p(x, z = k) - log q_k),      0 log 0 = 0

    It is at most log p(x), and equal to it where q is the posterior.
    """
    return (torch.where(q > 0, q * log_joint, 0.0) - torch.xlogy(q, q)).sum(-1)


def e_step(log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior and log evidence (nats) of a discrete latent: (..., K) -> (..., K), (...)::

        log p(x) = log sum_k p(x, z = k),       q_k = p(x, z = k) / p(x)

    Both are computed in the log domain: far from every component nothing underflows.
    """
    log_evidence = log_joint.logsumexp(-1)
    return torch.exp(log_joint - log_evidence.unsqueeze(-1)), log_evidence


def hard_e_step(log_joint: Tensor) -> Tensor:
    """The best q that puts all its mass on one k: (..., K) -> (..., K). With it EM is "hard"; k-means is one."""
    return torch.nn.functional.one_hot(log_joint.argmax(-1), log_joint.shape[-1]).to(log_joint.dtype)


def partial_e_step(log_joint: Tensor, q: Tensor, rate: float = 0.5) -> Tensor:
    """Part of the way to the posterior: (1 - rate) q + rate p(z | x). The bound, concave in q, rises."""
    return (1 - rate) * q + rate * e_step(log_joint)[0]
