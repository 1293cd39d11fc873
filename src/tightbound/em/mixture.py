"""EM for mixtures: of one unknown, where each step can be drawn, and of Gaussians, by maximum likelihood or with a prior."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tightbound.arguments import count, one_of, positive, real
from tightbound.device import generator
from tightbound.em.bounds import bound, e_step
from tightbound.em.data import finite, rows

LOG_2PI = math.log(2 * math.pi)
NARROW = 1e-5  # a component narrower than this, in standard deviations of the data, has collapsed


class Collapsed(RuntimeError):
    """A component of the mixture has shrunk onto too few data: the likelihood has no maximum there."""


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
        self.x = finite("x", x)
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
        square = means.new_zeros(*means.shape, d)
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
    began, x = time.perf_counter(), rows(x)
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
    x, K, S = rows(x), count("num_components", num_components, least=1), count("num_starts", num_starts, least=1)
    chosen = torch.rand(S, len(x), generator=generator(seed), dtype=torch.float64).topk(K).indices
    spread = torch.cov(x.T, correction=0).reshape(2 * (x.shape[1],))
    return Mixture(x.new_full((S, K), 1 / K), x[chosen], spread.expand(S, K, *spread.shape).clone())


def _run(x, mixture, covariance, prior_count, prior, tolerance, max_iterations):
    """EM on all starts at once; one in which a component collapses stays where it last was sound: not alive."""
    t = sufficient_statistics(x, covariance)
    alive = torch.ones(len(mixture.weights), dtype=torch.bool, device=x.device)
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


def _pairs(d: int) -> Tensor:
    return torch.triu_indices(d, d)
