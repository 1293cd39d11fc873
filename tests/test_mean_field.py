"""Mean field: every bound against an exact answer, every fixed point a maximum, every refusal with its reason."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import digamma, gammaln
from scipy.stats import multivariate_normal, multivariate_t

from tightbound import Problem, data, exact, laplace, mean_field, problems
from tightbound.explore import mean_field as explore
from tightbound.importance import pareto_k_hat
from tightbound.mean_field import GaussianPosterior, MixturePrior, PiecewiseLinear


def posterior(d: int, seed: int) -> GaussianPosterior:
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return GaussianPosterior(torch.arange(d, dtype=torch.float64), root @ root.T + 0.3 * torch.eye(d, dtype=torch.float64), -3.0)


def as_problem(p: GaussianPosterior) -> Problem:
    """A log joint whose integral is exp(log_evidence)."""
    d = len(p.mean)
    height = p.log_evidence - 0.5 * d * math.log(2 * math.pi) + 0.5 * float(torch.logdet(p.precision))
    return Problem(lambda z: height - 0.5 * ((z - p.mean) @ p.precision * (z - p.mean)).sum(-1), d, name="Gaussian",
                   log_evidence=p.log_evidence)


# Any log joint, on a grid -----------------------------------------------------------------------------------------

KNOWN = {"coin": problems.coin, "coin in p": lambda: problems.coin(coordinate="p"), "eight schools": problems.eight_schools,
         "in tau": lambda: problems.eight_schools(coordinate="tau"), "banana": lambda: problems.banana(0.03),
         "Rosenbrock": problems.rosenbrock, "two modes": problems.two_modes, "heavy tail": problems.heavy_tail,
         "funnel": lambda: problems.funnel(2), "ring": problems.ring, "U2": lambda: problems.energy(2)}


@pytest.mark.parametrize("name", KNOWN)
def test_the_bound_is_one_and_never_falls(name):
    problem = KNOWN[name]()
    approx = mean_field.approximate(problem)
    assert approx.log_evidence.kind == "lower bound"
    assert approx.gap(problem) > -1e-6
    assert (approx.history.diff() >= -1e-9).all()
    if problem.dim == 1:  # nothing is factorised away
        assert approx.gap(problem) < 1e-4


@pytest.mark.parametrize("name", ["eight schools", "banana", "ring", "U2"])
def test_samples_of_q_have_the_bound_as_their_mean_weight(name):
    problem = KNOWN[name]()
    approx = mean_field.approximate(problem)
    weights = approx.log_weights(problem, 100_000)
    error = float(weights.std()) / math.sqrt(len(weights))
    assert float(weights.mean()) == pytest.approx(float(approx.log_evidence), abs=4 * error + 2e-3)


@pytest.mark.parametrize("d, seed", [*itertools.product((2, 3), range(3))])
def test_on_a_gaussian_it_finds_the_closed_form(d, seed):
    p = posterior(d, seed)
    approx, truth = mean_field.approximate(as_problem(p)), mean_field.factorise(p)
    assert float(approx.log_evidence) == pytest.approx(truth.elbo, abs=1e-5)
    assert torch.allclose(approx.q.mean, p.mean, atol=1e-4)
    step = approx.q.nodes.diff()[:, 0]  # straight pieces between nodes are wider by a triangle's variance
    assert torch.allclose(approx.q.variance, 1 / p.precision.diagonal() + step**2 / 6, rtol=1e-3)


def test_eight_schools_beats_every_gaussian_and_costs_what_it_says():
    problem = problems.eight_schools()
    problem.evaluations = 0
    approx = mean_field.approximate(problem)
    assert approx.evaluations == problem.evaluations and approx.gap(problem) == pytest.approx(0.0068, abs=5e-4)
    (mean,) = exact.quadrature(problem, of=lambda z: z[..., :1])
    assert float(approx.q.mean[0]) == pytest.approx(float(mean), abs=0.1)


def test_logistic_regression_in_three_weights():
    problem = problems.logistic_regression(num_data=100)
    approx = mean_field.approximate(problem)
    assert 0 < approx.gap(problem) < 0.5
    assert pareto_k_hat(approx.log_weights(problem)) < 0.7


def test_the_factors_own_entropy_does_not_belong_under_the_expectation():
    """The lectures' slip (A-5): with -log q_i in the exponent a factor would be the square root of what it should be."""
    p = posterior(2, 0)
    variance = 1 / p.precision[0, 0]
    right = mean_field.factorise(p).elbo
    log_joint = as_problem(p)
    for factor, best in ((1.0, True), (2.0, False)):  # exp(1/2 E[...]) has twice the variance
        q = torch.distributions.MultivariateNormal(p.mean, torch.diag(torch.stack([factor * variance, 1 / p.precision[1, 1]])))
        elbo = (p.log_evidence + 0.5 * torch.logdet(p.precision) - math.log(2 * math.pi)
                - 0.5 * (p.precision.diagonal() * q.variance).sum() + q.entropy())
        assert (abs(float(elbo) - right) < 1e-9) == best
        assert float(elbo) <= right + 1e-9
    assert log_joint.dim == 2


