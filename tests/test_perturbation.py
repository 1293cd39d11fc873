"""Perturbation theory against closed forms and the trapezoidal rule."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.integrate import trapezoid
from scipy.optimize import minimize, minimize_scalar
from scipy.special import gammaln
from scipy.stats import norm
from torch.distributions import Independent, Normal

from tightbound import Problem, exact, laplace, perturbation, problems
from tightbound.checks import perturbation as checks
from tightbound.distributions import Gaussian
from tightbound.explore import perturbation as explore


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def gaussian(mean, sd):
    return Gaussian(tensor([mean]), scale_tril=tensor([[sd]]))


def expectation(problem, q, f):
    """E_q[f(W)] in one dimension, by the trapezoidal rule, whose error on smooth bells is far below 1e-12."""
    mean, sd = float(q.loc), float(q.stddev)
    x = np.linspace(mean - 14 * sd, mean + 14 * sd, 4001)
    log_q = norm.logpdf(x, mean, sd)
    W = problem.log_joint(torch.tensor(x).unsqueeze(-1)).numpy() - log_q
    return float(trapezoid(np.exp(log_q) * f(W), x))


log_weights = st.lists(st.floats(-20, 5), min_size=2, max_size=12).map(tensor)
odd = st.sampled_from([1, 3, 5, 7])


# ---- moments and cumulants ---------------------------------------------------------------------------------

KNOWN = {  # the first six moments, and cumulants
    "normal": ([0, 1, 0, 3, 0, 15], [0, 1, 0, 0, 0, 0]),
    "Poisson(1)": ([1, 2, 5, 15, 52, 203], [1] * 6),  # Bell's numbers
    "exponential": ([math.factorial(n) for n in range(1, 7)], [math.factorial(n - 1) for n in range(1, 7)]),
    "a number": ([2**n for n in range(1, 7)], [2, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize(("m", "kappa"), KNOWN.values(), ids=KNOWN)
def test_known_cumulants(m, kappa):
    assert perturbation.cumulants(tensor(m).double()).tolist() == pytest.approx(kappa, abs=1e-12)


@given(log_weights, log_weights)
@settings(max_examples=40, deadline=None)
def test_cumulants_of_independent_sums_add(a, b):
    a, b = a / 5, b / 5
    total = (a.unsqueeze(-1) + b).flatten()  # all pairs: the sum of two independent draws
    kappa = [perturbation.cumulants(perturbation.moments(x, 4)) for x in (a, b, total)]
    assert torch.allclose(kappa[0] + kappa[1], kappa[2], atol=1e-8 * (1 + float(total.abs().max()) ** 4))


@given(log_weights, st.floats(-10, 10))
@settings(max_examples=40, deadline=None)
def test_a_shift_moves_the_first_cumulant_alone(W, c):
    one, other = (perturbation.cumulants(perturbation.moments(x, 3)) for x in (W / 5, W / 5 + c))
    assert torch.allclose(other - one, tensor([c, 0, 0]), atol=1e-7 * (1 + abs(c)) ** 3)


def test_moments_take_leading_axes_and_probabilities():
    W, p = torch.randn(3, 2, 7, dtype=torch.float64), torch.softmax(torch.randn(7, dtype=torch.float64), 0)
    about = torch.randn(3, 2, dtype=torch.float64)
    found = perturbation.moments(W, 4, about, p)
    assert found.shape == (3, 2, 4)
    for i in np.ndindex(3, 2):
        expected = [float((p * (W[i] - about[i]) ** k).sum()) for k in range(1, 5)]
        assert found[i].tolist() == pytest.approx(expected, rel=1e-12)


# ---- the bound ---------------------------------------------------------------------------------------------

@given(st.floats(-30, 20), odd)
def test_odd_orders_lie_below_the_exponential(u, order):
    value = float(perturbation.truncated_exp(tensor(u), order))
    assert value <= math.exp(u) * (1 + 1e-12) + 1e-12 * abs(u) ** order
    assert value == pytest.approx(sum(u**k / math.factorial(k) for k in range(order + 1)), rel=1e-9, abs=1e-6)


def test_even_orders_cross_it():
    for order in (2, 4, 6):
        low, high = perturbation.truncated_exp(tensor([-2.0, 2.0]), order)
        assert low > math.exp(-2) and high < math.exp(2)


@given(log_weights, odd, st.floats(-25, 25))
@settings(deadline=None)
def test_the_bound_holds_for_every_reference(W, order, reference):
    """The logarithm of the mean weight is the evidence of the points at hand."""
    top = float(W.logsumexp(0)) - math.log(len(W))
    best = float(perturbation.bound(W, order))
    assert float(perturbation.bound(W, order, reference)) <= best + 1e-9 <= top + 2e-9


@given(log_weights, odd)
@settings(deadline=None)
def test_at_the_best_reference_the_last_term_vanishes(W, order):
    V0 = perturbation.best_reference(W, order)
    scale = float((W.max() - W.min()).clamp(min=1e-3))
    assert abs(float((((W - V0) / scale) ** order).mean())) < 1e-9
    assert W.min() - 1e-9 <= V0 <= W.max() + 1e-9


def test_order_one_is_the_elbo():
    W = torch.randn(5, 30, dtype=torch.float64)
    assert torch.allclose(perturbation.bound(W, 1), W.mean(-1), atol=1e-14)


def test_bounds_take_leading_axes():
    W = 3 * torch.randn(4, 2, 20, dtype=torch.float64)
    found = perturbation.bound(W, 3)
    assert found.shape == (4, 2)
    assert torch.allclose(found, torch.stack([torch.stack([perturbation.bound(w, 3) for w in row])
                                              for row in W]), atol=1e-10)


def test_an_even_order_grows_with_the_reference():
    W = tensor([-2.0, -0.5, 0.3, 1.0])
    values = perturbation.bound(W, 2, tensor([0.0, 2.0, 5.0, 20.0]))
    assert (values.diff() > 0).all() and values[-1] > 10 + W.logsumexp(0)


def test_a_series_that_is_not_positive_says_nothing():
    assert float(perturbation.bound(tensor([-5.0, -6.0]), 1, 0.0)) == -math.inf


# ---- approximate -------------------------------------------------------------------------------------------

ONE_D = {"coin": (problems.coin(1, 5, 1.0, 1.0), None),
         "quartic": (problems.quartic(0.1), gaussian(0.2, 0.7)),
         "heavy tail": (problems.heavy_tail(4.0), None), "two modes": (problems.two_modes(1.0),
                                                                       gaussian(0.2, 0.8))}


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("problem", "q"), ONE_D.values(), ids=ONE_D)
def test_quadrature_agrees_with_the_trapezoidal_rule(problem, q, order):
    q = laplace.approximate(problem).q if q is None else q
    found = perturbation.approximate(problem, q, order=order)
    V0 = found.diagnostics["reference"]
    terms = [expectation(problem, q, lambda W: (W - V0) ** k) / math.factorial(k)
             for k in range(1, order + 1)]
    assert found.diagnostics["terms"].tolist() == pytest.approx(terms, abs=1e-7)
    assert float(found.log_evidence) == pytest.approx(V0 + math.log(1 + sum(terms)), abs=1e-7)
    elbo = expectation(problem, q, lambda W: W)
    assert float(found.history[0]) == pytest.approx(elbo, abs=1e-7)
    if order % 2:
        assert abs(terms[-1]) < 1e-6 and found.gap(problem) >= 0 and found.log_evidence.kind == "lower bound"
    else:
        assert V0 == pytest.approx(elbo, abs=1e-7) and found.log_evidence.kind == "approximation"


def test_cumulants_agree_with_the_trapezoidal_rule():
    problem = problems.coin(1, 5, 1.0, 1.0)
    found = perturbation.approximate(problem, order=3, expansion="cumulants")
    mean = expectation(problem, found.q, lambda W: W)
    variance, third = (expectation(problem, found.q, lambda W: (W - mean) ** k) for k in (2, 3))
    assert found.diagnostics["terms"].tolist() == pytest.approx([mean, variance / 2, third / 6], abs=1e-8)
    assert found.history.tolist() == pytest.approx(np.cumsum([mean, variance / 2, third / 6]), abs=1e-8)
    assert found.log_evidence.kind == "approximation" and found.log_evidence.standard_error is None


@pytest.mark.parametrize("build", [problems.logistic_regression, problems.eight_schools, problems.rosenbrock],
                         ids=["logistic", "eight schools", "Rosenbrock"])
def test_bounds_hold_in_more_dimensions(build):
    problem = build()
    found = perturbation.approximate(problem, order=5)
    gaps = float(problem.log_evidence) - found.history[::2]
    assert (gaps > 0).all() and found.diagnostics["quadrature_error"] < 1e-6
    assert found.evaluations > 0 and len(found.history) == 5


def test_a_posterior_that_is_gaussian_leaves_nothing_out():
    problem = problems.linear_regression(("bmi", "bp"))
    for expansion in ("moments", "cumulants"):
        found = perturbation.approximate(problem, order=4, expansion=expansion)
        assert found.gap(problem) == pytest.approx(0, abs=1e-9)
        assert found.diagnostics["terms"][1:].abs().max() < 1e-9


def test_even_orders_and_cumulants_are_no_bounds():
    problem = problems.quartic(0.1)
    assert perturbation.approximate(problem, order=2).gap(problem) < -0.2
    assert perturbation.approximate(problem, order=2, expansion="cumulants").gap(problem) < -0.3


def test_a_higher_order_may_be_worse():
    problem = problems.quartic(0.1)
    gaps = float(problem.log_evidence) - perturbation.approximate(problem, order=7).history[::2]
    assert (gaps > 0).all() and (gaps.diff() > 0).all()


def test_with_light_tails_of_q_the_odd_orders_reach_the_evidence():
    problem = problems.eight_schools()
    q = laplace.approximate(problem).q
    gaps = [perturbation.approximate(problem, q, order=K).gap(problem) for K in (1, 9, 21, 41)]
    assert np.all(np.diff(gaps) < 0) and 0 < gaps[-1] < 3e-4


def test_a_reference_of_ones_own():
    problem, q = problems.coin(), None
    best = perturbation.approximate(problem, q, order=3)
    V0 = best.diagnostics["reference"]
    for shift in (-0.5, 0.5):
        other = perturbation.approximate(problem, q, order=3, reference=V0 + shift)
        assert other.diagnostics["reference"] == V0 + shift
        assert 0 < best.gap(problem) < other.gap(problem)


# ---- from samples ------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("order", "expansion"),
                         [(1, "moments"), (3, "moments"), (2, "cumulants"), (3, "cumulants")])
def test_samples_agree_with_quadrature_and_know_their_error(order, expansion):
    problem = problems.coin(2, 5, 1.0, 1.0)
    q = perturbation.tune(problem, order=1)
    right = perturbation.approximate(problem, q, order=order, expansion=expansion)
    runs = [perturbation.approximate(problem, q, order=order, expansion=expansion, num_samples=4000,
                                     seed=seed)
            for seed in range(40)]
    values = np.array([float(run.log_evidence) for run in runs])
    stated = np.mean([run.log_evidence.standard_error for run in runs])
    assert abs(values.mean() - float(right.log_evidence)) < 4 * values.std(ddof=1) / math.sqrt(40)
    assert 0.6 < values.std(ddof=1) / stated < 1.6  # 40 runs know a spread to 11 %
    if expansion == "cumulants":
        terms = torch.stack([run.diagnostics["terms"] for run in runs])
        errors = torch.stack([run.diagnostics["term_errors"] for run in runs]).mean(0)
        ratio = (terms.std(0) / errors)[:2]  # a third power hangs on the rarest samples, and so does its error
        assert ((ratio > 0.6) & (ratio < 1.6)).all()


def test_few_samples_bound_in_expectation():
    """V0 is set on the samples that are averaged, and still the mean stays below: they bound the log-mean weight, sample by sample."""
    problem, q = problems.quartic(1.0), gaussian(0.0, 0.43)
    runs = np.array([float(perturbation.approximate(problem, q, order=3, num_samples=4,
                                                    seed=seed).log_evidence)
                     for seed in range(120)])
    assert runs.mean() < float(problem.log_evidence) + 3 * runs.std() / math.sqrt(120)


@pytest.mark.parametrize("seed", range(20, 30))
def test_the_chapters_claim_holds_for_other_seeds(seed):
    problem = problems.eight_schools()
    q = _tuned_schools()
    one, three = (perturbation.approximate(problem, q, order=K, num_samples=20_000, seed=seed).gap(problem)
                  for K in (1, 3))
    assert 0.10 < one - three < 0.18


def _tuned_schools(cache={}):
    if not cache:
        cache["q"] = perturbation.tune(problems.eight_schools(), order=3)
    return cache["q"]


def test_seeds_and_batches(monkeypatch):
    problem = problems.eight_schools()
    q = laplace.approximate(problem).q
    first, again, other = (perturbation.approximate(problem, q, num_samples=999, seed=seed)
                           for seed in (3, 3, 4))
    assert first.log_evidence == again.log_evidence != other.log_evidence
    assert first.evaluations == 999
    monkeypatch.setattr(perturbation, "BATCH", 100)
    parts = perturbation.approximate(problem, q, num_samples=999, seed=3)
    assert parts.evaluations == 999 and float(parts.log_evidence) == pytest.approx(float(first.log_evidence),
                                                                                   abs=0.2)


def test_any_distribution_serves_as_q():
    problem = problems.coin(2, 5, 1.0, 1.0)
    right = perturbation.approximate(problem, gaussian(-0.7, 0.8))
    plain = Independent(Normal(tensor([-0.7]), tensor([0.8])), 1)
    found = perturbation.approximate(problem, plain)
    assert abs(float(found.log_evidence) - float(right.log_evidence)) < 4 * found.log_evidence.standard_error
    with pytest.raises(ValueError, match="num_points is for quadrature.*Independent"):
        perturbation.approximate(problem, plain, num_points=20)


def test_beyond_three_dimensions_samples_are_drawn():
    problem = problems.linear_regression(("bmi", "bp", "s5", "s1"))
    found = perturbation.approximate(problem, order=3, num_samples=50)
    assert found.gap(problem) == pytest.approx(0, abs=1e-8)
    assert perturbation.approximate(problem, order=1).log_evidence.standard_error < 1e-8


# ---- tune --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("g", [0.05, 0.1, 1.0])
def test_the_best_elbo_of_the_quartic_is_known(g):
    """1/s - s - 12 g s^3 = 0."""
    s = math.sqrt((math.sqrt(1 + 48 * g) - 1) / (24 * g))
    q = perturbation.tune(problems.quartic(g), order=1)
    assert float(q.stddev) == pytest.approx(s, abs=1e-5) and abs(float(q.loc)) < 1e-5


def test_order_three_is_tuned_as_nelder_and_mead_would():
    problem = problems.coin(1, 6, 1.0, 1.0)

    def loss(x):
        q = gaussian(x[0], math.exp(x[1]))
        V0 = x[2]
        return -V0 - math.log(max(1 + sum(expectation(problem, q, lambda W: (W - V0) ** k) / math.factorial(k)
                                          for k in (1, 2, 3)), 1e-9))

    start = laplace.approximate(problem).q
    found = minimize(loss, [float(start.loc), math.log(float(start.stddev)), -5.0], method="Nelder-Mead",
                     options={"xatol": 1e-4, "fatol": 1e-8, "maxiter": 250})
    best = perturbation.approximate(problem, order=3, tuned=True)
    assert float(best.log_evidence) == pytest.approx(-found.fun, abs=2e-6)
    assert [float(best.q.loc), float(best.q.stddev)] == pytest.approx([found.x[0], math.exp(found.x[1])],
                                                                      abs=0.02)


def test_each_order_prefers_its_own_q():
    problem = problems.eight_schools()
    q = {K: perturbation.tune(problem, order=K) for K in (1, 3)}
    gap = {(K, tuned): perturbation.approximate(problem, q[tuned], order=K).gap(problem) for K in (1, 3)
           for tuned in (1, 3)}
    assert gap[1, 1] < gap[1, 3] and gap[3, 3] < gap[3, 1]


def test_order_three_is_broad_on_modes_and_heavy_tails_and_narrow_on_light_ones():
    def widths(problem):
        return [float(perturbation.tune(problem, order=K).stddev) for K in (1, 3)]

    for problem in (problems.heavy_tail(3.0), problems.two_modes(3.0), problems.coin(6, 4, 1.0, 1.0)):
        assert np.diff(widths(problem)) > 0
    assert np.diff(widths(problems.quartic(0.1))) < 0


def test_tuning_counts_its_evaluations():
    plain, tuned = (perturbation.approximate(problems.coin(), order=3, tuned=tuned)
                    for tuned in (False, True))
    assert tuned.evaluations > 2 * plain.evaluations


# ---- Laplace's next order ----------------------------------------------------------------------------------

@pytest.mark.parametrize("a", [1.5, 4.0, 30.0])
def test_the_correction_of_the_gamma_function_is_stirlings(a):
    problem = Problem(lambda z: (a * z - torch.exp(z)).squeeze(-1), 1, name="Gamma",
                      log_evidence=float(gammaln(a)))
    assert perturbation.laplace_correction(problem, tensor([math.log(a)])) == pytest.approx(1 / (12 * a),
                                                                                            rel=1e-10)
    left = perturbation.corrected_laplace(problem).gap(problem)
    assert left == pytest.approx(-1 / (360 * a**3), rel=0.3)  # Stirling's next term


@pytest.mark.parametrize(("coordinate", "constant"), [("p", 5 / 36 - 7 / 8), ("logit", 5 / 144 + 11 / 48)])
def test_it_explains_the_constants_of_the_laplace_chapter(coordinate, constant):
    n = 10_000
    problem = problems.coin(6000, 4000, a=1.0, b=1.0, coordinate=coordinate)
    found = laplace.approximate(problem, num_starts=1)
    assert n * found.gap(problem) == pytest.approx(constant, abs=2e-3)
    assert n * perturbation.laplace_correction(problem, found.q.loc) == pytest.approx(constant, abs=2e-3)


def _skewed(n, turn=None):
    """n times an energy with cubic, quartic and mixed terms, in coordinates that a linear map turns."""
    turn = torch.eye(2, dtype=torch.float64) if turn is None else turn

    def log_joint(z):
        x, y = (z @ turn.T).unbind(-1)
        return -n * (0.5 * x**2 + y**2 + 0.2 * x**3 + 0.1 * x * y**2 + 0.3 * x**4 + 0.2 * x**2 * y**2
                     + 0.1 * y**4)

    return Problem(log_joint, 2, name="skewed")


def test_in_the_plane_what_is_left_is_of_second_order():
    left = []
    for n in (640, 1280):
        problem, zero = _skewed(n), torch.zeros(2, dtype=torch.float64)
        gap = float(exact.quadrature(problem, rtol=1e-10)) - laplace.expand(problem, zero).log_evidence()
        correction = perturbation.laplace_correction(problem, zero)
        left.append(gap - correction)
        assert abs(left[-1]) < 0.002 * abs(gap)
    assert 3.3 < left[0] / left[1] < 4.7


def test_a_linear_map_changes_nothing():
    zero, turn = torch.zeros(2, dtype=torch.float64), tensor([[2.0, 0.7], [-0.4, 1.5]])
    one, other = (perturbation.laplace_correction(_skewed(10, t), zero) for t in (None, turn))
    assert one == pytest.approx(other, rel=1e-10)


def test_corrections_of_independent_latents_add():
    a, b = 2.0, 7.0
    problem = Problem(lambda z: (tensor([a, b]) * z - torch.exp(z)).sum(-1), 2, name="two Gammas")
    assert perturbation.laplace_correction(problem, tensor([a, b]).log()) == pytest.approx(1 / (12 * a) + 1 / (12 * b), rel=1e-10)


def test_two_cumulants_hold_the_correction():
    """The ELBO of Laplace's q lacks 5 u3^2/24 u2^3, half the variance brings it, to order 1/n."""
    n = 4000
    problem = problems.coin(2400, 1600, a=1.0, b=1.0)
    found = perturbation.approximate(problem, order=2, expansion="cumulants")
    assert n * float(found.diagnostics["terms"][1]) == pytest.approx(5 / 144, rel=0.02)
    base = float(laplace.approximate(problem).log_evidence)
    assert n * (float(found.diagnostics["terms"][0]) - base) == pytest.approx(11 / 48, rel=0.02)


