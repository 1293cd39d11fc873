"""The bound and EM: three faces of one number, two steps that never go downhill, and the bits that come back."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from scipy import integrate, stats
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch.distributions import Beta, Independent, LogNormal, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import SigmoidTransform

from tightbound import Problem, em, laplace, league, problems, questions
from tightbound.checks import em as checks
from tightbound.data import iris, wine
from tightbound.distributions import Gaussian, Particles, StudentT
from tightbound.explore import em as explore


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def beta(a, b):
    return Independent(Beta(tensor(a), tensor(b)), 1)


def gaussian(mean, sd):
    return Gaussian(tensor(mean), tensor([sd**2]))


def two_bells(theta, n, seed, weight=0.5):
    stream = np.random.default_rng(seed)
    return torch.tensor(theta * np.where(stream.random(n) < weight, 1, -1) + stream.normal(size=n))


# The bound of a given q -----------------------------------------------------------------------------------

counts = st.integers(0, 15)
shapes = st.floats(1.0, 12.0)


@settings(max_examples=15)
@given(heads=counts, tails=counts, a=shapes, b=shapes, alpha=st.floats(2.0, 20.0), beta_=st.floats(2.0, 20.0))
def test_three_faces_of_a_beta_are_one_number_and_match_closed_forms(heads, tails, a, b, alpha, beta_):
    problem, q, prior = problems.coin(heads, tails, a, b, "p"), beta(alpha, beta_), beta(a, b)
    found = em.faces(problem, q, prior)
    assert max(found.elbos) - min(found.elbos) < 1e-10
    assert found.entropy == pytest.approx(float(q.entropy()), abs=1e-8)
    assert found.complexity == pytest.approx(float(kl_divergence(q, prior)), abs=1e-7)
    assert found.gap == pytest.approx(float(kl_divergence(q, beta(a + heads, b + tails))), abs=1e-7)
    assert float(em.elbo(problem, q)) == pytest.approx(found.elbos[0], abs=1e-9)


@settings(max_examples=15)
@given(mean=st.floats(-3, 3), sd=st.floats(0.1, 2.5))
def test_three_faces_of_a_gaussian_in_logit_p(mean, sd):
    problem = problems.coin(8, 1, 1.0, 1.0)
    prior = Independent(TransformedDistribution(Beta(tensor(1.0), tensor(1.0)), [SigmoidTransform().inv]), 1)
    found = em.faces(problem, gaussian(mean, sd), prior)
    assert max(found.elbos) - min(found.elbos) < 1e-10 and found.gap >= 0
    assert found.entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + math.log(sd), abs=1e-9)

    def integrand(z):
        q = stats.norm.pdf(z, mean, sd)
        log_joint = float(problem.log_joint(tensor(z)))
        return q * (log_joint - stats.norm.logpdf(z, mean, sd))

    by_scipy, _ = integrate.quad(integrand, mean - 9 * sd, mean + 9 * sd, epsabs=1e-10, limit=200)
    assert found.elbos[0] == pytest.approx(by_scipy, abs=1e-7)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_bound_of_a_gaussian_under_a_gaussian_is_the_closed_form(d, seed):
    stream = torch.Generator().manual_seed(seed)
    root = torch.randn(2, d, d, generator=stream, dtype=torch.float64)
    covariance = root @ root.mT + 0.3 * torch.eye(d)
    mean = torch.randn(2, d, generator=stream, dtype=torch.float64)
    q, p = Gaussian(mean[0], covariance[0]), Gaussian(mean[1], covariance[1])
    problem = Problem(lambda z: p.log_prob(z) + 1.7, d, log_evidence=1.7)
    bound = em.elbo(problem, q)
    assert bound.kind == "lower bound" and bound.standard_error is None
    assert 1.7 - float(bound) == pytest.approx(float(kl_divergence(q, p)), abs=1e-8)


@pytest.mark.parametrize("name, q, density", [
    ("Student t", StudentT(4, tensor(0.3), tensor([0.8])), stats.t(4, 0.3, 0.8)),
    ("log-normal", Independent(LogNormal(tensor(0.2), tensor(0.5)), 1), stats.lognorm(0.5, 0, math.exp(0.2)))])
def test_bound_of_other_densities(name, q, density):
    problem = problems.heavy_tail(df=3.0)
    low, high = density.ppf([1e-12, 1 - 1e-12])
    expected, _ = integrate.quad(lambda z: density.pdf(z) * (stats.t(3).logpdf(z) - density.logpdf(z)), low, high,
                                 limit=500, points=[density.median()])
    assert float(em.elbo(problem, q)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_samples_are_unbiased_and_their_error_is_honest(seed):
    problem, q = problems.eight_schools(), laplace.approximate(problems.eight_schools()).q
    exact = float(em.elbo(problem, q))
    found = [em.elbo(problem, q, num_samples=400, seed=100 * seed + k) for k in range(60)]
    deviations = np.array([(float(f) - exact) / f.standard_error for f in found])
    assert abs(deviations.mean()) < 4 / math.sqrt(60) + 0.15  # heavy weights: the mean error is a little low
    spread = np.std([float(f) for f in found])
    assert 0.5 < spread / np.mean([f.standard_error for f in found]) < 2.0
    assert found[0] == em.elbo(problem, q, num_samples=400, seed=100 * seed)


@pytest.mark.parametrize("problem", [problems.coin(), problems.logistic_regression(), problems.eight_schools(),
                                     problems.two_modes(), problems.rosenbrock(), problems.heavy_tail(df=2.0)], ids=repr)
def test_gap_is_never_negative_and_q_is_laplaces(problem):
    before = problem.evaluations
    found = em.approximate(problem)
    assert found.gap(problem) >= 0 and found.log_evidence.kind == "lower bound"
    assert found.evaluations == problem.evaluations - before > 0
    assert torch.equal(found.q.loc, laplace.approximate(problem).q.loc)


def test_laplaces_number_and_the_bound_of_its_q_part():
    ridge = problems.rosenbrock()
    assert laplace.approximate(ridge).gap(ridge) == pytest.approx(0, abs=1e-8)
    assert em.approximate(ridge).gap(ridge) == pytest.approx(75, abs=1e-6)
    q, far = laplace.approximate(problems.two_modes(separation=5.0)).q, problems.two_modes(separation=5.0)
    assert -float(em.elbo(far, q)) == pytest.approx(-math.log(0.7), abs=1e-4)


def test_mass_outside_of_the_support_is_minus_infinity():
    for problem in (problems.coin(coordinate="p"), problems.eight_schools(coordinate="tau")):
        bound = em.approximate(problem).log_evidence
        assert float(bound) == -math.inf and "no density" in bound.source or "where p(x, z) has none" in bound.source
    sampled = em.elbo(problems.eight_schools(coordinate="tau"), laplace.approximate(problems.eight_schools(coordinate="tau")).q,
                      num_samples=100)
    assert float(sampled) == -math.inf and sampled.standard_error is None
    with pytest.raises(RuntimeError, match="inside the support, or coordinates"):
        em.faces(problems.coin(coordinate="p"), gaussian(0.5, 0.1), beta(10.0, 10.0))


def test_posterior_touches_and_more_than_three_latents_are_sampled():
    assert float(em.elbo(problems.coin(6, 4, 10.0, 10.0, "p"), beta(16.0, 14.0))) == pytest.approx(
        float(problems.coin().log_evidence), abs=1e-9)
    found = em.approximate(problems.linear_regression())  # Laplace is exact there, so every weight is p(x)
    assert found.gap(problems.linear_regression()) == pytest.approx(0, abs=1e-8)
    assert found.log_evidence.standard_error < 1e-8 and "10000 samples" in found.log_evidence.source


def test_the_league_takes_it():
    rows = league(problems.coin(), [laplace, em]).rows
    assert [row.method for row in rows] == ["Laplace", "bound of Laplace's q"] and rows[1].gap < 0.001


# A discrete latent -----------------------------------------------------------------------------------------

tables = st.lists(st.tuples(st.floats(-30, 5), st.floats(0.0, 1.0)), min_size=2, max_size=6).filter(
    lambda rows: sum(q for _, q in rows) > 0.1)


@given(tables)
def test_bound_plus_divergence_is_the_evidence(rows):
    log_joint, q = tensor(*[row[0] for row in rows]), tensor(*[row[1] for row in rows])
    q = q / q.sum()
    posterior, evidence = em.e_step(log_joint)
    divergence = sum(v * (math.log(v) - math.log(p)) for v, p in zip(q.tolist(), posterior.tolist()) if v > 0)
    assert float(em.bound(log_joint, q)) == pytest.approx(float(evidence) - divergence, abs=1e-9)
    assert float(em.bound(log_joint, posterior)) == pytest.approx(float(evidence), abs=1e-10)
    assert float(em.bound(log_joint, em.hard_e_step(log_joint))) == pytest.approx(float(log_joint.max()), abs=1e-12)


@given(tables, st.floats(0.01, 1.0))
def test_a_partial_e_step_raises_the_bound(rows, rate):
    log_joint, q = tensor(*[row[0] for row in rows]), tensor(*[row[1] for row in rows])
    q = q / q.sum()
    assert em.bound(log_joint, em.partial_e_step(log_joint, q, rate)) >= em.bound(log_joint, q) - 1e-9


def test_e_step_does_not_underflow():
    q, evidence = em.e_step(tensor(-2000.0, -2001.0))
    assert q.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)]) and -2000 < float(evidence) < -1999


def test_the_flat_q_is_the_least_complex_and_the_lecture_has_it_the_other_way_round():
    prior = tensor(0.5, 0.5)
    flat, leaning, sure = tensor(0.5, 0.5), tensor(0.8, 0.2), tensor(1.0, 0.0)

    def complexity(q):  # minus the bound of a model in which the likelihood is one
        return -float(em.bound(prior.log(), q))

    def entropy(q):
        return float(-torch.xlogy(q, q).sum())

    assert complexity(flat) == 0 and complexity(sure) == pytest.approx(math.log(2))
    assert complexity(flat) < complexity(leaning) < complexity(sure)
    assert entropy(flat) > entropy(leaning) > entropy(sure)  # what the lecture calls complexity


# One unknown ------------------------------------------------------------------------------------------------

@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), weight=st.floats(0.1, 0.9), start=st.floats(-3, 3))
def test_em_on_one_unknown(seed, weight, start):
    model = em.MirroredMixture(two_bells(1.3, 30, seed, weight), weight)
    theta, bounds = model.climb(tensor(start)[0], 15)
    likelihood = model.log_likelihood(theta)
    assert (likelihood.diff() >= -1e-9).all()                             # never falls
    assert torch.allclose(bounds, likelihood[:-1], atol=1e-10, rtol=0)  # touches after each E step
    q = em.e_step(model.log_joint(theta[0]))[0]
    others = theta[0] + torch.linspace(-3, 3, 41, dtype=torch.float64)
    assert (model.elbo(others, q) <= model.log_likelihood(others) + 1e-9).all()
    top = model.m_step(q)
    parabola = model.elbo(top, q) - 15 * (others - top).square()          # N/2 = 15
    assert torch.allclose(model.elbo(others, q), parabola, atol=1e-8)


def test_likelihood_of_the_two_bells():
    x = two_bells(1.0, 20, 0)
    by_scipy = np.log(0.3 * stats.norm.pdf(x, 0.7, 1) + 0.7 * stats.norm.pdf(x, -0.7, 1)).sum()
    assert float(em.MirroredMixture(x, 0.3).log_likelihood(tensor(0.7)[0])) == pytest.approx(by_scipy, abs=1e-10)


@pytest.mark.parametrize("theta", [0.8, 1.2, 2.0])
def test_pace_is_the_fraction_of_missing_information(theta):
    model = em.MirroredMixture(two_bells(theta, 2000, 1))
    path, _ = model.climb(tensor(theta + 0.5)[0], 300)
    off = path - path[-1]
    step = 1e-3
    at = path[-1] + step * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    low, here, high = model.log_likelihood(at).tolist()
    observed = -(low - 2 * here + high) / step**2
    assert float(off[6] / off[5]) == pytest.approx(1 - observed / 2000, abs=2e-3)


@pytest.mark.parametrize("seed", range(10))
def test_hard_e_steps_climb_their_bound_while_the_likelihood_falls(seed):
    model = em.MirroredMixture(two_bells(1.0, 1000, seed))
    best = model.climb(tensor(1.0)[0], 100)[0][-1]
    path, bounds = model.climb(best, 10, lambda log_joint, q: em.hard_e_step(log_joint))
    assert (bounds.diff() >= -1e-9).all()
    assert model.log_likelihood(path[-1]) < model.log_likelihood(best) - 1
    assert float(path[-1]) == pytest.approx(float(model.x.abs().mean()), abs=1e-9)  # k-means: the mean of |x|
    half, _ = model.climb(tensor(1.0)[0], 200, em.partial_e_step)
    assert float(half[-1]) == pytest.approx(float(best), abs=1e-9)


def test_the_bias_of_hard_em_is_that_of_the_folded_normal():
    model = em.MirroredMixture(torch.stack([two_bells(1.0, 5000, seed) for seed in range(10)]))
    hard = model.climb(torch.ones(10, dtype=torch.float64), 30, lambda log_joint, q: em.hard_e_step(log_joint))[0][-1]
    error = float(hard.std()) / math.sqrt(10)
    assert abs(float(hard.mean()) - float(stats.foldnorm(1.0).mean())) < 4 * error < 0.05


# Mixtures of Gaussians ----------------------------------------------------------------------------------------

def test_log_joint_is_scipys():
    x, start = iris().X, em.random_start(iris().X, 3, 2, seed=0)
    found = start.log_joint(x)
    assert found.shape == (2, 150, 3)
    for s in range(2):
        for k in range(3):
            normal = stats.multivariate_normal(start.means[s, k].numpy(), start.covariances[s, k].numpy())
            assert found[s, :, k].numpy() == pytest.approx(normal.logpdf(x.numpy()) - math.log(3), abs=1e-8)
    assert start.log_likelihood(x).shape == (2,)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("data, K", [(iris, 3), (wine, 2)])
def test_em_is_scikit_learns_from_the_same_start(data, K, covariance):
    x = data().X
    start = em.random_start(x, K, seed=2)[0]
    kind = {"full": "full", "diagonal": "diag"}[covariance]
    covariances = start.covariances if covariance == "full" else torch.diag_embed(start.covariances.diagonal(dim1=-2, dim2=-1))
    precisions = np.linalg.inv(covariances.numpy())
    with pytest.warns(Warning):  # it has not converged, and is not to
        theirs = GaussianMixture(K, covariance_type=kind, reg_covar=0.0, tol=0.0, max_iter=12, weights_init=start.weights.numpy(),
                                 means_init=start.means.numpy(), precisions_init=precisions if kind == "full" else
                                 np.diagonal(precisions, axis1=-2, axis2=-1)).fit(x.numpy())
    ours = em.fit_mixture(x, K, start=em.Mixture(start.weights, start.means, covariances), covariance=covariance,
                          tolerance=-math.inf, max_iterations=12)
    assert len(ours.history) == 13 and not ours.converged
    assert ours.log_likelihood == pytest.approx(theirs.score(x.numpy()) * len(x), abs=1e-8, rel=1e-11)
    assert ours.mixture.means.numpy() == pytest.approx(theirs.means_, rel=1e-8)
    assert ours.history[-1] == pytest.approx(ours.log_likelihood, abs=1e-7)
    assert float(ours.mixture.log_likelihood(x)) == pytest.approx(ours.log_likelihood, abs=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), K=st.integers(1, 4), d=st.integers(1, 3), covariance=st.sampled_from(["full", "diagonal"]),
       prior_count=st.sampled_from([0.0, 0.3, 5.0]))
def test_every_round_climbs(seed, K, d, covariance, prior_count):
    x = torch.tensor(np.random.default_rng(seed).normal(size=(60, d)))
    try:
        fit = em.fit_mixture(x, K, covariance=covariance, prior_count=prior_count, num_starts=3, seed=seed, max_iterations=60)
    except em.Collapsed:
        assert not prior_count
        reject()
    assert (fit.history.diff() >= -1e-8).all()
    assert fit.mixture.weights.sum() == pytest.approx(1.0)
    if not prior_count:
        assert float(fit.history[-1]) == pytest.approx(fit.log_likelihood, abs=1e-6)


def test_the_bound_touches_after_the_e_step_and_the_m_step_is_its_top():
    x = iris().X
    t, mixture = em.sufficient_statistics(x), em.random_start(x, 3, seed=1)[0]
    for _ in range(10):
        log_joint = mixture.log_joint(x)
        q, evidence = em.e_step(log_joint)
        assert float(em.bound(log_joint, q).sum()) == pytest.approx(float(evidence.sum()), abs=1e-10)
        mixture = em.m_step(t, q)
    by_hand = (q.T @ x) / q.sum(0).unsqueeze(-1)
    assert torch.allclose(mixture.means, by_hand)
    best = float(em.bound(mixture.log_joint(x), q).sum())
    stream = torch.Generator().manual_seed(0)
    for _ in range(20):  # any other parameters have a lower bound for this q
        shake = 1 + 0.05 * torch.randn(3, generator=stream, dtype=torch.float64)
        other = em.Mixture(mixture.weights * shake / (mixture.weights * shake).sum(), mixture.means * shake.unsqueeze(-1),
                           mixture.covariances * shake.abs()[:, None, None])
        assert float(em.bound(other.log_joint(x), q).sum()) < best


def test_the_objective_with_a_prior_and_its_m_step():
    x = wine().X[:, :3]
    fit = em.fit_mixture(x, 2, prior_count=2.0, seed=1)
    psi = np.cov(x.numpy().T, bias=True) / 2 ** (2 / 3)
    penalty = 0.0
    for covariance in fit.mixture.covariances.numpy():
        p, q = (torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), torch.tensor(c)) for c in (psi, covariance))
        penalty += 2.0 * float(kl_divergence(p, q))
    assert float(fit.history[-1]) == pytest.approx(fit.log_likelihood - penalty, abs=1e-6)
    q = em.e_step(fit.mixture.log_joint(x))[0]
    again = em.m_step(em.sufficient_statistics(x), q, prior_count=2.0, prior_covariance=torch.tensor(psi))
    assert torch.allclose(again.covariances, fit.mixture.covariances, rtol=1e-3)  # a fixed point


def test_units_and_names_do_not_matter():
    x = iris().X
    plain = em.fit_mixture(x, 3, seed=3)
    scale = tensor(10.0, 0.1, 1e4, 1e-4)
    other = em.fit_mixture(1e5 * 0 + 7 + x * scale, 3, seed=3)
    assert other.log_likelihood == pytest.approx(plain.log_likelihood - 150 * float(scale.log().sum()), abs=1e-6)
    order = torch.tensor([2, 0, 1])
    m = plain.mixture
    renamed = em.Mixture(m.weights[order], m.means[order], m.covariances[order])
    assert float(renamed.log_likelihood(x)) == pytest.approx(plain.log_likelihood, abs=1e-7)


def test_a_collapse_is_seen_and_a_prior_mends_it():
    x = wine().X
    with pytest.raises(em.Collapsed, match="in every one of 6 starts .* 178 data.*prior_count=1"):
        em.fit_mixture(x, 10, num_starts=6)
    some = em.fit_mixture(x, 6, num_starts=20)
    assert 0 < int(some.log_likelihoods.isnan().sum()) < 20
    assert some.log_likelihood == some.log_likelihoods[~some.log_likelihoods.isnan()].max()
    mended = em.fit_mixture(x, 10, num_starts=6, prior_count=1.0)
    assert not mended.log_likelihoods.isnan().any()


def test_the_likelihood_of_a_mixture_is_unbounded():
    x = iris().X[:, 2:3]

    def height(width, place):
        return float(em.Mixture(tensor(0.01, 0.99), tensor([place], [3.7]), tensor([[width**2]], [[3.0]])).log_likelihood(x))

    assert height(1e-6, 6.9) - height(1e-7, 6.9) == pytest.approx(-math.log(10), abs=1e-3)
    assert height(1e-6, 6.85) == pytest.approx(height(1e-7, 6.85), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_irises_find_their_species_with_a_grain_of_prior(seed):
    x, species, _ = iris()
    fit = em.fit_mixture(x, 3, num_starts=50, seed=seed + 20, prior_count=0.1, tolerance=1e-5)
    table = np.zeros((3, 3), int)
    np.add.at(table, (fit.mixture.log_joint(x).argmax(-1).numpy(), species.numpy()), 1)
    assert table.max(1).sum() == 145 and fit.log_likelihood == pytest.approx(-180.5187, abs=1e-3)


def test_starts_are_distinct_data():
    start = em.random_start(iris().X[:5], 4, 7, seed=0)
    assert start.means.shape == (7, 4, 4) and all(len(torch.unique(m, dim=0)) == 4 for m in start.means)
    assert torch.equal(em.random_start(iris().X, 3, 2, seed=5).means, em.random_start(iris().X, 3, 2, seed=5).means)


# Bits back -----------------------------------------------------------------------------------------------------

@given(st.lists(st.tuples(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 10**6)), max_size=30),
       st.integers(1, 10**40))
def test_what_is_pushed_is_popped(pushes, state):
    stack = em.Stack(state)
    for table, symbol in pushes:
        stack.push(symbol % len(table), table)
    for table, symbol in reversed(pushes):
        assert stack.pop(table) == symbol % len(table)
    assert stack.state == state


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20).filter(lambda p: sum(p) > 0.1))
def test_counts_are_whole_positive_and_close(p):
    p = tensor(*p)
    found = em.counts(p)
    assert sum(found) == 2**16 and min(found) >= 1
    assert np.abs(np.array(found) / 2**16 - (p / p.sum()).numpy()).max() < 25 / 2**16


@pytest.fixture(scope="module")
def code():
    """A prior over three z, tables of p(x | z) for eight symbols, the log joint that is coded, and 200 symbols."""
    stream = np.random.default_rng(0)
    prior = em.counts(tensor(0.5, 0.3, 0.2))
    likelihood = em.counts(torch.tensor(stream.dirichlet(np.ones(8), 3)))
    log_joint = torch.tensor(np.log(np.array(prior) / 2**16) + np.log(np.array(likelihood).T / 2**16))
    x = stream.choice(8, 200, p=np.exp(log_joint.logsumexp(-1).numpy())).tolist()
    return prior, likelihood, log_joint, x


def lengths(code, q, num):
    prior, likelihood, _, x = code
    for seed in range(num):
        other = 2**4000 + random.Random(seed).getrandbits(4000)
        message, borrowed = em.Stack(2**64), em.Stack(other)
        before = message.bits + borrowed.bits
        em.send(message, borrowed, x, prior, likelihood, q)
        yield message.bits + borrowed.bits - before
        assert em.receive(message, borrowed, len(x), prior, likelihood, q) == x
        assert (message.state, borrowed.state) == (2**64, other)


def test_the_posterior_costs_what_the_exact_code_does(code):
    log_joint, x = code[2:]
    exact = -float(log_joint.logsumexp(-1)[x].sum()) / math.log(2)
    for length in lengths(code, em.counts(em.e_step(log_joint)[0]), 3):
        assert length == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("name", ["flat", "root", "prior"])
def test_a_poor_q_costs_its_divergence(code, name):
    prior, _, log_joint, x = code
    q = {"flat": torch.ones_like(log_joint), "root": em.e_step(log_joint)[0].sqrt(),
         "prior": torch.tensor(prior, dtype=torch.float64).expand_as(log_joint)}[name]
    table = em.counts(q)
    coded = torch.tensor(table, dtype=torch.float64) / 2**16
    posterior, evidence = em.e_step(log_joint)
    extra = float((coded * (coded / posterior).log()).sum(-1)[x].sum()) / math.log(2)
    found = np.array(list(lengths(code, table, 40)))
    expected = -float(evidence[x].sum()) / math.log(2) + extra
    assert extra > 5 and abs(found.mean() - expected) < 4 * found.std() / math.sqrt(40)


# What is refused ------------------------------------------------------------------------------------------------

X = iris().X


@pytest.mark.parametrize("call, message", [
    (lambda: em.elbo(problems.coin(), Normal(0.0, 1.0)), "event shape .*Independent"),
    (lambda: em.elbo(problems.coin(), Gaussian(torch.zeros(2), torch.eye(2))), r"event shape \(1,\)"),
    (lambda: em.elbo(problems.coin(), gaussian(0.0, 1.0), num_samples=1), "num_samples"),
    (lambda: em.faces(Problem(lambda z: -z.square().sum(-1), 1), gaussian(0.0, 1.0), gaussian(0.0, 1.0)), "unknown"),
    (lambda: em.faces(problems.linear_regression(), gaussian(0.0, 1.0), gaussian(0.0, 1.0)), "three dimensions"),
    (lambda: em.faces(problems.coin(), gaussian(0.0, 1.0), Normal(0.0, 1.0)), "Independent"),
    (lambda: em.MirroredMixture(tensor(math.nan)), "finite"), (lambda: em.MirroredMixture(torch.zeros(0)), "at least one"),
    (lambda: em.MirroredMixture(tensor(1.0), 1.0), "weight must lie between"), (lambda: em.MirroredMixture(tensor(1.0), -1.0), "weight"),
    (lambda: em.fit_mixture(X[:, 0], 2), r"shape \(N, d\)"), (lambda: em.fit_mixture(X * math.nan, 2), "finite"),
    (lambda: em.fit_mixture(X, 0), "num_components"), (lambda: em.fit_mixture(X[:3], 4), "num_components"),
    (lambda: em.fit_mixture(X, 2, covariance="tied"), "unknown covariance"), (lambda: em.fit_mixture(X, 2, num_starts=0), "num_starts"),
    (lambda: em.fit_mixture(X * tensor(1.0, 0.0, 1.0, 1.0), 2), "column 1 of x is constant"),
    (lambda: em.fit_mixture(X, 2, start=em.random_start(X, 3)), "start must hold 2 components"),
    (lambda: em.fit_mixture(X, 2, prior_count=-1.0), "prior_count"), (lambda: em.fit_mixture(X, 2, max_iterations=0), "max_iterations"),
    (lambda: em.Stack(0), "state"), (lambda: em.counts(torch.ones(9), total=8), "larger total")])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_q_without_a_density_is_named():
    with pytest.raises(ValueError, match="a q with a density, and Particles has none"):
        em.elbo(problems.coin(), Particles(torch.zeros(5, 1, dtype=torch.float64)))


# The explorers and the checks ---------------------------------------------------------------------------------------

def test_the_bars_are_the_faces():
    explorer = explore.faces()
    prior = Independent(TransformedDistribution(Beta(tensor(1.0), tensor(1.0)), [SigmoidTransform().inv]), 1)
    for mean, sd in ((0.0, 0.5), (1.75, 0.9), (-2.0, 2.5)):
        frame = explorer.frame(mean=mean, sd=sd)
        found = em.faces(problems.coin(8, 1, 1.0, 1.0), gaussian(mean, sd), prior)
        for name in ("energy", "entropy", "reconstruction", "complexity", "gap"):
            assert float(frame[name]) == pytest.approx(getattr(found, name), abs=1e-6), name
        assert float(frame["elbo"] + frame["gap"]) == pytest.approx(float(frame["evidence"]), abs=1e-12)


def test_the_parabola_touches_after_every_exact_e_step_and_never_after_a_hard_one():
    explorer, model = explore.climb(), explore.mirrored()
    before = -math.inf
    for half in range(15):
        frame = explorer.frame(half_steps=half, start=0.4)
        theta = frame["theta"]
        assert float(frame["likelihood"]) == pytest.approx(float(model.log_likelihood(torch.tensor(float(theta), dtype=torch.float64))))
        assert float(frame["bound"]) > before - 1e-9
        before = float(frame["bound"])
        assert (float(frame["gap"]) < 1e-9) == (half % 2 == 1) or float(frame["gap"]) < 1e-4
    assert float(explorer.frame(half_steps=13, start=0.4, kind="hard: 0 or 1")["gap"]) > 3
    assert explorer.frame(half_steps=14, start=-0.8)["theta"] < -0.9 and explorer.frame(half_steps=14, start=0)["theta"] > 0.9


def test_references_of_the_checks_against_the_method():
    stream = random.Random(0)
    for _ in range(5):
        a = checks.faces.draw(stream)
        found = em.faces(problems.coin(a["heads"], a["tails"], a["a"], a["b"], "p"), beta(a["alpha"], a["beta"]), beta(a["a"], a["b"]))
        assert checks.faces.reference(**a) == pytest.approx((found.reconstruction, found.complexity, found.gap), abs=1e-6)
        a = checks.m_step.draw(stream)
        fitted = em.m_step(em.sufficient_statistics(a["x"].unsqueeze(-1)), a["q"])
        weights, means, variances = checks.m_step.reference(**a)
        assert torch.allclose(fitted.weights, weights) and torch.allclose(fitted.means[:, 0], means)
        assert torch.allclose(fitted.covariances[:, 0, 0], variances)
        a = checks.e_step.draw(stream)
        q, likelihood = checks.e_step.reference(**a)
        log_density = a["weights"].log().numpy() + stats.norm.logpdf(a["x"].numpy()[:, None], a["means"].numpy(), a["sds"].numpy())
        assert q.numpy() == pytest.approx(softmax(log_density, axis=1))
        assert float(likelihood) == pytest.approx(logsumexp(log_density, axis=1).sum())
        a = checks.terms.draw(stream)
        fit, complexity = checks.terms.reference(**a)
        model = em.MirroredMixture(a["x"], a["w"])
        both = torch.stack([a["r"], 1 - a["r"]], -1)
        assert float(fit - complexity) == pytest.approx(float(model.elbo(tensor(a["mu"])[0], both)))
        a = checks.lifetimes.draw(stream)
        mean, rate = checks.lifetimes.reference(**a)
        theta = [tensor(1.0)[0]]
        for _ in range(3000):
            theta.append(torch.where(a["failed"], a["times"], a["times"] + theta[-1]).mean())
        assert float(mean) == pytest.approx(float(theta[-1]))
        assert float(rate) == pytest.approx(float((theta[2] - mean) / (theta[1] - mean)), abs=1e-6)
        assert checks.bits.reference(**checks.bits.draw(stream))[1] >= 0


# A vector for a latent --------------------------------------------------------------------------------------

def factor_data(seed, n=300):
    """Data less their mean, whose covariance has eigenvalues near 9, 5, 2.5, 1, 1 and 1."""
    stream = np.random.default_rng(seed)
    turn = np.linalg.qr(stream.normal(size=(6, 6)))[0]
    x = stream.normal(size=(n, 6)) * np.sqrt([9, 5, 2.5, 1, 1, 1]) @ turn
    return torch.tensor(x - x.mean(0))


def climb_factors(x, W, s2, rounds):
    """EM, with the bound and the log likelihood, both by formulas that EM does not use, after every half round."""
    heights = []
    for _ in range(rounds):
        means, covariance = em.factor_e_step(x, W, s2)
        heights.append((factor_bound(x, W, s2, means, covariance), log_likelihood(x, W, s2)))
        W, s2 = em.factor_m_step(x, means, covariance)
        heights.append((factor_bound(x, W, s2, means, covariance), log_likelihood(x, W, s2)))
    return W, s2, heights


def log_likelihood(x, W, s2):
    covariance = (W @ W.T + s2 * torch.eye(len(W)).double()).numpy()
    return stats.multivariate_normal.logpdf(x.numpy(), np.zeros(len(W)), covariance).sum()


def factor_bound(x, W, s2, means, covariance):
    """sum_n E_q[log p(x_n | z)] - KL(q_n || p), each term from torch.distributions."""
    N, (d, k) = len(x), W.shape
    q = torch.distributions.MultivariateNormal(means, covariance)
    prior = torch.distributions.MultivariateNormal(torch.zeros(k).double(), torch.eye(k).double())
    expected = (x - means @ W.T).square().sum() + N * torch.trace(W @ covariance @ W.T)
    return float(-0.5 * (expected / s2 + N * d * math.log(2 * math.pi * s2)) - kl_divergence(q, prior).sum())


@pytest.mark.parametrize("seed", range(5))
def test_em_for_factors_touches_never_falls_and_reaches_tipping_and_bishop(seed):
    x = factor_data(seed)
    W = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    W, s2, heights = climb_factors(x, W, torch.tensor(1.0).double(), 100)
    bounds, likelihoods = map(np.array, zip(*heights))
    np.testing.assert_allclose(bounds[::2], likelihoods[::2], rtol=0, atol=1e-8)  # after every E step
    assert (np.diff(bounds) > -1e-8).all() and (bounds <= likelihoods + 1e-8).all()
    pca = PCA(2).fit(x)  # scikit-learn's own PCA knows its probabilistic log likelihood
    noise = PCA(6).fit(x).explained_variance_[2:].mean() * (len(x) - 1) / len(x)
    assert float(s2) == pytest.approx(noise, rel=1e-8)
    best = questions.factor_model(x, 2)
    assert likelihoods[-1] == pytest.approx(float(best.log_evidence(x).sum()), abs=1e-6)
    assert likelihoods[-1] >= pca.score_samples(x).sum()  # which divides by N - 1
    assert subspace_angles(W, pca.components_.T).max() < 1e-6


@pytest.mark.parametrize("noise", [True, False])
def test_the_plane_turns_by_the_ratio_of_two_eigenvalues(noise):
    x = factor_data(7)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    W, s2, angles = torch.tensor(np.random.default_rng(0).normal(size=(6, 2))), torch.tensor(float(noise)), []
    for _ in range(12):
        W, new = em.factor_m_step(x, *em.factor_e_step(x, W, s2))
        s2 = new if noise else s2
        angles.append(subspace_angles(W, vectors[:, -2:]).max())
    assert angles[-1] / angles[-2] == pytest.approx(values[-3] / values[-2], abs=2e-3)


def test_without_noise_the_e_step_is_least_squares():
    x, W = factor_data(1), torch.tensor(np.random.default_rng(1).normal(size=(6, 2)))
    means, covariance = em.factor_e_step(x, W, 0.0)
    np.testing.assert_allclose(means.T, np.linalg.lstsq(W.numpy(), x.T.numpy(), rcond=None)[0], atol=1e-12)
    assert (covariance == 0).all()


def test_bound_times_noise_tends_to_the_squared_error():
    x, W = factor_data(2), torch.tensor(np.random.default_rng(2).normal(size=(6, 2)))
    error = float((x - em.factor_e_step(x, W, 0.0)[0] @ W.T).square().sum())
    gaps = [abs(-2 * s2 * factor_bound(x, W, s2, *em.factor_e_step(x, W, s2)) - error) for s2 in (1e-2, 1e-4, 1e-6)]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-3 * error


def test_models_side_by_side_are_those_alone():
    x, stream = factor_data(3), np.random.default_rng(3)
    W, s2 = torch.tensor(stream.normal(size=(4, 6, 2))), torch.tensor(stream.random(4) + 0.1)
    together = em.factor_m_step(x, *em.factor_e_step(x, W, s2))
    for i in range(4):
        alone = em.factor_m_step(x, *em.factor_e_step(x, W[i], s2[i]))
        torch.testing.assert_close(together[0][i], alone[0])
        torch.testing.assert_close(together[1][i], alone[1])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_linear_autoencoder_is_pca(k):
    x = factor_data(4) / 3
    values, vectors = np.linalg.eigh(np.cov(x.T, ddof=0))
    V, W, losses = em.linear_autoencoder(x, k, num_starts=10, seed=k)
    assert V.shape == (10, k, 6) and W.shape == (10, 6, k)
    for encoder, decoder, loss in zip(V, W, losses):
        assert float(loss) == pytest.approx(values[:-k].sum(), rel=1e-6)
        assert float((x - x @ encoder.T @ decoder.T).square().sum(1).mean()) == pytest.approx(float(loss), rel=1e-9)
        assert subspace_angles(decoder, vectors[:, -k:]).max() < 1e-3
        np.testing.assert_allclose(encoder @ decoder, np.eye(k), atol=1e-3)  # an encoder undoes its decoder
    again = em.linear_autoencoder(x, k, num_starts=10, seed=k)
    assert all(map(torch.equal, again, (V, W, losses)))


FACTOR_MISTAKES = {
    "not centred": (lambda x: em.factor_e_step(x + 1, torch.ones(6, 2).double(), 1.0), "give x - x.mean"),
    "autoencoder, not centred": (lambda x: em.linear_autoencoder(x + 1, 2), "give x - x.mean"),
    "loadings of other data": (lambda x: em.factor_e_step(x, torch.ones(5, 2).double(), 1.0), r"shape \(\.\.\., 6, k\)"),
    "negative noise": (lambda x: em.factor_e_step(x, torch.ones(6, 2).double(), -1.0), "not negative"),
    "too wide": (lambda x: em.linear_autoencoder(x, 7), "num_latents"),
    "no steps": (lambda x: em.linear_autoencoder(x, 2, num_steps=0), "num_steps"),
    "not finite": (lambda x: em.factor_e_step(x * math.nan, torch.ones(6, 2).double(), 1.0), "finite"),
}


@pytest.mark.parametrize("case", FACTOR_MISTAKES)
def test_mistakes_with_factors_are_told(case):
    call, words = FACTOR_MISTAKES[case]
    with pytest.raises(ValueError, match=words):
        call(factor_data(0))