@pytest.mark.parametrize("seed", range(10))
def test_k_hat_tells_the_banana_from_eight_schools(seed):
    bent, schools = problems.banana(), problems.eight_schools()
    k = [float(pareto_k_hat(mean_field.approximate(p).log_weights(p, 20_000, seed=seed))) for p in (bent, schools)]
    assert k[0] > 0.7 > k[1]


def test_refusals():
    with pytest.raises(mean_field.TooManyDimensions, match="10 latents.*serve up to three"):
        mean_field.approximate(problems.eight_schools("non-centred"))
    needle = Problem(lambda z: -0.5 * (z[..., 0] / 1e-4) ** 2 - 0.5 * (z[..., 1] - 1) ** 2, 2, name="needle")
    with pytest.raises(mean_field.GridTooCoarse, match="num_points"):
        mean_field.approximate(needle, box=((-5.0, 5.0), (-5.0, 7.0)))
    with pytest.raises(mean_field.MeanFieldError, match="no density"):
        mean_field.approximate(problems.coin(coordinate="p"), box=((2.0, 3.0),))
    assert issubclass(mean_field.TooManyDimensions, mean_field.MeanFieldError) and issubclass(mean_field.MeanFieldError, RuntimeError)


@pytest.mark.parametrize("options, message", [({"num_points": 2}, "at least 3"), ({"num_starts": 0}, "num_starts"),
                                              ({"box": ((0.0, 1.0),)}, "2 pairs"), ({"box": ((1.0, 0.0), (0.0, 1.0))}, "low < high")])
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        mean_field.approximate(problems.eight_schools(), **options)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(1, 3), n=st.integers(2, 12))
def test_piecewise_linear_densities(seed, d, n):
    stream = torch.Generator().manual_seed(seed)
    nodes = (0.1 + torch.rand(d, n, generator=stream, dtype=torch.float64)).cumsum(1)
    q = PiecewiseLinear(nodes, torch.rand(d, n, generator=stream, dtype=torch.float64) + 0.01)
    for i in range(d):
        one = PiecewiseLinear(q.nodes[i:i + 1], q.density[i:i + 1])
        def density(z, power=0):
            return z**power * math.exp(float(one.log_prob(torch.tensor([z], dtype=torch.float64))))
        low, high, points = float(nodes[i, 0]), float(nodes[i, -1]), nodes[i].tolist()
        moments = [quad(density, low, high, args=(power,), points=points[1:-1] or None, limit=200)[0] for power in (0, 1, 2)]
        assert moments[0] == pytest.approx(1, abs=1e-7)
        assert float(q.mean[i]) == pytest.approx(moments[1], abs=1e-6)
        assert float(q.variance[i]) == pytest.approx(moments[2] - moments[1] ** 2, abs=1e-5)
    z, log_q = q.rsample_and_log_prob((4, 500), generator=stream)
    assert z.shape == (4, 500, d) and log_q.shape == (4, 500)
    assert torch.allclose(log_q, q.log_prob(z), atol=1e-8)
    u = torch.stack([(z.reshape(-1, d)[:, i:i + 1] > q.nodes[i]).sum(1) for i in range(d)])  # the cells' shares
    for i in range(d):
        share = torch.bincount(u[i] - 1, minlength=n - 1)[: n - 1] / 2000
        mass = q._below[i].diff()
        assert ((share - mass).abs() <= 5 * torch.sqrt(mass * (1 - mass) / 2000) + 1e-9).all()
    assert torch.isinf(q.log_prob(nodes[:, 0] - 1)) and torch.equal(q.sample((2,), generator=stream).isfinite(), torch.ones(2, d) > 0)