# ---- the quartic integral ----------------------------------------------------------------------------------

@pytest.mark.parametrize("g", [0.01, 0.3])
def test_terms_are_those_of_the_formula(g):
    terms, size = perturbation.quartic_terms(g, 12), Fraction(1)
    for n in range(12):
        if n:
            size *= Fraction((4 * n - 1) * (4 * n - 3), n)
        assert float(terms[n]) == pytest.approx(math.sqrt(2 * math.pi) * (-g) ** n * float(size), rel=1e-10)


@pytest.mark.parametrize("g", [0.04, 0.02, 0.01, 0.005])
def test_the_series_approaches_and_leaves(g):
    Z = math.exp(float(problems.quartic(g).log_evidence))
    terms = perturbation.quartic_terms(g, 60)
    errors = (terms.cumsum(0) / Z - 1).abs()
    best = int(errors.argmin())
    assert abs(best - 1 / (16 * g)) <= 1 and errors[-1] > 1e6
    assert errors[best] == pytest.approx(2 * math.sqrt(g / math.pi) * math.exp(-1 / (16 * g)), rel=0.2)
    assert (errors[:-1] * Z <= terms[1:].abs() * (1 + 1e-9)).all()  # enclosed by the next term
    sums = terms.cumsum(0)
    assert (sums[1:best + 3:2] < Z).all() and (sums[0:best
                                                    + 3:2] > Z).all()  # here W <= V0: odd below, even above


