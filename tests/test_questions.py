"""One exact model, its questions, and the grid: against SciPy, NumPy, scikit-learn and enumeration."""

import itertools
import math
import random
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import betaln, gammaln
from scipy.stats import multivariate_normal, norm
from torch.distributions import MultivariateNormal, kl_divergence

from tightbound import Problem, exact, league, problems, questions
from tightbound.approximation import log_mean_exp
from tightbound.checks import questions as checks
from tightbound.data import diabetes
from tightbound.distributions import Gaussian
from tightbound.explore import questions as explore
from tightbound.questions import (Grid, GridError, LinearGaussian, Mixture, NGram, NoDensity, TooManyPoints, factor_model,
                                  fourier_rows, nested_monte_carlo, smooth_prior)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def randn(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def prior(seed, d):
    root = randn(seed, d, d)
    return Gaussian(randn(seed + 1, d), covariance_matrix=root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64))


def linear(seed, n=4, d=2):
    """A linear Gaussian model in which nothing is a special case, and data."""
    noise = 0.2 + randn(seed, n).square()
    model = LinearGaussian(randn(seed + 1, n, d), noise, offset=randn(seed + 2, n), prior=prior(seed + 3, d))
    return model, 2 * randn(seed + 5, n)


def joint(model):
    """Mean and covariance of z and x together, by NumPy."""
    A, S, m = (part.numpy() for part in (model.A, model.prior.covariance_matrix, model.prior.loc))
    cov = np.block([[S, S @ A.T], [A @ S, A @ S @ A.T + np.diag(model.noise_variance)]])
    return np.concatenate([m, A @ m + model.offset.numpy()]), cov


shapes = pytest.mark.parametrize(("n", "d"), [(1, 1), (4, 2), (2, 5), (6, 3)])


# ---- the linear Gaussian model -----------------------------------------------------------------------------

@shapes
def test_evidence_and_joint_are_scipys(n, d):
    model, x = linear(n, n, d)
    mean, cov = joint(model)
    assert float(model.log_evidence(x)) == pytest.approx(multivariate_normal(mean[d:], cov[d:, d:]).logpdf(x), rel=1e-10)
    z = randn(9, 3, d)
    both = np.concatenate([z.numpy(), np.tile(x, (3, 1))], -1)
    assert model.log_joint(z, x).tolist() == pytest.approx(multivariate_normal(mean, cov).logpdf(both).tolist(), rel=1e-9)