@pytest.mark.parametrize("nodes, density, message", [
    ([[0.0, 1.0]], [[1.0, 1.0, 1.0]], "both be"), ([[1.0, 0.0]], [[1.0, 1.0]], "increase"), ([[0.0, 1.0]], [[0.0, 0.0]], "zero at every"),
    ([[0.0, 1.0]], [[-1.0, 2.0]], "negative"), ([[0.0, 1.0]], [[math.nan, 2.0]], "NaN")])
def test_piecewise_linear_refuses(nodes, density, message):
    with pytest.raises(ValueError, match=message):
        PiecewiseLinear(torch.tensor(nodes), torch.tensor(density))


# Gaussians --------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(d=st.integers(2, 6), seed=st.integers(0, 1000))
def test_the_closed_form_is_the_kl_and_variances_are_never_larger(d, seed):
    p = posterior(d, seed)
    half = [torch.arange(d // 2), torch.arange(d // 2, d)]
    for blocks in (None, half):
        q = mean_field.factorise(p, blocks)
        kl = torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(q.mean, q.covariance),
                                               torch.distributions.MultivariateNormal(p.mean, p.covariance))
        assert q.kl == pytest.approx(float(kl), abs=1e-8) and q.elbo == pytest.approx(p.log_evidence - float(kl), abs=1e-8)
        assert (q.covariance.diagonal() <= p.covariance.diagonal() + 1e-9).all()
    assert mean_field.factorise(p, half).kl <= mean_field.factorise(p).kl + 1e-9  # fewer cuts, less is lost


@pytest.mark.parametrize("seed", range(5))
def test_no_other_factorised_gaussian_is_closer(seed):
    p, stream = posterior(3, seed), torch.Generator().manual_seed(seed)
    best = mean_field.factorise(p)
    true = torch.distributions.MultivariateNormal(p.mean, p.covariance)
    for _ in range(50):
        move = 0.2 * torch.randn(2, 3, generator=stream, dtype=torch.float64)
        q = torch.distributions.MultivariateNormal(p.mean + move[0], torch.diag(best.covariance.diagonal() * move[1].exp()))
        assert float(torch.distributions.kl_divergence(q, true)) > best.kl


def test_coordinate_steps_descend_to_the_mean():
    p = posterior(4, 1)
    path = mean_field.coordinate_steps(p, torch.zeros(4, dtype=torch.float64), 200)
    assert path.shape == (801, 4) and torch.allclose(path[-1], p.mean, atol=1e-8)
    assert ((path.diff(dim=0) != 0).sum(1) <= 1).all()  # a staircase
    distance = torch.einsum("si,ij,sj->s", path - p.mean, p.precision, path - p.mean)
    assert (distance.diff() <= 1e-12).all()


def kalman(y, noise, step, mean, variance):
    """The filter's log likelihood, one observation at a time."""
    total = []
    for value in y:
        spread = variance + noise**2
        total.append(-0.5 * (math.log(2 * math.pi * spread) + (value - mean) ** 2 / spread))
        gain = variance / spread
        mean, variance = mean + gain * (value - mean), variance * (1 - gain) + step**2
    return total


def test_the_nile_has_the_published_likelihood():
    _, y = data.nile()
    noise, step = math.sqrt(15098.52), math.sqrt(1469.18)
    likelihood = kalman(y.tolist(), noise, step, 0.0, 1e7)
    assert sum(likelihood[1:]) == pytest.approx(-632.54, abs=0.01)  # of the years 2 to 100, as published
    p = mean_field.local_level(y, noise, step, first_scale=math.sqrt(1e7))
    assert p.log_evidence == pytest.approx(sum(likelihood), abs=1e-6)


def test_level_and_spell_against_the_dense_formula():
    y = data.nile()[1][:20]
    p = mean_field.local_level(y, 100.0, 40.0, first_mean=1000.0, first_scale=200.0, ar_scale=60.0, ar_memory=0.7)
    t = np.arange(20)
    level = 200.0**2 + 40.0**2 * np.minimum.outer(t, t)
    spell = 60.0**2 * 0.7 ** np.abs(t[:, None] - t)
    truth = multivariate_normal(np.full(20, 1000.0), level + spell + 100.0**2 * np.eye(20))
    assert p.log_evidence == pytest.approx(truth.logpdf(y.numpy()), abs=1e-8)
    gain = level @ np.linalg.inv(truth.cov)
    assert p.mean[:20].numpy() == pytest.approx(1000 + gain @ (y.numpy() - 1000), abs=1e-6)
    assert p.covariance[:20, :20].numpy() == pytest.approx(level - gain @ level, abs=1e-5)


def test_gaussian_process_against_scipy():
    x = torch.linspace(0, 5, 12, dtype=torch.float64)
    y = torch.sin(x)
    p = mean_field.gaussian_process(x, y, length=0.8, scale=1.3, noise_scale=0.2)
    r = np.sqrt(3) * np.abs(np.subtract.outer(x.numpy(), x.numpy())) / 0.8
    K = 1.69 * (1 + r) * np.exp(-r)
    assert p.log_evidence == pytest.approx(multivariate_normal(np.zeros(12), K + 0.04 * np.eye(12)).logpdf(y.numpy()), abs=1e-6)
    assert p.mean.numpy() == pytest.approx(K @ np.linalg.solve(K + 0.04 * np.eye(12), y.numpy()), abs=1e-6)


@pytest.mark.parametrize("call, message", [
    (lambda: mean_field.factorise(posterior(3, 0), [torch.tensor([0, 1])]), "each once"),
    (lambda: mean_field.factorise(posterior(2, 0), [torch.tensor([0, 1]), torch.tensor([1])]), "each once"),
    (lambda: mean_field.local_level(torch.tensor([1.0]), 1.0, 1.0), "two or more"),
    (lambda: mean_field.local_level(torch.zeros(4), 1.0, 1.0, ar_scale=1.0, ar_memory=1.5), "ar_memory"),
    (lambda: mean_field.local_level(torch.zeros(4), 0.0, 1.0), "noise_scale"),
    (lambda: mean_field.gaussian_process(torch.zeros(3), torch.zeros(4), length=1.0), "one length"),
    (lambda: mean_field.gaussian_process(torch.zeros(3), torch.zeros(3), length=1.0), "no x twice"),
    (lambda: mean_field.linear_gaussian(torch.zeros(3), torch.zeros(2, 2), torch.eye(2), 1.0), "must be \\(2,\\)")])
def test_gaussian_models_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Spins ------------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(size=st.integers(2, 4), beta=st.floats(0.0, 1.0), J=st.sampled_from([1.0, -1.0]), seed=st.integers(0, 100))
def test_naive_mean_field_is_a_bound_that_never_falls(size, beta, J, seed):
    model = problems.Ising(size, beta, J)
    start = 2 * torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    found = mean_field.naive(model, start=start)
    assert float(found.log_evidence) <= float(model.log_evidence) + 1e-9
    assert (found.history.diff() >= -1e-9).all()
    m = found.magnetisation
    field = sum(m.roll(s, a) for s in (1, -1) for a in (0, 1))
    assert torch.allclose(m, torch.tanh(beta * J * field), atol=1e-4)  # close to a critical point it creeps


def test_the_elbo_of_spins_by_enumeration():
    model = problems.Ising(3, 0.7)
    m = mean_field.naive(model, start=0.3).magnetisation.reshape(-1)
    states = torch.tensor(list(itertools.product((0, 1), repeat=9)))
    log_q = torch.log(torch.where(states == 1, (1 + m) / 2, (1 - m) / 2)).sum(1)
    elbo = (log_q.exp() * (model.log_joint(states) - log_q)).sum()
    assert float(mean_field.naive(model, start=0.3).log_evidence) == pytest.approx(float(elbo), abs=1e-9)


@pytest.mark.parametrize("beta", [0.05, 0.2, 0.3, 0.4407, 0.6, 1.0])
def test_bethe_lies_between_naive_and_the_truth_where_neighbours_attract(beta):
    model = problems.Ising(4, beta)
    found = mean_field.bethe(model)
    assert float(mean_field.naive(model).log_evidence) <= float(found.log_evidence) + 1e-9
    assert float(found.log_evidence) <= float(model.log_evidence) + 1e-9
    assert found.log_evidence.kind == "lower bound"
    u = found.magnetisation
    assert float(u.std()) < 1e-6


def test_bethe_is_no_bound_where_neighbours_are_frustrated():
    model = problems.Ising(3, 0.6, J=-1.0)
    found = mean_field.bethe(model)
    assert float(found.log_evidence) > float(model.log_evidence) + 0.5 and found.log_evidence.kind == "approximation"


def test_bethe_of_the_infinite_lattice_turns_at_its_own_critical_point():
    critical = math.atanh(1 / 3)
    below, above = (float(mean_field.bethe(problems.Ising(6, beta)).magnetisation.mean()) for beta in (critical - 0.02, critical + 0.02))
    assert abs(below) < 1e-3 < 0.3 < above
    below, above = (float(mean_field.naive(problems.Ising(6, beta)).magnetisation.mean()) for beta in (0.23, 0.27))
    assert abs(below) < 1e-3 < 0.3 < above


def test_onsager_and_enumeration():
    m, log_z = mean_field.onsager(1e-9)
    assert m == 0 and log_z == pytest.approx(math.log(2))
    critical = math.log(1 + math.sqrt(2)) / 2
    assert mean_field.onsager(critical - 1e-6)[0] == 0 < mean_field.onsager(critical + 1e-6)[0]
    catalan = 0.915965594177219015
    assert mean_field.onsager(critical)[1] == pytest.approx(0.5 * math.log(2) + 2 * catalan / math.pi, abs=1e-6)
    model, step = problems.Ising(4, 0.4), 1e-5
    slope = (float(problems.Ising(4, 0.4 + step).log_evidence) - float(problems.Ising(4, 0.4 - step).log_evidence)) / (2 * step)
    assert mean_field.exact_spins(model)[1] == pytest.approx(slope / 32, abs=1e-6)
    for beta in (0.2, 0.7):  # far from the critical point a 4 x 4 torus is nearly infinite
        per_site = float(problems.Ising(4, beta).log_evidence) / 16
        assert per_site == pytest.approx(mean_field.onsager(beta)[1], abs=0.06)


@pytest.mark.parametrize("call, message", [
    (lambda: mean_field.naive(problems.Ising(), start=2.0), r"\[-1, 1\]"), (lambda: mean_field.bethe(problems.Ising(), start=torch.zeros(3)), r"\(4, 4\)"),
    (lambda: mean_field.exact_spins(problems.Ising(5)), "too many")])
def test_spins_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_messages_that_do_not_settle_are_named():
    with pytest.raises(RuntimeError, match="damp them more"):
        mean_field.bethe(problems.Ising(3, 1.0, J=-1.0), start=0.3, num_sweeps=300, damping=0.0)


# Mixtures ---------------------------------------------------------------------------------------------------------

def clusters(n=300, d=3, K=3, seed=0):
    stream = torch.Generator().manual_seed(seed)
    centres = 6 * torch.randn(K, d, generator=stream, dtype=torch.float64)
    return centres[torch.arange(n) % K] + torch.randn(n, d, generator=stream, dtype=torch.float64)


@pytest.mark.parametrize("d, n", [(1, 5), (2, 9), (4, 30)])
def test_one_component_is_exact(d, n):
    """With one component nothing is factorised away, and the evidence is a product of Student t predictions."""
    x = clusters(n, d, 2)
    prior = MixturePrior.from_data(x, 1, degrees=d + 1.5)
    m, b, nu, S, truth = prior.mean.numpy(), prior.mean_precision, prior.degrees, prior.inverse_scale.numpy(), 0.0
    for row in x.numpy():
        df = nu - d + 1
        truth += multivariate_t(m, S * (b + 1) / (b * df), df).logpdf(row)
        S = S + b / (b + 1) * np.outer(row - m, row - m)
        m, b, nu = (b * m + row) / (b + 1), b + 1, nu + 1
    assert mean_field.fit_mixture(x, 1, prior=prior).log_evidence == pytest.approx(float(truth), abs=1e-7)
    assert mean_field.mixture_log_evidence(x, 1, prior) == pytest.approx(float(truth), abs=1e-7)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(3, 8), K=st.integers(1, 3), a=st.floats(0.1, 5))
