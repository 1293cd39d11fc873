"""The evidence lower bound, and EM, which climbs it in two directions by turns.

For any density q that lives inside the support of p(x, z), the bound has three faces, all of them the same number::

    ELBO(q) = E_q[log p(x, z)] + H[q]                      energy and entropy
            = E_q[log p(x | z)] - KL(q(z) || p(z))         reconstruction minus complexity
            = log p(x) - KL(q(z) || p(z | x))              the truth minus the gap

With parameters theta it is a function of two arguments, and EM is coordinate ascent on it::

    E step:  q     <- argmax_q     ELBO(q, theta) = p(z | x, theta)      (now ELBO = log p(x | theta))
    M step:  theta <- argmax_theta ELBO(q, theta) = argmax_theta E_q[log p(x, z | theta)]

Where the E step is not exact, this is variational EM: the bound still rises, the likelihood need not.

Source: Dempster, Laird & Rubin (1977); Neal & Hinton (1998); Jordan, Ghahramani, Jaakkola & Saul (1999);
bits back: Hinton & van Camp (1993), Townsend, Bird & Barber (2019).
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, biject_to

from tightbound import exact, laplace
from tightbound.approximation import Approximation
from tightbound.device import generator
from tightbound.distributions import draw
from tightbound.estimate import Estimate
from tightbound.problem import Problem
from tightbound.problems.arguments import count, one_of, positive, real

LOG_2PI = math.log(2 * math.pi)
NARROW = 1e-5  # a component narrower than this, in standard deviations of the data, has collapsed


class Collapsed(RuntimeError):
    """A component of the mixture has shrunk onto too few data: the likelihood has no maximum there."""


# The bound of a given q -------------------------------------------------------------------------------------

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
        nodes, weights = (torch.tensor(a, dtype=q.loc.dtype) for a in hermegauss(n))
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


# A mixture with one unknown: the picture of EM --------------------------------------------------------------

class MirroredMixture:
    """Two bells at equal distance from zero, on either side, and one unknown, theta::

        z_n = 0 with probability w, else 1;      x_n | z_n = 0 ~ N(theta, 1),  x_n | z_n = 1 ~ N(-theta, 1)

        ELBO(q, theta) = -N/2 (theta - M(q))^2 + const(q),      M(q) = (1/N) sum_n (q_n0 - q_n1) x_n

    so the bound is a parabola in theta, and the M step jumps to its top, M(q).

    Args:
        x: data (..., N); leading axes are data sets side by side.
        weight: w.

    Raises:
        ValueError: for data that are not finite, or a weight not between 0 and 1.
    """

    def __init__(self, x: Tensor, weight: float = 0.5):
        self.x = _finite("x", x)
        if self.x.ndim < 1 or not self.x.shape[-1]:
            raise ValueError("x must hold at least one number")
        if not 0 < positive("weight", weight) < 1:
            raise ValueError(f"weight must lie between 0 and 1, got {weight!r}")
        self.log_weights = torch.tensor([weight, 1 - weight], dtype=torch.float64).log()

    def log_joint(self, theta: Tensor) -> Tensor:
        """log p(x_n, z_n | theta): theta (...) -> (..., N, 2)."""
        means = torch.stack([theta, -theta], -1).unsqueeze(-2)
        return self.log_weights - 0.5 * (self.x.unsqueeze(-1) - means).square() - 0.5 * LOG_2PI

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """log p(x | theta) = sum_n log sum_k p(x_n, z_n = k | theta): (...) -> (...)."""
        return self.log_joint(theta).logsumexp(-1).sum(-1)

    def elbo(self, theta: Tensor, q: Tensor) -> Tensor:
        """sum_n E_q[log p(x_n, z_n | theta) - log q_n]: theta (...), q (..., N, 2) -> (...)."""
        return bound(self.log_joint(theta), q).sum(-1)

    def m_step(self, q: Tensor) -> Tensor:
        """M(q): (..., N, 2) -> (...)."""
        return ((q[..., 0] - q[..., 1]) * self.x).mean(-1)

    def climb(self, theta: Tensor, num_steps: int,
              e_step: Callable[[Tensor, Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """EM from theta: theta after 0, ..., T rounds (T + 1, ...), and the bound after each E step (T, ...).

        Args:
            theta: (...), where to start.
            num_steps: T.
            e_step: another E step, from the log joint and the last q (both (..., N, 2)) to the next q. The
                first q is the exact posterior.
        """
        e_step = e_step or (lambda log_joint, q: torch.softmax(log_joint, -1))
        thetas, bounds, q = [theta], [], torch.softmax(self.log_joint(theta), -1)
        for _ in range(num_steps):
            q = e_step(self.log_joint(thetas[-1]), q)
            bounds.append(self.elbo(thetas[-1], q))
            thetas.append(self.m_step(q))
        return torch.stack(thetas), torch.stack(bounds)


# Mixtures of Gaussians by maximum likelihood ----------------------------------------------------------------

@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians in d dimensions; leading axes (...) are mixtures side by side::

        p(x) = sum_k pi_k N(x; mu_k, Sigma_k)

    Attributes:
        weights: pi, (..., K).
        means: mu, (..., K, d).
        covariances: Sigma, (..., K, d, d).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def log_joint(self, x: Tensor) -> Tensor:
        """log pi_k + log N(x_n; mu_k, Sigma_k) in nats: data (N, d) -> (..., N, K)."""
        root = torch.linalg.cholesky(self.covariances)
        offset = x - self.means.unsqueeze(-2)  # (..., K, N, d)
        standardised = torch.linalg.solve_triangular(root, offset.mT, upper=False)
        log_volume = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * x.shape[-1] * LOG_2PI
        constant = self.weights.log() - log_volume
        return (constant.unsqueeze(-1) - 0.5 * standardised.square().sum(-2)).mT

    def log_likelihood(self, x: Tensor) -> Tensor:
        """sum_n log p(x_n) in nats: data (N, d) -> (...)."""
        return self.log_joint(x).logsumexp(-1).sum(-1)

    def natural(self, covariance: str = "full") -> Tensor:
        """eta, (..., K, D), with log p(x, z = k) = t(x)' eta_k for the statistics t of `sufficient_statistics`.

        For a component much narrower than the data's distance from zero, that sum of large terms loses digits.
        """
        precision, log_det = _inverse(self.covariances)
        slope = (precision @ self.means.unsqueeze(-1)).squeeze(-1)
        constant = (self.weights.log() - 0.5 * (slope * self.means).sum(-1) - 0.5 * log_det
                    - 0.5 * self.means.shape[-1] * LOG_2PI)
        if covariance == "diagonal":
            curvature = -0.5 * precision.diagonal(dim1=-2, dim2=-1)
        else:
            i, j = _pairs(self.means.shape[-1])
            curvature = -torch.where(i == j, 0.5, 1.0).to(precision) * precision[..., i, j]
        return torch.cat([constant.unsqueeze(-1), slope, curvature], -1)

    def __getitem__(self, index) -> Mixture:
        return Mixture(self.weights[index], self.means[index], self.covariances[index])


def sufficient_statistics(x: Tensor, covariance: str = "full") -> Tensor:
    """t(x) = (1, x, vech xx'), or (1, x, x^2) for diagonal covariances: (N, d) -> (N, D)."""
    one = torch.ones_like(x[:, :1])
    if covariance == "diagonal":
        return torch.cat([one, x, x.square()], 1)
    i, j = _pairs(x.shape[1])
    return torch.cat([one, x, x[:, i] * x[:, j]], 1)


def m_step(statistics: Tensor, q: Tensor, covariance: str = "full", prior_count: float = 0.0,
           prior_covariance: Tensor | None = None) -> Mixture:
    """The mixture of greatest bound, given responsibilities q: t (N, D), q (..., N, K) -> `Mixture`::

        N_k = sum_n q_nk,   pi_k = N_k / N,   mu_k = sum_n q_nk x_n / N_k
        Sigma_k = (sum_n q_nk (x_n - mu_k)(x_n - mu_k)' + c Psi) / (N_k + c)

    with c = `prior_count` imaginary data of covariance Psi = `prior_covariance` in every component (c = 0: none).
    """
    sums = q.mT @ statistics  # (..., K, D): the second of an iteration's two products
    d = sums.shape[-1] // 2 if covariance == "diagonal" else round((math.sqrt(8 * sums.shape[-1] + 1) - 3) / 2)
    total = sums[..., :1]
    means, second = sums[..., 1:d + 1] / total, sums[..., d + 1:] / total
    if covariance == "diagonal":
        covariances = torch.diag_embed(second - means.square())
    else:
        i, j = _pairs(d)
        square = torch.zeros(*means.shape, d, dtype=means.dtype)
        square[..., i, j] = square[..., j, i] = second
        covariances = square - means.unsqueeze(-1) * means.unsqueeze(-2)
    if prior_count:
        mass = total.unsqueeze(-1)
        covariances = (mass * covariances + prior_count * prior_covariance) / (mass + prior_count)
    return Mixture(total[..., 0] / len(statistics), means, covariances)


@dataclass(frozen=True)
class MixtureFit:
    """Where EM ended.

    Attributes:
        mixture: the best of the starts that did not collapse.
        log_likelihood: its sum_n log p(x_n), in nats.
        history: its objective, the log likelihood (plus the log prior), after 0, ..., T iterations, (T + 1,).
        log_likelihoods: of every start, (num_starts,); NaN for one that collapsed.
        converged: whether the last iteration brought every start less than the tolerance.
        seconds: the wall-clock time it took.
    """

    mixture: Mixture
    log_likelihood: float
    history: Tensor
    log_likelihoods: Tensor
    converged: bool
    seconds: float


def fit_mixture(x: Tensor, num_components: int, *, covariance: str = "full", start: Mixture | None = None,
                num_starts: int = 10, prior_count: float = 0.0, tolerance: float = 1e-8, max_iterations: int = 2_000,
                seed: int | torch.Generator = 0) -> MixtureFit:
    """EM for a mixture of Gaussians, from several starts side by side.

    Each iteration is two matrix products of the data's sufficient statistics t(x), whatever N and K::

        log p(x_n, z_n = k) = t(x_n)' eta_k       (N, D) @ (D, K)
        sum_n q_nk t(x_n)                          (K, N) @ (N, D)

    Data are standardised on the way, for the sake of rounding; the results are in the data's own units.

    Args:
        x: data (N, d).
        num_components: K.
        covariance: "full" or "diagonal".
        start: where to start, with one leading axis of starts, or none. Left out, `random_start` makes `num_starts`.
        prior_count: c imaginary data in every component, of covariance Psi = Cov(x) / K^(2/d) (Fraley & Raftery
            2007); the objective is then log p(x) - c sum_k KL(N(0, Psi) || N(0, Sigma_k)), which no collapse can
            send to infinity.
        tolerance: nats; stop when no start gains more in an iteration.
        max_iterations: stop then at the latest.
        seed: of the random starts.

    Raises:
        ValueError: for data of another shape, not finite or constant, too few data, or options out of range.
        Collapsed: when in every start a component shrinks onto too few data, where the likelihood has no maximum.

    Source: Dempster, Laird & Rubin (1977).
    """
    began, x = time.perf_counter(), _data(x)
    K = count("num_components", num_components, least=1, most=len(x))
    one_of("covariance", covariance, ("full", "diagonal"))
    count("max_iterations", max_iterations, least=1)
    if real("prior_count", prior_count) < 0:
        raise ValueError(f"prior_count must not be negative, got {prior_count!r}")
    shift, scale = x.mean(0), x.std(0, correction=0)
    if not bool((scale > 0).all()):
        raise ValueError(f"column {int((scale == 0).nonzero()[0])} of x is constant: leave it out")
    y, units = (x - shift) / scale, len(x) * float(scale.log().sum())
    prior = torch.cov(y.T, correction=0).reshape(2 * (y.shape[1],)) / K ** (2 / y.shape[1])
    prior = torch.diag(prior.diagonal()) if covariance == "diagonal" else prior
    if start is None:
        start = random_start(y, K, num_starts, seed=seed)
    else:
        start = _rescaled(start if start.weights.ndim == 2 else start[None], -shift / scale, 1 / scale)
        if start.means.shape[1:] != (K, y.shape[1]):
            raise ValueError(f"the start must hold {K} components in {y.shape[1]} dimensions, got means of shape "
                             f"{tuple(start.means.shape[1:])}")
    mixture, alive, history, converged = _run(y, start, covariance, prior_count, prior, tolerance, max_iterations)
    final = torch.where(alive, mixture.log_likelihood(y) - units, math.nan)
    if not bool(alive.any()):
        raise Collapsed(f"in every one of {len(alive)} starts a component shrank onto too few of the {len(x)} data, "
                        "where the likelihood grows without bound: use fewer components, "
                        "covariance='diagonal', or prior_count=1")
    best = int(torch.where(alive, history[-1], -math.inf).argmax())
    return MixtureFit(_rescaled(mixture[best], shift, scale), float(final[best]), history[:, best] - units, final,
                      converged, time.perf_counter() - began)


def random_start(x: Tensor, num_components: int, num_starts: int = 1, *, seed: int | torch.Generator = 0) -> Mixture:
    """Starts side by side, (num_starts, K, ...): means at K of the data, all data's covariance, equal weights."""
    x, K, S = _data(x), count("num_components", num_components, least=1), count("num_starts", num_starts, least=1)
    chosen = torch.rand(S, len(x), generator=generator(seed), dtype=torch.float64).topk(K).indices
    spread = torch.cov(x.T, correction=0).reshape(2 * (x.shape[1],))
    return Mixture(torch.full((S, K), 1 / K, dtype=x.dtype), x[chosen], spread.expand(S, K, *spread.shape).clone())


def _run(x, mixture, covariance, prior_count, prior, tolerance, max_iterations):
    """EM on all starts at once; one in which a component collapses stays where it last was sound: not alive."""
    t = sufficient_statistics(x, covariance)
    alive = torch.ones(len(mixture.weights), dtype=torch.bool)
    history, converged = [], False
    for _ in range(max_iterations + 1):
        log_joint = t @ mixture.natural(covariance).mT  # (starts, N, K): the first of the two products
        q, log_evidence = e_step(log_joint)
        penalty = prior_count * _divergence(prior, mixture.covariances).sum(-1) if prior_count else 0.0
        history.append(log_evidence.sum(-1) - penalty)
        if len(history) > 1 and bool((history[-1] - history[-2] < tolerance).all()):
            converged = True
            break
        if len(history) > max_iterations:
            break
        new = m_step(t, q, covariance, prior_count, prior)
        sound = _sound(new)
        alive = alive & sound
        mixture = Mixture(*(torch.where(alive.reshape(-1, *(1,) * (a.ndim - 1)), a, b) for a, b in
                            ((new.weights, mixture.weights), (new.means, mixture.means),
                             (new.covariances, mixture.covariances))))
    return mixture, alive, torch.stack(history), converged


def _sound(mixture: Mixture) -> Tensor:
    """Whether every component of each mixture is wider than `NARROW` along each axis, given those before: (...)."""
    root, failed = torch.linalg.cholesky_ex(mixture.covariances)
    width = root.diagonal(dim1=-2, dim2=-1).amin(-1)
    return ((failed == 0) & (width > NARROW)).all(-1)  # a comparison with NaN is false


def _divergence(prior: Tensor, covariances: Tensor) -> Tensor:
    """KL(N(0, Psi) || N(0, Sigma_k)) in nats: (d, d), (..., d, d) -> (...)."""
    precision, log_det = _inverse(covariances)
    return 0.5 * ((precision * prior).sum((-2, -1)) - len(prior) + log_det - torch.logdet(prior))


def _inverse(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Sigma^-1 and log det Sigma."""
    root = torch.linalg.cholesky(covariances)
    return torch.cholesky_inverse(root), 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _rescaled(mixture: Mixture, shift: Tensor, scale: Tensor) -> Mixture:
    """The mixture of shift + scale * x, where `mixture` is that of x."""
    return Mixture(mixture.weights, shift + scale * mixture.means, mixture.covariances * scale * scale.unsqueeze(-1))


# A vector for a latent: factors, and the auto-encoder that is left when their noise has gone -----------------

def factor_e_step(x: Tensor, loadings: Tensor, variance: Tensor | float) -> tuple[Tensor, Tensor]:
    """The posterior of a vector of latents: q(z_n) = N(mean_n, covariance), one covariance for all data::

        z_n ~ N(0, I_k),    x_n | z_n ~ N(W z_n, s^2 I),    M = W'W + s^2 I
        mean_n = M^-1 W' x_n,    covariance = s^2 M^-1

    With s^2 = 0 the mean is the least-squares fit of x_n by the columns of W: a projection.

    Args:
        x: data less their mean, (N, d).
        loadings: W, (..., d, k); leading axes are models side by side.
        variance: s^2, (...).

    Returns:
        The means (..., N, k) and the covariance (..., k, k).

    Source: Tipping & Bishop (1999); without noise, Roweis (1998).
    """
    x, variance = _centred(x), torch.as_tensor(variance, dtype=torch.float64)[..., None, None]
    if loadings.ndim < 2 or loadings.shape[-2] != x.shape[1] or bool((variance < 0).any()):
        raise ValueError(f"loadings of data with {x.shape[1]} columns have shape (..., {x.shape[1]}, k) and a variance of "
                         f"noise that is not negative, got shape {tuple(loadings.shape)} and variance {variance.squeeze()}")
    eye = torch.eye(loadings.shape[-1], dtype=x.dtype)
    M = loadings.mT @ loadings + variance * eye
    return torch.linalg.solve(M, (x @ loadings).mT).mT, variance * torch.linalg.inv(M)


def factor_m_step(x: Tensor, means: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The loadings and the noise of greatest bound, given q(z_n) = N(mean_n, covariance)::

        W   = (sum_n x_n E[z_n]') (sum_n E[z_n z_n'])^-1
        s^2 = 1/(N d) sum_n E|x_n - W z_n|^2 = 1/(N d) sum_n (|x_n|^2 - x_n' W E[z_n])

    a linear regression of the data on latents of which only a distribution is known.

    Args:
        x: data less their mean, (N, d).
        means, covariance: from `factor_e_step`, (..., N, k) and (..., k, k).

    Returns:
        W (..., d, k) and s^2 (...).
    """
    x = _centred(x)
    products, squares = means.mT @ x, means.mT @ means + len(x) * covariance
    loadings = torch.linalg.solve(squares, products).mT
    return loadings, (x.square().sum() - (loadings.mT * products).sum((-2, -1))) / x.numel()


def linear_autoencoder(x: Tensor, num_latents: int, *, num_steps: int = 1_000, learning_rate: float = 0.05,
                       num_starts: int = 1, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Trains z = V x to be decoded by W z, by gradients (Adam, its rate falling to zero), from several random starts::

        loss = 1/N sum_n |x_n - W V x_n|^2 = tr S - 2 tr(V S W) + tr(W'W V S V'),      S = 1/N sum_n x_n x_n'

    The second form asks for two products of a (k, d) with a (d, d) matrix a step, whatever N.

    Args:
        x: data less their mean, (N, d).
        num_latents: k, the width of the bottleneck.

    Returns:
        The encoders V (num_starts, k, d), the decoders W (num_starts, d, k), and the final losses (num_starts,).

    Source: Bourlard & Kamp (1988); Baldi & Hornik (1989).
    """
    x = _centred(x)
    d, k = x.shape[1], count("num_latents", num_latents, least=1, most=x.shape[1])
    shape, stream = (count("num_starts", num_starts, least=1), k, d), generator(seed)
    V, W = ((torch.randn(shape, generator=stream, dtype=x.dtype) / math.sqrt(d)).requires_grad_() for _ in range(2))
    S = x.T @ x / len(x)  # W is kept transposed, (num_starts, k, d)

    def loss() -> Tensor:
        VS = V @ S
        return S.trace() - 2 * (VS * W).sum((-2, -1)) + ((W @ W.mT) * (VS @ V.mT)).sum((-2, -1))

    optimizer = torch.optim.Adam([V, W], lr=positive("learning_rate", learning_rate))
    steps = count("num_steps", num_steps, least=1)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().sum().backward()
        optimizer.step()
        decay.step()
    return V.detach(), W.detach().mT, loss().detach()


def _centred(x: Tensor) -> Tensor:
    x = _data(x)
    if bool((x.mean(0).abs() > 1e-6 * x.abs().amax(0).clamp(min=1e-300)).any()):
        raise ValueError("the columns of x must have mean zero here: give x - x.mean(0)")
    return x


def _pairs(d: int) -> Tensor:
    return torch.triu_indices(d, d)


def _finite(name: str, x: Tensor) -> Tensor:
    x = torch.as_tensor(x, dtype=torch.float64)
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must hold finite numbers")
    return x


def _data(x: Tensor) -> Tensor:
    x = _finite("x", x)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1:
        raise ValueError(f"x must be data of shape (N, d) with at least two rows, got {tuple(x.shape)}")
    return x


# Bits back --------------------------------------------------------------------------------------------------

class Stack:
    """A message that is one large whole number: what is pushed last is popped first (asymmetric numeral systems)::

        push s:  state <- (state // f_s) M + c_s + state mod f_s           about log2(M / f_s) bits more
        pop:     s is where state mod M falls;  state <- f_s (state // M) + state mod M - c_s

    f_s are whole counts with sum M, c_s the sum of the counts before s, so s has the probability f_s / M. To pop what
    nobody pushed is to *draw* from that distribution, with the message for randomness; pushing it back loses nothing.

    Args:
        state: a whole number above zero to start from.

    Source: Duda (2009); as a stack for bits back: Townsend, Bird & Barber (2019).
    """

    def __init__(self, state: int = 1):
        self.state = count("state", state, least=1)

    @property
    def bits(self) -> float:
        """log2 of the state: the length of the message."""
        return math.log2(self.state)

    def push(self, symbol: int, counts: Sequence[int]) -> None:
        ends = list(accumulate(counts))
        f, c = counts[symbol], ends[symbol] - counts[symbol]
        self.state = (self.state // f) * ends[-1] + c + self.state % f

    def pop(self, counts: Sequence[int]) -> int:
        ends = list(accumulate(counts))
        remainder = self.state % ends[-1]
        symbol = bisect_right(ends, remainder)
        f, c = counts[symbol], ends[symbol] - counts[symbol]
        self.state = f * (self.state // ends[-1]) + remainder - c
        return symbol


def counts(p: Tensor, total: int = 2**16) -> list:
    """Whole counts of sum `total` in proportion to probabilities, at least one each: (..., K) -> nested lists."""
    p = p / p.sum(-1, keepdim=True)
    K = p.shape[-1]
    if total < K:
        raise ValueError(f"a total of {total} cannot give {K} symbols a count each: give a larger total")
    ends = torch.round(p.cumsum(-1) * (total - K)).long()
    return (ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1])) + 1).tolist()


def send(message: Stack, borrowed: Stack, x: Sequence[int], prior: Sequence[int], likelihood: Sequence,
         q: Sequence) -> list[int]:
    """Codes symbols x with bits back, and returns the z that were drawn on the way::

        for each x:   z <- pop from `borrowed` with q(z | x);    push x with p(x | z);    push z with p(z)

    The message grows by -log2 p(x, z) bits a datum, `borrowed` shrinks by -log2 q(z | x): together -ELBO / ln 2
    on average.
    (With one stack for both, the bits of the z just pushed would decide the next one, and they are not random.)

    Args:
        message: what is coded goes here.
        borrowed: other data, as good as random bits, that have to be sent anyway; `receive` restores them.
        x: symbols.
        prior: counts of p(z).
        likelihood: for every z, the counts of p(x | z).
        q: for every x, the counts of q(z | x).
    """
    drawn = []
    for symbol in x:
        z = borrowed.pop(q[symbol])
        message.push(symbol, likelihood[z])
        message.push(z, prior)
        drawn.append(z)
    return drawn


def receive(message: Stack, borrowed: Stack, num: int, prior: Sequence[int], likelihood: Sequence,
            q: Sequence) -> list[int]:
    """Decodes what `send` coded, its steps backwards; both stacks are then as they were before."""
    found = []
    for _ in range(num):
        z = message.pop(prior)
        symbol = message.pop(likelihood[z])
        borrowed.push(z, q[symbol])
        found.append(symbol)
    return found[::-1]