@shapes
def test_the_posterior_is_that_of_conditioning(n, d):
    model, x = linear(10 + n, n, d)
    mean, cov = joint(model)
    K = cov[:d, d:] @ np.linalg.inv(cov[d:, d:])
    q = model.posterior(x)
    np.testing.assert_allclose(q.loc, mean[:d] + K @ (x.numpy() - mean[d:]), rtol=0, atol=1e-9)
    np.testing.assert_allclose(q.covariance_matrix, cov[:d, :d] - K @ cov[d:, :d], rtol=0, atol=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_bayes_rule_holds_at_every_z(seed, n, d):
    model, x = linear(seed, n, d)
    z = randn(seed + 9, 5, d)
    evidence = model.log_joint(z, x) - model.posterior(x).log_prob(z)
    torch.testing.assert_close(evidence, model.log_evidence(x).expand(5), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("d", [1, 2])
def test_quadrature_finds_the_same(d):
    model, x = linear(40, 3, d)
    problem = model.problem(x, name="three data")
    assert problem.name == "three data" and problem.log_evidence.kind == "exact" and problem.dim == d
    assert float(exact.quadrature(problem)) == pytest.approx(float(problem.log_evidence), abs=1e-7)
    mean = exact.quadrature(problem, of=lambda z: z)
    assert mean.tolist() == pytest.approx(model.posterior(x).loc.tolist(), abs=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_one_after_another_is_all_at_once(seed, first):
    model, x = linear(seed, 5, 2)
    early, late = list(range(first)), list(range(first, 5))
    between = model.rows(early).posterior(x[early])
    after = LinearGaussian(model.A[late], model.noise_variance[late], offset=model.offset[late], prior=between)
    q, together = after.posterior(x[late]), model.posterior(x)
    torch.testing.assert_close(q.loc, together.loc, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(q.covariance_matrix, together.covariance_matrix, rtol=1e-7, atol=1e-8)
    chain = model.rows(early).log_evidence(x[early]) + after.log_evidence(x[late])
    assert float(chain) == pytest.approx(float(model.log_evidence(x)), rel=1e-8, abs=1e-8)
    gained = model.rows(early).information_gain() + after.information_gain()
    assert gained == pytest.approx(model.information_gain(), rel=1e-8)


def test_rows_take_a_list_or_a_mask():
    model, x = linear(3)
    mask = torch.tensor([True, False, True, True])
    listed, masked = model.rows([0, 2, 3]), model.rows(mask)
    assert torch.equal(listed.A, masked.A) and torch.equal(listed.offset, masked.offset)
    mean, cov = joint(model)
    keep = np.flatnonzero(mask) + 2
    expected = multivariate_normal(mean[keep], cov[np.ix_(keep, keep)]).logpdf(x[mask])
    assert float(masked.log_evidence(x[mask])) == pytest.approx(expected, rel=1e-10)


def test_batches_of_data():
    model, _ = linear(5)
    x = randn(6, 3, 2, 4)
    assert model.log_evidence(x).shape == (3, 2)
    q = model.posterior(x)
    assert q.loc.shape == (3, 2, 2)
    torch.testing.assert_close(q.loc[2, 1], model.posterior(x[2, 1]).loc)
    assert float(model.log_evidence(x)[2, 1]) == pytest.approx(float(model.log_evidence(x[2, 1])))
    assert model.log_joint(q.loc, x).shape == (3, 2)


def test_samples_have_the_joints_moments():
    model, _ = linear(7)
    z, x = model.sample((200, 100), seed=1)
    both, (mean, cov) = torch.cat([z, x], -1).reshape(-1, 6).numpy(), joint(model)
    sd = np.sqrt(np.diag(cov))
    assert np.all(np.abs(both.mean(0) - mean) < 4 * sd / math.sqrt(20_000))
    error = np.sqrt((np.outer(sd, sd) ** 2 + cov**2) / 20_000)  # of a covariance of Gaussian samples
    assert np.all(np.abs(np.cov(both.T) - cov) < 4.5 * error)
    again, other = (model.sample((200, 100), seed=seed)[1] for seed in (1, 2))
    assert torch.equal(x, again) and not torch.equal(x, other)


def test_a_tiny_noise_leaves_the_posterior_sound():
    model = LinearGaussian(randn(0, 6, 3), 1e-10)
    z = randn(1, 3)
    q = model.posterior(model.mean(z))
    torch.testing.assert_close(q.loc, z, rtol=0, atol=1e-6)
    assert (q.variance > 0).all() and (q.variance < 1e-8).all()


def test_prediction_by_the_posterior_is_a_ratio_of_evidences():
    model, x = linear(12)
    new = LinearGaussian(randn(13, 2, 2), 0.5, prior=model.posterior(x))
    whole = LinearGaussian(torch.cat([model.A, new.A]), torch.cat([model.noise_variance, tensor([0.5, 0.5])]),
                           offset=torch.cat([model.offset, tensor([0.0, 0.0])]), prior=model.prior)
    y = randn(14, 2)
    ratio = whole.log_evidence(torch.cat([x, y])) - model.log_evidence(x)
    assert float(new.marginal().log_prob(y)) == pytest.approx(float(ratio), rel=1e-9)
    plug_in = torch.distributions.Normal(new.mean(model.posterior(x).loc), math.sqrt(0.5)).variance
    assert (new.marginal().variance > plug_in + 1e-3).all()  # what the parameters' uncertainty adds


def test_it_is_the_books_linear_regression():
    X, y, _ = diabetes(["bmi", "bp"], num_data=50)
    problem = problems.linear_regression(("bmi", "bp"), num_data=50, noise_scale=0.7)
    z, model = randn(3, 5, 3), LinearGaussian(X, 0.49)
    torch.testing.assert_close(model.log_joint(z, y), problem.log_joint(z))
    assert float(model.log_evidence(y)) == pytest.approx(float(problem.log_evidence), abs=1e-8)


# ---- what an experiment tells ------------------------------------------------------------------------------

@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_gain_is_a_difference_of_entropies(seed, n, d):
    model, x = linear(seed, n, d)
    _, cov = joint(model)
    of_x = 0.5 * (np.linalg.slogdet(cov[d:, d:])[1] - np.log(model.noise_variance.numpy()).sum())
    of_z = float(model.prior.entropy() - model.posterior(x).entropy())
    assert model.information_gain() == pytest.approx(of_x, rel=1e-7, abs=1e-9)
    assert model.information_gain() == pytest.approx(of_z, rel=1e-6, abs=1e-7)
    fewer = model.rows([0]).information_gain()
    assert 0 <= fewer <= model.information_gain() + 1e-9


def test_the_gain_is_the_mean_divergence_of_posterior_from_prior():
    model, _ = linear(21)
    gains = []
    for seed in range(10):
        _, x = model.sample((400,), seed=seed)
        q = model.posterior(x)
        gains.append(float(kl_divergence(q, MultivariateNormal(model.prior.loc, model.prior.covariance_matrix)).mean()))
    assert abs(np.mean(gains) - model.information_gain()) < 4 * np.std(gains, ddof=1) / math.sqrt(10)
    assert 0.01 < np.std(gains, ddof=1)


def test_nested_monte_carlo_falls_from_above():
    model, _ = linear(22, n=2)
    gain, means = model.information_gain(), []
    for inner in (1, 10, 100):
        runs = [nested_monte_carlo(model, 400, inner, seed=seed) for seed in range(20)]
        values = np.array([float(run) for run in runs])
        means.append((values.mean(), values.std(ddof=1) / math.sqrt(20)))
        assert all(run.kind == "upper bound" for run in runs)
        if inner > 1:  # with one inner sample the terms have heavy tails
            stated = np.mean([run.standard_error for run in runs])
            assert 0.6 < values.std(ddof=1) / stated < 1.6  # twenty runs know a spread to 16 %
    z = [(mean - gain) / error for mean, error in means]
    assert z[0] > 10 and z[1] > 5 and z[2] > -3
    assert means[0][0] > means[1][0] > means[2][0]
    assert means[2][0] - gain < 0.1 * (means[1][0] - gain) + 3 * means[2][1]  # the bias falls like 1/M


def test_nested_monte_carlo_in_pieces(monkeypatch):
    model, _ = linear(23, n=1)
    monkeypatch.setattr(questions, "_pieces", lambda total, size: [7, total - 7])
    found = nested_monte_carlo(model, 500, 500, seed=3)
    assert abs(float(found) - model.information_gain()) < 4 * found.standard_error
    assert nested_monte_carlo(model, 50, 3, seed=3) == nested_monte_carlo(model, 50, 3, seed=3)


def test_pieces_add_up():
    assert questions._pieces(10, 4) == [4, 4, 2] and questions._pieces(3, 5) == [3]


@pytest.mark.parametrize(("options", "message"), [
    ({"num_outer": 1}, "num_outer must be an integer, at least 2"), ({"num_inner": 0}, "num_inner must be an integer, at least 1")])
def test_too_few_samples_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        nested_monte_carlo(linear(1)[0], **options)


# ---- factor model and pictures -----------------------------------------------------------------------------

@pytest.mark.parametrize("q", [1, 3, 8])
def test_the_factor_model_is_scikit_learns(q):
    from sklearn.decomposition import PCA

    X = diabetes().X[:200, 1:]
    model, pca = factor_model(X, q), PCA(q).fit(X)
    # scikit-learn divides by N - 1 in the covariance; scaled back, its model is that of maximum likelihood.
    cov = pca.get_covariance() * 199 / 200
    np.testing.assert_allclose(model.marginal().covariance_matrix, cov, rtol=0, atol=1e-10)
    expected = multivariate_normal(pca.mean_, cov).logpdf(X).mean()
    assert float(model.log_evidence(X).mean()) == pytest.approx(expected, rel=1e-9)
    assert float(model.log_evidence(X).mean()) >= pca.score(X)  # nothing beats maximum likelihood
    latent = model.posterior(X).loc
    assert latent.shape == (200, q) and float(latent.mean(0).abs().max()) < 1e-9


def test_no_neighbour_of_the_factor_model_has_a_higher_likelihood():
    X = diabetes().X[:100, 1:6]
    model = factor_model(X, 2)
    best = float(model.log_evidence(X).sum())
    for seed in range(20):
        other = LinearGaussian(model.A + 0.02 * randn(seed, 5, 2), model.noise_variance * (1 + 0.02 * randn(seed, 1)),
                               offset=model.offset + 0.02 * randn(seed + 50, 5))
        assert float(other.log_evidence(X).sum()) < best


def test_factor_analysis_may_have_more_noise_variances_and_fits_better():
    from sklearn.decomposition import FactorAnalysis

    X = diabetes().X[:, 1:]
    assert FactorAnalysis(2).fit(X).score(X) > float(factor_model(X, 2).log_evidence(X).mean())


@pytest.mark.parametrize(("X", "q", "message"), [
    (torch.ones(3), 1, r"matrix \(N, D\).*got shape \(3,\)"), (torch.ones(1, 3), 1, "at least two rows"),
    (torch.ones(5, 1), 1, "two columns"), (tensor([[1.0, math.nan], [0, 1]]), 1, "X must be finite"),
    (randn(0, 9, 3), 3, "num_factors must be an integer, from 1 to 2"), (randn(0, 9, 3), 0, "num_factors must be an integer"),
    (randn(0, 3, 5), 2, "2 factors explain all of X and leave no noise: take fewer factors, or more data"),
    (torch.ones(5, 3), 1, "leave no noise")])
def test_data_that_no_factor_model_fits(X, q, message):
    with pytest.raises(ValueError, match=message):
        factor_model(X, q)


@pytest.mark.parametrize("num_pixels", [4, 7])
def test_fourier_rows_are_numpys_at_integers(num_pixels):
    picture = randn(1, num_pixels, num_pixels)
    uv = tensor(list(itertools.product(range(num_pixels), repeat=2)))
    cos, sin = (fourier_rows(num_pixels, uv) @ picture.flatten()).chunk(2)
    transform = np.fft.fft2(picture)  # its first axis is y, and its pixels start at 0, not at -1/2
    u, v = uv.long().T.numpy()
    expected = transform[v, u] * np.exp(1j * np.pi * (u + v)) / num_pixels
    np.testing.assert_allclose(cos - 1j * sin, expected, rtol=0, atol=1e-12)


def test_a_smooth_picture():
    p = smooth_prior(5, mean=0.3, scale=2.0, length=0.4)
    i, j = (1, 2), (4, 0)
    distance = math.hypot(*(np.subtract(i, j) / 5))
    assert p.event_shape == (25,) and float(p.mean[3]) == 0.3
    cov = p.covariance_matrix
    assert float(cov[5 * 1 + 2, 5 * 4 + 0]) == pytest.approx(4 * math.exp(-distance**2 / (2 * 0.16)), rel=1e-10)
    assert cov.diagonal().tolist() == pytest.approx([4 * 1.0001] * 25)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: fourier_rows(8, torch.ones(3)), r"frequencies must have shape \(m, 2\), got \(3,\)"),
    (lambda: fourier_rows(8, torch.ones(2, 3)), r"shape \(m, 2\)"),
    (lambda: fourier_rows(8, tensor([[math.inf, 0]])), "frequencies must be finite"),
    (lambda: fourier_rows(1, torch.ones(2, 2)), "num_pixels must be an integer, at least 2"),
    (lambda: smooth_prior(1), "num_pixels must be an integer, at least 2"),
    (lambda: smooth_prior(4, scale=0.0), "scale must be a finite number above zero"),
    (lambda: smooth_prior(4, length=-1.0), "length must be a finite number above zero")])
def test_pictures_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


MODEL = LinearGaussian(torch.ones(3, 2))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: LinearGaussian(torch.ones(3)), r"A must be a matrix \(n, d\).*got shape \(3,\)"),
    (lambda: LinearGaussian(torch.ones(0, 3)), r"got shape \(0, 3\)"),
    (lambda: LinearGaussian(tensor([[math.nan]])), "A must be finite.*`rows`"),
    (lambda: LinearGaussian(torch.ones(3, 2), 0.0), "noise_variance must be above zero: without noise"),
    (lambda: LinearGaussian(torch.ones(3, 2), torch.ones(2)), "noise_variance must be a number or a vector of 3"),
    (lambda: LinearGaussian(torch.ones(3, 2), offset=torch.ones(2)), "offset must be a number or a vector of 3"),
    (lambda: LinearGaussian(torch.ones(3, 2), prior=prior(0, 3)), "prior must be one MultivariateNormal over 2 latents"),
    (lambda: LinearGaussian(torch.ones(3, 2), prior=torch.distributions.Normal(0.0, 1.0)), "prior must be one MultivariateNormal"),
    (lambda: MODEL.log_evidence(torch.ones(2)), r"expected observations of shape \(..., 3\), got \(2,\): `rows`"),
    (lambda: MODEL.posterior(torch.ones(())), "expected observations"),
    (lambda: MODEL.posterior(tensor([1.0, math.nan, 0.0])), "x must be finite.*leave out what was not observed, with `rows`"),
    (lambda: MODEL.problem(torch.ones(2, 3)), r"a problem has one data set, of shape \(3,\), got \(2, 3\)")])