def test_the_bound_lies_below_the_sum_over_assignments(seed, n, K, a):
    x = clusters(n, 2, 2, seed)
    prior = MixturePrior.from_data(x, K, concentration=a)
    found = mean_field.fit_mixture(x, K, prior=prior, seed=seed)
    assert found.log_evidence <= mean_field.mixture_log_evidence(x, K, prior) + 1e-8
    assert (found.history.diff() >= -1e-9 * abs(found.log_evidence)).all()


def test_the_bound_is_the_mean_weight_of_its_samples():
    """ELBO = E_q[log p(x, z) - log q(z)], with the assignments summed out by hand: an independent sum of all terms."""
    x, K = clusters(40, 2, 2), 2
    prior = MixturePrior.from_data(x, K)
    q = mean_field.fit_mixture(x, K, prior=prior, tolerance=1e-10)
    torch.manual_seed(0)
    S, D = 4000, torch.distributions

    def wishart(nu, inverse_scale):
        return D.Wishart(torch.as_tensor(nu, dtype=x.dtype), precision_matrix=inverse_scale)

    pi = D.Dirichlet(q.concentration).sample((S,))
    value = D.Dirichlet(torch.full((K,), prior.concentration, dtype=x.dtype)).log_prob(pi) - D.Dirichlet(q.concentration).log_prob(pi)
    for k in range(K):
        Lambda = wishart(q.degrees[k], q.inverse_scale[k]).sample((S,))
        own = D.MultivariateNormal(q.means[k], precision_matrix=q.mean_precision[k] * Lambda)
        mu = own.sample()
        value += (wishart(prior.degrees, prior.inverse_scale).log_prob(Lambda) - wishart(q.degrees[k], q.inverse_scale[k]).log_prob(Lambda)
                  + D.MultivariateNormal(prior.mean, precision_matrix=prior.mean_precision * Lambda).log_prob(mu) - own.log_prob(mu))
        r = q.responsibilities[:, k]
        likelihood = D.MultivariateNormal(mu.unsqueeze(1), precision_matrix=Lambda.unsqueeze(1)).log_prob(x) + pi[:, k].log().unsqueeze(1)
        value += likelihood @ r - torch.special.xlogy(r, r).sum()
    assert float(value.mean()) == pytest.approx(q.log_evidence, abs=4 * float(value.std()) / math.sqrt(S))


