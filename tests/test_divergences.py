"""Divergences, fits and expectation propagation, against closed forms, quadrature and torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm, wasserstein_distance
from torch.distributions import MultivariateNormal, kl_divergence

from tightbound import Problem, divergences, exact, families, importance, laplace, problems
from tightbound.data import breast_cancer
from tightbound.distributions import Gaussian
from tightbound.explore import divergences as explorers

Z = torch.linspace(-15, 15, 3001, dtype=torch.float64)
STEP = float(Z[1] - Z[0])


def log_normal(mean, sd):
    return torch.distributions.Normal(torch.tensor(mean).double(), torch.tensor(sd).double()).log_prob(Z)


def gaussian(d, seed):
    stream = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, generator=stream, dtype=torch.float64)
    return Gaussian(torch.randn(d, generator=stream, dtype=torch.float64), root @ root.T + 0.3 * torch.eye(d).double())


# Divergences ----------------------------------------------------------------------------------------------

@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_kl_of_gaussians_is_torchs(d, seed):
    q, p = gaussian(d, seed), gaussian(d, seed + 1)
    wanted = kl_divergence(MultivariateNormal(q.loc, q.covariance_matrix), MultivariateNormal(p.loc, p.covariance_matrix))
    assert float(divergences.kl(q, p)) == pytest.approx(float(wanted), rel=1e-8)
    assert float(divergences.kl(q, q)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_lectures_slip_in_the_gaussian_divergence_changes_it(seed):
    q = gaussian(3, seed)
    q = Gaussian(q.loc, torch.diag(q.variance))
    p = Gaussian(torch.zeros(3).double(), torch.eye(3).double())
    corrected = -0.5 * (1 + q.variance.log() - q.loc**2 - q.variance).sum()
    as_printed = -0.5 * (1 + q.variance.log() - q.loc**2).sum()
    assert float(divergences.kl(q, p)) == pytest.approx(float(corrected), abs=1e-10)
    assert abs(float(as_printed - corrected)) > 0.1


def closed_criterion(m, s, n, t, alpha):
    """C_alpha of N(m, s^2) and N(n, t^2), by hand: both the reverse and the forward KL are its limits."""
    def kl(m, s, n, t):
        return math.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
    if alpha in (0, 1):
        return kl(m, s, n, t) if alpha == 1 else kl(n, t, m, s)
    mixed = alpha * t**2 + (1 - alpha) * s**2
    log_integral = (0.5 * (alpha * math.log(t**2) + (1 - alpha) * math.log(s**2) - math.log(mixed))
                    - alpha * (1 - alpha) * (m - n) ** 2 / (2 * mixed))
    return log_integral / (alpha * (alpha - 1))


@pytest.mark.parametrize("alpha", [-0.4, 0, 1e-4, 0.25, 0.5, 1 - 1e-4, 1, 1.4])
@pytest.mark.parametrize(("m", "s", "n", "t"), [(0.0, 1.0, 1.0, 1.2), (-0.5, 1.4, 0.7, 1.3), (2.0, 1.0, 0.0, 0.8)])
def test_the_dial_between_two_normals(m, s, n, t, alpha):
    wanted = closed_criterion(m, s, n, t, alpha)
    found = float(divergences.criterion(log_normal(m, s), log_normal(n, t), STEP, alpha))
    assert found == pytest.approx(wanted, abs=1e-6)
    mirrored = float(divergences.criterion(log_normal(n, t), log_normal(m, s), STEP, 1 - alpha))
    assert mirrored == pytest.approx(found, abs=1e-9)


def test_f_divergences_between_two_normals():
    m, s, n, t = 0.5, 1.0, -0.3, 1.3
    p, q = norm(m, s).pdf, norm(n, t).pdf
    kernels = {"forward KL": lambda r: r * np.log(r), "reverse KL": lambda r: -np.log(r), "total variation": lambda r: abs(r - 1) / 2,
               "squared Hellinger": lambda r: (r**0.5 - 1) ** 2 / 2, "chi-squared": lambda r: (r - 1) ** 2,
               "Jensen–Shannon": lambda r: (r * np.log(r) - (1 + r) * np.log((1 + r) / 2)) / 2}
    assert set(kernels) == set(divergences.F_DIVERGENCES)
    for name, f in kernels.items():
        wanted, _ = quad(lambda z: q(z) * f(p(z) / q(z)), -9, 9, limit=300)
        assert float(divergences.f_divergence(name, log_normal(m, s), log_normal(n, t), STEP)) == pytest.approx(wanted, abs=2e-5)
        assert float(divergences.f_divergence(name, log_normal(m, s), log_normal(m, s), STEP)) == pytest.approx(0, abs=1e-9)


def test_far_apart_the_bounded_divergences_reach_their_bounds():
    p, q = log_normal(-8.0, 0.4), log_normal(8.0, 0.4)
    assert float(divergences.f_divergence("Jensen–Shannon", p, q, STEP)) == pytest.approx(math.log(2), abs=1e-9)
    assert float(divergences.f_divergence("total variation", p, q, STEP)) == pytest.approx(1, abs=1e-9)
    assert float(divergences.wasserstein(p, q, STEP)) == pytest.approx(16, abs=1e-6)


def test_wasserstein_is_scipys():
    p, q = log_normal(-1.0, 0.7), torch.logaddexp(log_normal(-2.0, 0.5), log_normal(2.0, 1.0)) - math.log(2)
    wanted = wasserstein_distance(Z, Z, p.exp(), q.exp())
    assert float(divergences.wasserstein(p, q, STEP)) == pytest.approx(wanted, abs=1e-6)


# The Rényi bound ------------------------------------------------------------------------------------------

@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), level=st.sampled_from([-900.0, 0.0, 900.0]))
def test_the_bound_never_rises_with_alpha(seed, level):
    log_w = level + 2 * torch.randn(30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bounds = [float(divergences.renyi_bound(log_w, a)) for a in (-2, -1, -0.5, 0, 0.5, 0.999, 1, 1.001, 2, 5)]
    assert all(a >= b - 1e-9 for a, b in zip(bounds, bounds[1:]))
    assert bounds[3] == pytest.approx(float(importance.iwae_bound(log_w))) and bounds[6] == pytest.approx(float(log_w.mean()))
    assert abs(bounds[5] - bounds[6]) < 0.02


@pytest.mark.parametrize("alpha", [-0.4, 0.5, 1.0, 1.5])
def test_the_bound_misses_the_evidence_by_alpha_times_the_criterion(alpha):
    q = Gaussian(torch.tensor([0.3]).double(), torch.tensor([[1.44]]).double())
    wanted = -alpha * closed_criterion(0.3, 1.2, 0.0, 1.0, alpha)
    z, log_q = q.rsample_and_log_prob((200, 20_000), generator=torch.Generator().manual_seed(0))
    found = divergences.renyi_bound(torch.distributions.Normal(0.0, torch.ones(()).double()).log_prob(z[..., 0]) - log_q, alpha)
    assert abs(float(found.mean()) - wanted) < 4 * float(found.std()) / 200**0.5 + 1e-4


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [2, 10])
def test_few_samples_keep_the_lower_bounds_and_break_the_upper_one(alpha, size):
    problem = problems.eight_schools()
    q = importance.default_proposal(problem)
    z, log_q = q.rsample_and_log_prob((10_000, size), generator=torch.Generator().manual_seed(1))
    log_w = problem.log_joint(z) - log_q
    lower = divergences.renyi_bound(log_w, alpha)
    assert float(lower.mean()) < float(problem.log_evidence) + 4 * float(lower.std()) / 10_000**0.5
    upper = divergences.renyi_bound(log_w[:, :2], -0.2)
    assert float(upper.mean()) < float(problem.log_evidence) - 0.05  # an "upper bound" that lies below


# The best Gaussian on a line --------------------------------------------------------------------------------

def test_the_best_gaussian_matches_moments_at_zero_and_beats_its_neighbours_everywhere():
    target = problems.two_modes(3.0).log_joint(Z.unsqueeze(-1))
    alphas = torch.tensor([-1.0, 0.0, 0.4, 1.0, 2.0]).double()
    starts = torch.tensor([[-1.5, 0.5], [1.5, 0.5], [0.6, 1.5]]).double().expand(5, 3, 2)
    found = divergences.best_gaussian(target.expand(5, -1), Z, alphas, starts)
    assert found[1].tolist() == pytest.approx([0.6, math.sqrt(0.25 + 0.21 * 9)], abs=1e-6)
    for alpha, (mean, sd) in zip(alphas.tolist(), found.tolist()):
        best = float(divergences.criterion(log_normal(mean, sd), target, STEP, alpha))
        for other in [(m, s) for m in np.arange(-2, 2.01, 0.25) for s in (0.3, 0.5, 0.8, 1.2, 1.5, 2.0)]:
            assert best <= float(divergences.criterion(log_normal(*other), target, STEP, alpha)) + 1e-9


# Fits -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", ["full", "mixture"])
@pytest.mark.parametrize("divergence", ["reverse KL", "forward KL", 0.5, -0.5])
def test_a_family_that_holds_the_posterior_finds_it(family, divergence):
    p = gaussian(2, 4)
    problem = Problem(lambda z: p.log_prob(z) - 3.0, 2, log_evidence=-3.0)
    found = divergences.approximate(problem, family=families.Mixture(2, 1) if family == "mixture" else family,
                                    divergence=divergence, num_starts=1)
    assert torch.allclose(found.q.mean, p.loc, atol=2e-3) and torch.allclose(found.q.covariance_matrix, p.covariance_matrix, atol=5e-3)
    assert found.gap(problem) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("d", [2, 6])
def test_the_diagonal_finds_conditional_variances_and_leaves_the_known_gap(d):
    p = gaussian(d, 7)
    problem = Problem(p.log_prob, d, log_evidence=0.0)
    found = divergences.approximate(problem, family="diagonal", num_starts=1)
    diagonal = p.precision_matrix.diagonal()
    assert torch.allclose(found.q.variance, 1 / diagonal, rtol=1e-3) and torch.allclose(found.q.mean, p.loc, atol=1e-3)
    gap = 0.5 * float(diagonal.log().sum() - torch.logdet(p.precision_matrix))
    assert -float(found.history[-1]) == pytest.approx(gap, abs=1e-5)
    assert abs(found.gap(problem) - gap) < 4 * found.log_evidence.standard_error


def test_forward_kl_has_the_posteriors_moments():
    problem = problems.eight_schools()
    found = divergences.approximate(problem, divergence="forward KL", num_starts=1)
    moments = exact.quadrature(problem, of=lambda z: torch.cat([z, z**2, z[..., :1] * z[..., 1:]], -1), rtol=1e-7)
    assert found.q.mean.numpy() == pytest.approx(moments[:2], abs=1e-4)
    assert found.q.variance.numpy() == pytest.approx(moments[2:4] - moments[:2] ** 2, abs=1e-3)
    assert float(found.q.covariance_matrix[0, 1]) == pytest.approx(moments[4] - moments[0] * moments[1], abs=1e-3)
    assert found.log_evidence.kind == "consistent estimate"


def test_forward_kl_in_three_dimensions_goes_by_importance_weights():
    problem = problems.logistic_regression(num_data=30)
    z, _, share = divergences.posterior_points(problem, num_points=20_000, seed=1)
    found = divergences.approximate(problem, divergence="forward KL", num_starts=1, num_nodes=20_000, seed=1)
    assert torch.allclose(found.q.mean, share.exp() @ z, atol=1e-3)


def test_the_best_gaussian_of_eight_schools_leaves_the_known_gaps():
    problem = problems.eight_schools()
    for family, gap in (("diagonal", 0.08701), ("full", 0.08389)):
        found = divergences.approximate(problem, family=family, num_starts=1, num_nodes=96**2)
        assert float(problem.log_evidence) - float(found.history[-1]) == pytest.approx(gap, abs=2e-5)
        assert found.log_evidence.kind == "lower bound"
        assert abs(found.gap(problem) - gap) < 4 * found.log_evidence.standard_error


@pytest.mark.parametrize("seed", range(10))
def test_a_missed_hump_is_invisible_from_inside_and_shows_in_the_starts(seed):
    problem = problems.two_modes(5.0)
    right = divergences.approximate(problem, starts=torch.tensor([2.0]), seed=seed)
    assert right.gap(problem) == pytest.approx(-math.log(0.7), abs=2e-3) and right.diagnostics["k_hat"] < 0.5
    both = divergences.approximate(problem, starts=torch.tensor([[2.0], [-2.0]]), seed=seed)
    assert [round(o, 3) for o in both.diagnostics["objectives"]] == [round(-math.log(w), 3) for w in (0.7, 0.3)]


def test_fits_repeat_and_count_their_cost():
    problem = problems.eight_schools()
    problem.evaluations = 0
    first = divergences.approximate(problem, num_starts=1, seed=3)
    assert first.evaluations == problem.evaluations > 0 and first.seconds > 0
    assert torch.equal(first.q.loc, divergences.approximate(problem, num_starts=1, seed=3).q.loc)
    assert first.history[-1] == first.history.max() and not first.q.loc.requires_grad


def test_a_module_that_cannot_be_pushed_is_fitted_with_common_random_numbers():
    class Plain(torch.distributions.Independent):
        def rsample_and_log_prob(self, sample_shape=(), *, generator=None):
            eps = torch.randn(*sample_shape, 2, generator=generator, dtype=torch.float64)
            z = self.base_dist.loc + self.base_dist.scale * eps
            return z, self.log_prob(z)

    class Own(families.Diagonal):
        def forward(self):
            return Plain(torch.distributions.Normal(self.loc, self.log_scale.exp()), 1)

    own = divergences.approximate(problems.eight_schools(), family=Own(2), num_nodes=5000)
    assert own.method == "Own, reverse KL"
    assert own.gap(problems.eight_schools()) == pytest.approx(0.087, abs=0.03)


def test_nodes_that_were_exploited_are_refused():
    with pytest.raises(divergences.FitError, match="exploited"):
        divergences.approximate(problems.eight_schools("non-centred"), divergence=0.5, num_starts=1, max_iterations=100)


def test_an_edge_is_refused_by_the_reverse_kl():
    with pytest.raises(divergences.FitError, match="density has an edge"):
        divergences.approximate(problems.coin(coordinate="p"))
    edge = Problem(lambda z: torch.where(z[..., 0] > 0.123, 0.0, -torch.inf) - z.square().sum(-1), 2, box=((-6, 6), (-6, 6)))
    with pytest.raises(divergences.FitError, match="no grid over"):
        divergences.posterior_points(edge)


@pytest.mark.parametrize(("options", "message"), [
    ({"divergence": "KL"}, "unknown divergence"), ({"divergence": math.nan}, "alpha must be a finite number"),
    ({"family": "gauss"}, "unknown family"), ({"num_starts": 0}, "num_starts"), ({"num_samples": 5}, "num_samples"),
    ({"max_iterations": 0}, "max_iterations"), ({"starts": torch.zeros(1, 3)}, r"\(m, 2\)"), ({"num_nodes": 1}, "num_nodes")], ids=str)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        divergences.approximate(problems.eight_schools(), **options)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: divergences.renyi_bound(torch.zeros(3), math.inf), "alpha must be"),
    (lambda: divergences.kl(gaussian(2, 0), gaussian(3, 0)), "one dimension"),
    (lambda: divergences.kl(gaussian(2, 0), torch.distributions.LowRankMultivariateNormal(
        torch.zeros(2).double(), torch.ones(2, 1).double(), torch.zeros(2).double(), validate_args=False)), "positive definite"),
    (lambda: divergences.criterion(torch.zeros(3), torch.zeros(4), 0.1, 1), "one grid"),
    (lambda: divergences.f_divergence("KL", torch.zeros(3), torch.zeros(3), 0.1), "unknown f-divergence"),
    (lambda: divergences.f_divergence("forward KL", torch.zeros(3), torch.zeros(4), 0.1), "one grid"),
    (lambda: divergences.wasserstein(torch.zeros(3), torch.zeros(3), 0.0), "step must be"),
    (lambda: divergences.normal_nodes(0), "dim must be"), (lambda: divergences.normal_nodes(5, 10), "num_nodes"),
    (lambda: divergences.tilted_moments(torch.zeros(()), torch.ones(()), "cauchit"), "unknown link")])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 13])
def test_nodes_stand_for_the_normal(dim):
    eps, log_share = divergences.normal_nodes(dim)
    share = log_share.exp()
    assert float(share.sum()) == pytest.approx(1) and torch.allclose(share @ eps, torch.zeros(dim).double(), atol=1e-9)
    assert torch.allclose((share.unsqueeze(-1) * eps).T @ eps, torch.eye(dim).double(), atol=1e-9)
    if dim <= 3:  # exact up to polynomials of high degree
        assert float(share @ eps[:, 0] ** 6) == pytest.approx(15, rel=1e-9)


# Expectation propagation ----------------------------------------------------------------------------------------

LINKS = {"logistic": lambda a: 1 / (1 + np.exp(-a)), "probit": norm.cdf}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (-3.0, 0.5), (2.0, 9.0), (-8.0, 64.0), (0.3, 196.0)])
def test_tilted_moments_by_quadrature(link, mean, variance):
    def moment(k):
        sd = variance**0.5
        return quad(lambda a: a**k * LINKS[link](a) * norm.pdf(a, mean, sd), mean - 12 * sd, mean + 12 * sd,
                    points=[0.0, mean], limit=500, epsabs=1e-13)[0]
    z = moment(0)
    wanted = math.log(z), moment(1) / z, moment(2) / z - (moment(1) / z) ** 2
    found = divergences.tilted_moments(torch.tensor(mean).double(), torch.tensor(variance).double(), link)
    assert [float(v) for v in found] == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def one_weight(X, y, link, scale=2.5):
    A = X * (2 * y - 1).unsqueeze(-1)
    log_f = torch.nn.functional.logsigmoid if link == "logistic" else torch.special.log_ndtr
    return Problem(lambda w: log_f(w @ A.T).sum(-1) - 0.5 * (w[..., 0] / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi)), 1)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("x", [0.5, -3.0])
def test_one_observation_is_exact(link, x):
    X, y = torch.tensor([[x]]).double(), torch.ones(1).double()
    found, problem = divergences.expectation_propagation(X, y, link=link), one_weight(X, y, link)
    first, second = exact.quadrature(problem, of=lambda w: torch.cat([w, w**2], -1))
    assert float(found.log_evidence) == pytest.approx(float(exact.quadrature(problem)), abs=1e-7)
    assert float(found.q.loc) == pytest.approx(first, abs=1e-6)
    assert float(found.q.variance) == pytest.approx(second - first**2, abs=1e-6)
    assert found.log_evidence.kind == "approximation"


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("seed", range(3))
def test_at_the_fixed_point_every_tilted_density_has_the_moments_of_q(link, seed):
    stream = torch.Generator().manual_seed(seed)
    X = torch.randn(15, 2, generator=stream, dtype=torch.float64)
    y = (torch.rand(15, generator=stream) < 0.5).double()
    found = divergences.expectation_propagation(X, y, 1.5, link=link)
    sites, A = found.diagnostics["sites"], X * (2 * y - 1).unsqueeze(-1)
    mean, variance = A @ found.q.loc, ((A @ found.q.covariance_matrix) * A).sum(-1)
    cavity_v = 1 / (1 / variance - sites.tau)
    _, m, v = divergences.tilted_moments(cavity_v * (mean / variance - sites.nu), cavity_v, link)
    assert torch.allclose(m, mean, atol=1e-6) and torch.allclose(v, variance, rtol=1e-6)
    assert (sites.tau > 0).all() and (found.diagnostics["change"][-1] < 1e-8)
    assert torch.allclose(found.q.precision_matrix, torch.eye(2).double() / 1.5**2 + A.T @ (sites.tau.unsqueeze(-1) * A))


@pytest.mark.parametrize("damping", [0.3, 0.7, 1.0])
def test_damping_does_not_move_the_fixed_point(damping):
    X, y, _ = breast_cancer(num_data=30)
    slow, found = (divergences.expectation_propagation(X, y, damping=d) for d in (0.5, damping))
    assert torch.allclose(slow.q.loc, found.q.loc, atol=1e-6)
    assert float(slow.log_evidence) == pytest.approx(float(found.log_evidence), abs=1e-6)


def test_ep_is_nearer_than_laplace_in_the_mean_and_close_in_the_evidence():
    X, y, _ = breast_cancer(num_data=30)
    problem = problems.logistic_regression(num_data=30)
    truth = exact.quadrature(problem, of=lambda w: w, rtol=1e-4)
    found, mode = divergences.expectation_propagation(X, y), laplace.approximate(problem)
    assert np.abs(found.q.loc.numpy() - truth).max() < 0.02 < 0.3 < np.abs(mode.q.loc.numpy() - truth).max()
    assert abs(found.gap(problem)) < abs(mode.gap(problem)) < 0.11


def test_sites_that_circle_are_refused():
    X, y, _ = breast_cancer(num_data=30)
    with pytest.raises(divergences.EPError, match="smaller damping"):
        divergences.expectation_propagation(X, y, 100.0, damping=1.0)


def test_a_cavity_without_a_positive_variance_is_named():
    A, prior = torch.ones(1, 1).double(), Gaussian(torch.zeros(1).double(), torch.eye(1).double())
    with pytest.raises(divergences.EPError, match="scale the columns of X"):
        divergences._cavities(A, prior, divergences.Sites(torch.tensor([1.0 + 1e-15]).double(), torch.zeros(1).double()))


@pytest.mark.parametrize(("change", "message"), [
    ({"y": torch.zeros(3)}, r"X \(N, d\)"), ({"y": torch.full((4,), 2.0)}, "0 or 1"), ({"X": torch.full((4, 2), math.nan)}, "finite"),
    ({"X": torch.zeros(4, 2)}, "row of zeros"), ({"prior_scale": 0.0}, "prior_scale"), ({"damping": 0.0}, "damping"),
    ({"damping": 1.5}, "damping"), ({"link": "cauchit"}, "unknown link"), ({"max_sweeps": 0}, "max_sweeps")], ids=str)
def test_bad_input_to_ep_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        divergences.expectation_propagation(**{"X": torch.ones(4, 2), "y": torch.ones(4), **change})


# The explorers' numbers --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("at", [{"alpha": 1, "separation": 3}, {"alpha": 0, "separation": 4}, {"alpha": 0.5, "separation": 1.5}])
def test_the_dial_agrees_with_the_package(at):
    frame = explorers.alpha().frame(**at)
    problem = problems.two_modes(at["separation"], 0.3, 0.5)
    found = divergences.approximate(problem, divergence=at["alpha"], starts=torch.tensor([[0.2 * at["separation"]], [at["separation"] / 2]]))
    assert float(frame["mean"]) == pytest.approx(float(found.q.mean), abs=5e-3)
    assert float(frame["deviation"]) == pytest.approx(float(found.q.stddev), abs=5e-3)
    assert float(frame["bound"]) == pytest.approx(-at["alpha"] * float(frame["distance"]), abs=1e-12)


@pytest.mark.parametrize("separation", [0, 0.5, 1, 3])
def test_the_dial_tells_the_share_of_p_left_of_zero_and_no_minus_zero(separation):
    frame = explorers.alpha().frame(alpha=1, separation=separation)
    share = 0.3 * norm.cdf(separation) + 0.7 * norm.cdf(-separation)  # each hump is 0.5 wide, half the separation off
    assert float(frame["left_p"]) == pytest.approx(100 * share, abs=1e-9)
    assert not any(f"{float(frame[k]):.{digits}f}".startswith("-0.00") for k, digits in (("mean", 2), ("distance", 3)))
    assert not any(f"{float(frame[k]):+.3f}" == "-0.000" for k in ("bound", "reverse", "forward"))


def test_the_hands_bars_agree_with_quadrature():
    frame = explorers.by_hand().frame(mean=0.9, deviation=0.8)
    p = lambda z: 0.3 * norm.pdf(z, -1.5, 0.5) + 0.7 * norm.pdf(z, 1.5, 0.5)  # noqa: E731
    q = norm(0.9, 0.8).pdf
    reverse, _ = quad(lambda z: q(z) * np.log(q(z) / p(z)), -6, 8, limit=300)
    forward, _ = quad(lambda z: p(z) * np.log(p(z) / q(z)), -6, 8, limit=300)
    half, _ = quad(lambda z: np.sqrt(p(z) * q(z)), -6, 8, limit=300)
    assert [float(frame[k]) for k in ("reverse", "forward", "half")] == pytest.approx([reverse, forward, -4 * math.log(half)], abs=1e-5)
