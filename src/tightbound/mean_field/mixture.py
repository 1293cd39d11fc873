"""A Bayesian mixture of Gaussians: how many components do the data need?"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tightbound.arguments import count, positive
from tightbound.device import generator

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class MixturePrior:
    """The conjugate prior of a mixture of K Gaussians in d dimensions::

        pi ~ Dirichlet(a, ..., a),   Lambda_k ~ Wishart(W, nu),   mu_k | Lambda_k ~ N(m, (b Lambda_k)^-1)
        z_n | pi ~ pi,               x_n | z_n = k ~ N(mu_k, Lambda_k^-1)

    Attributes:
        concentration: a; below one it prefers few components.
        mean: m, (d,).
        mean_precision: b, how many observations the prior mean is worth.
        degrees: nu, above d - 1.
        inverse_scale: W^-1, (d, d): nu times a typical covariance of a component.
    """

    concentration: float
    mean: Tensor
    mean_precision: float
    degrees: float
    inverse_scale: Tensor

    @classmethod
    def from_data(cls, x: Tensor, num_components: int, *, concentration: float | None = None,
                  mean_precision: float = 1.0,
                  degrees: float | None = None) -> MixturePrior:
        """A vague prior: m and W^-1 are the mean and the covariance of x (n, d), nu = d, and a = 1/K."""
        a = 1 / num_components if concentration is None else positive("concentration", concentration)
        d = x.shape[1]
        degrees = float(d) if degrees is None else positive("degrees", degrees)
        if degrees <= d - 1:
            raise ValueError(f"degrees must be above d - 1 = {d - 1}, got {degrees!r}")
        return cls(a, x.mean(0), positive("mean_precision", mean_precision), degrees,
                   torch.cov(x.T).reshape(d, d))


@dataclass(frozen=True)
class Mixture:
    """q(pi, mu, Lambda) of a mixture, the same family as its prior, a row for each component.

    Attributes:
        concentration: of the Dirichlet, (K,).
        means: m_k, (K, d).
        mean_precision: b_k, (K,).
        degrees: nu_k, (K,).
        inverse_scale: W_k^-1, (K, d, d).
        responsibilities: q(z_n = k), (n, K).
        history: the bound in nats after every iteration.
        converged: whether the bound had stopped rising.
    """

    concentration: Tensor
    means: Tensor
    mean_precision: Tensor
    degrees: Tensor
    inverse_scale: Tensor
    responsibilities: Tensor
    history: Tensor
    converged: bool

    @property
    def weights(self) -> Tensor:
        """E[pi], (K,)."""
        return self.concentration / self.concentration.sum()

    @property
    def covariances(self) -> Tensor:
        """E[Lambda_k]^-1 = W_k^-1 / nu_k, (K, d, d)."""
        return self.inverse_scale / self.degrees[:, None, None]

    @property
    def log_evidence(self) -> float:
        """The bound on log p(x), in nats."""
        return float(self.history[-1])


def fit_mixture(x: Tensor, num_components: int, *, prior: MixturePrior | None = None,
                start: Tensor | None = None,
                num_iterations: int = 500, tolerance: float = 1e-6,
                seed: int | torch.Generator = 0) -> Mixture:
    """Coordinate ascent for a Bayesian mixture of Gaussians, q(z) q(pi, mu, Lambda)::

        log r_nk = E[log pi_k] + 1/2 E[log det Lambda_k] - d/2 log 2 pi - 1/2 E[(x_n - mu_k)' Lambda_k (x_n -
        mu_k)] + const
                 = eta_k' t(x_n) + const,      t(x) = (1, x, vech xx')
        N_k, S_k, Q_k = sum_n r_nk t(x_n)      (number, sum, and sum of squares of component k)

    So that an iteration is two matrix products, T eta' and r' T, with a softmax between. The bound after it
    is::

        ELBO = sum_n log sum_k exp(eta_k' t(x_n)) - KL(q(pi) ‖ p(pi)) - sum_k KL(q(mu_k, Lambda_k) ‖ p(mu_k,
        Lambda_k))

    Args:
        x: observations (n, d).
        num_components: K, at most; those that are not needed switch off.
        prior: by default `MixturePrior.from_data`.
        start: responsibilities (n, K), or labels (n,), to begin with; by default the nearest of K random
            observations.
        num_iterations: at most.
        tolerance: stop when the bound rises by less, in nats; 0 makes all iterations.
        seed: of the default start.

    Raises:
        ValueError: for observations that are not finite, fewer than K or one-dimensional, or a start of
            another shape.

    Source: Attias (2000); Bishop (2006), section 10.2.
    """
    x = torch.as_tensor(x, dtype=torch.float64)
    K = count("num_components", num_components, least=1)
    if x.ndim != 2 or len(x) < K or not bool(torch.isfinite(x).all()):
        raise ValueError(f"x must be finite numbers of shape (n, d) with n at least {K}, "
                         f"got shape {tuple(x.shape)}")
    prior = MixturePrior.from_data(x, K) if prior is None else prior
    T = _statistics(x - prior.mean)  # with the prior mean at the origin, the sums lose no digits
    q = _globals(prior, _responsibilities(x, start, K, seed).T @ T)
    history, converged = [], False
    for _ in range(count("num_iterations", num_iterations, least=1)):
        divergence = _divergence(prior, q)
        responsibilities, log_total = _softmax(T @ _natural(q).T)
        history.append(log_total - divergence)
        q = _globals(prior, responsibilities.T @ T)
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            converged = True
            break
    a, m, b, nu, inverse_scale = q
    return Mixture(a, m + prior.mean, b, nu, inverse_scale, responsibilities, torch.stack(history), converged)


def _statistics(x: Tensor) -> Tensor:
    """t(x) = (1, x, vech xx'): (n, d) -> (n, 1 + d + d(d+1)/2)."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    return torch.cat([torch.ones_like(x[:, :1]), x, x[:, i] * x[:, j]], 1)


def _symmetric(vech: Tensor, d: int) -> Tensor:
    """The symmetric matrices (..., d, d) whose upper triangles are vech."""
    i, j = torch.triu_indices(d, d)
    found = vech.new_zeros(*vech.shape[:-1], d, d)
    found[..., i, j] = vech
    found[..., j, i] = vech
    return found


def _globals(prior: MixturePrior, sums: Tensor) -> tuple[Tensor, ...]:
    """q(pi, mu, Lambda) from the sums (K, 1 + d + d(d+1)/2): a, m, b, nu, W^-1, the means counted from the
    prior's."""
    d = len(prior.mean)
    N, S, Q = sums[:, 0], sums[:, 1: d + 1], _symmetric(sums[:, d + 1:], d)
    b = prior.mean_precision + N
    m = S / b.unsqueeze(-1)
    inverse_scale = prior.inverse_scale + Q - b[:, None, None] * m.unsqueeze(-1) * m.unsqueeze(-2)
    return prior.concentration + N, m, b, prior.degrees + N, inverse_scale


def _natural(q: tuple[Tensor, ...]) -> Tensor:
    """eta_k, so that E[log pi_k + log N(x; mu_k, Lambda_k^-1)] = eta_k' t(x): (K, 1 + d + d(d+1)/2)."""
    a, m, b, nu, inverse_scale = q
    d = m.shape[1]
    precision = nu[:, None, None] * torch.linalg.inv(inverse_scale)  # E[Lambda_k]
    pull = (precision @ m.unsqueeze(-1)).squeeze(-1)
    constant = (torch.digamma(a) - torch.digamma(a.sum()) - 0.5 * d * LOG_2PI
                + 0.5 * (_log_det(nu, inverse_scale) - d / b - (m * pull).sum(1)))
    i, j = torch.triu_indices(d, d)
    square = -torch.where(i == j, 0.5, 1.0).to(precision) * precision[:, i, j]
    return torch.cat([constant.unsqueeze(1), pull, square], 1)


def _log_det(nu: Tensor, inverse_scale: Tensor) -> Tensor:
    """E[log det Lambda] under Wishart(W, nu)."""
    d = inverse_scale.shape[-1]
    steps = torch.arange(d, dtype=inverse_scale.dtype, device=inverse_scale.device)
    digammas = torch.digamma(0.5 * (nu.unsqueeze(-1) - steps)).sum(-1)
    return digammas + d * math.log(2) - torch.logdet(inverse_scale)


def _softmax(log_r: Tensor) -> tuple[Tensor, Tensor]:
    """Responsibilities, and the sum over n of log sum_k exp(log_r), in place: faster than torch's for narrow
    rows."""
    top = log_r.amax(1, keepdim=True)
    r = log_r.sub_(top).clamp_(min=-700).exp_()  # below lie numbers that processors are ten times slower with
    total = r.sum(1, keepdim=True)
    return r.div_(total), (top + total.log()).sum()


def _divergence(prior: MixturePrior, q: tuple[Tensor, ...]) -> Tensor:
    """KL(q(pi) ‖ p(pi)) + sum_k KL(q(mu_k, Lambda_k) ‖ p(mu_k, Lambda_k)), in nats."""
    a, m, b, nu, inverse_scale = q
    d, b0, nu0 = m.shape[1], prior.mean_precision, prior.degrees
    precision = nu[:, None, None] * torch.linalg.inv(inverse_scale)
    a0 = torch.full_like(a, prior.concentration)
    dirichlet = (torch.lgamma(a.sum()) - torch.lgamma(a).sum()
                 - torch.lgamma(a0.sum()) + torch.lgamma(a0).sum()
                 + ((a - a0) * (torch.digamma(a) - torch.digamma(a.sum()))).sum())
    normal = 0.5 * (d * (b0 / b - 1 + torch.log(b / b0)) + b0 * torch.einsum("ki,kij,kj->k", m, precision, m))
    wishart = (_log_wishart(nu, inverse_scale) - _log_wishart(m.new_tensor(nu0), prior.inverse_scale)
               + 0.5 * (nu - nu0) * _log_det(nu, inverse_scale)
               + 0.5 * torch.einsum("ij,kji->k", prior.inverse_scale, precision) - 0.5 * nu * d)
    return dirichlet + (normal + wishart).sum()


def _log_wishart(nu: Tensor, inverse_scale: Tensor) -> Tensor:
    """The log of the Wishart density's constant: nu/2 log det W^-1 - nu d/2 log 2 - log Gamma_d(nu/2)."""
    d = inverse_scale.shape[-1]
    return 0.5 * nu * (torch.logdet(inverse_scale) - d * math.log(2)) - torch.special.multigammaln(0.5 * nu,
                                                                                                   d)


def _responsibilities(x: Tensor, start: Tensor | None, K: int, seed) -> Tensor:
    if start is None:
        chosen = x[torch.randperm(len(x), generator=generator(seed))[:K]]
        scale = x.std(0).clamp(min=torch.finfo(x.dtype).tiny)
        start = torch.cdist(x / scale, chosen / scale).argmin(1)
    start = torch.as_tensor(start)
    if start.shape == (len(x),
                       ) and not start.is_floating_point() and 0 <= int(start.min()) <= int(start.max()) < K:
        return torch.nn.functional.one_hot(start.long(), K).to(x.dtype)
    if start.shape != (len(x), K) or not bool((start >= 0).all()):
        raise ValueError(f"start must be responsibilities ({len(x)}, {K}), "
                         f"or labels ({len(x)},) from 0 to {K - 1}, "
                         f"got shape {tuple(start.shape)}")
    return start.to(x.dtype)


def mixture_log_evidence(x: Tensor, num_components: int, prior: MixturePrior) -> float:
    """The exact log p(x) in nats: the sum over all K^n assignments, for a handful of observations::

        p(x, z) = Gamma(K a)/Gamma(K a + n) prod_k Gamma(a + N_k)/Gamma(a) ∫ prod_{n: z_n = k} N(x_n; mu,
        Lambda^-1) p(mu, Lambda)

    Raises:
        ValueError: for more than 2^20 assignments.
    """
    n, K, a = len(x), num_components, prior.concentration
    if n * math.log2(K) > 20:
        raise ValueError(f"{K}^{n} assignments are too many to sum: give fewer observations")
    T = _statistics(x - prior.mean)
    z = torch.tensor(list(itertools.product(range(K), repeat=n)))
    member = torch.nn.functional.one_hot(z, K).to(x.dtype)           # (K^n, n, K)
    sums = (member.mT @ T).reshape(-1, T.shape[1])
    _, _, b, nu, inverse_scale = _globals(prior, sums)
    d, N = x.shape[1], sums[:, 0]
    marginal = (_log_wishart(x.new_tensor(prior.degrees),
                             prior.inverse_scale) - _log_wishart(nu, inverse_scale)
                + 0.5 * d * torch.log(prior.mean_precision / b) - 0.5 * d * N * LOG_2PI
                + torch.lgamma(a + N) - math.lgamma(a))
    total = marginal.reshape(-1, K).sum(1) + math.lgamma(K * a) - math.lgamma(K * a + n)
    return float(total.logsumexp(0))
