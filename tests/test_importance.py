"""Importance sampling: right within its own error bars over seeds, equal to ArviZ's k-hat, and outspoken
where it cannot serve."""

import inspect
import math
import random
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammaln, logsumexp
from torch.distributions import (Beta, Categorical, Distribution, Independent, MixtureSameFamily,
                                 MultivariateNormal, Normal, TransformedDistribution)
from torch.distributions import StudentT as TorchStudentT
from torch.distributions.transforms import SigmoidTransform

from tightbound import Problem, effective_sample_size, exact, importance, laplace, league, problems
from tightbound.checks import importance as check
from tightbound.distributions import Gaussian, Particles, StudentT, choose, draw, standard_normal
from tightbound.explore import importance as explore


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def bell(d: int, scale: float = 1.0) -> Gaussian:
    return Gaussian(torch.zeros(d, dtype=torch.float64), scale_tril=scale * torch.eye(d, dtype=torch.float64))


def standard_problem(d: int) -> Problem:
    return Problem(lambda z: -0.5 * z.square().sum(-1) - 0.5 * d * math.log(2 * math.pi), d, name="standard",
                   log_evidence=0.0)


@cache
def schools() -> tuple[Problem, StudentT]:
    problem = problems.eight_schools()
    return problem, importance.default_proposal(problem)


class SchoolsPrior(Distribution):
    """The prior of the ten non-centred latents of eight schools, from torch's own pieces."""

    def __init__(self):
        super().__init__(event_shape=torch.Size([10]), validate_args=False)
        self.mu, self.eta = Normal(vector(0.0), vector(5.0)), Normal(torch.zeros(8, dtype=torch.float64), 1.0)

    def sample(self, sample_shape=()):
        tau = 5 * torch.tan(0.5 * math.pi * torch.rand((*sample_shape, 1), dtype=torch.float64))
        return torch.cat([self.mu.sample(sample_shape), tau.log(), self.eta.sample(sample_shape)], -1)

    def log_prob(self, z):
        tau = z[..., 1].exp()
        log_tau = math.log(2 / (5 * math.pi)) - torch.log1p((tau / 5) ** 2) + z[..., 1]
        return self.mu.log_prob(z[..., :1]).squeeze(-1) + log_tau + self.eta.log_prob(z[..., 2:]).sum(-1)


# The estimate, over seeds ---------------------------------------------------------------------------------

def is_standard_normal(z, seeds):
    """Errors in units of their standard errors: mean zero and spread one, within four standard errors."""
    z = np.asarray(z, dtype=float)
    assert z.shape[0] == seeds
    assert np.abs(z.mean(0)).max() < 4 / math.sqrt(seeds)
    assert np.abs(z.std(0) - 1).max() < 4 / math.sqrt(2 * seeds)


def wide_regression():
    problem = problems.linear_regression(("bmi", "bp"), num_data=60)
    loc = laplace.approximate(problem).q.loc
    return problem, Independent(TorchStudentT(vector(4.0, 4.0, 4.0), loc, 0.2), 1)


def logistic():
    problem = problems.logistic_regression(num_data=40)
    return problem, importance.default_proposal(problem)


def coin_in_p():
    return problems.coin(coordinate="p"), Independent(Beta(vector(5.0), vector(4.0)), 1)


def coin_in_logit():
    return problems.coin(), importance.default_proposal(problems.coin())


def ten_latents():
    return problems.eight_schools("non-centred"), SchoolsPrior()


CASES = {"eight schools": (schools, 2000), "ten latents, from the prior": (ten_latents, 4000),
         "linear": (wide_regression, 2000), "logistic": (logistic, 1000),
         "coin in p": (coin_in_p, 1000), "coin in logit p": (coin_in_logit, 1000)}


@pytest.mark.parametrize(("case", "num_samples"), CASES.values(), ids=CASES)
def test_the_log_evidence_is_right_within_its_standard_error(case, num_samples):
    problem, q = case()
    runs = [importance.approximate(problem, proposal=q, num_samples=num_samples, seed=seed)
            for seed in range(60)]
    is_standard_normal([-run.gap(problem) / run.log_evidence.standard_error for run in runs], 60)
    assert all(run.log_evidence.kind == "consistent estimate" for run in runs)
    assert all(run.evaluations == num_samples for run in runs)
    # sharp enough to see an error of a few tenths
    assert np.mean([run.log_evidence.standard_error for run in runs]) < 0.12


def test_posterior_means_are_right_within_their_standard_errors():
    problem, q = schools()

    def of(z):
        return torch.stack([z[..., 0], z[..., 1].exp(), (z[..., 0] * z[..., 1]), z[..., 1].exp() ** 0.5], -1)

    truth = exact.quadrature(problem, of=of)
    runs = [importance.approximate(problem, proposal=q, num_samples=4000, of=of, seed=seed).diagnostics
            for seed in range(80)]
    error = np.stack([run["expectation"].numpy() - truth for run in runs])
    is_standard_normal(error / np.stack([run["standard_error"] for run in runs]), 80)


def test_the_mean_weight_is_unbiased_and_its_logarithm_is_low_by_half_its_relative_variance():
    p_hat = importance.iwae_bound(normal_weights(1.3, 4, 100_000, 50)).exp()
    relative_variance = (1.3**2 / math.sqrt(2 * 1.3**2 - 1)) ** 4 - 1
    assert float(p_hat.mean()) == pytest.approx(1, abs=4 * math.sqrt(relative_variance / p_hat.numel() / 50))
    # E log p = E[log p - (p - 1)], whose variance is much smaller
    bias = p_hat.log() - (p_hat - 1)
    assert float(bias.mean()) == pytest.approx(-relative_variance / 100, rel=0.06)
    assert float(bias.std()) / math.sqrt(len(bias)) < 0.01 * relative_variance / 100


def normal_weights(s, d, *shape, seed=0):
    """Log weights of N(0, s^2 I) for N(0, I) in d dimensions."""
    eps = standard_normal((*shape, d), generator=stream(seed))
    return 0.5 * (1 - s**2) * eps.square().sum(-1) + d * math.log(s)


def test_left_to_itself_it_takes_a_heavy_tailed_proposal_around_laplaces_gaussian():
    problem = problems.eight_schools()
    found, q = importance.approximate(problem, num_samples=1000), laplace.approximate(problem).q
    proposal = found.diagnostics["proposal"]
    assert isinstance(proposal, StudentT) and proposal.df == 5
    assert torch.equal(proposal.loc, q.loc) and torch.equal(proposal.scale_tril, q.scale_tril)
    assert found.evaluations > 1000  # Laplace's climb counts too
    assert found.method == "importance" and found.seconds > 0
    assert abs(found.gap(problem)) < 5 * found.log_evidence.standard_error


def test_it_stands_in_the_league():
    table = league(problems.coin(), [importance, importance.anneal])
    assert [row.method for row in table.rows] == ["importance", "annealed importance"]
    assert all(abs(row.gap) < 5 * row.log_evidence.standard_error + 1e-9 for row in table.rows)


