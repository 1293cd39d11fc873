"""Bayesian models of data, whose evidence has a closed form or a quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import betaln
from torch import Tensor
from torch.nn.functional import logsigmoid

from tightbound.arguments import count, one_of, positive
from tightbound.data import Columns, breast_cancer, diabetes
from tightbound.device import choose
from tightbound.estimate import Estimate
from tightbound.exact import find_box
from tightbound.problem import DataProblem, Problem

LOG_2PI = math.log(2 * math.pi)

EIGHT_SCHOOLS_Y = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
EIGHT_SCHOOLS_SIGMA = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


def coin(heads: int = 6, tails: int = 4, a: float = 10.0, b: float = 10.0,
         coordinate: str = "logit") -> Problem:
    """A coin's probability p of heads, after a sequence of flips, with the prior p ~ Beta(a, b)::

        coordinate "p":      log p(x, p) = (a+h-1) log p + (b+t-1) log(1-p) - log B(a, b),     0 < p < 1
        coordinate "logit":  log p(x, z) = (a+h) log s(z) + (b+t) log s(-z) - log B(a, b),     z = log p/(1-p)
        log p(x) = log B(a+h, b+t) - log B(a, b)

    The second line holds the Jacobian dp/dz = p (1-p); s is the logistic sigmoid. One sequence of flips is
    the data, not the number of heads, so there is no binomial coefficient. The posterior of p is
    Beta(a+h, b+t).

    Args:
        heads, tails: h and t, how many flips fell so.
        a, b: of the Beta prior.
        coordinate: "logit" for z on the real line, "p" for p itself, with log joint -inf outside of (0, 1).

    Raises:
        ValueError: for negative counts, a or b not above zero, or another coordinate.
    """
    heads, tails = count("heads", heads), count("tails", tails)
    a, b = positive("a", a), positive("b", b)
    one_of("coordinate", coordinate, ("logit", "p"))
    prior = float(betaln(a, b))
    evidence = Estimate(float(betaln(a + heads, b + tails)) - prior, "exact", source="Beta function")

    def log_joint_logit(z: Tensor) -> Tensor:
        return ((a + heads) * logsigmoid(z) + (b + tails) * logsigmoid(-z) - prior).squeeze(-1)

    def log_joint_p(z: Tensor) -> Tensor:
        inside = (z > 0) & (z < 1)
        p = torch.where(inside, z, 0.5)  # so that no gradient is NaN outside
        value = (a + heads - 1) * torch.log(p) + (b + tails - 1) * torch.log1p(-p) - prior
        return torch.where(inside, value, -torch.inf).squeeze(-1)

    name = f"coin ({coordinate})"
    if coordinate == "p":
        return Problem(log_joint_p, 1, name=name, latents=["p"], log_evidence=evidence, box=((0.0, 1.0),))
    return Problem(log_joint_logit, 1, name=name, latents=["logit p"], log_evidence=evidence,
                   constrain=lambda z: {"p": torch.sigmoid(z[..., 0])})


def eight_schools(form: str = "plane", coordinate: str = "log tau", y: Sequence[float] | None = None, *,
                  device: str | torch.device | None = None) -> Problem:
    """Coaching in eight schools: observed effects y_j with known standard errors sigma_j::

        y_j ~ N(theta_j, sigma_j^2),   theta_j ~ N(mu, tau^2),   mu ~ N(0, 5^2),   tau ~ half-Cauchy(0, 5)

        form "plane":        theta integrated out: y_j ~ N(mu, sigma_j^2 + tau^2);   z = (mu, log tau)
        form "non-centred":  theta_j = mu + tau eta_j, eta_j ~ N(0, 1);         z = (mu, log tau, eta_1..8)
        log p(y) = log ∫ N(y; 0, diag(sigma^2 + tau^2) + 5^2 1 1') p(tau) dtau        for both forms

    Args:
        form: "plane" (2 latents) or "non-centred" (10 latents).
        coordinate: "log tau", or "tau" for tau itself, with log joint -inf where tau < 0.
        y: eight other observed effects, in place of Rubin's.
        device: where the data live.

    Raises:
        ValueError: for another form or coordinate, or y that is not eight finite numbers.

    Source: Rubin (1981), Estimation in parallel randomized experiments; priors as in posteriordb.
    """
    one_of("form", form, ("plane", "non-centred"))
    one_of("coordinate", coordinate, ("log tau", "tau"))
    effects = np.asarray(EIGHT_SCHOOLS_Y if y is None else y, dtype=float)
    if effects.shape != (8,) or not np.isfinite(effects).all():
        raise ValueError(f"y must be eight finite numbers, one a school, got {y!r}")
    device = choose(device or "cpu", dtype=torch.float64)
    effect = torch.tensor(effects, dtype=torch.float64, device=device)
    sigma = torch.tensor(EIGHT_SCHOOLS_SIGMA, dtype=torch.float64, device=device)
    plane, logarithm = form == "plane", coordinate == "log tau"

    def constrain(z: Tensor) -> dict[str, Tensor]:
        mu, tau = z[..., 0], torch.exp(z[..., 1]) if logarithm else z[..., 1]
        if plane:
            return {"mu": mu, "tau": tau}
        return {"mu": mu, "tau": tau, "theta": mu.unsqueeze(-1) + tau.unsqueeze(-1) * z[..., 2:]}

    # log N(mu; 0, 5^2) + log half-Cauchy(tau; 0, 5), but for their exponents
    constant = -0.5 * LOG_2PI - math.log(5) + math.log(2 / (5 * math.pi))

    def log_joint(z: Tensor) -> Tensor:
        latents = constrain(z)
        mu, tau = latents["mu"], latents["tau"]
        variance = tau.square()
        prior = constant - mu.square() / 50 - torch.log1p(variance / 25)
        if logarithm:
            prior = prior + z[..., 1]  # the Jacobian dtau/dlog tau = tau
        if plane:
            fit = _sum_log_normal(effect - mu.unsqueeze(-1), sigma**2 + variance.unsqueeze(-1))
        else:
            eta = z[..., 2:]
            fit = (_sum_log_normal(effect - latents["theta"], sigma**2)
                   + _sum_log_normal(eta, torch.ones_like(sigma)))
        return prior + fit if logarithm else torch.where(tau >= 0, prior + fit, -torch.inf)

    evidence = Estimate(_eight_schools_evidence(tuple(effects.tolist())), "exact",
                        source="quadrature over tau")
    name = "eight schools" + ("" if logarithm else " in tau") + ("" if plane else ", non-centred")
    latents = ["mu", coordinate] + ([] if plane else [f"eta{j}" for j in range(1, 9)])
    return Problem(log_joint, len(latents), name=name, latents=latents, log_evidence=evidence,
                   constrain=constrain, device=device)


def _sum_log_normal(deviation: Tensor, variance: Tensor) -> Tensor:
    """sum_j log N(deviation_j; 0, variance_j): (..., J) -> (...)."""
    half = deviation.new_full(deviation.shape[-1:], 0.5)  # a product takes a third of the time of a sum over few columns
    return -((deviation.square() / variance) @ half) - torch.log(variance) @ half - 0.5 * len(half) * LOG_2PI


@lru_cache(maxsize=1024)
def _eight_schools_evidence(y: tuple[float, ...]) -> float:
    """log p(y) by a one-dimensional quadrature over t = log tau, mu being integrated out by hand."""
    y, variance = np.array(y), np.array(EIGHT_SCHOOLS_SIGMA) ** 2

    def log_density(t: float) -> float:
        weight = 1 / (variance + math.exp(2 * t))  # of each school
        precision = weight.sum() + 1 / 25          # of mu given y and tau
        quadratic = (weight * y**2).sum() - (weight * y).sum() ** 2 / precision
        fit = -0.5 * (8 * LOG_2PI - np.log(weight).sum() + math.log(25 * precision) + quadratic)
        return fit + math.log(2 / (5 * math.pi)) - math.log1p((math.exp(t) / 5) ** 2) + t

    grid = np.arange(-20.0, 20.0, 0.05)
    mode = grid[np.argmax([log_density(t) for t in grid])]
    top = log_density(mode)
    # To the left the density falls like exp(t), to the right like exp(-9 t): nothing is lost outside.
    mass, _ = quad(lambda t: math.exp(log_density(t) - top), mode - 45, mode + 15, points=[mode], limit=500,
                   epsabs=0, epsrel=1e-12)
    return top + math.log(mass)


def logistic_regression(columns: Columns = ("mean radius", "mean texture"), num_data: int | None = None,
                        prior_scale: float = 2.5, *, device: str | torch.device | None = None) -> Problem:
    """Bayesian logistic regression: is a breast tumour benign (y = 1)? With s the logistic sigmoid::

        log p(y, w) = sum_n log s((2 y_n - 1) w'x_n) + sum_i log N(w_i; 0, prior_scale^2)

    w are the weights; x_n holds an intercept and the standardised measurements of patient n. With up to three
    weights the log evidence is exact, by the trapezoidal rule in coordinates that whiten the posterior. With
    more it is unknown (None), and so it is where that rule does not settle: a very wide prior over patients
    that a plane separates.

    Args:
        columns: measurements by name or index (see `tightbound.data.breast_cancer`, which gives X and y).
        num_data: keep the first so many patients; all 569 if left out.
        prior_scale: standard deviation of the prior of every weight.
        device: where the data live.

    Raises:
        ValueError: for an unknown column, a number of patients out of range, or a scale not above zero.
    """
    X, y, names = breast_cancer(columns, num_data)
    prior_scale = positive("prior_scale", prior_scale)
    evidence = _logistic_evidence(tuple(names[1:]), len(y), prior_scale) if len(names) <= 3 else None
    device = choose(device or "cpu", dtype=torch.float64)
    signed = (X * (2 * y - 1).unsqueeze(-1)).to(device)
    return DataProblem(lambda w: _log_prior(w, prior_scale), lambda w, rows: logsigmoid(w @ rows.T), signed, len(names),
                       name="logistic regression", latents=names, log_evidence=evidence, device=device)


def _logistic(X: Tensor, y: Tensor, prior_scale: float) -> Callable[[Tensor], Tensor]:
    signed = X * (2 * y - 1).unsqueeze(-1)

    def log_joint(w: Tensor) -> Tensor:
        return logsigmoid(w @ signed.T).sum(-1) + _log_prior(w, prior_scale)

    return log_joint


def _log_prior(w: Tensor, scale: float) -> Tensor:
    return (-0.5 * (w / scale) ** 2 - math.log(scale) - 0.5 * LOG_2PI).sum(-1)


@lru_cache(maxsize=128)
def _logistic_evidence(columns: tuple[str, ...], num_data: int, prior_scale: float) -> Estimate | None:
    X, y, names = breast_cancer(columns, num_data)
    value = _log_integral(_logistic(X, y, prior_scale), len(names))
    return None if value is None else Estimate(value, "exact", source="quadrature")


def _log_integral(log_joint: Callable[[Tensor], Tensor], dim: int) -> float | None:
    """log ∫ exp(log_joint(w)) dw for a smooth, log-concave density in up to three dimensions; or None.

    With w = mode + L u, where L L' is the inverse curvature at the mode, the density of u is round. For such
    a smooth density halving the step of the trapezoidal rule squares its error (Trefethen & Weideman 2014),
    so that two steps that agree to 1e-5 leave an error near 1e-10. None where 161 points an axis do not agree
    with 81.
    """
    problem = Problem(log_joint, dim, device="cpu")

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(torch.tensor(w))
        return -float(value), -gradient.numpy()

    mode = torch.tensor(minimize(objective, np.zeros(dim), jac=True, method="BFGS").x)
    L = torch.linalg.cholesky(torch.linalg.inv(-problem.hessian(mode)))

    def whitened(u: Tensor) -> Tensor:
        points = u.reshape(-1, dim)
        parts = [log_joint(mode + part @ L.T) for part in points.split(256)]  # keeps memory small
        return (torch.cat(parts) + L.diagonal().log().sum()).reshape(u.shape[:-1])

    box = find_box(Problem(whitened, dim, device="cpu"), num_points=21)
    coarse = math.inf
    for points in (21, 41, 81, 161):
        grid = [torch.linspace(low, high, points, dtype=torch.float64) for low, high in box]
        cell = math.prod((high - low) / (points - 1) for low, high in box)
        values = whitened(torch.stack(torch.meshgrid(*grid, indexing="ij"), -1))
        fine = float(values.flatten().logsumexp(0)) + math.log(cell)
        if abs(fine - coarse) < 1e-5:
            return fine
        coarse = fine
    return None


def linear_regression(columns: Columns = None, num_data: int | None = None, noise_scale: float = 0.7,
                      prior_scale: float = 1.0, *, device: str | torch.device | None = None) -> Problem:
    """Bayesian linear regression of the progress of diabetes, with known noise s and prior scale t::

        log p(y, w) = log N(y; X w, s^2 I) + log N(w; 0, t^2 I)
        log p(y)    = log N(y; 0, s^2 I + t^2 X X')

    The posterior is Gaussian, so that Laplace's method is exact on it. y is standardised: its standard
    deviation is one, and least squares leaves residuals of 0.7.

    Args:
        columns: measurements by name or index, all ten for None (see `tightbound.data.diabetes`, which gives
            X and y).
        num_data: keep the first so many patients; all 442 if left out.
        noise_scale, prior_scale: s and t.
        device: where the data live.

    Raises:
        ValueError: for an unknown column, a number of patients out of range, or scales not above zero.
    """
    X, y, names = diabetes(columns, num_data)
    s, t = positive("noise_scale", noise_scale), positive("prior_scale", prior_scale)
    covariance = s**2 * torch.eye(len(y), dtype=y.dtype) + t**2 * X @ X.T
    marginal = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
    evidence = Estimate(marginal.log_prob(y), "exact", source="Gaussian integral")
    device = choose(device or "cpu", dtype=torch.float64)
    X, y = X.to(device), y.to(device)

    def log_joint(w: Tensor) -> Tensor:
        return _log_prior(y - w @ X.T, s) + _log_prior(w, t)

    return Problem(log_joint, len(names), name="linear regression", latents=names, log_evidence=evidence,
                   device=device)