def test_negative_couplings_have_terms_of_one_sign():
    assert (perturbation.quartic_terms(-0.1, 8) > 0).all()


# ---- what is refused ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "error", "message"), [
    ({"order": 0}, ValueError, "order must be an integer, at least 1"),
    ({"order": 2.5}, ValueError, "order must be an integer"),
    ({"expansion": "taylor"}, ValueError, "unknown expansion 'taylor': choose 'moments' or 'cumulants'"),
    ({"reference": math.nan}, ValueError, "reference must be a finite number"),
    ({"reference": 1.0, "expansion": "cumulants"}, ValueError,
     "no reference energy: leave the reference out"),
    ({"num_samples": 1}, ValueError, "num_samples must be an integer, at least 2"),
    ({"num_points": 2}, ValueError, "num_points must be an integer, at least 3"),
    ({"num_points": 20, "num_samples": 20}, ValueError, "leave num_points out"),
    ({"order": 2, "tuned": True}, ValueError, "only odd orders"),
    ({"q": gaussian(0.0, 1.0)}, ValueError, r"expected event shape \(2,\) and no batch"),
    ({"q": Normal(0.0, 1.0)}, ValueError, "one distribution over the 2 latents"),
    ({"q": 3.0}, TypeError, "q must be a torch Distribution"),
    ({"num_samples": 10, "seed": "a"}, TypeError, "seed"),
    ({"reference": 40.0}, perturbation.PerturbationError, "not positive.*lower reference energy"),
    ({"num_points": 4, "order": 5}, perturbation.PerturbationError, "too rough for quadrature.*num_points"),
])
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        perturbation.approximate(problems.eight_schools(), **options)