@pytest.mark.parametrize("seed", range(3))
def test_the_same_answer_as_scikit_learn(seed):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import BayesianGaussianMixture

    x, K = clusters(400, 3, 4, seed), 5
    prior, steps = MixturePrior.from_data(x, K), 15
    theirs = BayesianGaussianMixture(n_components=K, max_iter=steps, tol=0, reg_covar=0, init_params="random", random_state=seed,
                                     weight_concentration_prior_type="dirichlet_distribution", weight_concentration_prior=1 / K,
                                     mean_precision_prior=1.0, degrees_of_freedom_prior=3.0)
    with pytest.warns(ConvergenceWarning):
        theirs.fit(x.numpy())
    start = np.random.RandomState(seed).uniform(size=(400, K))
    ours = mean_field.fit_mixture(x, K, prior=prior, start=torch.tensor(start / start.sum(1, keepdims=True)),
                                  num_iterations=steps, tolerance=-math.inf)
    assert ours.means.numpy() == pytest.approx(theirs.means_, abs=1e-9)
    assert ours.covariances.numpy() == pytest.approx(theirs.covariances_, abs=1e-9)


def test_components_switch_off():
    x = clusters(300, 3, 3)
    for seed in range(5):
        found = mean_field.fit_mixture(x, 8, seed=seed)
        assert int((found.responsibilities.sum(0) > 1).sum()) == 3
        assert found.converged and float(found.weights.sum()) == pytest.approx(1)