# One pass -------------------------------------------------------------------------------------------------

def in_one_go(log_weights, f):
    """Log evidence, ESS, mean and standard error from all weights at once, in NumPy."""
    l, f = log_weights.numpy(), f.numpy()
    share = np.exp(l - logsumexp(l))
    inside = share > 0
    share, f = share[inside], f[inside]
    mean = share @ f
    return logsumexp(l) - math.log(len(l)), 1 / (share**2).sum(), mean, np.sqrt((share**2 @ (f - mean) ** 2))


def in_pieces(log_weights, f, cuts):
    sums = importance._Sums(len(log_weights))
    cuts = [0, *sorted({c for c in cuts if c < len(log_weights)} - {0}), len(log_weights)]
    noise = stream()
    for low, high in zip(cuts, cuts[1:]):
        sums.add(log_weights[low:high], f[low:high], f[low:high], noise)
    return sums


@given(seed=st.integers(0, 10**6), size=st.integers(25, 300), scale=st.sampled_from([0.0, 0.3, 3.0, 300.0]),
       cuts=st.lists(st.integers(1, 299), max_size=12), blank=st.integers(0, 20),
       late=st.sampled_from([0.0, 5.0, 800.0]),
       offset=st.sampled_from([0.0, -1e4, 1e9]))
@settings(max_examples=150)
def test_sums_over_pieces_are_the_formulas_on_all_weights(seed, size, scale, cuts, blank, late, offset):
    l, f = scale * normal(size, seed=seed), normal(size, 2, seed=seed + 1)
    l[:blank], f[:blank] = -math.inf, math.nan  # outside of the support f has no value
    l[-1] += late  # a large weight at the very end
    sums, expected = in_pieces(l - 700, f + offset, [*cuts, blank]), in_one_go(l - 700, f)
    mean, error = sums.expectation()
    assert sums.log_evidence() == pytest.approx(expected[0], rel=1e-12)
    assert sums.effective_sample_size() == pytest.approx(expected[1], rel=1e-9)
    np.testing.assert_allclose(mean - offset, expected[2], rtol=1e-9, atol=1e-9 + 4e-16 * abs(offset))
    np.testing.assert_allclose(error, expected[3], rtol=1e-5, atol=1e-7 + 4e-15 * abs(offset))
    assert torch.equal(sums.tail, l.sub(700).sort(descending=True).values[:importance._tail_length(size) + 1])
    assert float(importance._k_hat_of_tail(sums.tail)) == float(importance.pareto_k_hat(l - 700))


def test_the_whole_run_is_the_formulas_on_its_own_weights():
    problem, q = schools()
    drawn = []

    class Listening(Distribution):
        has_rsample = False

        def rsample_and_log_prob(self, shape, *, generator):
            drawn.append(q.rsample_and_log_prob(shape, generator=generator))
            return drawn[-1]

    found = importance.approximate(problem, proposal=Listening(validate_args=False), num_samples=1000,
                                   batch=300)
    assert [len(z) for z, _ in drawn] == [300, 300, 300, 100]
    z = torch.cat([z for z, _ in drawn])
    l = problem.log_joint(z) - torch.cat([log_q for _, log_q in drawn])
    log_p, ess, mean, error = in_one_go(l, z)
    assert float(found.log_evidence) == pytest.approx(log_p, abs=1e-12)
    assert found.log_evidence.standard_error == pytest.approx(math.sqrt(1 / ess - 1e-3), rel=1e-9)
    assert found.diagnostics["ess"] == pytest.approx(ess, rel=1e-12)
    assert found.diagnostics["ess"] == pytest.approx(float(effective_sample_size(l)), rel=1e-12)
    np.testing.assert_allclose(found.diagnostics["expectation"], mean, rtol=1e-12)
    np.testing.assert_allclose(found.diagnostics["standard_error"], error, rtol=1e-9)
    assert found.diagnostics["k_hat"] == float(importance.pareto_k_hat(l))
    history = [logsumexp(l[:n]) - math.log(n) for n in (300, 600, 900, 1000)]
    np.testing.assert_allclose(found.history, history, atol=1e-12)
    assert {tuple(row) for row in found.q.z.tolist()} <= {tuple(row) for row in z.tolist()}


def test_memory_does_not_grow_with_the_number_of_samples():
    sizes = []
    plain = standard_problem(3)
    problem = Problem(lambda z: sizes.append(len(z)) or plain._log_joint(z), 3, name="listening")
    found = importance.approximate(problem, proposal=bell(3, 1.1), num_samples=100_000, batch=20_000)
    assert sum(sizes) == 100_000 and max(sizes) == importance.PART
    assert len(found.q.z) == importance.KEPT and len(found.history) == 5

    def held(pieces):
        sums, noise = importance._Sums(10**6), stream()
        for seed in range(pieces):
            z = normal(20_000, 2, seed=seed)
            sums.add(normal(20_000, seed=seed), z, z.clone(), noise)
        parts = [part for value in vars(sums).values()
                 for part in (value if isinstance(value, list) else [value])]
        return sum(part.untyped_storage().nbytes() for part in parts if isinstance(part, torch.Tensor))

    # the tail of 3,001 weights, and 4,000 draws in the plane
    assert held(6) <= held(1) < 8 * (4 * importance.KEPT)


@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 3, 4, 5]], ids=["one piece", "two", "six"])
def test_draws_are_kept_in_proportion_to_their_weights(cuts):
    weights = vector(0.0, 1.0, 5.0, 0.0, 2.0, 12.0)
    l = torch.cat([weights.log(), torch.full((10_000,), -math.inf, dtype=torch.float64)])
    z = torch.arange(len(l), dtype=torch.float64).unsqueeze(-1)
    kept = in_pieces(l, z, [*cuts, 6, 5000]).kept
    counts = torch.bincount(kept.squeeze(-1).long(), minlength=6)
    assert len(kept) == counts.sum() == 4000 and counts[0] == counts[3] == 0
    hit = weights > 0
    assert stats.chisquare(counts[hit], 4000 * weights[hit] / weights.sum()).pvalue > 1e-3


def test_kept_draws_have_the_weighted_mean_and_spread():
    problem, q = schools()
    z = []
    for seed in range(40):
        found = importance.approximate(problem, proposal=q, num_samples=20_000, batch=2_500, seed=seed)
        assert isinstance(found.q, Particles) and found.q.z.shape == (4000, 2)
        z.append((found.q.mean - found.diagnostics["expectation"]) / (found.q.variance / 4000).sqrt())
    is_standard_normal(torch.stack(z), 40)


