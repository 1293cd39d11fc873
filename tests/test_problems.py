"""The problems: each exact log evidence by a second route, and the contract that every log joint keeps."""

import itertools
import math
import socket

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import integrate, stats

from tightbound import Estimate, data, exact
from tightbound.approximation import log_mean_exp
from tightbound.data import tables
from tightbound.problems import (EIGHT_SCHOOLS_SIGMA, EIGHT_SCHOOLS_Y, GaussianMixture, Ising, banana, coin,
                                 eight_schools, energy, funnel, gaussian_mixture, heavy_tail,
                                 linear_regression, logistic_regression, quartic, ring, rosenbrock, two_modes)

SEEDS = range(5)
FOUR = ("mean radius", "mean texture", "mean area", "mean smoothness")  # no exact evidence: quick to build
BUILDERS = {
    "coin in logit": coin,
    "coin in p": lambda: coin(coordinate="p"),
    "coin unflipped": lambda: coin(0, 0, 0.5, 2.0),
    "eight schools": eight_schools,
    "eight schools in tau": lambda: eight_schools(coordinate="tau"),
    "eight schools non-centred": lambda: eight_schools("non-centred"),
    "eight schools non-centred in tau": lambda: eight_schools("non-centred", "tau"),
    "logistic regression": lambda: logistic_regression(FOUR, num_data=100),
    "intercept alone": lambda: logistic_regression(()),
    "linear regression": linear_regression,
    "quartic": quartic,
    "Rosenbrock": rosenbrock,
    "banana": banana,
    "funnel": funnel,
    "ring": ring,
    "U1": lambda: energy(1),
    "U2": lambda: energy(2),
    "U3": lambda: energy(3),
    "U4": lambda: energy(4),
    "two modes": two_modes,
    "heavy tail": heavy_tail,
    "heavy tail in 3-D": lambda: heavy_tail(2.5, dim=3),
}


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS)
def problem(request):
    return request.param()


def inner_points(problem, num_points=6):
    """Points of the support, (num_points, d), away from the origin and from the edges of a box."""
    z = problem.points(64, seed=1)[1 : num_points + 1]
    if problem.box is not None:
        middle = torch.tensor(problem.box, dtype=z.dtype).mean(1)
        z = middle + 0.5 * (z - middle)
    assert len(z) == num_points
    return z


def differences(f, z, step=1e-3):
    """Derivatives of f: (..., d) -> (..., *k) along each axis, (..., d, *k), by five-point differences."""
    h = step * torch.eye(z.shape[-1], dtype=z.dtype)
    z = z.unsqueeze(-2)
    return (f(z - 2 * h) - 8 * f(z - h) + 8 * f(z + h) - f(z + 2 * h)) / (12 * step)


# The contract


def test_log_joint_maps_batches_as_it_maps_points(problem):
    z = inner_points(problem).reshape(2, 3, problem.dim)
    value = problem.log_joint(z)
    assert value.shape == (2, 3) and value.dtype == torch.float64 and torch.isfinite(value).all()
    one_by_one = torch.stack([problem.log_joint(point) for point in z.reshape(6, -1)]).reshape(2, 3)
    torch.testing.assert_close(value, one_by_one, rtol=1e-12, atol=1e-12)
    assert problem.log_joint(z[:0]).shape == (0, 3)


def test_gradient_agrees_with_finite_differences(problem):
    z = inner_points(problem).reshape(2, 3, problem.dim)
    value, gradient = problem.value_and_gradient(z)
    torch.testing.assert_close(value, problem.log_joint(z), rtol=0, atol=0)
    assert gradient.shape == z.shape
    torch.testing.assert_close(gradient, differences(problem.log_joint, z), rtol=1e-7,
                               atol=1e-8 * float(1 + value.abs().max()))


def test_hessian_agrees_with_finite_differences_of_the_gradient(problem):
    z = inner_points(problem).reshape(2, 3, problem.dim)
    hessian, gradient = problem.hessian(z), problem.value_and_gradient(z)[1]
    assert hessian.shape == (2, 3, problem.dim, problem.dim)
    torch.testing.assert_close(hessian, differences(lambda z: problem.value_and_gradient(z)[1], z), rtol=1e-7,
                               atol=1e-8 * float(1 + gradient.abs().max()))