def test_far_observations_do_not_overflow():
    x = torch.cat([clusters(50, 2, 1), clusters(50, 2, 1) + 1e4])
    found = mean_field.fit_mixture(x, 4)
    assert torch.isfinite(found.responsibilities).all() and math.isfinite(found.log_evidence)


@pytest.mark.parametrize("call, message", [
    (lambda: mean_field.fit_mixture(torch.zeros(4), 2), "shape"), (lambda: mean_field.fit_mixture(torch.zeros(2, 2), 3), "at least 3"),
    (lambda: mean_field.fit_mixture(torch.full((4, 2), math.nan), 2), "finite"),
    (lambda: mean_field.fit_mixture(clusters(), 2, start=torch.zeros(3, 2)), "responsibilities"),
    (lambda: mean_field.fit_mixture(clusters(), 2, start=torch.full((300,), 5)), "from 0 to 1"),
    (lambda: mean_field.fit_mixture(clusters(), 0), "num_components"),
    (lambda: MixturePrior.from_data(clusters(), 2, degrees=1.5), "above d - 1"),
    (lambda: mean_field.mixture_log_evidence(clusters(), 2, MixturePrior.from_data(clusters(), 2)), "too many")])
def test_mixtures_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Topics -----------------------------------------------------------------------------------------------------------