def test_bad_linear_models_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- mixtures ----------------------------------------------------------------------------------------------

def blobs(seed=0, K=3, D=2):
    return Mixture(torch.softmax(randn(seed, K), 0), 2 * randn(seed + 1, K, D), 0.5 + randn(seed + 2, K).abs())


def test_n_k_terms_are_the_sum_over_all_assignments():
    model = blobs()
    _, x = model.sample(10, seed=4)
    z = torch.tensor(list(itertools.product(range(3), repeat=10)))  # 59,049 assignments
    joint = model.log_joint(x, z)
    assert float(model.log_evidence(x)) == pytest.approx(float(joint.logsumexp(0)), abs=1e-10)
    shares = torch.softmax(joint, 0)
    marginal = torch.stack([(shares.unsqueeze(-1) * (z == k)).sum(0) for k in range(3)], -1)
    torch.testing.assert_close(model.responsibilities(x), marginal, rtol=0, atol=1e-10)


def test_the_mixture_is_scikit_learns():
    from sklearn.mixture import GaussianMixture

    model, found = blobs(3, K=4), GaussianMixture(4, covariance_type="spherical")
    found.weights_, found.means_ = model.weights.numpy(), model.means.numpy()
    found.covariances_, found.precisions_cholesky_ = (model.scales**2).numpy(), (1 / model.scales).numpy()
    _, x = model.sample(50)
    assert float(model.log_evidence(x)) == pytest.approx(50 * found.score(x.numpy()), rel=1e-10)
    np.testing.assert_allclose(model.responsibilities(x), found.predict_proba(x.numpy()), rtol=0, atol=1e-12)