def test_evaluations_are_counted_from_zero(problem):
    z = inner_points(problem)
    spent = problem.evaluations  # by looking for those points
    problem.log_joint(z)
    problem.value_and_gradient(z)
    problem.hessian(z[:2])
    assert problem.evaluations - spent == 6 + 6 + 2 * problem.dim


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_new_problem_has_cost_nothing(build):
    assert build().evaluations == 0


def test_problem_describes_itself(problem):
    z = inner_points(problem).reshape(2, 3, problem.dim)
    assert len(set(problem.latents)) == problem.dim
    if problem.log_evidence is not None:
        assert problem.log_evidence.kind == "exact" and problem.log_evidence.source
    for latent in problem.constrain(z).values():
        assert latent.shape[:2] == (2, 3)
    assert problem.name in repr(problem)


@pytest.mark.parametrize("build, outside", [
    (lambda: coin(coordinate="p"), [[0.0], [1.0], [-0.5], [1.5]]),
    (lambda: eight_schools(coordinate="tau"), [[0.0, -1e-9], [3.0, -5.0]]),
    (lambda: eight_schools("non-centred", "tau"), [[0.0, -2.0] + [0.3] * 8]),
    (lambda: energy(2), [[4.1, 0.0], [0.0, -4.1]]),
    (lambda: energy(3), [[4.1, 0.0], [0.0, -4.1]]),
    (lambda: energy(4), [[4.1, 0.0], [0.0, -4.1]])], ids=["coin", "tau", "non-centred tau", "U2", "U3", "U4"])
def test_outside_of_its_support_a_density_is_zero_and_has_no_nan_gradient(build, outside):
    value, gradient = build().value_and_gradient(torch.tensor(outside, dtype=torch.float64))
    assert (value == -torch.inf).all() and (gradient == 0).all()


def test_the_boundary_tau_zero_belongs_to_the_support():
    value, gradient = eight_schools(coordinate="tau").value_and_gradient(
        torch.tensor([4.0, 0.0], dtype=torch.float64)
    )
    assert torch.isfinite(value) and gradient[1] == 0  # the log joint is even in tau


@pytest.mark.parametrize("build", [ring, lambda: energy(1)], ids=["ring", "U1"])
def test_rings_have_derivatives_at_their_centre(build):
    problem, centre = build(), torch.zeros(2, dtype=torch.float64)
    assert torch.isfinite(problem.value_and_gradient(centre)[1]).all()
    assert torch.isfinite(problem.hessian(centre)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "build",
    [eight_schools, lambda **o: logistic_regression(FOUR, **o), linear_regression],
    ids=["eight schools", "logistic regression", "linear regression"],
)
def test_data_live_where_they_are_sent(build):
    here, there = build(), build(device="cuda")
    z = inner_points(here)
    torch.testing.assert_close(there.log_joint(z.cuda()).cpu(), here.log_joint(z), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(there.hessian(z.cuda()).cpu(), here.hessian(z), rtol=1e-10, atol=1e-10)
    assert there.points(3).device.type == "cuda"


# The coin


@settings(max_examples=50)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.1, 50), st.floats(0.1, 50),
       st.sampled_from(["logit", "p"]))
def test_coin_by_predicting_flip_after_flip(heads, tails, a, b, coordinate):
    flips = [math.log((a + i) / (a + b + i)) for i in range(heads)]
    flips += [math.log((b + i) / (a + b + heads + i)) for i in range(tails)]
    assert float(coin(heads, tails, a, b, coordinate).log_evidence) == pytest.approx(
        math.fsum(flips), abs=1e-10
    )


@pytest.mark.parametrize("arguments", [(6, 4, 10.0, 10.0), (0, 3, 2.0, 1.0), (700, 300, 1.5, 4.0)], ids=str)
@pytest.mark.parametrize("coordinate", ["logit", "p"])
def test_coin_by_quadrature(arguments, coordinate):
    problem = coin(*arguments, coordinate)
    assert float(exact.quadrature(problem)) == pytest.approx(float(problem.log_evidence), abs=1e-8)


def test_coin_of_the_book():
    assert float(coin().log_evidence) == pytest.approx(-7.069374503, abs=5e-10)
    p = coin().constrain(torch.tensor([[0.0], [2.0]]))["p"]
    torch.testing.assert_close(p, torch.tensor([0.5, 1 / (1 + math.exp(-2))]))