def corpus(documents=60, length=80, K=3, V=40, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.dirichlet(np.full(V, 0.1), K)
    return torch.tensor(np.stack([rng.multinomial(length, p) for p in rng.dirichlet(np.full(K, 0.2), documents) @ words])).double()


def kl_dirichlet(a, b):
    return (gammaln(a.sum()) - gammaln(a).sum() - gammaln(b.sum()) + gammaln(b).sum() + (a - b) @ (digamma(a) - digamma(a.sum())))


def test_the_bound_of_topics_term_by_term():
    C, alpha, eta = corpus(8, 20, 2, 10), 0.3, 0.2
    found = mean_field.fit_topics(C, 2, concentration=alpha, word_concentration=eta, num_iterations=10)
    words, shares, total = found.words.numpy(), found.shares.numpy(), 0.0
    log_b = digamma(words) - digamma(words.sum(1, keepdims=True))
    for c, gamma in zip(C.numpy(), shares):
        log_t = digamma(gamma) - digamma(gamma.sum())
        phi = np.exp(log_t[:, None] + log_b)
        phi /= phi.sum(0)
        total += (c * phi * (log_t[:, None] + log_b - np.log(phi))).sum() - kl_dirichlet(gamma, np.full(2, alpha))
    total -= sum(kl_dirichlet(row, np.full(10, eta)) for row in words)
    assert found.log_evidence == pytest.approx(total, abs=1e-8)
    assert found.log_evidence == pytest.approx(mean_field.topic_bound(C, found.words, concentration=alpha, word_concentration=eta))


def test_one_topic_is_exact():
    C, eta = corpus(5, 30, 1, 12), 0.5
    found = mean_field.fit_topics(C, 1, word_concentration=eta)
    c = C.sum(0).numpy()
    truth = gammaln(12 * eta) - gammaln(12 * eta + c.sum()) + (gammaln(eta + c) - gammaln(eta)).sum()
    assert found.log_evidence == pytest.approx(truth, abs=1e-7)


def test_below_the_exact_evidence_of_a_document():
    """Two known topics: the shares are one number, and the evidence of a document an integral over it."""
    C, alpha = corpus(6, 25, 2, 12), 0.4
    fit = mean_field.fit_topics(C, 2, concentration=alpha)
    topics = fit.words / fit.words.sum(1, keepdim=True)
    bounds, (first, second) = mean_field.document_bounds(C, topics, concentration=alpha), topics.numpy()
    for c, bound in zip(C.numpy(), bounds.tolist()):
        def density(s):  # in s = t^alpha the Dirichlet's spike at t = 0 is gone; by symmetry so is the one at t = 1
            t = s ** (1 / alpha)
            both = [math.exp(c @ np.log(u * first + (1 - u) * second) + 60) for u in (t, 1 - t)]
            return sum(both) * (1 - t) ** (alpha - 1) / alpha
        beta = 2 * gammaln(alpha) - gammaln(2 * alpha)
        truth = math.log(quad(density, 0, 0.5**alpha, limit=500)[0]) - 60 - beta
        assert truth - 2 < bound < truth


def test_topics_are_found_again():
    C = corpus(400, 150, 3, 40, seed=1)
    best = max((mean_field.fit_topics(C, 3, seed=seed) for seed in range(3)), key=lambda f: f.log_evidence)
    rng = np.random.default_rng(1)
    true = rng.dirichlet(np.full(40, 0.1), 3)
    found = (best.words / best.words.sum(1, keepdim=True)).numpy()
    off = min(np.abs(found[list(order)] - true).sum() for order in itertools.permutations(range(3)))
    assert off < 0.5 and (best.history.diff() > -1e-3 * best.num_words).all()


def test_batches_do_not_change_a_document():
    C = corpus(300, 30, 2, 15)
    found = mean_field.fit_topics(C, 2, num_iterations=3)
    alone = mean_field.fit_topics(C[:10], 2, start=found.words, num_iterations=1)
    assert alone.shares.shape == (10, 2) and found.shares.sum(1).numpy() == pytest.approx(C.sum(1).numpy() + 0.2, abs=1e-6)


@pytest.mark.parametrize("C, options, message", [
    (torch.zeros(3), {}, "documents, words"), (-torch.ones(2, 3), {}, "not negative"), (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), {}, "must have a word"),
    (torch.ones(2, 3), {"start": torch.ones(2, 2)}, "start must be"), (torch.ones(2, 3), {"concentration": 0.0}, "concentration")])