def test_the_mixture_is_a_density():
    model = Mixture(tensor([1.0, 3.0]), tensor([[-1.0, 0.5], [1.0, 0.0]]), tensor([0.4, 0.6]))
    problem = Problem(lambda x: model.log_components(x).logsumexp(-1), 2)
    assert float(exact.quadrature(problem, box=((-6.0, 6.0), (-6.0, 6.0)))) == pytest.approx(0, abs=1e-8)
    assert model.weights.tolist() == [0.25, 0.75]


def test_samples_come_at_the_weights_and_lie_about_the_means():
    model = blobs(5)
    z, x = model.sample(20_000, seed=1)
    share = torch.bincount(z, minlength=3) / 20_000
    assert ((share - model.weights).abs() < 4 * (model.weights * (1 - model.weights) / 20_000).sqrt()).all()
    for k in range(3):
        off = (x[z == k] - model.means[k]) / model.scales[k]
        assert float(off.mean().abs()) < 4 / math.sqrt(off.numel())
        assert abs(float(off.square().mean()) - 1) < 4 * math.sqrt(2 / off.numel())


@given(st.integers(0, 10**6), st.floats(-1e3, 1e3))
@settings(max_examples=25, deadline=None)
def test_a_mixture_of_one_kind_is_that_kind_however_far(seed, shift):
    means = (randn(seed, 1, 2) + shift).expand(3, 2)
    x = randn(seed + 1, 4, 2)
    found = Mixture(tensor([0.2, 0.5, 0.3]), means, 0.7).log_evidence(x)
    assert float(found) == pytest.approx(norm.logpdf(x, means[0], 0.7).sum(), rel=1e-10)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Mixture(torch.ones(2), torch.ones(3, 2)), r"weights must have shape \(K,\) and means \(K, D\), got \(2,\) and \(3, 2\)"),
    (lambda: Mixture(torch.ones(2), torch.ones(2)), "weights must have shape"),
    (lambda: Mixture(tensor([1.0, 0.0]), torch.ones(2, 1)), "weights and scales must be above zero"),
    (lambda: Mixture(torch.ones(2), torch.ones(2, 1), -1.0), "weights and scales must be above zero"),
    (lambda: Mixture(torch.ones(2), torch.ones(2, 1), torch.ones(3)), "scales must be a number or a vector of 2"),
    (lambda: Mixture(torch.ones(2), tensor([[math.nan], [0.0]])), "means must be finite"),
    (lambda: blobs().log_evidence(torch.ones(5)), r"expected points of shape \(N, 2\), got \(5,\)"),
    (lambda: blobs().responsibilities(tensor([[math.nan, 0.0]])), "x must be finite"),
    (lambda: blobs().sample(0), "num_data must be an integer, at least 1")])
def test_bad_mixtures_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- n-grams -----------------------------------------------------------------------------------------------

texts = st.lists(st.integers(0, 2), min_size=0, max_size=12)
orders = st.sampled_from([1, 2, 3])


def sequential(text, K, n, alpha):
    """log p(text) as a product of predictive probabilities, letter by letter."""
    seen, total = {}, 0.0
    for t in range(n - 1, len(text)):
        counts = seen.setdefault(tuple(text[t - n + 1:t]), [0] * K)
        total += math.log((counts[text[t]] + alpha) / (sum(counts) + K * alpha))
        counts[text[t]] += 1
    return total


@given(texts, orders, st.floats(0.05, 5.0))
@settings(max_examples=60, deadline=None)
def test_evidence_is_the_product_of_predictions(text, n, alpha):
    found = NGram(3, n, alpha).log_evidence(torch.tensor(text, dtype=torch.long))
    assert found == pytest.approx(sequential(text, 3, n, alpha), abs=1e-9)


@given(orders, st.integers(2, 3), st.floats(0.05, 5.0))
@settings(max_examples=12, deadline=None)
def test_all_short_texts_together_have_probability_one(n, K, alpha):
    model, start = NGram(K, n, alpha), [0] * (n - 1)
    rest = itertools.product(range(K), repeat=5)
    total = sum(math.exp(model.log_evidence(torch.tensor([*start, *text]))) for text in rest)
    assert total == pytest.approx(1, abs=1e-10)


def test_a_unigram_of_two_letters_is_a_beta_coin():
    text = torch.tensor([1, 1, 0, 1, 0, 1, 1])
    assert NGram(2, 1, 0.7).log_evidence(text) == pytest.approx(betaln(5.7, 2.7) - betaln(0.7, 0.7))
    coin = problems.coin(5, 2, 2.0, 2.0)
    assert NGram(2, 1, 2.0).log_evidence(text) == pytest.approx(float(coin.log_evidence), abs=1e-10)


def test_a_unigram_is_a_dirichlet_integral():
    c, alpha = np.array([5, 0, 2, 1]), 0.3
    text = torch.tensor(np.repeat(np.arange(4), c))
    expected = gammaln(4 * alpha) - gammaln(4 * alpha + c.sum()) + (gammaln(alpha + c) - gammaln(alpha)).sum()
    assert NGram(4, 1, alpha).log_evidence(text) == pytest.approx(expected, rel=1e-12)


@given(texts, texts, orders)
@settings(max_examples=30, deadline=None)
def test_the_chain_rule_of_two_texts(first, second, n):
    model, (a, b) = NGram(3, n), (torch.tensor(t, dtype=torch.long) for t in (first, second))
    found = model.log_predictive(b, a)
    assert found == pytest.approx(sequential(first + second, 3, n, 0.1) - sequential(first, 3, n, 0.1), abs=1e-9)


def test_counts():
    found = NGram(3, 2).counts(torch.tensor([0, 1, 1, 2, 0, 1]))
    assert found.tolist() == [[0, 2, 0], [0, 1, 1], [1, 0, 0]]
    found = NGram(2, 3).counts([0, 1, 1, 0, 1])
    assert found.tolist() == [[0, 0], [0, 1], [0, 1], [1, 0]]  # contexts 00, 01, 10, 11
    assert NGram(2, 3).counts([0]).tolist() == [[0, 0]] * 4


