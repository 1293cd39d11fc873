"""Laplace's method: exact where it must be, off by the known amount elsewhere, and outspoken where it cannot serve."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.nn.functional import logsigmoid

from tightbound import Problem, effective_sample_size, exact, laplace, problems


def quadratic(d: int, seed: int) -> tuple[Problem, float]:
    """A Gaussian log joint, not normalised, and its log integral from NumPy."""
    stream = np.random.default_rng(seed)
    root = stream.normal(size=(d, d))
    precision, centre, height = root @ root.T + 0.3 * np.eye(d), stream.normal(size=d), stream.normal()
    truth = height + 0.5 * d * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(precision)[1]
    P, c = torch.tensor(precision), torch.tensor(centre)
    problem = Problem(lambda z: height - 0.5 * ((z - c) @ P * (z - c)).sum(-1), d, name="quadratic", log_evidence=truth)
    return problem, truth


@settings(max_examples=25, deadline=None)
@given(d=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_exact_on_a_gaussian_from_any_expansion_point(d, seed):
    problem, truth = quadratic(d, seed)
    at = 3 * torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    approx = laplace.approximate(problem, at=at)
    assert float(approx.log_evidence) == pytest.approx(truth, abs=1e-8)
    assert torch.allclose(approx.q.loc, laplace.approximate(problem).q.loc, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_the_lectures_two_slips_each_change_the_answer(seed):
    problem, truth = quadratic(3, seed)
    e = laplace.expand(problem, torch.ones(3))
    inverse = 0.5 * e.gradient @ torch.linalg.solve(e.hessian, e.gradient)
    as_printed = 0.5 * e.gradient @ e.hessian @ e.gradient
    log_det = 0.5 * torch.logdet(e.hessian / (2 * math.pi))
    assert float(-e.energy + inverse - log_det) == pytest.approx(truth, abs=1e-9)
    assert abs(float(-e.energy + as_printed - log_det) - truth) > 0.05
    assert abs(float(-e.energy + inverse + 0.5 * torch.logdet(2 * math.pi * e.hessian)) - truth) > 0.05


def test_the_coin_by_hand():
    a, b, h, t = 3.0, 5.0, 7, 2
    p = (a + h) / (a + b + h + t)
    precision = (a + b + h + t) * p * (1 - p)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    by_hand = (a + h) * math.log(p) + (b + t) * math.log(1 - p) - log_beta + 0.5 * math.log(2 * math.pi / precision)
    approx = laplace.approximate(problems.coin(h, t, a, b))
    assert float(approx.log_evidence) == pytest.approx(by_hand, abs=1e-10)
    assert float(approx.q.loc) == pytest.approx(math.log(p / (1 - p)), abs=1e-8)
    assert float(approx.q.covariance_matrix) == pytest.approx(1 / precision, abs=1e-8)


def test_eight_schools_misses_by_the_published_amount():
    problem = problems.eight_schools()
    approx = laplace.approximate(problem)
    assert approx.gap(problem) == pytest.approx(0.14, abs=0.005)
    assert approx.log_evidence.kind == "approximation"

    def energy(z):  # an independent climb and Hessian: SciPy's BFGS, central differences
        return -float(problem.log_joint(torch.tensor(z)))

    best = minimize(energy, np.zeros(2), method="BFGS", options={"gtol": 1e-7})
    assert approx.q.loc.numpy() == pytest.approx(best.x, abs=1e-4)
    step, eye = 1e-4, np.eye(2)
    H = np.array([[(energy(best.x + step * (i + j)) - energy(best.x + step * (i - j)) - energy(best.x - step * (i - j))
                    + energy(best.x - step * (i + j))) / (4 * step**2) for i in eye] for j in eye])
    assert approx.diagnostics["expansion"].hessian.numpy() == pytest.approx(H, abs=1e-4)


@pytest.mark.parametrize("coordinate", ["p", "logit"])
def test_the_error_falls_like_one_over_n(coordinate):
    gaps = []
    for n in (200, 400, 800):
        problem = problems.coin(6 * n // 10, 4 * n // 10, 1.0, 1.0, coordinate)
        gaps.append(laplace.approximate(problem, num_starts=1).gap(problem))
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.02)
    assert np.log2(gaps[1] / gaps[2]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_units_do_not_matter(scale):
    plain = problems.logistic_regression(num_data=50)
    other = Problem(lambda z: plain.log_joint(z / scale) - 3 * math.log(scale), 3, name="rescaled")
    starts = scale * plain.points(3)
    assert float(laplace.approximate(other, starts=starts).log_evidence) == pytest.approx(
        float(laplace.approximate(plain).log_evidence), abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_every_mode_is_found_and_the_highest_comes_first(seed):
    problem = problems.two_modes(separation=4.0, weight=0.3)
    found = laplace.approximate(problem, seed=seed, num_starts=24).diagnostics
    assert len(found["modes"]) == 2
    assert problem.log_joint(found["modes"]).diff() < 0
    assert float(found["log_evidences"].logsumexp(0)) == pytest.approx(0.0, abs=1e-3)


def test_cost_history_and_repeatability():
    problem = problems.eight_schools()
    problem.evaluations = 0
    first, cost = laplace.approximate(problem, seed=3), problem.evaluations
    second = laplace.approximate(problem, seed=3)
    assert first.evaluations == cost > 0 and torch.equal(first.q.loc, second.q.loc)
    assert (first.history.diff() >= -1e-12).all() and first.seconds > 0


def test_a_saddle_is_named():
    saddle = Problem(lambda z: -(z[..., 0] ** 2) + z[..., 1] ** 2 - 0.1 * z[..., 1] ** 4, 2, name="saddle", latents=["a", "b"])
    with pytest.raises(laplace.NotPositiveDefinite, match=r"saddle.*along \(b [+-]1.00\).*Expand elsewhere"):
        laplace.approximate(saddle, at=torch.zeros(2))
    assert len(laplace.approximate(saddle).diagnostics["modes"]) == 2


def test_a_ridge_is_named():
    with pytest.raises(laplace.NotPositiveDefinite, match="ridge"):
        laplace.approximate(problems.ring())


@pytest.mark.parametrize("log_joint", [
    lambda z: logsigmoid(z[..., 0]), lambda z: z[..., 0], lambda z: logsigmoid(z).sum(-1), lambda z: 0.01 * z[..., 0]],
    ids=["separable", "linear", "two separable", "gently linear"])
def test_a_mode_at_infinity_is_named(log_joint):
    with pytest.raises(laplace.ModeAtInfinity, match="proper prior"):
        laplace.approximate(Problem(log_joint, 2, name="runaway"))


def test_a_climb_cut_short_is_named():
    with pytest.raises(laplace.NotConverged, match="max_iterations"):
        laplace.approximate(problems.rosenbrock(), starts=torch.tensor([-1.2, 1.0]), max_iterations=3)


def test_a_mode_on_a_sloping_edge_is_named():
    edge = Problem(lambda z: torch.where(z[..., 0] > 0, -z[..., 0] - 0.5 * z[..., 0] ** 2, -torch.inf), 1, name="half line")
    with pytest.raises(laplace.NotConverged, match="edge of the support"):
        laplace.approximate(edge)


@pytest.mark.parametrize("options, message", [
    ({"at": torch.zeros(3)}, "shape"), ({"starts": torch.zeros(4, 3)}, "shape"), ({"starts": torch.zeros(0, 2)}, "shape"),
    ({"starts": torch.tensor([[math.nan, 0.0]])}, "nan|finite"), ({"at": torch.tensor([math.inf, 0.0])}, "finite|nan")])
def test_bad_points_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        laplace.approximate(problems.eight_schools(), **options)


def test_starts_outside_of_the_support_are_named():
    with pytest.raises(ValueError, match="not finite at every start"):
        laplace.approximate(problems.coin(coordinate="p"), starts=torch.tensor([[2.0]]))


# What the chapter says of the importance weights must hold whatever the seed.

def _ess(problem, seed, num_samples=10_000):
    return float(effective_sample_size(laplace.approximate(problem).log_weights(problem, num_samples, seed=seed)))


@pytest.mark.parametrize("seed", range(10, 20))
def test_weights_pass_a_good_fit_and_are_blind_to_a_far_mode(seed):
    assert _ess(problems.logistic_regression(), seed) > 8000
    far = problems.two_modes(separation=5.0)
    assert _ess(far, seed) > 9999 and laplace.approximate(far).gap(far) == pytest.approx(-math.log(0.7), abs=1e-3)


@pytest.mark.parametrize("seed", range(10, 20))
def test_weights_catch_ten_dimensions_and_the_ridge(seed):
    assert _ess(problems.eight_schools("non-centred"), seed) < 500
    assert _ess(problems.rosenbrock(), seed) < 2000


# Many classes ------------------------------------------------------------------------------------------------

def classes(seed, n=40, d=3, K=4):
    stream = np.random.default_rng(seed)
    return torch.tensor(stream.normal(size=(n, d))), torch.tensor(stream.integers(K, size=n))


@pytest.mark.parametrize("seed", range(3))
def test_softmax_derivatives_are_those_of_autograd(seed):
    X, y = classes(seed)
    model = laplace.SoftmaxRegression(X, y, 4, prior_scale=0.7)
    w = torch.tensor(np.random.default_rng(seed).normal(size=12))
    torch.testing.assert_close(model.gradient(w), -torch.func.grad(model.log_joint)(w))
    torch.testing.assert_close(model.hessian(w), -torch.func.hessian(model.log_joint)(w))
    prior = torch.distributions.Normal(0.0, 0.7).log_prob(w).sum()
    likelihood = -torch.nn.functional.cross_entropy(X @ w.reshape(4, 3).T, y, reduction="sum")
    assert float(model.log_joint(w)) == pytest.approx(float(prior + likelihood), rel=1e-6)
    together = model.log_joint(torch.stack([w, 2 * w]))
    torch.testing.assert_close(together, torch.stack([model.log_joint(w), model.log_joint(2 * w)]))


@pytest.mark.parametrize("seed", range(3))
def test_softmax_expansion_is_laplaces_method_on_the_same_log_joint(seed):
    model = laplace.SoftmaxRegression(*classes(seed), 4, prior_scale=1.5)
    slow = laplace.approximate(Problem(model.log_joint, model.dim, name="softmax"), num_starts=1)
    fast = model.expansion()
    assert fast.decrement() < 1e-9
    assert fast.log_evidence() == pytest.approx(float(slow.log_evidence), abs=1e-7)
    torch.testing.assert_close(fast.gaussian().covariance_matrix, slow.q.covariance_matrix, rtol=1e-4, atol=1e-6)


def test_softmax_evidence_is_near_the_exact_one():
    """One input and two classes: an integral over a plane."""
    stream = np.random.default_rng(0)
    X = torch.tensor(stream.normal(size=(60, 1)))
    y = torch.tensor((stream.random(60) < 1 / (1 + np.exp(-X[:, 0].numpy()))).astype(int))
    model = laplace.SoftmaxRegression(X, y, 2, prior_scale=2.0)
    truth = exact.quadrature(Problem(model.log_joint, 2, name="softmax"))
    assert model.expansion().log_evidence() == pytest.approx(float(truth), abs=0.02)


def test_softmax_of_two_classes_is_logistic_regression():
    X, y = classes(5, K=2)
    w = torch.tensor(np.random.default_rng(5).normal(size=6))
    model = laplace.SoftmaxRegression(X, y, 2)
    torch.testing.assert_close(model.log_predict(w, X)[:, 1], logsigmoid(X @ (w[3:] - w[:3])))


def test_reliability_by_hand():
    p = torch.tensor([[0.95, 0.05], [0.93, 0.07], [0.45, 0.55], [1.0, 0.0]])
    found = laplace.reliability(p, torch.tensor([0, 1, 1, 0]))
    assert found.count.tolist() == [1, 3]
    assert found.confidence.tolist() == pytest.approx([0.55, 0.96])
    assert found.accuracy.tolist() == pytest.approx([1.0, 2 / 3])
    assert found.error == pytest.approx(0.25 * 0.45 + 0.75 * (0.96 - 2 / 3))


@pytest.mark.parametrize("overconfident", [False, True])
def test_reliability_of_answers_drawn_from_the_probabilities(overconfident):
    stream = torch.Generator().manual_seed(0)
    p = torch.softmax(2 * torch.randn(200_000, 5, generator=stream, dtype=torch.float64), -1)
    y = torch.multinomial(p, 1, generator=stream)[:, 0]
    said = torch.softmax(2 * p.log(), -1) if overconfident else p
    found = laplace.reliability(said, y)
    off = (found.confidence - found.accuracy) * found.count.sqrt() / (found.accuracy * (1 - found.accuracy)).sqrt()
    if overconfident:
        assert found.error > 0.1 and (found.confidence > found.accuracy).all()
    else:
        assert off.abs().max() < 4 and found.error < 0.005


CLASS_MISTAKES = {
    "classes from one": (lambda X, y: laplace.SoftmaxRegression(X, y + 1, 4), "a class from 0 to 3"),
    "real classes": (lambda X, y: laplace.SoftmaxRegression(X, y.double(), 4), "a class from 0 to 3"),
    "too few": (lambda X, y: laplace.SoftmaxRegression(X, y[1:], 4), "each of the 40 rows"),
    "NaN": (lambda X, y: laplace.SoftmaxRegression(X * math.nan, y, 4), "finite matrix"),
    "a vector": (lambda X, y: laplace.SoftmaxRegression(X[:, 0], y, 4), "finite matrix"),
    "scale": (lambda X, y: laplace.SoftmaxRegression(X, y, 4, prior_scale=0.0), "above zero"),
    "logits": (lambda X, y: laplace.reliability(X, y), "probabilities"),
    "other classes": (lambda X, y: laplace.reliability(torch.softmax(X, -1), y[1:]), "one class for each"),
}


@pytest.mark.parametrize("case", CLASS_MISTAKES)
def test_mistakes_with_classes_are_told(case):
    call, words = CLASS_MISTAKES[case]
    with pytest.raises(ValueError, match=words):
        call(*classes(0))