def test_coin_moves_from_p_to_logit_with_its_jacobian():
    z = torch.linspace(-5, 5, 11, dtype=torch.float64).unsqueeze(-1)
    p = torch.sigmoid(z)
    torch.testing.assert_close(
        coin().log_joint(z), coin(coordinate="p").log_joint(p) + torch.log(p * (1 - p))[:, 0]
    )


def test_coin_in_logit_is_stable_far_out():
    value = coin().log_joint(torch.tensor([[-2000.0], [2000.0]], dtype=torch.float64))
    log_b = math.lgamma(10) * 2 - math.lgamma(20)
    torch.testing.assert_close(value, torch.tensor([-2000.0 * 16, -2000.0 * 14], dtype=torch.float64) - log_b)


# Eight schools

OTHERS = {"Rubin's": EIGHT_SCHOOLS_Y, "equal": (3.0,) * 8, "far apart": (-40, 35, 20, -60, 80, 10, -25, 50)}


@pytest.mark.parametrize("y", OTHERS.values(), ids=OTHERS)
def test_eight_schools_by_quadrature_in_the_plane(y):
    problem = eight_schools(y=y)
    assert float(exact.quadrature(problem)) == pytest.approx(float(problem.log_evidence), abs=1e-8)
    in_tau = exact.quadrature(eight_schools(coordinate="tau", y=y), box=((-60.0, 60.0), (0.0, 5000.0)))
    assert float(in_tau) == pytest.approx(float(problem.log_evidence), abs=1e-8)


def test_eight_schools_has_its_published_evidence_and_means():
    problem = eight_schools()
    assert float(problem.log_evidence) == pytest.approx(-31.31135, abs=5e-6)
    means = exact.quadrature(problem, of=lambda z: torch.stack([z[..., 0], z[..., 1].exp()], -1), rtol=1e-7)
    assert means == pytest.approx([4.3968, 3.5977], abs=5e-5)


def test_eight_schools_plane_against_scipys_densities():
    mu, log_tau = 3.0, 0.7
    tau = math.exp(log_tau)
    expected = (stats.norm.logpdf(EIGHT_SCHOOLS_Y, mu, np.sqrt(np.square(EIGHT_SCHOOLS_SIGMA) + tau**2)).sum()
                + stats.norm.logpdf(mu, 0, 5) + stats.halfcauchy.logpdf(tau, scale=5) + log_tau)
    assert float(eight_schools().log_joint(torch.tensor([mu, log_tau]).double())) == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("coordinate", ["log tau", "tau"])
def test_ten_dimensions_are_the_plane_times_the_posterior_of_eta(coordinate):
    """p(y, mu, tau, eta) = p(y, mu, tau) p(eta | y, mu, tau), and the last factor is Gaussian."""
    ten, plane = eight_schools("non-centred", coordinate), eight_schools(coordinate=coordinate)
    z = inner_points(ten)
    latents = ten.constrain(z)
    mean, scale = eta_given_the_rest(latents["mu"], latents["tau"])
    conditional = torch.distributions.Normal(mean, scale).log_prob(z[:, 2:]).sum(-1)
    torch.testing.assert_close(
        ten.log_joint(z), plane.log_joint(z[:, :2]) + conditional, rtol=1e-12, atol=1e-12
    )
    theta = latents["mu"].unsqueeze(-1) + latents["tau"].unsqueeze(-1) * z[:, 2:]
    torch.testing.assert_close(latents["theta"], theta)


def eta_given_the_rest(mu, tau):
    """Mean and standard deviation of eta given mu and tau, (..., 8) each."""
    y = torch.tensor(EIGHT_SCHOOLS_Y, dtype=torch.float64)
    variance = torch.tensor(EIGHT_SCHOOLS_SIGMA, dtype=torch.float64) ** 2
    mu, tau = mu.unsqueeze(-1), tau.unsqueeze(-1)
    precision = 1 + tau**2 / variance
    return tau * (y - mu) / variance / precision, precision.rsqrt()


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_dimensional_eight_schools_by_importance_sampling(seed):
    problem, stream = eight_schools("non-centred"), torch.Generator().manual_seed(seed)
    # mu and log tau from a logistic density each, of wider tails; eta a little wider than given them.
    u = torch.rand(100_000, 2, generator=stream, dtype=torch.float64)
    location, spread = torch.tensor([4.4, 0.8]).double(), torch.tensor([2.5, 0.9]).double()
    first = location + spread * torch.logit(u)
    log_q = torch.log(u * (1 - u) / spread).sum(-1)
    mean, scale = eta_given_the_rest(first[:, 0], first[:, 1].exp())
    noise = torch.randn(mean.shape, generator=stream, dtype=torch.float64)
    eta = mean + 1.1 * scale * noise
    log_q = log_q + torch.distributions.Normal(mean, 1.1 * scale).log_prob(eta).sum(-1)
    log_weights = problem.log_joint(torch.cat([first, eta], 1)) - log_q
    assert_estimates(log_weights, float(problem.log_evidence), error=0.01)