@pytest.mark.parametrize("n", [1, 2, 3])
def test_drawn_letters_come_at_the_expected_probabilities(n):
    model, given = NGram(3, n, 0.5), torch.randint(3, (60,), generator=torch.Generator().manual_seed(2))
    drawn = model.sample(6000, given, seed=1)
    assert drawn.shape == (6000,) and torch.equal(drawn, model.sample(6000, given, seed=1))
    right = model.counts(given) + 0.5
    right, found = right / right.sum(-1, keepdim=True), model.counts(drawn)
    often = found.sum(-1, keepdim=True).clamp(min=1)
    assert ((found / often - right).abs() < 4 * (right * (1 - right) / often).sqrt()).all()


LETTERS = torch.tensor([0, 1])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: NGram(1), "num_letters must be an integer, at least 2"), (lambda: NGram(3, 4), "n must be an integer, from 1 to 3"),
    (lambda: NGram(3, 0), "n must be an integer"), (lambda: NGram(3, 2, 0.0), "concentration must be a finite number above zero"),
    (lambda: NGram(3).log_evidence(torch.tensor([0, 3])), "a text must be a vector of integers from 0 to 2"),
    (lambda: NGram(3).log_evidence(torch.tensor([-1, 1])), "a text must be"),
    (lambda: NGram(3).log_evidence(torch.ones(3)), "a text must be"), (lambda: NGram(3).counts([[0, 1]]), "a text must be"),
    (lambda: NGram(3).log_predictive(torch.tensor([5]), LETTERS), "a text must be"),
    (lambda: NGram(3).sample(0, LETTERS), "length must be an integer, at least 1"),
    (lambda: NGram(3, 3).sample(5, LETTERS[:1]), "given must hold at least 2 letters, the first context, got 1")])
def test_bad_texts_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- the grid ----------------------------------------------------------------------------------------------

BUILT = {"coin": (problems.coin, 200), "two modes": (problems.two_modes, 200), "quartic": (problems.quartic, 100),
         "eight schools": (problems.eight_schools, 150), "ring": (problems.ring, 150)}


@pytest.mark.parametrize(("build", "num_points"), BUILT.values(), ids=BUILT)
def test_the_grid_finds_the_exact_evidence(build, num_points):
    problem = build()
    found = questions.approximate(problem, num_points=num_points)
    assert found.method == "grid" and found.log_evidence.kind == "consistent estimate"
    assert abs(found.gap(problem)) < 2e-4
    assert found.diagnostics["edge_mass"] < 1e-6
    assert 1 < found.diagnostics["cells"] < num_points**problem.dim
    assert found.evaluations == problem.evaluations >= num_points**problem.dim and found.seconds > 0


def test_moments_are_those_of_quadrature():
    problem = problems.eight_schools()
    found = questions.approximate(problem, num_points=200)
    mean = exact.quadrature(problem, of=lambda z: z)
    square = exact.quadrature(problem, of=lambda z: z**2)
    assert found.q.mean.tolist() == pytest.approx(mean.tolist(), abs=1e-4)
    width = (found.q.width**2 / 12).numpy()  # a histogram is wider than what it was made of
    assert (found.q.variance.numpy() - width).tolist() == pytest.approx((square - mean**2).tolist(), abs=2e-4)


def test_the_error_falls_with_the_cells():
    gaps = [abs(questions.approximate(problems.coin(2, 1, 1.0, 1.0, coordinate="p"), num_points=k).gap(problems.coin(
        2, 1, 1.0, 1.0, coordinate="p"))) for k in (10, 20, 40)]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1) and gaps[1] / gaps[2] == pytest.approx(4, rel=0.1)


def test_two_cells_by_hand():
    problem = Problem(lambda z: torch.log(z.squeeze(-1)), 1, box=((0.0, 4.0),))
    found = questions.approximate(problem, num_points=2)  # middles 1 and 3, width 2
    assert float(found.log_evidence) == pytest.approx(math.log(1 * 2 + 3 * 2))
    q = found.q
    assert q.log_prob(tensor([[0.5], [3.9], [-0.1], [4.0]])).exp().tolist() == pytest.approx([1 / 8, 3 / 8, 0, 0])
    assert float(q.mean) == pytest.approx(2.5) and float(q.variance) == pytest.approx(0.75 + 4 / 12)
    assert found.diagnostics["edge_mass"] == pytest.approx(1) and found.diagnostics["box"].tolist() == [[0, 4]]
    assert found.diagnostics["cells"] == pytest.approx(math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75)))


def test_q_is_a_density_and_samples_itself():
    q = questions.approximate(problems.eight_schools(), num_points=30).q
    (a, b), (c, d) = q.box.tolist()
    side = [torch.linspace(low, high, 901, dtype=torch.float64)[:-1] + (high - low) / 1800 for low, high in ((a, b), (c, d))]
    z = torch.cartesian_prod(*side)
    assert float(q.log_prob(z).exp().mean()) * (b - a) * (d - c) == pytest.approx(1, abs=1e-9)
    z, log_q = q.rsample_and_log_prob((200, 100), generator=torch.Generator().manual_seed(0))
    assert z.shape == (200, 100, 2) and log_q.shape == (200, 100)
    torch.testing.assert_close(log_q, q.log_prob(z), rtol=0, atol=1e-10)
    flat, n = z.reshape(-1, 2), 20_000
    assert ((flat.mean(0) - q.mean).abs() < 4 * (q.variance / n).sqrt()).all()
    off = (flat - q.mean).square()
    assert ((off.mean(0) - q.variance).abs() < 4 * off.std(0) / math.sqrt(n)).all()
    assert q.sample((3,)).shape == (3, 2) and q.sample().shape == (2,) and q.log_prob(z[0, 0]).shape == ()


def test_weights_under_q_give_the_evidence():
    problem = problems.eight_schools()
    found = questions.approximate(problem, num_points=60)
    log_weights = found.log_weights(problem, 20_000, seed=3)
    assert torch.equal(log_weights, found.log_weights(problem, 20_000, seed=3))
    share = log_weights.exp() / log_weights.exp().mean()
    assert abs(float(log_mean_exp(log_weights) - problem.log_evidence.value)) < 4 * float(share.std()) / math.sqrt(20_000)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_any_grid_is_a_density(seed, d, k):
    box = torch.stack([randn(seed, d), randn(seed, d) + 0.5 + randn(seed + 1, d).abs()], -1)
    q = Grid(box, 3 * randn(seed + 2, *[k] * d))
    middles = torch.cartesian_prod(*(q.axis(i) for i in range(d))).reshape(-1, d)
    mass = q.log_prob(middles).exp() * q.width.prod()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(q.mean, mass @ middles)
    torch.testing.assert_close(q.variance, mass @ middles**2 - q.mean**2 + q.width**2 / 12)