def test_an_edge_is_named():
    with pytest.raises(perturbation.PerturbationError,
                       match=r"coin \(p\).*not finite.*coordinates without an edge"):
        perturbation.approximate(problems.coin(coordinate="p"))
    with pytest.raises(perturbation.PerturbationError, match="not finite"):
        perturbation.approximate(problems.coin(2, 1, 1.0, 1.0, coordinate="p"), num_samples=1000)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: perturbation.best_reference(tensor([0.0, 1.0]), 2), "no best reference energy of even order 2"),
    (lambda: perturbation.moments(tensor([0.0, 1.0]), 0), "order must be"),
    (lambda: perturbation.tune(problems.eight_schools(), order=4), "odd"),
    (lambda: perturbation.tune(problems.eight_schools("non-centred")), "three dimensions"),
    (lambda: perturbation.quartic_terms(math.inf, 3), "g must be a finite number"),
    (lambda: perturbation.quartic_terms(0.1, 0), "num_terms must be"),
    (lambda: perturbation.laplace_correction(problems.eight_schools(), torch.zeros(3)), "shape"),
])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_climb_cut_short_is_named():
    with pytest.raises(perturbation.PerturbationError, match="max_iterations"):
        perturbation.tune(problems.eight_schools(), max_iterations=1)


# ---- the exercises -----------------------------------------------------------------------------------------