def assert_estimates(log_weights, truth, error):
    """The log-mean-exp is within four Monte Carlo standard errors of the truth, and those are small."""
    weights = torch.exp(log_weights - log_weights.max())
    standard_error = float(weights.std() / weights.mean()) / math.sqrt(len(weights))
    assert standard_error < error
    assert abs(float(log_mean_exp(log_weights)) - truth) < 4 * standard_error


# Regressions


def trapezoid(problem, box, num_points):
    """log ∫ exp(log_joint) over a box by the trapezoidal rule, for a density that vanishes at its faces."""
    grid = [torch.linspace(low, high, num_points, dtype=torch.float64) for low, high in box]
    cell = math.prod(float(axis[1] - axis[0]) for axis in grid)
    z = torch.stack(torch.meshgrid(*grid, indexing="ij"), -1).reshape(-1, problem.dim)
    return float(torch.cat([problem.log_joint(part) for part in z.split(512)]).logsumexp(0)) + math.log(cell)


def test_logistic_regression_with_an_intercept_by_scipy():
    problem = logistic_regression(())

    def density(w):  # 357 benign tumours, 212 malignant
        return math.exp(357 * stats.logistic.logcdf(w) + 212 * stats.logistic.logsf(w)
                        + stats.norm.logpdf(w, 0, 2.5) + 380)

    volume, _ = integrate.quad(density, -1, 2, epsabs=0, epsrel=1e-11)
    assert float(problem.log_evidence) == pytest.approx(math.log(volume) - 380, abs=1e-8)


@pytest.mark.parametrize("columns, num_data, prior_scale", [
    (("mean radius",), None, 2.5), (("mean radius",), 30, 10.0), ((1,), None, 0.3),
    (("mean radius", "mean texture"), 20, 2.5), ((27, 21), 60, 1.0)], ids=str)
def test_logistic_regression_by_adaptive_quadrature(columns, num_data, prior_scale):
    problem = logistic_regression(columns, num_data, prior_scale)
    expected = exact.quadrature(problem, rtol=1e-7 if problem.dim == 3 else 1e-9)
    assert float(problem.log_evidence) == pytest.approx(float(expected), abs=1e-7)


def test_logistic_regression_of_the_book_by_the_trapezoidal_rule():
    problem = logistic_regression()
    box = ((-0.8, 2.6), (-8.8, -1.2), (-3.0, 0.6))
    assert float(problem.log_evidence) == pytest.approx(trapezoid(problem, box, 41), abs=1e-8)


def test_logistic_regression_without_exact_evidence():
    assert logistic_regression(FOUR).log_evidence is None  # five dimensions
    # A prior so wide, on patients of one class alone, that the posterior is cut off like half of space.
    assert logistic_regression(num_data=10, prior_scale=1e3).log_evidence is None


def test_logistic_regression_against_scipys_densities():
    w = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    X, y, names = data.breast_cancer()
    probability = torch.special.expit(X @ w)
    expected = (
        torch.distributions.Bernoulli(probability).log_prob(y).sum() + stats.norm.logpdf(w, 0, 2.5).sum()
    )
    assert float(logistic_regression().log_joint(w)) == pytest.approx(float(expected), rel=1e-12)
    assert logistic_regression().latents == names == ["intercept", "mean radius", "mean texture"]


@pytest.mark.parametrize("arguments", [{}, {"num_data": 15}, {"columns": ("bmi", "bp"), "noise_scale": 0.4},
                                       {"columns": (), "prior_scale": 3.0}], ids=str)