def test_the_box_counts_if_given_and_is_found_if_not():
    problem = problems.two_modes(separation=3.0, weight=0.3, scale=0.5)
    half = questions.approximate(problem, num_points=300, box=((0.0, 8.0),))
    assert half.evaluations == 300
    right, _ = quad(lambda z: math.exp(float(problem.log_joint(tensor([z])))), 0, 8, points=[3.0])
    assert float(half.log_evidence) == pytest.approx(math.log(right), abs=1e-6)
    found = questions.approximate(problem, num_points=300)
    assert found.evaluations > 300 and abs(found.gap(problem)) < 1e-6
    boxed = problems.coin(coordinate="p")
    assert questions.approximate(boxed).diagnostics["box"].tolist() == [list(map(float, boxed.box[0]))]


def test_a_box_that_cuts_shows_at_its_edge():
    problem = problems.quartic()
    whole, cut = (questions.approximate(problem, box=((-s, s),)).diagnostics["edge_mass"] for s in (4.0, 0.5))
    assert whole < 1e-10 and cut > 0.03


def test_a_grid_too_coarse_shows_by_few_cells():
    banana = problems.banana()  # a thin arm in a box of a hundred widths
    few, enough = (questions.approximate(banana, num_points=300, box=box) for box in (None, ((-40.0, 40.0), (-100.0, 20.0))))
    assert few.diagnostics["cells"] < 60 and abs(few.gap(banana)) > 0.05
    assert enough.diagnostics["cells"] > 1000 and abs(enough.gap(banana)) < 1e-3
    narrow = Problem(lambda z: -0.5 * (z / 1e-3).square().sum(-1), 2, box=((-1.0, 1.1), (-1.0, 1.0)))
    assert questions.approximate(narrow, num_points=21).diagnostics["cells"] < 3


def test_three_dimensions_and_more_with_a_box():
    model, x = linear(60, 5, 4)
    problem, q = model.problem(x), model.posterior(x)
    box = tuple((float(m - 6 * s), float(m + 6 * s)) for m, s in zip(q.loc, q.variance.sqrt()))
    found = questions.approximate(problem, num_points=30, box=box)
    assert found.q.mean.shape == (4,) and found.evaluations == 30**4
    assert found.gap(problem) == pytest.approx(0, abs=0.02)
    three = problems.linear_regression(("bmi", "bp"), num_data=20)
    assert abs(questions.approximate(three, num_points=30).gap(three)) < 1e-3