def test_references_of_the_checks_are_right():
    W = tensor([-3.0, -2.2, -1.0, -0.9, 0.4])
    V0, value = checks.three.reference(log_weights=W)
    found = minimize_scalar(lambda v: -v - math.log(np.mean([1 + u + u**2 / 2 + u**3 / 6
                                                             for u in W.numpy() - v])),
                            bounds=(-3, 0.4), method="bounded", options={"xatol": 1e-9})
    assert [float(V0), float(value)] == pytest.approx([found.x, -found.fun], abs=1e-6)
    elbo, more = checks.two.reference(log_weights=W)
    assert [float(elbo),
            float(more)] == pytest.approx([np.mean(W.numpy()), np.mean(W.numpy()) + np.var(W.numpy()) / 2])
    plain, corrected = checks.stirling.reference(a=5.0)
    assert corrected == pytest.approx(gammaln(5.0), abs=3e-5) and abs(plain - gammaln(5.0)) > 0.01
    Z = math.exp(float(problems.quartic(0.01).log_evidence))
    value, error = checks.stop.reference(terms=perturbation.quartic_terms(0.01, 25))
    assert abs(float(value) - Z) < 0.1 * float(error) < 1e-3


def test_what_the_checks_say_beside_nan_and_of_lists():
    name, message = checks.three.diagnose(lambda log_weights: (checks.three.reference(log_weights)[0],
                                                               math.nan), seed=0)
    assert name == "NaN" and "at the best V0 it is positive" in message
    _, message = checks.stop.diagnose(lambda terms: (0.0, 0.0), seed=0)
    assert re.search(r"terms = \[(\S+, ){9,}\S+\]$", message)  # whole, so that a student can compute with them