def test_same_seed_same_answer_and_the_global_stream_is_left_alone():
    problem, q = schools()
    plain = MultivariateNormal(q.loc, scale_tril=1.2 * q.scale_tril)
    for proposal in (q, plain):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        runs = [importance.approximate(problem, proposal=proposal, num_samples=500, seed=seed)
                for seed in (1, 1, 2)]
        chains = [importance.anneal(problem, proposal=proposal, num_samples=50, num_temperatures=3, seed=seed)
                  for seed in (1, 1, 2)]
        importance.gibbs(problems.gaussian_mixture(), num_sweeps=2)
        assert torch.equal(torch.get_rng_state(), before)
        for first, again, other in (runs, chains):
            assert float(first.log_evidence) == float(again.log_evidence) != float(other.log_evidence)
            assert torch.equal(first.q.z, again.q.z)
    noise = stream(1)  # a generator goes on where it was
    once, twice = (
        float(importance.approximate(problem, proposal=plain, num_samples=500, seed=noise).log_evidence)
        for _ in "12")
    assert once == float(runs[0].log_evidence) != twice


# Plain distributions of torch as proposals ----------------------------------------------------------------

PLAIN = {
    "independent": lambda: Independent(Normal(vector(4.0, 1.0), vector(6.0, 2.0)), 1),
    "mixture": lambda: MixtureSameFamily(Categorical(vector(0.5, 0.5)), Independent(Normal(
        torch.tensor([[4.0, 2.0], [4.0, -1.0]], dtype=torch.float64),
        torch.tensor([[5.0, 1.5], [4.0, 2.5]], dtype=torch.float64)), 1)),
    "multivariate": lambda: MultivariateNormal(vector(4.0, 0.8), torch.diag(vector(36.0, 3.0))),
}


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_plain_distributions_are_proposals(make):
    problem, _ = schools()
    runs = [importance.approximate(problem, proposal=make(), num_samples=4000, seed=seed)
            for seed in range(30)]
    is_standard_normal([-run.gap(problem) / run.log_evidence.standard_error for run in runs], 30)


def test_a_transformed_distribution_is_a_proposal():
    problem = problems.coin(coordinate="p")
    normal_in_logit = Independent(Normal(vector(0.0), vector(0.7)), 1)
    q = TransformedDistribution(normal_in_logit, SigmoidTransform())
    runs = [importance.approximate(problem, proposal=q, num_samples=1000, seed=seed) for seed in range(30)]
    is_standard_normal([-run.gap(problem) / run.log_evidence.standard_error for run in runs], 30)


# What is refused ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", [importance.approximate, importance.anneal])
@pytest.mark.parametrize("proposal, message", [
    (bell(3), r"eight schools.*shape \(2,\)"), (Normal(vector(0.0, 0.0), 1.0), r"Independent\(\.\.\., 1\)"),
    (Particles(torch.zeros(5, 2, dtype=torch.float64)), "Particles.*eight schools.*log_prob")],
    ids=["another dimension", "not one density", "no density"])
def test_proposals_that_do_not_fit_are_named(method, proposal, message):
    with pytest.raises(ValueError, match=message):
        method(schools()[0], proposal=proposal)


@pytest.mark.parametrize("method, options, message", [
    (importance.approximate, {"num_samples": 24}, "num_samples must be an integer, at least 25, got 24"),
    (importance.approximate, {"num_samples": 1e4}, "num_samples must be an integer, .* got 10000.0"),
    (importance.approximate, {"batch": 0}, "batch must be an integer, at least 1, got 0"),
    (importance.anneal, {"num_samples": 24}, "num_samples >= 25"),
    (importance.anneal, {"num_temperatures": 0}, "num_temperatures"),
    (importance.anneal, {"num_leapfrog": 0}, "num_leapfrog"),
    (importance.anneal, {"step_size": 0.0}, "step_size"),
    (importance.anneal, {"step_size": math.nan}, "step_size > 0, got .* nan")])