def test_single_precision_stays_single():
    problem = Problem(lambda z: -0.5 * z.square().sum(-1), 2, dtype=torch.float32, box=((-5.0, 5.0),) * 2)
    found = questions.approximate(problem)
    assert found.q.box.dtype == found.q.mean.dtype == torch.float32
    assert float(found.log_evidence) == pytest.approx(math.log(2 * math.pi), abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_grid_lives_where_the_problem_does():
    there = Problem(lambda z: -0.5 * z.square().sum(-1), 2, device="cuda", box=((-8.0, 8.0),) * 2, log_evidence=math.log(2 * math.pi))
    found = questions.approximate(there)
    assert found.q.mean.device.type == "cuda" and abs(found.gap(there)) < 1e-6
    assert found.log_weights(there, 100).device.type == "cuda"


@pytest.mark.parametrize(("make", "options", "error", "message"), [
    (lambda: problems.eight_schools("non-centred"), {}, TooManyPoints,
     r"50 points a side in 10 dimensions has 50\^10 = 9.8e\+16 points, above the budget of 1,000,000: take fewer"),
    (problems.eight_schools, {"budget": 2499}, TooManyPoints, r"50\^2 = 2.5e\+03 points, above the budget of 2,499"),
    (lambda: problems.coin(coordinate="p"), {"box": ((2.0, 3.0),)}, NoDensity,
     "no density at any of the 50 points in the box .*: give a tighter box, or more points a side"),
    (problems.coin, {"num_points": 1}, ValueError, "num_points must be an integer, at least 2"),
    (problems.eight_schools, {"box": ((0.0, 1.0),)}, ValueError, r"must hold 2 finite pairs \(low, high\) with low < high"),
    (problems.coin, {"box": ((1.0, 0.0),)}, ValueError, "must hold 1 finite pairs"),
    (problems.coin, {"box": ((0.0, math.inf),)}, ValueError, "must hold 1 finite pairs"),
    (lambda: problems.eight_schools("non-centred"), {"num_points": 3}, ValueError,
     "10 latents: above three, give the box to cover")])
def test_the_grid_refuses(make, options, error, message):
    with pytest.raises(error, match=message):
        questions.approximate(make(), **options)


def test_a_refusal_is_a_line_of_the_league():
    table = str(league([problems.coin(), problems.eight_schools("non-centred")], {"grid": questions}))
    assert "grid refused eight schools, non-centred: TooManyPoints: a grid of 50 points a side" in table
    assert issubclass(TooManyPoints, GridError) and issubclass(NoDensity, GridError) and issubclass(GridError, RuntimeError)


# ---- the exercises -----------------------------------------------------------------------------------------

def instances(check, count=8):
    stream = random.Random(12345)
    return [check.draw(stream) for _ in range(count)]


def test_coins_with_as_many_digits_as_it_takes():
    """Python's decimals do not underflow: Bayes' rule as it is written, without a logarithm."""
    for arguments in instances(checks.coins):
        p, prior = ([Decimal(value) for value in arguments[name].tolist()] for name in ("p", "prior"))
        joint = [w * a ** arguments["heads"] * (1 - a) ** arguments["tails"] for w, a in zip(prior, p)]
        posterior, following = checks.coins.reference(**arguments)
        exactly = [float(w / sum(joint)) for w in joint]
        assert posterior.tolist() == pytest.approx(exactly, abs=1e-9) and max(exactly) < 0.999
        assert float(following) == pytest.approx(sum(w * float(a) for w, a in zip(exactly, p)), abs=1e-9)


def test_predictive_and_factor_are_the_packages():
    for X, y, x_new, noise, scale in (arguments.values() for arguments in instances(checks.predictive)):
        wide = Gaussian(torch.zeros(X.shape[1], dtype=torch.float64), covariance_matrix=scale * torch.eye(X.shape[1]).double())
        after = LinearGaussian(X, noise, prior=wide).posterior(y)
        right = LinearGaussian(x_new.unsqueeze(0), noise, prior=after).marginal()
        found = checks.predictive.reference(X, y, x_new, noise, scale)
        assert [*map(float, found)] == pytest.approx([float(right.loc), float(right.variance)], rel=1e-9)
    for X1, X0, y, noise, scale, precision in (arguments.values() for arguments in instances(checks.factor)):
        log_p = [multivariate_normal(np.zeros(len(y)), noise * np.eye(len(y)) + scale * (X @ X.T).numpy()).logpdf(y)
                 for X in (X1, X0)]
        log_factor, bits = checks.factor.reference(X1=X1, X0=X0, y=y, noise_variance=noise, prior_variance=scale,
                                                   precision=precision)
        assert float(log_factor) == pytest.approx(log_p[0] - log_p[1], abs=1e-8)
        assert float(bits) == pytest.approx(-math.log2(math.exp(log_p[0]) * precision ** len(y)), rel=1e-9)


def test_mixture_by_enumeration():
    for weights, log_density in (arguments.values() for arguments in instances(checks.mixture, 5)):
        N, K = log_density[:6].shape
        log_joint = lambda z: (weights.log()[z] + log_density[torch.arange(N), z]).sum(-1)
        found = checks.mixture.reference(weights, log_density[:6])
        assert float(found) == pytest.approx(float(exact.enumeration(log_joint, K, N)), rel=1e-12)


def test_gain_is_the_packages_and_its_worked_example():
    for A, S, noise in (arguments.values() for arguments in instances(checks.gain)):
        model = LinearGaussian(A, noise, prior=Gaussian(torch.zeros(len(S), dtype=torch.float64), covariance_matrix=S))
        assert float(checks.gain.reference(A, S, noise)) == pytest.approx(model.information_gain(), rel=1e-9)
    angle = torch.arange(0, math.pi, 0.001, dtype=torch.float64)
    S, gains = tensor([[2.0, 1.0], [1.0, 1.0]]), []
    for a in torch.stack([angle.cos(), angle.sin()], -1):
        gains.append(float(checks.gain.reference(a.unsqueeze(0), S, tensor([0.5]))))
    best = int(np.argmax(gains))
    assert round(math.degrees(angle[best])) == 32 and f"{gains[best]:.2f}" == "0.92"


def test_missing_is_a_ratio_of_densities():
    for arguments in instances(checks.missing):
        mean, covariance, seen, x = arguments.values()
        filled, variance, log_evidence = checks.missing.reference(**arguments)
        # the same from the precision matrix, the other way to condition
        Q = torch.linalg.inv(covariance)
        own = torch.linalg.inv(Q[~seen][:, ~seen])
        torch.testing.assert_close(filled, mean[~seen] - own @ Q[~seen][:, seen] @ (x - mean[seen]), rtol=0, atol=1e-8)
        torch.testing.assert_close(variance, own.diagonal(), rtol=0, atol=1e-9)
        z, full = filled + 0.3, mean.clone()
        full[seen], full[~seen] = x, z
        ratio = MultivariateNormal(mean, covariance).log_prob(full) - MultivariateNormal(filled, own).log_prob(z)
        assert float(log_evidence) == pytest.approx(float(ratio), abs=1e-8)


def test_the_numbers_in_the_worked_solution_of_missing():
    X = diabetes().X[:, 1:]
    train, test = X[:342], X[342:]

    def filled(p, seen):
        """Three gaps a patient, all patients at once, by blocks of the precision matrix."""
        Q, at = torch.linalg.inv(p.covariance_matrix), (~seen).nonzero()[:, 1].reshape(-1, 3)
        own = torch.linalg.inv(Q[at.unsqueeze(-1), at.unsqueeze(-2)])
        pull = ((test - p.mean) * seen) @ Q
        mean = p.mean[at] - (own @ pull.gather(1, at).unsqueeze(-1)).squeeze(-1)
        errors = test.gather(1, at) - mean
        inside = errors.abs() < 1.96 * own.diagonal(dim1=-2, dim2=-1).sqrt()
        return float(errors.square().mean().sqrt()), float(inside.double().mean())

    masks = [torch.rand(test.shape, generator=torch.Generator().manual_seed(seed)).argsort(-1) >= 3 for seed in range(10)]
    models = {q: factor_model(train, q).marginal() for q in (1, 4, 9)}
    for q, rmse in ((1, 0.88), (4, 0.79), (9, 0.71)):
        found, inside = np.mean([filled(models[q], mask) for mask in masks], 0)
        assert f"{found:.2f}" == f"{rmse}" and 0.93 < inside < 0.95
    plain = [float((test - train.mean(0))[~mask].square().mean().sqrt()) for mask in masks]
    assert f"{np.mean(plain):.2f}" == "1.02"
    scores, p = [], models[9]
    for x in test[(test >= 1).any(-1)]:
        mean, variance, _ = checks.missing.reference(mean=p.mean, covariance=p.covariance_matrix, seen=x < 1, x=x[x < 1])
        scores.append(torch.stack([x[x >= 1] - mean, variance.sqrt()]))
    errors, sd = torch.cat(scores, -1)
    assert f"{float(errors.square().mean().sqrt()):.2f} {float((errors.abs() < 1.96 * sd).double().mean()):.2f}" == "1.31 0.71"
    assert float((errors > 0).double().mean()) > 0.95


# ---- the explorers -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("flips", "prior", "a", "b"), [
    (0, "flat, Beta(1, 1)", 1, 1), (10, "fair, Beta(10, 10)", 10, 10), (200, "few heads, Beta(2, 6)", 2, 6)])