def test_linear_regression_by_predicting_patient_after_patient(arguments):
    """log p(y) = sum_n log p(y_n | y_1..n-1), the posterior of the weights being updated on the way."""
    problem = linear_regression(**arguments)
    X, y, _ = data.diabetes(arguments.get("columns"), arguments.get("num_data"))
    s, t = arguments.get("noise_scale", 0.7), arguments.get("prior_scale", 1.0)
    mean, cov, total = np.zeros(X.shape[1]), t**2 * np.eye(X.shape[1]), 0.0
    for x, target in zip(X.numpy(), y.numpy()):
        variance = x @ cov @ x + s**2
        total += stats.norm.logpdf(target, x @ mean, math.sqrt(variance))
        gain = cov @ x / variance
        mean, cov = mean + gain * (target - x @ mean), cov - np.outer(gain, x @ cov)
    assert float(problem.log_evidence) == pytest.approx(total, abs=1e-8)


def test_linear_regression_by_quadrature():
    problem = linear_regression(columns=("bmi",))
    assert float(problem.log_evidence) == pytest.approx(float(exact.quadrature(problem)), abs=1e-8)


# Densities


@pytest.mark.parametrize("g", [1e-12, 9.99e-9, 1.001e-8, 1e-3, 0.1, 1.0, 1e4])
def test_quartic_by_scipy(g):
    width = min(12.0, (700 / g) ** 0.25)
    volume, _ = integrate.quad(lambda x: math.exp(-x * x / 2 - g * x**4), -width, width, points=[0.0],
                               epsabs=0, epsrel=1e-12, limit=200)
    assert float(quartic(g).log_evidence) == pytest.approx(math.log(volume), abs=1e-11)


@pytest.mark.parametrize("a, b", [(1.0, 100.0), (-0.5, 0.7)], ids=str)
def test_rosenbrock_by_scipy(a, b):
    half = 7 / math.sqrt(b)  # exp(-49) at the edges
    volume, _ = integrate.dblquad(lambda y, x: density(rosenbrock(a, b), x, y), a - 7, a + 7,
                                  lambda x: x**2 - half, lambda x: x**2 + half, epsabs=0, epsrel=1e-7)
    assert float(rosenbrock(a, b).log_evidence) == pytest.approx(math.log(volume), abs=1e-7)


def density(problem, *z):
    return math.exp(float(problem.log_joint(torch.tensor(z, dtype=torch.float64))))


def test_rosenbrock_has_its_published_evidence():
    assert float(rosenbrock().log_evidence) == pytest.approx(-1.157855, abs=5e-7)


@pytest.mark.parametrize("b", [0.03, -0.05])
def test_banana_by_quadrature(b):
    assert float(exact.quadrature(banana(b))) == pytest.approx(0.0, abs=1e-8)


def test_funnel_by_scipy():
    def over_x(v):
        width = 10 * math.exp(v / 2)
        return integrate.quad(lambda x: density(funnel(2), v, x), -width, width, epsabs=0, epsrel=1e-9)[0]

    volume, _ = integrate.quad(over_x, -30, 30, points=[0.0], epsabs=0, epsrel=1e-8)
    assert math.log(volume) == pytest.approx(0.0, abs=1e-7)