def test_topics_refuse(C, options, message):
    with pytest.raises(ValueError, match=message):
        mean_field.fit_topics(C, 2, **options)


def test_the_data():
    years, flow = data.nile()
    assert len(years) == len(flow) == 100 and float(flow.mean()) == pytest.approx(919.35) and float(flow[42]) == 456
    found = data.python_help()
    assert found.counts.shape == (len(found.titles), len(found.vocabulary)) and len(found.titles) > 40
    assert {"class", "function", "string"} <= set(found.vocabulary) and "the" not in found.vocabulary


# The explorers, and the numbers of the exercises --------------------------------------------------------------------

def test_the_gaussian_explorer():
    explorer = explore.gaussian()
    for rho, step in itertools.product((-0.9, 0.0, 0.5, 0.99), (0, 1, 7, 24)):
        frame = explorer.frame(rho=rho, step=step)
        q = torch.distributions.MultivariateNormal(torch.tensor(frame["mean"]), torch.tensor(frame["q"]))
        p = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.tensor(frame["truth"]))
        assert float(frame["kl"]) == pytest.approx(float(torch.distributions.kl_divergence(q, p)), abs=1e-9)
        assert float(frame["variance"]) == pytest.approx(1 - rho**2)
    assert np.abs(explorer.frame(rho=0.0, step=2)["mean"]).max() < 1e-12  # independent latents: one step each


def test_the_ising_explorer():
    explorer = explore.ising()
    for beta in explorer.controls["beta"].stops:
        frame = explorer.frame(beta=beta)
        found = mean_field.naive(problems.Ising(6, beta))
        assert float(frame["best"]) == pytest.approx(float(found.log_evidence) / 36, abs=1e-5)
        if abs(beta - 0.25) > 0.02:
            assert float(frame["m"]) == pytest.approx(abs(float(found.magnetisation.mean())), abs=1e-3)
        assert frame["log_z"] > frame["best"] > np.nanmax(frame["bound"]) - 1e-3


def test_the_ising_explorer_says_where_its_start_ends():
    explorer = explore.ising()
    assert 0.0 in explorer.controls["start"].stops
    for beta, start in itertools.product((0.2, 0.4, 0.6), (-0.9, 0.0, 0.15)):
        frame = explorer.frame(beta=beta, start=start)
        found = float(mean_field.naive(problems.Ising(6, beta), start=start).magnetisation.mean())
        assert float(frame["end"]) == pytest.approx(found, abs=1e-3)
    assert float(explorer.frame(beta=0.4, start=0.0)["reached"]) == 0.0


def test_the_mixture_explorer():
    explorer = explore.mixture()
    for concentration in ("0.001", "0.1", "10"):
        bounds = [float(explorer.frame(iteration=i, concentration=concentration)["bound"]) for i in explore.ITERATIONS]
        assert (np.diff(bounds) > -1e-6).all()
    x = (data.iris().X - data.iris().X.mean(0)) / data.iris().X.std(0)
    found = mean_field.fit_mixture(x, 8, prior=MixturePrior.from_data(x, 8, concentration=0.1), seed=2, tolerance=1e-5)
    assert float(explorer.frame(iteration=60)["bound"]) == pytest.approx(found.log_evidence, abs=0.01)


def test_the_numbers_in_the_worked_solution_of_axes():
    path = Path(__file__).parents[1] / "chapters/exercises/mean_field/mean_field.ipynb"
    solution = next(cell["source"] for cell in json.loads(path.read_text())["cells"] if cell["id"] == "axes-solution")
    solution, space = "".join(solution), {"Problem": Problem, "laplace": laplace, "mean_field": mean_field}
    exec(solution, space)
    words = " ".join(solution.replace("#", "").split())
    for problem, told in ((problems.logistic_regression("mean radius", num_data=100), "from {:.2f} to {:.2f} nats"),
                          (problems.eight_schools(), "{:.4f} to {:.4f}"), (problems.banana(), "keeps its {1:.2f}")):
        before = mean_field.approximate(problem).gap(problem)
        after = float(problem.log_evidence) - float(space["axes"](problem))
        assert told.format(before, after) in words