def test_the_coin_explorer_shows_bayes_rule(flips, prior, a, b):
    frame = explore.coin().frame(flips=flips, prior=prior)
    heads = int(frame["heads"])
    likelihood = lambda p: p**heads * (1 - p) ** (flips - heads)
    before = lambda p: p ** (a - 1) * (1 - p) ** (b - 1) / math.exp(betaln(a, b))
    evidence, _ = quad(lambda p: likelihood(p) * before(p), 0, 1, points=[0.2], epsabs=0)
    mean, _ = quad(lambda p: p * likelihood(p) * before(p), 0, 1, points=[0.2], epsabs=0)
    assert float(frame["sequence"]) == pytest.approx(math.log(evidence), abs=1e-8)
    assert float(frame["count"]) == pytest.approx(math.log(math.comb(flips, heads) * evidence), abs=1e-8)
    assert float(frame["next"]) == float(frame["mean"]) == pytest.approx(mean / evidence, abs=1e-8)
    p = np.linspace(0, 1, 161)
    assert frame["posterior"][40] == pytest.approx(likelihood(p[40]) * before(p[40]) / evidence, rel=1e-6)
    assert frame["prior_density"][40] == pytest.approx(before(p[40]), rel=1e-9)


@pytest.mark.parametrize(("seen", "bmi"), [(0, 1.0), (20, 2.0), (442, -1.5)])
def test_the_patients_explorer_shows_its_answers(seen, bmi):
    frame = explore.patients().frame(seen=seen, bmi=bmi)
    X, y = (part.numpy() for part in diabetes(["bmi"])[:2])
    X, y = X[:seen], y[:seen]
    S = np.linalg.inv(np.eye(2) + X.T @ X / 0.49)
    m, a = S @ X.T @ y / 0.49, np.array([1.0, bmi])
    spread = math.sqrt(a @ S @ a + 0.49)
    assert float(frame["predicted"]) == pytest.approx(a @ m, abs=1e-9)
    assert float(frame["spread"]) == pytest.approx(spread, abs=1e-9)
    assert [float(frame["slope"]), float(frame["slope_sd"])] == pytest.approx([m[1], math.sqrt(S[1, 1])], abs=1e-9)
    assert float(frame["gain"]) == pytest.approx(0.5 * math.log(1 + a @ S @ a / 0.49), rel=1e-9)

    def cost(t):  # a unit too high costs 1, a unit too low costs 4
        u = (t - a @ m) / spread
        return spread * (norm.pdf(u) + u * norm.cdf(u)) + 4 * spread * (norm.pdf(u) - u * norm.sf(u))

    best = minimize_scalar(cost, bounds=(-10, 10), method="bounded", options={"xatol": 1e-9})
    assert float(frame["action"]) == pytest.approx(best.x, abs=1e-5)
    evidence = [multivariate_normal(np.zeros(seen), C @ C.T + 0.49 * np.eye(seen)).logpdf(y) if seen else 0.0
                for C in (X, X[:, :1])]
    assert float(frame["factor"]) == pytest.approx(evidence[0] - evidence[1], abs=1e-6)
    assert float(frame["bits"]) == pytest.approx(-evidence[0] / math.log(2), abs=1e-6)
    assert np.isfinite(np.asarray(frame["y"], float)).sum() == seen


@pytest.mark.parametrize(("points", "seed", "labels"), [(0, 1, True), (1, 1, True), (12, 2, True), (40, 3, False)])
def test_the_mixture_explorer_shows_its_draws(points, seed, labels):
    frame = explore.mixture().frame(points=points, seed=seed, labels=labels)
    model = explore.CLUSTERS
    z, x = (part[:points] for part in model.sample(40, seed=seed))
    log_p = np.stack([math.log(w) + norm.logpdf(x, m, s).sum(-1) for w, m, s in zip(
        model.weights, model.means.numpy(), model.scales)], -1) if points else np.zeros((0, 3))
    assert float(frame["evidence"]) == pytest.approx(np.log(np.exp(log_p).sum(-1)).sum(), abs=1e-6)
    shown = [int(np.isfinite(frame[f"y{k}"]).sum()) for k in range(3)]
    assert shown == (torch.bincount(z, minlength=3).tolist() if labels else [0, 0, 0])
    assert np.isfinite(frame["hidden"]).sum() == (0 if labels else points)
    if labels:
        assert float(frame["joint"]) == pytest.approx(log_p[np.arange(points), z].sum(), abs=1e-6)
        assert frame["joint"] <= frame["evidence"]
    else:
        assert math.isnan(frame["joint"]) and math.isnan(frame["cluster"])
    if points and labels:
        end = [float(frame["from_x"][0] + frame["dx"][0]), float(frame["from_y"][0] + frame["dy"][0])]
        assert int(frame["cluster"]) == int(z[-1]) + 1 and end == pytest.approx(x[-1].tolist())


@pytest.mark.parametrize(("coefficients", "noise"), [(0, 0.3), (16, 0.1), (64, 0.01)])
def test_the_ring_explorer_shows_the_posterior(coefficients, noise):
    frame = explore.ring().frame(coefficients=coefficients, noise=noise)
    p, picture = explore._pictures(), explore.ring_image().numpy()
    S, mean = p.covariance_matrix.numpy(), p.mean.numpy()
    gain = 0.0
    if coefficients:
        A = fourier_rows(explore.NUM_PIXELS, explore.frequencies(coefficients)).numpy()
        x = explore.measure(coefficients, noise).numpy()
        C = A @ S @ A.T + noise**2 * np.eye(len(A))
        mean, gain = mean + S @ A.T @ np.linalg.solve(C, x - A @ mean), 0.5 * np.linalg.slogdet(C / noise**2)[1]
        S = S - S @ A.T @ np.linalg.solve(C, A @ S)
    np.testing.assert_allclose(np.asarray(frame["estimate"]).ravel(), mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(frame["sd"])[::-1].ravel(), np.sqrt(np.diag(S)), rtol=0, atol=1e-5)
    assert float(frame["gain"]) == pytest.approx(gain, rel=1e-7)
    assert float(frame["gain_bits"]) == pytest.approx(gain / math.log(2), rel=1e-7)
    rmse = math.sqrt(((mean - picture.ravel()) ** 2).mean())
    assert float(frame["rmse"]) == pytest.approx(rmse, abs=1e-6)
    assert float(frame["typical"]) == pytest.approx(math.sqrt(np.diag(S).mean()), abs=1e-5)
    assert np.isfinite(frame["u"]).sum() == np.isfinite(frame["u_back"]).sum() == coefficients


def test_nights_with_more_coefficients_keep_the_earlier_ones():
    few, many = (explore.measure(m, 0.1).reshape(2, m) for m in (4, 16))
    assert torch.equal(few, many[:, :4])