def test_funnel_against_torchs_densities():
    z = inner_points(funnel(10))
    v, x = z[:, 0], z[:, 1:]
    expected = (torch.distributions.Normal(0.0, 3.0).log_prob(v)
                + torch.distributions.Normal(0.0, (v / 2).exp().unsqueeze(-1)).log_prob(x).sum(-1))
    torch.testing.assert_close(funnel(10).log_joint(z), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_dimensional_funnel_by_importance_sampling(seed):
    problem, stream = funnel(10), torch.Generator().manual_seed(seed)
    noise = torch.randn(100_000, 10, generator=stream, dtype=torch.float64)
    v = 4 * noise[:, :1]
    scale = 1.2 * torch.exp(v / 2)
    log_q = (torch.distributions.Normal(0.0, 4.0).log_prob(v[:, 0])
             + torch.distributions.Normal(0.0, scale).log_prob(scale * noise[:, 1:]).sum(-1))
    log_weights = problem.log_joint(torch.cat([v, scale * noise[:, 1:]], 1)) - log_q
    assert_estimates(log_weights, 0.0, error=0.01)


@pytest.mark.parametrize("radius, width", [(2.0, 0.4), (1.0, 1.0), (0.3, 2.0)], ids=str)
def test_ring_by_scipy(radius, width):
    volume, _ = integrate.dblquad(lambda y, x: density(ring(radius, width), x, y), 0, radius + 8 * width,
                                  0, radius + 8 * width, epsabs=0, epsrel=1e-7)
    assert float(ring(radius, width).log_evidence) == pytest.approx(math.log(4 * volume), abs=1e-6)


def test_u1_by_the_trapezoidal_rule():
    assert float(energy(1).log_evidence) == pytest.approx(
        trapezoid(energy(1), ((-6.0, 6.0), (-6.0, 6.0)), 601), abs=1e-8
    )


@pytest.mark.parametrize("number", [2, 3, 4])
def test_energies_by_quadrature_in_their_box(number):
    problem = energy(number)
    assert float(exact.quadrature(problem)) == pytest.approx(float(problem.log_evidence), abs=1e-8)


@pytest.mark.parametrize("number, published", [(1, 1.877502), (2, 2.082089), (3, 2.641705), (4, 2.684568)])
def test_energies_have_their_published_evidence(number, published):
    assert float(energy(number).log_evidence) == pytest.approx(published, abs=6e-7)


def test_energies_as_the_paper_writes_them():
    z = inner_points(energy(4))
    z1, z2 = z.numpy().T
    w1, w2, w3 = (
        np.sin(2 * np.pi * z1 / 4),
        3 * np.exp(-0.5 * ((z1 - 1) / 0.6) ** 2),
        3 / (1 + np.exp(-(z1 - 1) / 0.3)),
    )

    def bump(x, scale):
        return np.exp(-0.5 * (x / scale) ** 2)

    paper = {1: 0.5 * ((np.hypot(z1, z2) - 2) / 0.4) ** 2 - np.log(bump(z1 - 2, 0.6) + bump(z1 + 2, 0.6)),
             2: 0.5 * ((z2 - w1) / 0.4) ** 2,
             3: -np.log(bump(z2 - w1, 0.35) + bump(z2 - w1 + w2, 0.35)),
             4: -np.log(bump(z2 - w1, 0.4) + bump(z2 - w1 + w3, 0.35))}
    for number, u in paper.items():
        assert energy(number).log_joint(z).numpy() == pytest.approx(-u, rel=1e-10)


@pytest.mark.parametrize(
    "separation, weight, scale", [(3.0, 0.3, 0.5), (0.0, 0.5, 2.0), (40.0, 0.01, 1.0)], ids=str
)
def test_two_modes_by_scipy(separation, weight, scale):
    problem = two_modes(separation, weight, scale)
    z = inner_points(problem)
    left, right = stats.norm.pdf(z, -separation / 2, scale), stats.norm.pdf(z, separation / 2, scale)
    expected = weight * left + (1 - weight) * right
    assert problem.log_joint(z).exp().numpy() == pytest.approx(expected[:, 0], rel=1e-10)
    far = separation / 2 + 10 * scale
    assert float(exact.quadrature(problem, box=((-far, far),))) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("df, dim", [(3.0, 1), (1.0, 2), (2.5, 3)], ids=str)
def test_heavy_tail_against_scipys_density(df, dim):
    problem = heavy_tail(df, dim)
    z = inner_points(problem)
    assert problem.log_joint(z).numpy() == pytest.approx(
        stats.multivariate_t(np.zeros(dim), df=df).logpdf(z), rel=1e-10
    )


@pytest.mark.parametrize("df, dim", [(3.0, 1), (5.0, 2)], ids=str)
def test_heavy_tail_by_quadrature(df, dim):
    assert float(exact.quadrature(heavy_tail(df, dim), rtol=1e-8)) == pytest.approx(0.0, abs=1e-7)


# Discrete latents


def log_marginal(x, scale, prior_scale):
    """log p(x) of observations that share one mean: N(x; 0, scale^2 I + prior_scale^2 1 1'), by SciPy."""
    if len(x) == 0:
        return 0.0
    return stats.multivariate_normal.logpdf(x, np.zeros(len(x)), scale**2 * np.eye(len(x)) + prior_scale**2)


@pytest.mark.parametrize("K, scale, prior_scale", [(1, 1.0, 2.0), (2, 0.5, 3.0), (3, 1.5, 0.7)], ids=str)
def test_every_assignment_of_a_small_mixture_by_scipy(K, scale, prior_scale):
    x = np.array([-3.1, 0.2, 2.5, 2.6, -1.0])
    mixture = GaussianMixture(torch.tensor(x), K, scale, prior_scale)
    assignments = np.array(list(itertools.product(range(K), repeat=5)))
    expected = [
        sum(log_marginal(x[z == k], scale, prior_scale) for k in range(K)) - 5 * math.log(K)
        for z in assignments
    ]
    assert mixture.log_joint(torch.tensor(assignments)).numpy() == pytest.approx(
        np.array(expected), abs=1e-10
    )
    assert float(mixture.log_evidence) == pytest.approx(float(np.logaddexp.reduce(expected)), abs=1e-10)


@pytest.mark.parametrize("seed", [0, 3])
def test_mixture_by_a_sum_over_subsets(seed):
    """The sum over assignments, component by component: each takes a subset of what the others left."""
    mixture = gaussian_mixture(3, 10, seed)
    x, everyone = mixture.x.numpy(), 2**10 - 1
    member = np.array([[s >> n & 1 for n in range(10)] for s in range(2**10)], dtype=bool)
    weight = np.exp([log_marginal(x[taken], 1.0, 4.0) for taken in member])
    one = weight
    two = np.array([sum(weight[t] * one[s ^ t] for t in subsets(s)) for s in range(2**10)])
    three = sum(weight[t] * two[everyone ^ t] for t in subsets(everyone))
    assert mixture.num_states**mixture.num_sites == 59_049
    assert float(mixture.log_evidence) == pytest.approx(math.log(three) - 10 * math.log(3), abs=1e-9)


def subsets(s):
    t = s
    while True:
        yield t
        if t == 0:
            return
        t = (t - 1) & s


def test_mixture_takes_batches_and_forgets_the_names_of_components():
    mixture = gaussian_mixture()
    z = torch.randint(3, (2, 4, 10), generator=torch.Generator().manual_seed(0))
    renamed = torch.tensor([2, 0, 1])[z]
    assert mixture.log_joint(z).shape == (2, 4)
    torch.testing.assert_close(mixture.log_joint(z), mixture.log_joint(renamed))
    assert torch.equal(gaussian_mixture(seed=7).x, gaussian_mixture(seed=7).x)
    assert not torch.equal(gaussian_mixture(seed=7).x, gaussian_mixture(seed=8).x)
    assert gaussian_mixture(3, 100).log_evidence is None


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(
    "beta, J",
    [(0.0, 1.0), (0.1, 1.0), (math.log(1 + math.sqrt(2)) / 2, 1.0), (0.6, -1.0), (0.3, 2.5)],
    ids=str,
)
def test_ising_by_the_transfer_matrix(size, beta, J):
    """Z = trace T^size, where T holds a row's own bonds and those to the next row."""
    rows = np.array(list(itertools.product([-1, 1], repeat=size)))
    within = (rows * np.roll(rows, -1, 1)).sum(1)
    T = np.exp(beta * J * (0.5 * within[:, None] + 0.5 * within + rows @ rows.T))
    expected = math.log(np.trace(np.linalg.matrix_power(T, size)))
    assert float(Ising(size, beta, J).log_evidence) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("beta, published", [(0.1, 11.252588), (0.2, 11.771470), (0.3, 12.785523),
                                             (math.log(1 + math.sqrt(2)) / 2, 15.521916), (0.6, 20.056533)])
def test_ising_has_its_published_evidence(beta, published):
    assert float(Ising(4, beta).log_evidence) == pytest.approx(published, abs=6e-7)


def test_ising_bond_by_bond():
    codes = torch.randint(2, (3, 2, 9), generator=torch.Generator().manual_seed(0))
    spins = (2 * codes - 1).reshape(3, 2, 3, 3)
    bonds = sum(spins[..., i, j] * (spins[..., (i + 1) % 3, j] + spins[..., i, (j + 1) % 3])
                for i in range(3) for j in range(3))
    torch.testing.assert_close(Ising(3, 0.7, -2.0).log_joint(codes), -1.4 * bonds.double())
    assert Ising(5).log_evidence is None


@pytest.mark.parametrize("model", [gaussian_mixture(2, 5), Ising(2)], ids=["mixture", "Ising"])
@pytest.mark.parametrize(
    "states",
    [
        torch.tensor([0.5, 0, 1, 0, 1]),
        torch.full((5,), -1),
        torch.full((5,), 2),
        torch.zeros(3, 7),
        [0, 1, 0, 1, 1],
    ],
    ids=["half", "-1", "2", "shape", "list"],
)
def test_discrete_models_refuse_what_is_no_state(model, states):
    if isinstance(states, torch.Tensor) and states.shape == (5,):
        states = states[: model.num_sites]
    with pytest.raises(ValueError, match=r"must be"):
        model.log_joint(states)


# Data, and bad arguments


def test_data_are_standardised_and_come_without_a_network(monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "socket", no_network)
    tables._breast_cancer.cache_clear()
    tables._diabetes.cache_clear()
    for load, shape in [(lambda: data.breast_cancer(None), (569, 31)), (data.diabetes, (442, 11))]:
        X, y, names = load()
        assert X.shape == shape and y.shape == shape[:1] and len(names) == shape[1]
        assert X.dtype == y.dtype == torch.float64
        torch.testing.assert_close(X[:, 1:].mean(0), torch.zeros(shape[1] - 1).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(X.square().mean(0), torch.ones(shape[1]).double())
    assert data.breast_cancer().y.sum() == 357
    assert data.breast_cancer(("mean texture", 0)).names == ["intercept", "mean texture", "mean radius"]
    assert torch.equal(data.breast_cancer("mean radius", 7).X, data.breast_cancer((0,)).X[:7])


NAN, INF = math.nan, math.inf
BAD = {
    "negative heads": (lambda: coin(-1, 4), "heads must be an integer, at least 0, got -1"),
    "half a tail": (lambda: coin(1, 0.5), "tails must be an integer"),
    "a true head": (lambda: coin(True, 0), "heads must be an integer"),
    "no prior": (lambda: coin(a=0.0), "a must be a finite number above zero"),
    "coordinate": (lambda: coin(coordinate="log p"), "unknown coordinate 'log p': choose 'logit' or 'p'"),
    "form": (lambda: eight_schools("centred"), "choose 'plane' or 'non-centred'"),
    "tau's coordinate": (lambda: eight_schools(coordinate="tau^2"), "choose 'log tau' or 'tau'"),
    "seven schools": (lambda: eight_schools(y=[1.0] * 7), "eight finite numbers"),
    "NaN school": (lambda: eight_schools(y=[1.0] * 7 + [NAN]), "eight finite numbers"),
    "unknown column": (lambda: logistic_regression(("radius",)), "no column 'radius'.*'mean radius'"),
    "column number": (lambda: logistic_regression((30,)), "index from 0 to 29"),
    "column twice": (lambda: logistic_regression((0, "mean radius")), "twice"),
    "no patient": (lambda: logistic_regression(num_data=0), "from 1 to 569"),
    "too many patients": (lambda: linear_regression(num_data=443), "from 1 to 442"),
    "prior scale": (
        lambda: logistic_regression(prior_scale=-1.0),
        "prior_scale must be a finite number above zero",
    ),
    "noise": (lambda: linear_regression(noise_scale=0), "noise_scale must be"),
    "g": (lambda: quartic(-0.1), "g must be a finite number above zero"),
    "Rosenbrock's b": (lambda: rosenbrock(b=0), "b must be"),
    "banana": (lambda: banana(INF), "b must be a finite number"),
    "funnel": (lambda: funnel(1), "dim must be an integer, at least 2"),
    "ring": (lambda: ring(width=0), "width must be"),
    "U0": (lambda: energy(0), "from 1 to 4"),
    "U5": (lambda: energy(5), "from 1 to 4"),
    "weight": (lambda: two_modes(weight=1.0), "weight between 0 and 1"),
    "separation": (lambda: two_modes(-1.0), "separation of at least 0"),
    "df": (lambda: heavy_tail(NAN), "df must be"),
    "dim": (lambda: heavy_tail(3, 0), "dim must be"),
    "no component": (lambda: gaussian_mixture(0), "num_components must be"),
    "no observation": (lambda: gaussian_mixture(num_data=0), "num_data must be"),
    "NaN observation": (lambda: GaussianMixture(torch.tensor([0.0, NAN])), "vector of finite numbers"),
    "one site": (lambda: Ising(1), "size must be an integer, at least 2"),
    "NaN beta": (lambda: Ising(beta=NAN), "beta must be a finite number"),
    "negative beta": (lambda: Ising(beta=-0.1), "negative J"),
    "J": (lambda: Ising(J=INF), "J must be a finite number"),
}


@pytest.mark.parametrize("build, message", BAD.values(), ids=BAD)
def test_bad_arguments_are_named_with_their_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_every_evidence_says_how_it_is_known():
    assert str(coin().log_evidence) == "-7.0694 nats (exact by Beta function)"
    assert isinstance(Ising().log_evidence, Estimate) and Ising().log_evidence.source == "enumeration"