def test_cumulants_fail_where_the_generating_function_has_a_zero():
    """cosh 2t is zero at |t| = pi/4 < 1, cosh t at pi/2 > 1."""
    factorials = torch.exp(torch.lgamma(torch.arange(2.0, 22.0, dtype=torch.float64)))
    for size, converges in ((2.0, False), (1.0, True)):
        sums = (perturbation.cumulants(perturbation.moments(tensor([-size, size]),
                                                            20)) / factorials).cumsum(0)
        far = (sums[1::2] - math.log(math.cosh(size))).abs()
        assert bool(far[-1] < 1e-3) == converges and bool(far[-1] < far[0]) == converges


def test_the_bound_from_few_samples_is_pessimistic():
    problem = problems.eight_schools()
    q = perturbation.tune(problem, order=3)
    torch.manual_seed(1)
    z = q.sample((20_000, 5))
    gaps = float(problem.log_evidence) - perturbation.bound(problem.log_joint(z) - q.log_prob(z), 3)
    limit = perturbation.approximate(problem, q, order=3).gap(problem)
    assert gaps.mean() - 5 * gaps.std() / 20_000**0.5 > limit > 0


# ---- the explorers -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("g_index", "order"), [(0, 3), (6, 2), (20, 9)])
def test_the_coupling_explorer_shows_the_series(g_index, order):
    found = explore.coupling()
    g = found.controls["coupling"].stops[g_index]
    frame = found.frame(coupling=g, order=order)
    Z = math.exp(float(problems.quartic(g).log_evidence))
    total = float(perturbation.quartic_terms(g, order + 1).sum())
    assert float(frame["sum"]) == pytest.approx(total, rel=1e-12) and float(frame["exact"]) == pytest.approx(Z, rel=1e-12)
    error = abs(total / Z - 1)
    assert float(frame["at"]) == pytest.approx(error, rel=1e-9)
    if error < 10:
        assert float(frame["percent"]) == pytest.approx(100 * error, rel=5e-3)
    else:  # in words
        assert math.isnan(float(frame["percent"])) and frame["power"] == math.floor(math.log10(error))
    x = np.linspace(0.0, 7.0, 106)[10]
    expected = sum((-g * x**4) ** k / math.factorial(k) for k in range(order + 1)) * math.exp(-0.5 * x**2)
    assert float(frame["series"][10]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("width", "order", "reference"),
                         [(0.6, 1, 0.25), (0.8, 3, -0.5), (0.9, 5, -2.0), (1.0, 2, 1.0)])
def test_the_bound_explorer_shows_the_bound(width, order, reference):
    problem, q = problems.quartic(0.1), gaussian(0.0, width)
    frame = explore.bound().frame(width=width, order=order, reference=reference)
    series = 1 + sum(expectation(problem, q, lambda W: (W - reference) ** k) / math.factorial(k)
                     for k in range(1, order + 1))
    assert float(frame["value"]) == pytest.approx(reference + math.log(series) if series > 0 else -math.inf,
                                                  abs=1e-6)
    if order % 2:
        assert float(frame["top"]) == pytest.approx(float(perturbation.approximate(problem, q, order=order).log_evidence), abs=1e-9)
        assert np.nanmax(frame["odd_curve"]) <= frame["top"] + 1e-9 and np.isnan(frame["even_curve"]).all()
    else:
        assert math.isnan(float(frame["best"])) and np.nanmax(frame["even_curve"]) > float(problem.log_evidence)