def test_numbers_out_of_range_are_named(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(schools()[0], proposal=schools()[1], **options)


def test_a_proposal_that_misses_the_support_is_named():
    problem = problems.coin(coordinate="p")
    elsewhere = Independent(Normal(vector(9.0), vector(0.1)), 1)
    none = r"none of 1000 samples.*coin \(p\).*covers its support"
    with pytest.raises(importance.ImportanceError, match=none):
        importance.approximate(problem, proposal=elsewhere, num_samples=1000)
    with pytest.raises(importance.ImportanceError, match=r"coin \(p\).*inside its support"):
        importance.anneal(problem, proposal=elsewhere, num_samples=100, num_temperatures=2)


def test_a_proposal_without_density_where_it_samples_is_named():
    class Lying(Gaussian):
        def rsample_and_log_prob(self, shape=(), *, generator=None):
            z, log_q = super().rsample_and_log_prob(shape, generator=generator)
            return z, torch.where(z[..., 0] > 2, self.hole, log_q)

    for hole in (-math.inf, math.nan):
        q = Lying(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
        q.hole = vector(hole)
        with pytest.raises(ValueError, match="log weight is NaN or .inf"):
            importance.approximate(standard_problem(1), proposal=q)


def test_where_laplace_finds_no_gaussian_a_proposal_is_needed():
    with pytest.raises(laplace.LaplaceError):
        importance.approximate(problems.ring())
    found = importance.approximate(problems.ring(), proposal=bell(2, 2.5))
    assert abs(found.gap(problems.ring())) < 4 * found.log_evidence.standard_error < 0.1


def test_a_log_joint_that_is_nan_is_still_refused():
    broken = Problem(lambda z: torch.where(z[..., 0] > 3, math.nan, 0.0).double(), 1, name="broken")
    with pytest.raises(ValueError, match="'broken' is nan"):
        importance.approximate(broken, proposal=bell(1))


BAD_WEIGHTS = {"NaN": vector(*[0.0] * 30, math.nan), "+inf": vector(*[0.0] * 30, math.inf),
               "all -inf": vector(*[-math.inf] * 30)}


@pytest.mark.parametrize("log_weights", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_named(log_weights):
    for function in (importance.pareto_k_hat, importance.pareto_smooth,
                     lambda l: importance.resample(torch.zeros(len(l), 1, dtype=torch.float64), l, 5)):
        with pytest.raises(ValueError, match="must not be NaN or .inf, nor all be -inf"):
            function(log_weights)


@pytest.mark.parametrize("function", [importance.pareto_k_hat, importance.pareto_smooth])
def test_a_tail_needs_samples(function):
    with pytest.raises(ValueError, match="at least 25 log weights, got 24"):
        function(torch.zeros(3, 24, dtype=torch.float64))


# Pareto smoothing -----------------------------------------------------------------------------------------

TAILS = {
    "Gaussian": lambda n, seed: normal(n, seed=seed), "wide": lambda n, seed: 10 * normal(n, seed=seed),
    "narrow": lambda n, seed: 0.01 * normal(n, seed=seed),
    "far below": lambda n, seed: normal(n, seed=seed) - 2000,
    "far above": lambda n, seed: 3 * normal(n, seed=seed) + 2000,
    "bounded": lambda n, seed: -normal(n, seed=seed).square(),
    "exact Pareto": lambda n, seed: normal_weights(0.5, 2, n, seed=seed),
    "very heavy": lambda n, seed: -2 * normal(n, seed=seed).abs().log(),
    "half outside": lambda n, seed: torch.where(
        normal(n, seed=seed + 99) > 0, normal(n, seed=seed), -math.inf),
}


@pytest.mark.parametrize("size", [25, 26, 99, 224, 225, 226, 1000, 10_001])
@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_k_hat_and_smoothed_weights_are_arvizs(tail, size):
    for seed in range(3):
        l = tail(size, seed)
        with np.errstate(divide="ignore"):
            theirs, k = array_stats.psislw(-l.numpy())
        smooth, ours = importance.pareto_smooth(l)
        assert float(importance.pareto_k_hat(l)) == float(ours)
        assert float(ours) == pytest.approx(float(k), rel=1e-10, abs=1e-10)
        np.testing.assert_allclose(smooth - smooth.logsumexp(0), theirs, rtol=1e-10, atol=1e-10)


def test_a_batch_is_one_at_a_time():
    l = torch.stack([tail(500, 7) for tail in TAILS.values()]).reshape(3, 3, 500)
    smooth, k = importance.pareto_smooth(l)
    assert k.shape == (3, 3) and smooth.shape == l.shape and torch.equal(importance.pareto_k_hat(l), k)
    for i in range(3):
        for j in range(3):
            one, k_one = importance.pareto_smooth(l[i, j])
            torch.testing.assert_close(k[i, j], k_one, rtol=1e-12, atol=0)
            torch.testing.assert_close(smooth[i, j], one, rtol=1e-12, atol=1e-12)


def test_smoothing_leaves_the_body_the_order_and_the_maximum():
    l = 2 * normal(1000, seed=4)
    smooth, _ = importance.pareto_smooth(l)
    order = l.argsort()
    body, tail = order[:-94], order[-94:]  # 3 sqrt(1000) = 94.9
    assert torch.equal(smooth[body], l[body]) and not (smooth[tail[:-1]] == l[tail[:-1]]).any()
    assert (smooth[tail].diff() >= 0).all() and smooth.max() <= l.max() and smooth[tail[0]] >= l[body[-1]]


def test_smoothing_takes_error_away_where_the_tail_is_heavy():
    l = normal_weights(0.6, 2, 2000, 1000)  # k = 0.64, exact mean 1
    raw = importance.iwae_bound(l).exp() - 1
    smooth = importance.iwae_bound(importance.pareto_smooth(l)[0]).exp() - 1
    assert smooth.square().mean() < 0.5 * raw.square().mean()


@pytest.mark.parametrize("s", [0.9, 0.8, 0.7, 0.5, 0.3])
def test_k_hat_of_a_narrow_gaussian_in_the_plane(s):
    """There |eps|^2/2 is exponential, so that the weights are Pareto all the way: k = 1 - s^2."""
    l, k = normal_weights(s, 2, 20, 50_000), 1 - s**2
    M = importance._tail_length(50_000)
    found = importance.pareto_k_hat(l)
    pulled = (M * k + 5) / (M + 10)  # by the prior
    assert float(found.mean()) == pytest.approx(pulled, abs=4 * (1 + k) / math.sqrt(20 * M) + 0.003)
    # the error of the maximum-likelihood estimate
    assert float(found.std()) == pytest.approx((1 + k) / math.sqrt(M), rel=0.6)


def test_k_hat_tells_light_from_heavy_tails_in_one_dimension():
    for s in (1.1, 1.5, 3.0):  # bounded weights
        assert (importance.pareto_k_hat(normal_weights(s, 1, 20, 10_000)) < 0.2).all()
    for s in (0.3, 0.4):
        assert (importance.pareto_k_hat(normal_weights(s, 1, 20, 10_000)) > 0.5).all()


def test_the_ends_of_k_hat():
    equal = torch.full((100,), -3.0, dtype=torch.float64)
    one = torch.full((100,), -math.inf, dtype=torch.float64)
    one[17] = 4.0
    for l, k in ((equal, -math.inf), (one, math.inf)):
        smooth, found = importance.pareto_smooth(l)
        assert float(found) == float(importance.pareto_k_hat(l)) == k and torch.equal(smooth, l)
    q = bell(2)
    found = importance.approximate(standard_problem(2), proposal=q, num_samples=100)
    assert found.diagnostics["k_hat"] == -math.inf


@pytest.mark.parametrize("scale", [30, 300, 340, 700, 3000])
def test_weights_that_differ_by_hundreds_of_nats_raise_the_alarm(scale):
    l = scale * normal(400, 100, seed=1)
    smooth, k = importance.pareto_smooth(l)
    assert (k > 2).all() and not smooth.isnan().any()  # neither overflow nor NaN


@pytest.mark.parametrize("k", [-0.4, -0.1, 0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_fit_pareto_on_quantiles(k, sigma):
    m = 2000
    excess = stats.genpareto.ppf((np.arange(m, 0, -1) - 0.5) / m, k, scale=sigma)
    found, found_sigma = importance.fit_pareto(torch.tensor(excess / excess[0]))
    # the prior of ten observations undone
    assert (float(found) * (m + 10) - 5) / m == pytest.approx(k, abs=0.02)
    assert float(found_sigma) * excess[0] == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize("k", [-0.7, -1e-9, 0.0, 1e-12, 0.4, 1.3])
def test_the_quantile_is_scipys(k):
    p = torch.linspace(0.0, 0.999, 50, dtype=torch.float64)
    found = importance.pareto_quantile(p, vector(k), vector(1.7))
    np.testing.assert_allclose(found, stats.genpareto.ppf(p.numpy(), k, scale=1.7), rtol=1e-8, atol=1e-12)


# Bounds, dimension, resampling ----------------------------------------------------------------------------

def test_the_importance_weighted_bound_rises_and_stays_below():
    problem, q = schools()
    z, log_q = q.rsample_and_log_prob((2**18,), generator=stream())
    l = problem.log_joint(z) - log_q
    truth, v, below = float(problem.log_evidence), 2**18 / float(effective_sample_size(l)) - 1, -math.inf
    for K in (1, 2, 4, 8, 16, 32, 64, 128):
        groups = importance.iwae_bound(l.reshape(-1, K))
        by_hand = np.log(np.exp(l.numpy().reshape(-1, K)).mean(1))
        np.testing.assert_allclose(groups, by_hand, atol=1e-12)
        bound, error = float(groups.mean()), float(groups.std()) / math.sqrt(len(groups))
        assert below < bound < truth + 3 * error
        below = bound
    assert truth - bound == pytest.approx(v / 256, abs=3 * error + 0.1 * v / 256)
    assert torch.equal(importance.iwae_bound(l.reshape(-1, 1)), l)


@pytest.mark.parametrize("d", [1, 5, 20])
@pytest.mark.parametrize("s", [0.85, 1.2, 1.5])
def test_the_effective_sample_size_in_d_dimensions(s, d):
    """Against the integral of p^2/q by quadrature, a factor a dimension."""
    second, _ = quad(lambda z: stats.norm.pdf(z) ** 2 / stats.norm.pdf(z, scale=s), -12, 12)
    share = effective_sample_size(normal_weights(s, d, 20, 20_000)) / 20_000
    if s > 1 or d < 20:
        error = float(share.std()) / math.sqrt(20)
        assert float(share.mean()) == pytest.approx(second**-d, rel=0.05, abs=4 * error)
    assert check.curse.reference(s, d)[0] == pytest.approx(second**-d, rel=1e-7)
    found = importance.approximate(standard_problem(d), proposal=bell(d, s), num_samples=20_000)
    allowed = 5 * float(share.std()) + 1e-3
    assert found.diagnostics["ess"] / 20_000 == pytest.approx(float(share.mean()), abs=allowed)


def test_resampling_is_in_proportion_to_the_weights():
    weights = vector(0.0, 1.0, 5.0, 0.0, 2.0, 12.0)
    z = torch.stack([torch.arange(6.0), -torch.arange(6.0)], -1).double()
    found = importance.resample(z, weights.log() - 1000, 20_000, seed=3)
    assert found.shape == (20_000, 2) and torch.equal(found[:, 0], -found[:, 1])
    counts = torch.bincount(found[:, 0].long(), minlength=6)
    hit = weights > 0
    assert counts[~hit].sum() == 0
    assert stats.chisquare(counts[hit], 20_000 * weights[hit] / weights.sum()).pvalue > 1e-3
    assert torch.equal(found, importance.resample(z, weights.log(), 20_000, seed=3))
    with pytest.raises(ValueError, match=r"one log weight a sample, \(6,\), got \(5,\)"):
        importance.resample(z, torch.zeros(5), 10)


def test_resampled_draws_follow_the_posterior():
    z, log_q = bell(1, 2.0).rsample_and_log_prob((200_000,), generator=stream())
    draws = importance.resample(z, standard_problem(1).log_joint(z) - log_q, 2_000)
    assert stats.kstest(draws.squeeze(-1), "norm").pvalue > 1e-3
    assert stats.kstest(z[:2000].squeeze(-1), "norm").pvalue < 1e-6


# Gibbs ----------------------------------------------------------------------------------------------------

@cache
def mixture():
    """A mixture, all its 3^10 assignments with their posterior probabilities, and a run of the sampler."""
    model = problems.gaussian_mixture(num_components=3, num_data=10, seed=1)
    every = torch.arange(3**10).unsqueeze(-1) // 3 ** torch.arange(10) % 3
    found = importance.gibbs(model, num_sweeps=1200, num_chains=60, seed=2)
    return model, every, torch.softmax(model.log_joint(every), 0), found


def test_gibbs_against_enumeration():
    model, every, weight, (assignments, means) = mixture()
    assert assignments.shape == (1200, 60, 10)
    assert not assignments.is_floating_point()
    assert means.shape == (1200, 60, 3)
    member = torch.nn.functional.one_hot(every, 3).double()
    together = torch.einsum("s,snk,smk->nm", weight, member, member)
    # E[mu | z, x], with prior scale 4 and scale 1
    centre = 16 * (model.x @ member) / (1 + 16 * member.sum(-2))
    belonging = torch.einsum("s,snk,sk->n", weight, member, centre)  # E[mu_{z_n} | x]

    after = slice(200, None)
    ours = torch.nn.functional.one_hot(assignments[after], 3).double()
    found = torch.einsum("tcnk,tcmk->cnm", ours, ours) / len(ours)
    i, j = torch.triu_indices(10, 10, 1)
    assert_agree(found[:, i, j], together[i, j], 0.02)
    assert_agree(means[after].gather(-1, assignments[after]).mean(0), belonging, 0.05)
    # a mixture worth asking about
    assert float(together[i, j].min()) < 0.1 < 0.5 < float(together[i, j].max())


def assert_agree(by_chain, truth, largest_error):
    """Chains are independent: the spread of their means gives the error of the mean over all of them."""
    error = by_chain.std(0) / math.sqrt(len(by_chain))
    assert float(error.max()) < largest_error
    assert float(((by_chain.mean(0) - truth).abs() / (error + 1e-4)).max()) < 4.5


def test_each_half_of_a_sweep_draws_from_its_conditional():
    model, _, _, (assignments, means) = mixture()
    n = torch.nn.functional.one_hot(assignments, 3).double()
    centre, variance = 16 * (model.x @ n) / (1 + 16 * n.sum(-2)), 16 / (1 + 16 * n.sum(-2))
    residual = ((means - centre) / variance.sqrt()).flatten()
    assert stats.kstest(residual[:100_000], "norm").pvalue > 1e-3
    # p(z_n = k | mu, x)
    share = torch.softmax(-0.5 * (model.x.unsqueeze(-1) - means[:-1].unsqueeze(-2)).square(), -1)
    z = (n[1:] - share).sum((0, 1)) / (share * (1 - share)).sum((0, 1)).sqrt()
    assert float(z.abs().max()) < 4.5


@pytest.mark.parametrize("options", [{"num_sweeps": 0}, {"num_chains": 0}])
def test_gibbs_needs_a_sweep_and_a_chain(options):
    with pytest.raises(ValueError, match="num_sweeps and num_chains must be at least 1"):
        importance.gibbs(problems.gaussian_mixture(), **options)


# Annealing ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    {"num_temperatures": 1}, {"num_temperatures": 4, "step_size": 0.05},
    {"num_temperatures": 4, "step_size": 8.0},
    {"num_temperatures": 12, "step_size": 0.4, "num_leapfrog": 1}, {"num_temperatures": 12}], ids=str)
def test_annealed_weights_are_unbiased_however_badly_the_chain_mixes(options):
    problem = problems.two_modes(separation=3.0)  # normalised: log p(x) = 0
    found = importance.anneal(problem, proposal=bell(1, 2.0), num_samples=20_000, seed=1, **options)
    weights = found.diagnostics["log_weights"].exp()
    error = float(weights.std()) / math.sqrt(20_000)
    assert float(weights.mean()) == pytest.approx(1, abs=4 * error) and error < 0.012
    second = found.q.weights @ found.q.z.square()
    assert float(second) == pytest.approx(1.5**2 + 0.25, abs=0.1)  # the points stand for the posterior


def test_one_temperature_is_plain_importance_sampling():
    problem, q = schools()
    found = importance.anneal(problem, proposal=q, num_samples=500, num_temperatures=1, seed=3)
    z, log_q = draw(q, (500,), generator=stream(3))
    log_weights = problem.log_joint(z) - log_q
    torch.testing.assert_close(found.diagnostics["log_weights"], log_weights, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.q.z, z)
    assert found.diagnostics["acceptance"].numel() == 0
    assert found.evaluations == 500


@cache
def annealed_schools(num_temperatures):
    """Ten latents; four thousand paths, which are four runs of a thousand."""
    problem = problems.eight_schools("non-centred")
    return problem, importance.anneal(problem, num_samples=4_000, num_temperatures=num_temperatures, seed=1)


def test_annealing_is_right_in_ten_dimensions():
    problem, found = annealed_schools(40)
    d = found.diagnostics
    assert found.log_evidence.kind == "consistent estimate" and found.log_evidence.standard_error < 0.05
    assert abs(found.gap(problem)) < 4 * found.log_evidence.standard_error
    assert d["acceptance"].shape == (39,) and ((0.5 < d["acceptance"]) & (d["acceptance"] < 1)).all()
    assert found.history.shape == (40,)
    assert float(found.history[-1]) == pytest.approx(float(found.log_evidence), abs=1e-12)
    assert d["ess"] == pytest.approx(float(effective_sample_size(d["log_weights"])), rel=1e-9)
    assert d["k_hat"] == float(importance.pareto_k_hat(d["log_weights"]))
    climb = laplace.approximate(problem).evaluations
    assert found.evaluations == climb + 4_000 * (1 + 39 * 5)
    # means of mu and tau against the plane's, which quadrature knows
    truth = exact.quadrature(schools()[0], of=lambda z: torch.stack([z[..., 0], z[..., 1].exp()], -1))
    f = torch.stack([found.q.z[:, 0], found.q.z[:, 1].exp()], -1)
    error = (found.q.weights.unsqueeze(-1) * (f - found.q.weights @ f)).square().sum(0).sqrt()
    assert float(((found.q.weights @ f - torch.tensor(truth)).abs() / error).max()) < 4


def test_the_numbers_in_the_worked_solution_of_annealed():
    """Standard errors of one run of a thousand paths: twice those of four thousand."""
    error = {T: 2 * annealed_schools(T)[1].log_evidence.standard_error for T in (1, 10, 40, 80)}
    assert error[1] > 0.4 and 0.045 < error[40] < 0.075 and 0.025 < error[80] < 0.05
    assert 0.3 < (error[80] / error[10]) ** (1 / 3) < 0.7  # a doubling takes off about half
    k_hat = {T: annealed_schools(T)[1].diagnostics["k_hat"] for T in (1, 80)}
    assert k_hat[1] > 0.9 and 0.1 < k_hat[80] < 0.5
    problem, long = annealed_schools(80)
    assert long.evaluations / 4 == pytest.approx(400_000, rel=0.03)
    plain = importance.approximate(problem, proposal=long.diagnostics["proposal"], num_samples=400_000)
    assert 0.8 < plain.diagnostics["k_hat"] < 1.2 and plain.diagnostics["ess"] < 300


def test_the_chain_leaves_every_density_of_the_path_alone():
    """From exact draws of f_b, a Gaussian between two Gaussians, many steps lead to exact draws."""
    problem, q, b = standard_problem(2), bell(2, 3.0), 0.3
    deviation = 1 / math.sqrt(b + (1 - b) / 9)
    path, noise = importance.Path(problem.value_and_gradient, q), stream(1)
    for step, steps in ((0.3, 25), (1.2, 10)):
        here = path(deviation * normal(4000, 2, seed=2))
        started = here.z
        for _ in range(steps):
            here, accepted = importance._hamiltonian(path, here, b, vector(step, step), 3, noise)
            assert 0.2 < accepted.double().mean() < 1
        assert stats.kstest(here.z.flatten() / deviation, "norm").pvalue > 1e-3
        # it has moved
        both = torch.stack([started.flatten(), here.z.flatten()])
        assert float(torch.corrcoef(both)[0, 1].abs()) < 0.2
        fresh = path(here.z)
        for name in ("log_joint", "log_q", "joint_gradient", "q_gradient"):
            torch.testing.assert_close(getattr(here, name), getattr(fresh, name))


@pytest.mark.parametrize("make", [problems.eight_schools, problems.rosenbrock, problems.banana],
                         ids=["schools", "rosenbrock", "banana"])
def test_dynamics_that_run_away_are_rejected(make):
    problem = make()
    q = importance.default_proposal(problem)
    for step_size in (5.0, 100.0):
        found = importance.anneal(problem, proposal=q, num_samples=100, num_temperatures=4,
                                  step_size=step_size)
        assert math.isfinite(found.log_evidence.value) and (found.diagnostics["acceptance"] < 0.2).all()


def test_annealing_inside_an_edge():
    problem = problems.coin(coordinate="p")
    q = Independent(Normal(vector(0.5), vector(0.3)), 1)  # one sample in ten lies outside
    found = importance.anneal(problem, proposal=q, num_samples=4000, num_temperatures=20)
    assert abs(found.gap(problem)) < 4 * found.log_evidence.standard_error < 0.1
    assert (found.diagnostics["log_weights"] == -math.inf).any()


# The distributions ----------------------------------------------------------------------------------------

def student(df=5):
    root = torch.tensor([[1.5, 0.0, 0.0], [-0.4, 0.7, 0.0], [0.3, 0.2, 2.0]], dtype=torch.float64)
    return StudentT(df, vector(1.0, -2.0, 0.5), root)


@pytest.mark.parametrize("df", [1, 2, 5, 30])
def test_student_t_against_scipy(df):
    q = student(df)
    truth = stats.multivariate_t(q.loc.numpy(), (q.scale_tril @ q.scale_tril.T).numpy(), df=df)
    z, log_q = q.rsample_and_log_prob((5000,), generator=stream())
    np.testing.assert_allclose(log_q, truth.logpdf(z.numpy()), atol=1e-10)
    np.testing.assert_allclose(q.log_prob(z), log_q, atol=1e-10)
    far = q.loc + 1e8 * torch.ones(2, 4, 3, dtype=torch.float64)
    np.testing.assert_allclose(q.log_prob(far), truth.logpdf(far.numpy()), rtol=1e-12)
    # |L^-1 (z - mean)|^2 / d follows Fisher's F, whichever way it points
    u = torch.linalg.solve_triangular(q.scale_tril, (z - q.loc).T, upper=False)
    assert stats.kstest(u.square().sum(0) / 3, stats.f(3, df).cdf).pvalue > 1e-3
    assert stats.kstest(u[0] / u.square().sum(0).sqrt(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_student_ts_moments():
    q = student(5)
    z = q.rsample_and_log_prob((400_000,), generator=stream())[0]
    assert ((z.mean(0) - q.mean).abs() < 4 * (q.variance / 400_000).sqrt()).all()
    np.testing.assert_allclose(z.var(0), q.variance, rtol=0.03)
    np.testing.assert_allclose(q.variance, 5 / 3 * torch.diagonal(q.scale_tril @ q.scale_tril.T), rtol=1e-12)
    assert student(1).mean.isnan().all() and student(2).variance.isinf().all()
    assert q.sample((2, 3)).shape == (2, 3, 3) and q.sample().shape == (3,) and q.event_shape == (3,)


@pytest.mark.parametrize("df", [0, -1, 2.5, True, "5"])
def test_degrees_of_freedom_are_whole(df):
    with pytest.raises(ValueError, match="whole number, at least 1"):
        StudentT(df, torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize("loc, root", [
    (torch.zeros(2), torch.eye(3)), (torch.zeros(1, 2), torch.eye(2)), (torch.zeros(2), torch.ones(2))])
def test_shapes_that_do_not_fit_are_named(loc, root):
    with pytest.raises(ValueError, match=r"loc must be \(d,\) and scale_tril \(d, d\), got"):
        StudentT(3, loc, root)


def test_particles():
    z, w = normal(50, 2), normal(50, seed=1).exp()
    q = Particles(z, w.log() + 800)
    np.testing.assert_allclose(q.mean, np.average(z, axis=0, weights=w), rtol=1e-10)
    np.testing.assert_allclose(q.variance, np.average((z - q.mean) ** 2, axis=0, weights=w), rtol=1e-10)
    np.testing.assert_allclose(q.stddev, q.variance.sqrt())
    assert float(q.effective_sample_size) == pytest.approx(float(w.sum() ** 2 / w.square().sum()))
    assert torch.equal(Particles(z).weights, torch.full((50,), 0.02, dtype=torch.float64))
    draws = q.sample((3, 5000), generator=stream())
    assert draws.shape == (3, 5000, 2) and q.sample(generator=stream()).shape == (2,)
    error = (q.variance / 15_000).sqrt()
    assert ((draws.mean((0, 1)) - q.mean).abs() < 4 * error).all()
    assert {tuple(row) for row in draws.reshape(-1, 2).tolist()} <= {tuple(row) for row in z.tolist()}
    with pytest.raises(NotImplementedError, match="samples have no density"):
        q.log_prob(z)
    for bad in ((torch.zeros(5), None), (torch.zeros(5, 2), torch.zeros(4))):
        with pytest.raises(ValueError, match=r"expected points \(S, d\) and log weights \(S,\)"):
            Particles(*bad)


def test_choosing_in_proportion():
    weights = vector(0.0, 3.0, 0.0, 1.0, 6.0, 0.0)
    counts = torch.bincount(choose(weights, 100_000, stream()), minlength=6)
    assert counts[weights == 0].sum() == 0
    assert stats.chisquare(counts[weights > 0], 1e4 * weights[weights > 0]).pvalue > 1e-3
    assert choose(weights, 0, stream()).shape == (0,)
    assert torch.equal(choose(1e-300 * weights, 100, stream()), choose(weights, 100, stream()))


def test_no_weight_no_choice_even_at_the_ends(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: vector(0.0, 1 - 2**-53))
    for scale in (1.0, 0.3, 7e5, 1e-200):
        assert choose(scale * vector(0.0, 0.0, 3.0, 1.0, 0.0), 2).tolist() == [2, 3]


@pytest.mark.parametrize("q", [
    bell(2), MultivariateNormal(vector(0.0, 0.0), torch.eye(2, dtype=torch.float64)), student()], ids=repr)
def test_draw_gives_samples_and_their_density_from_the_generator(q):
    torch.manual_seed(3)
    before, d = torch.get_rng_state(), len(q.loc)
    (z, log_q), (again, _), (other, _) = (draw(q, (4, 5), generator=stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert z.shape == (4, 5, d) and torch.equal(z, again) and not torch.equal(z, other)
    torch.testing.assert_close(log_q, q.log_prob(z))
    noise = stream(1)
    assert not torch.equal(draw(q, (4, 5), generator=noise)[0], draw(q, (4, 5), generator=noise)[0])


def test_standard_normal_is_standard_normal():
    x = standard_normal((4, 10**6), generator=stream(1))
    assert x.dtype == torch.float64 and torch.isfinite(x).all()
    assert stats.kstest(x[0, :200_000], "norm").pvalue > 1e-3
    assert float(x.mean()) == pytest.approx(0, abs=4 / 2000)
    assert float(x.var()) == pytest.approx(1, abs=4 * math.sqrt(2) / 2000)
    assert torch.corrcoef(x).fill_diagonal_(0).abs().max() < 4.5 / 1000
    for far in (2.0, 3.0, 4.0, 4.5):  # both tails
        expected = 4e6 * stats.norm.sf(far)
        for count in (int((x > far).sum()), int((x < -far).sum())):
            assert abs(count - expected) < 4.5 * math.sqrt(expected)
    assert torch.equal(standard_normal((7,), generator=stream(1)), standard_normal((7,), generator=stream(1)))


def test_standard_normal_is_finite_at_both_ends(monkeypatch):
    ends = vector(0.0, 2**-53, 0.5, 1 - 2**-53)
    monkeypatch.setattr(torch, "rand", lambda shape, **options: ends)
    low, _, middle, high = standard_normal((4,)).tolist()
    assert -low == high and 8.1 < high < 8.4 and abs(middle) < 1e-15


def test_single_precision_noise_is_torchs_own():
    options = {"dtype": torch.float32}
    found = standard_normal((5,), generator=stream(1), **options)
    assert torch.equal(found, torch.randn(5, generator=stream(1), **options))


# The references of the exercises, by other routes ---------------------------------------------------------

def instances(one, count=10):
    draws = random.Random(7)
    return [one.draw(draws) for _ in range(count)]


def test_log_mean_exp_in_exact_arithmetic():
    for arguments in instances(check.log_mean_exp):
        with localcontext() as context:
            context.prec, context.Emax, context.Emin = 40, 10**6, -(10**6)
            values = [Decimal(value).exp() for value in arguments["log_weights"].tolist()]
            truth = float((sum(values) / len(values)).ln())
        assert float(check.log_mean_exp.reference(**arguments)) == pytest.approx(truth, rel=1e-13)


def test_standard_error_is_that_of_the_mean_over_the_mean():
    for arguments in instances(check.standard_error):
        l = arguments["log_weights"]
        w = (l - l.mean()).exp().numpy()  # known up to a constant
        ess, error = check.standard_error.reference(**arguments)
        assert float(ess) == pytest.approx(w.sum() ** 2 / (w**2).sum())
        assert float(error) == pytest.approx(w.std() / math.sqrt(len(w)) / w.mean())


def test_posterior_mean_and_its_error_by_the_jackknife():
    """The infinitesimal jackknife: how much the mean changes when one sample counts a little less."""
    for arguments in instances(check.posterior_mean):
        f, l = arguments["f"], arguments["log_weights"]
        w = (l - l.mean()).exp()
        count = torch.ones(len(f), dtype=torch.float64, requires_grad=True)
        mean = (count * w * f).sum() / (count * w).sum()
        (influence,) = torch.autograd.grad(mean, count)
        found, error = check.posterior_mean.reference(**arguments)
        assert float(found) == pytest.approx(mean.item())
        assert float(error) == pytest.approx(float(influence.norm()))


def test_iwae_is_what_the_package_says():
    for arguments in instances(check.iwae):
        l = arguments["log_weights"].numpy()
        truth = l.mean() + np.mean([np.log(np.mean(np.exp(row))) for row in l - l.mean()])
        assert float(check.iwae.reference(**arguments)) == pytest.approx(truth)
        assert float(importance.iwae_bound(arguments["log_weights"]).mean()) == pytest.approx(truth)


def test_k_in_the_curse_is_the_index_of_the_tail():
    """-log P(w > t) / log t tends to 1/k: P by the chi-squared distribution, a finite sum for even d."""
    for s, d in ((0.4, 2), (0.7, 4), (0.9, 6)):
        u, i = np.array([1e6, 2e6]), np.arange(d // 2)  # y = |eps|^2, and log w = d log s + (1 - s^2) y / 2
        log_w = d * math.log(s) + 0.5 * (1 - s**2) * u
        log_tail = -u / 2 + logsumexp(i * np.log(u / 2)[:, None] - gammaln(i + 1), axis=1)
        k = -np.diff(log_w) / np.diff(log_tail)
        assert check.curse.reference(s, d)[1] == pytest.approx(float(k[0]), rel=1e-4)
    assert check.curse.reference(1.3, 2)[1] == 0.0


def test_annealed_is_the_product_of_the_steps():
    for arguments in instances(check.annealed):
        log_p, log_q, b = (arguments[name].numpy() for name in ("log_joint", "log_q", "b"))
        for s, found in enumerate(check.annealed.reference(**arguments)):
            log_f = [(1 - b_t) * log_q[:, s] + b_t * log_p[:, s] for b_t in b]  # of all points of the path
            truth = sum(log_f[t][t - 1] - log_f[t - 1][t - 1] for t in range(1, len(b)))
            assert float(found) == pytest.approx(truth)


def by_sums(log_weights):
    w = log_weights.exp()
    return w.sum() ** 2 / w.square().sum(), w.std(correction=0) / w.mean() / len(w) ** 0.5


def by_shares(log_weights):
    share = log_weights.exp() / log_weights.exp().sum()
    return 1 / share.square().sum(), (share.square().sum() - 1 / len(share)).clamp(min=0).sqrt()


def error_by_hand(log_weights):
    return check.standard_error.reference(log_weights)[0], by_sums(log_weights)[1]


def ratio(f, log_weights):
    w = log_weights.exp()
    mean = (w * f).mean() / w.mean()
    return mean, (w * (f - mean)).square().sum().sqrt() / w.sum()


def averaged_first(log_weights):
    return torch.stack([row.exp().mean().log() for row in log_weights]).mean()


@pytest.mark.parametrize("one, answer, name", [
    (check.standard_error, by_sums, "exponentiated at once"),
    (check.standard_error, by_shares, "exponentiated at once"),
    (check.standard_error, error_by_hand, "exponentiated at once, in the error"),
    (check.posterior_mean, ratio, "exponentiated at once"),
    (check.iwae, averaged_first, "exponentiated at once"),
    (check.curse, lambda s, d: (abs(2 * s**2 - 1) ** (d / 2) / s ** (2 * d), max(0.0, 1 - s**2)),
     "no threshold"),
    (check.curse, lambda s, d: (max(check.curse.reference(s, d)[0], 1e-3), max(0.0, 1 - s**2)),
     "no threshold"),
    (check.annealed, lambda log_joint, log_q, b: check.annealed.reference(log_joint, log_q, b).mean(),
     "averaged over paths")],
    ids=["sums", "shares", "error", "mean", "bound", "curse, absolute", "curse, a constant", "one number"])
def test_mistakes_are_known_however_they_are_spelled(one, answer, name):
    for seed in range(10):
        assert one.diagnose(answer, seed=seed)[0] == name


# The explorers --------------------------------------------------------------------------------------------

def test_the_proposal_by_hand_is_the_method():
    explorer, problem = explore.proposal(), problems.eight_schools()
    at = explorer.start | {"scale": 2.0, "shape": "Student t (df 3)"}
    frame = explorer.frame(**at)
    q = laplace.approximate(problem).q
    t = StudentT(3, torch.tensor(at["centre"], dtype=torch.float64), 2.0 * q.scale_tril)
    z, log_q = t.rsample_and_log_prob((explore.SAMPLES,), generator=stream(explore.THROW))
    l = problem.log_joint(z) - log_q
    log_p, ess, _, _ = in_one_go(l, z)
    for name, truth in {"estimate": log_p, "ess": ess, "error": math.sqrt(1 / ess - 1 / explore.SAMPLES),
                        "k_hat": float(array_stats.psislw(-l.numpy())[1]),
                        "largest": 100 * float(torch.softmax(l, 0).max())}.items():
        assert frame[name] == pytest.approx(truth, abs=2e-4)
    elsewhere = explorer.frame(centre=(-6.0, -1.5), scale=0.3, shape="Gaussian")
    assert elsewhere["ess"] < 8 < 20 < explorer.frame()["ess"]


def test_the_throw_of_the_explorer_is_a_typical_one():
    """At every width of the Gaussian its estimate lies among the middle three fifths of a thousand throws."""
    explorer, problem = explore.proposal(), problems.eight_schools()
    q = laplace.approximate(problem).q
    for scale in explorer.controls["scale"].stops:
        centre = torch.tensor(explorer.start["centre"], dtype=torch.float64)
        narrow = Gaussian(centre, scale_tril=scale * q.scale_tril)
        z, log_q = narrow.rsample_and_log_prob((1000, explore.SAMPLES), generator=stream(0))
        estimates = importance.iwae_bound(problem.log_joint(z) - log_q)
        low, high = estimates.quantile(torch.tensor([0.2, 0.8], dtype=torch.float64))
        assert low < float(explorer.frame(scale=scale)["estimate"]) < high


def test_the_curse_by_hand_is_the_method():
    explorer = explore.dimensions()
    one = Problem(lambda z: -0.5 * z[..., 0] ** 2 - 0.5 * ((explore.DATUM - z[..., 0]) / explore.NOISE) ** 2
                  - math.log(2 * math.pi * explore.NOISE), 1, name="one dimension")
    assert explore.log_evidence_per_dimension() == pytest.approx(float(exact.quadrature(one)), abs=1e-9)
    from_prior = explorer.frame(dimension=20, count=100, source="the prior")
    assert from_prior["median"] < -2 and from_prior["below"] > 75
    near = explorer.frame(dimension=20, count=100, source="the posterior, 1.3 times too wide")
    assert abs(near["median"]) < 0.3
    assert near["ess"] == pytest.approx(100 * check.curse.reference(1.3, 20)[0], rel=0.5)
    mean = explorer.frame(dimension=1, count=1000, source="the prior")["mean"]
    assert mean == pytest.approx(0, abs=0.01)


def test_the_sources_that_the_chapter_shows_fit_a_page():
    assert len(inspect.getsource(importance._Sums.add_weights).splitlines()) <= 25
