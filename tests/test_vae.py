"""The engine of variational auto-encoders: likelihoods, encoders, bounds, and log p(x) three ways."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.distributions import kl_divergence

from tightbound import divergences, exact, importance, laplace, vae
from tightbound.checks import vae as checks
from tightbound.distributions import DiagonalGaussian, Gaussian, LowRankGaussian, PiecewiseConstant
from tightbound.vae import encoders, evaluate, likelihoods

FAMILIES = ("diagonal", "low rank", "full", "piecewise")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


@lru_cache
def digits(num: int = 40) -> torch.Tensor:
    return vae.binary_digits("test")[0][:num]


@lru_cache
def truth(num: int = 40) -> torch.Tensor:
    return vae.exact(vae.two_latents(), digits(num))


# Likelihoods -------------------------------------------------------------------------------------------------------

DISCRETE = {"bernoulli": (vae.Bernoulli(), [0.0, 1.0]), "categorical": (vae.Categorical(5), [0.0, 1.0, 2.0, 3.0, 4.0]),
            "logistic, 2 levels": (vae.DiscretisedLogistic(2), [0.0, 1.0]),
            "logistic, 17 levels": (vae.DiscretisedLogistic(17), [i / 16 for i in range(17)]),
            "logistic, bytes": (vae.DiscretisedLogistic(), [i / 255 for i in range(256)])}


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("scale", [0.3, 5.0])
def test_probabilities_of_all_values_sum_to_one(name, scale):
    likelihood, values = DISCRETE[name]
    output = scale * normal(7, likelihood.size)                                   # images of one pixel
    log_prob = torch.stack([likelihood(output).log_prob(torch.tensor([value], dtype=torch.float64)) for value in values])
    assert log_prob.shape == (len(values), 7) and (log_prob <= 0).all()
    torch.testing.assert_close(log_prob.logsumexp(0), torch.zeros(7).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", ["shared", "decoder"])
def test_a_gaussian_integrates_to_one(scale):
    likelihood = vae.Gaussian(scale).double()
    for row in normal(3, likelihood.size):
        def density(x):
            with torch.no_grad():
                return math.exp(float(likelihood(row[None]).log_prob(torch.tensor([[x]], dtype=torch.float64))[0]))
        assert integrate.quad(density, -30, 30, points=[float(row[0])], limit=200)[0] == pytest.approx(1, abs=1e-7)


def test_likelihoods_against_scipy():
    x, out = torch.tensor([[0.0, 1.0, 1.0]]), normal(1, 3)
    expected = stats.bernoulli.logpmf(x.numpy(), torch.sigmoid(out).numpy()).sum()
    assert float(vae.Bernoulli()(out).log_prob(x)[0]) == pytest.approx(expected)
    out = normal(1, 6)
    scale = np.logaddexp(out[0, 3:], math.log(0.05))
    expected = stats.norm.logpdf(x[0].numpy(), out[0, :3].numpy(), np.exp(scale)).sum()
    assert float(vae.Gaussian("decoder", least=0.05)(out).log_prob(x)[0]) == pytest.approx(expected)
    x = torch.tensor([[0.0, 8 / 16, 1.0]], dtype=torch.float64)
    middle, spread = torch.sigmoid(out[0, :3]).numpy(), np.exp(out[0, 3:].numpy())
    edges = np.array([[-np.inf, 7.5 / 16, 15.5 / 16], [0.5 / 16, 8.5 / 16, np.inf]])
    low, high = stats.logistic.cdf(edges, middle, spread)
    assert float(vae.DiscretisedLogistic(17)(out).log_prob(x)[0]) == pytest.approx(np.log(high - low).sum())


def test_a_narrow_logistic_keeps_its_digits():
    """In single precision the difference of two sigmoids near one would be zero, its logarithm -inf."""
    out = torch.tensor([[3.0, -20.0]])                                           # log scale held at -7
    log_prob = vae.DiscretisedLogistic()(out).log_prob(torch.tensor([[0.2]]))
    expected = stats.logistic.logsf((float(torch.sigmoid(torch.tensor(3.0))) - 0.2 - 0.5 / 255) / math.exp(-7))
    assert float(log_prob) == pytest.approx(expected, rel=1e-3) and math.isfinite(float(log_prob))


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "logistic, 17 levels", "gaussian"])
def test_samples_have_the_probabilities_that_are_scored(name):
    likelihood, values = DISCRETE.get(name, (vae.Gaussian("decoder"), None))
    p = likelihood(normal(1, 2 * likelihood.size, seed=3))                        # two pixels
    x = p.sample((40_000,), generator=stream())
    assert x.shape == (40_000, 1, 2) and torch.equal(x, p.sample((40_000,), generator=stream()))
    likelihood.check(x[:, 0])
    if values is None:
        for i in range(2):
            scale = float(p.log_scale[0, i].exp())
            assert stats.kstest(x[:, 0, i], stats.norm(float(p.mean[0, i]), scale).cdf).pvalue > 1e-3
        return
    pairs = torch.tensor(list(itertools.product(values, values)), dtype=torch.float64)
    expected = 40_000 * p.log_prob(pairs).exp().numpy()                           # of each image of two pixels
    seen = (x - pairs).abs().lt(1e-9).all(-1).sum(0).numpy()
    assert seen.sum() == 40_000
    likely = expected > 5
    seen = [*seen[likely], seen[~likely].sum() + 1e-9]
    expected = [*expected[likely], expected[~likely].sum() + 1e-9]
    assert stats.chisquare(seen, expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("name", [*DISCRETE, "gaussian"])
def test_log_prob_broadcasts_images_against_points(name):
    """Many z against many images at once, as quadrature asks, gives what each pair gives."""
    likelihood, values = DISCRETE.get(name, (vae.Gaussian(), [0.1, 0.9]))
    x = torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), (3, 4), generator=stream())]
    out = normal(5, 1, 4 * likelihood.size)
    both = likelihood(out).log_prob(x)
    assert both.shape == (5, 3)
    for g, b in itertools.product(range(5), range(3)):
        torch.testing.assert_close(both[g, b], likelihood(out[g, 0]).log_prob(x[b]))


REFUSED = {
    "bytes under a Bernoulli": (vae.Bernoulli(), [[0.0, 255.0]], "pixel 1 of image 0 is 255; .*divide by"),
    "greys under a Bernoulli": (vae.Bernoulli(), [[0.0, 0.5]], "0.5; .*only a cross-entropy.*torch.bernoulli.*grey=True"),
    "below zero": (vae.Bernoulli(grey=True), [[0.0, 0.5], [-1.0, 0.0]], "pixel 0 of image 1 is -1"),
    "NaN": (vae.Gaussian(), [[0.0, math.nan]], "pixel 1 of image 0 is nan; .*finite"),
    "inf under a Bernoulli": (vae.Bernoulli(), [[0.0, math.inf]], "is inf; .*finite"),
    "shares under a categorical": (vae.Categorical(17), [[0.0, 0.5]], r"one of 0, 1, ..., 16: .*\(16 \* x\).round"),
    "one kind too many": (vae.Categorical(3), [[0.0, 3.0]], "is 3; a categorical"),
    "bytes under a logistic": (vae.DiscretisedLogistic(), [[0.0, 255.0]], "divide by 255"),
    "other levels": (vae.DiscretisedLogistic(), [[0.0, 8 / 16]], "multiples of 1/255"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_images_out_of_range_are_refused(name):
    likelihood, x, message = REFUSED[name]
    x = torch.tensor(x)
    with pytest.raises(ValueError, match=message):
        likelihood.check(x)
    model = vae.make(2, 1, likelihood=likelihood)
    for use in (vae.elbo, vae.split, lambda m, x: vae.iwae_bound(m, x, 3), vae.exact, vae.importance_sampled,
                lambda m, x: m.problem(x[-1])):
        with pytest.raises(ValueError):
            use(model, x)


def test_greys_are_taken_by_choice():
    x = torch.tensor([[0.0, 0.5]])
    vae.Bernoulli(grey=True).check(x)
    assert torch.isfinite(vae.elbo(vae.make(2, 1, likelihood=vae.Bernoulli(grey=True)), x)).all()


def test_a_constant_pixel_does_not_draw_a_gaussian_to_infinity():
    """With a floor under its scale, the best log density of a pixel that never changes is finite."""
    for least in (0.1, 0.01):
        likelihood = vae.Gaussian("decoder", least=least)
        best = likelihood(torch.tensor([[0.3, -1e4]])).log_prob(torch.tensor([[0.3]]))
        assert float(best) == pytest.approx(-math.log(least * math.sqrt(2 * math.pi)), rel=1e-4)


def test_unknown_words_and_numbers():
    with pytest.raises(ValueError, match="unknown likelihood 'poisson'"):
        vae.make(4, 1, likelihood="poisson")
    with pytest.raises(ValueError, match="needs its number of values"):
        vae.make(4, 1, likelihood="categorical")
    with pytest.raises(ValueError, match="unknown posterior 'flow'"):
        vae.make(4, 1, posterior="flow")
    with pytest.raises(ValueError, match="unknown scale"):
        vae.Gaussian("pixel")
    with pytest.raises(ValueError, match="least must be"):
        vae.Gaussian(least=0.0)
    with pytest.raises(ValueError, match="num_values"):
        vae.Categorical(1)
    with pytest.raises(ValueError, match="2 layer"):
        vae.make(4, (2, 1), hidden=(3, 3, 3))
    with pytest.raises(ValueError, match="L layers"):
        vae.HierarchicalVAE([nn.Identity()], [nn.Identity()], nn.Identity(), vae.Bernoulli(), [2])


# Encoders and their families ---------------------------------------------------------------------------------------

def member(family: str, batch: int = 3, dim: int = 2, seed: int = 0):
    """A member of a family that is far from the one that training starts with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = encoders.make(family, encoders.mlp(5, 6), 6, dim).double()
    for parameter in encoder.head.parameters():
        parameter.data = 0.4 * normal(*parameter.shape, seed=seed + 1)
    with torch.no_grad():
        return encoder(normal(batch, 5, seed=seed + 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_posterior_scores_its_own_samples(family):
    q = member(family)
    assert q.batch_shape == (3,) and q.event_shape == (2,)
    z, log_q = q.rsample_and_log_prob((50,), generator=stream())
    assert z.shape == (50, 3, 2) and log_q.shape == (50, 3)
    torch.testing.assert_close(log_q, q.log_prob(z))
    again, _ = q.rsample_and_log_prob((50,), generator=stream())
    assert torch.equal(z, again)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_posterior_integrates_to_one_and_knows_its_moments(family):
    q = member(family)
    axis = torch.linspace(-20, 20, 801, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    weight = q.log_prob(z[:, None]).exp() * (axis[1] - axis[0]) ** 2
    tolerance = 1e-8 if family != "piecewise" else 2e-2  # its density jumps
    torch.testing.assert_close(weight.sum(0), torch.ones(3).double(), atol=tolerance, rtol=0)
    mean = weight.T @ z
    torch.testing.assert_close(q.mean, mean, atol=2 * tolerance, rtol=0)
    torch.testing.assert_close(q.variance, weight.T @ z.square() - mean.square(), atol=6 * tolerance, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_follow_the_density(family):
    q = member(family, batch=1, dim=1)
    z, _ = q.rsample_and_log_prob((20_000,), generator=stream(1))
    axis = torch.linspace(-14, 14, 200_001, dtype=torch.float64)
    density = q.log_prob(axis[:, None, None])[:, 0].exp()
    cdf = density.cumsum(0) * (axis[1] - axis[0])
    assert stats.kstest(z.flatten(), lambda t: np.interp(t, axis, cdf)).pvalue > 1e-3


@pytest.mark.parametrize("family", ("low rank", "full", "piecewise"))
def test_divergences_in_closed_form_are_those_of_samples(family):
    q = member(family, dim=3)
    for p in (DiagonalGaussian(torch.zeros(3).double(), torch.ones(3).double()),
              DiagonalGaussian(normal(3), normal(3).exp())):
        z, log_q = q.rsample_and_log_prob((100_000,), generator=stream())
        difference = log_q - p.log_prob(z)
        error = difference.std(0) / math.sqrt(100_000)
        assert ((kl_divergence(q, p) - difference.mean(0)).abs() < 4.5 * error).all()


def test_a_divergence_of_full_and_low_rank_is_the_one_of_torch():
    q, p = member("full", dim=3), DiagonalGaussian(normal(3), normal(3).exp())
    p_full = torch.distributions.MultivariateNormal(p.loc, torch.diag(p.variance))
    expected = kl_divergence(torch.distributions.MultivariateNormal(q.loc, q.covariance_matrix), p_full)
    torch.testing.assert_close(kl_divergence(q, p), expected)
    low = member("low rank", dim=3)
    expected = kl_divergence(torch.distributions.MultivariateNormal(low.loc, low.covariance_matrix), p_full)
    torch.testing.assert_close(kl_divergence(low, p), expected)
    assert isinstance(low, LowRankGaussian) and isinstance(q, Gaussian)


def test_equal_steps_are_the_standard_normal():
    q = PiecewiseConstant(torch.zeros(4, 2, 5, dtype=torch.float64))
    p = DiagonalGaussian(torch.zeros(2).double(), torch.ones(2).double())
    z = normal(7, 4, 2)
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z))
    torch.testing.assert_close(q.mean, torch.zeros(4, 2).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(q.variance, torch.ones(4, 2).double())
    torch.testing.assert_close(kl_divergence(q, p), torch.zeros(4).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["f", "f and log q"])
@pytest.mark.parametrize("family", FAMILIES)
def test_samples_carry_the_gradient(family, share):
    """Of E_q[f(z) + c log q(z)] in the numbers that name q, against finite differences of the same by quadrature."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = encoders.make(family, nn.Identity(), 2, 1).double()
    x, f = normal(1, 2), lambda z: torch.tanh(z - 0.3).sum(-1)
    z, log_q = encoder(x).rsample_and_log_prob((200_000,), generator=stream())
    (gradient,) = torch.autograd.grad((f(z) + share * log_q).mean(), encoder.head.bias)
    axis = torch.linspace(-12, 12, 400_001, dtype=torch.float64)[:, None, None]

    def mean() -> float:
        log_q = encoder(x).log_prob(axis)[:, 0]
        return float((log_q.exp() * (f(axis[:, 0]) + share * log_q)).sum() * 24 / 400_000)

    for i, value in enumerate(encoder.head.bias.tolist()):
        ends = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                encoder.head.bias[i] = value + step
                ends.append(mean())
        encoder.head.bias.data[i] = value
        assert float(gradient[i]) == pytest.approx((ends[0] - ends[1]) / 2e-3, abs=0.006)


def test_a_piecewise_posterior_keeps_two_modes_where_a_gaussian_takes_one():
    """x = |z| + noise: the posterior has two modes; the divergence that is left after a search, both ways."""
    def log_joint(z):
        return (-0.5 * z.square() - 0.5 * ((z.abs() - 1.2) / 0.25) ** 2).squeeze(-1)

    left = {}
    axis = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    log_evidence = float(log_joint(axis).logsumexp(0) + math.log(16 / 20_000))
    for family in ("diagonal", "piecewise"):
        numbers = torch.zeros(1, 1, {"diagonal": 2, "piecewise": 32}[family], dtype=torch.float64)
        numbers[0, 0, 0] += 0.1
        optimizer, noise = torch.optim.Adam([numbers.requires_grad_()], lr=0.03), stream()

        def q():
            return PiecewiseConstant(numbers) if family == "piecewise" else DiagonalGaussian(
                numbers[..., 0], numbers[..., 1].exp())

        for _ in range(600):
            z, log_q = q().rsample_and_log_prob((64,), generator=noise)
            loss = -(log_joint(z) - log_q).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            log_q = q().log_prob(axis[:, None])[:, 0]
            left[family] = log_evidence - float((log_q.exp() * (log_joint(axis) - log_q)).sum() * 16 / 20_000)
    assert left["diagonal"] > 0.6 and 0 < left["piecewise"] < 0.3


# Models ------------------------------------------------------------------------------------------------------------

def small(dim=2, seed: int = 0, **options) -> vae.VAE:
    """A model of images with six pixels, whose decoder has been shaken so that z matters."""
    model = vae.make(6, dim, **{"hidden": (8,), "seed": seed, **options})
    for i, parameter in enumerate(model.parameters()):
        parameter.data += 0.7 * normal(*parameter.shape, seed=seed + i).float()
    return model


def hierarchical(seed: int = 0) -> vae.HierarchicalVAE:
    return small((1, 1), seed, hidden=((5,), (4,)))


def six_pixels(num: int = 5, seed: int = 0) -> torch.Tensor:
    return (torch.rand(num, 6, generator=stream(seed)) < 0.5).float()


def test_log_joint_is_that_of_its_parts():
    model, x = small(), six_pixels()
    z = normal(7, 5, 2).float()
    prior = stats.norm.logpdf(z.numpy()).sum(-1)
    mean = model.decode(z).mean.detach().numpy()
    expected = prior + stats.bernoulli.logpmf(np.broadcast_to(x.numpy(), mean.shape), mean).sum(-1)
    np.testing.assert_allclose(model.log_joint(x, z).detach().numpy(), expected, rtol=1e-4)


def test_probabilities_of_all_images_sum_to_one():
    """Over the 64 images of six pixels: that p(x) is exact, for one and two latents, and for two layers."""
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    for model in (small(1), small(2), hierarchical(), small(2, likelihood="discretised logistic").double()):
        if isinstance(model.likelihood, vae.DiscretisedLogistic):
            model.likelihood.levels = 2
        assert float(vae.exact(model, images).exp().sum()) == pytest.approx(1, abs=1e-7)


def test_two_layers_side_by_side():
    model, x = hierarchical().double(), six_pixels().double()
    q, p = model.posterior(x), model.prior()
    z, log_q = q.rsample_and_log_prob((9,), generator=stream())
    assert z.shape == (9, 5, 2) and log_q.shape == (9, 5) and model.log_joint(x, z).shape == (9, 5)
    bottom, top = z[..., :1], z[..., 1:]
    expected = model.encoder[0](x).log_prob(bottom) + model.encoder[1](bottom).log_prob(top)
    torch.testing.assert_close(log_q, expected)
    torch.testing.assert_close(q.log_prob(z), expected)
    expected = (model.priors[0](top).log_prob(bottom) - 0.5 * top.square().squeeze(-1) - 0.5 * math.log(2 * math.pi)
                + model.likelihood(model.decoder(bottom)).log_prob(x))
    torch.testing.assert_close(model.log_joint(x, z), expected)
    z, log_p = p.rsample_and_log_prob((9, 4), generator=stream())
    assert z.shape == (9, 4, 2)
    torch.testing.assert_close(p.log_prob(z), log_p)


def test_three_layers_have_the_prior_drawn_from_the_top():
    model = small((2, 3, 1), hidden=((4,), (5,), (6,)))
    z, log_p = model.prior().rsample_and_log_prob((6,), generator=stream())
    torch.testing.assert_close(model.prior().log_prob(z), log_p)
    assert abs(float(model.prior().rsample((20_000,))[:, -1].std()) - 1) < 0.03   # the top layer is N(0, 1)
    first, second, third = z.split([2, 3, 1], -1)
    expected = model.priors[0](second).log_prob(first) + model.priors[1](third).log_prob(second)
    torch.testing.assert_close(log_p, expected - 0.5 * third.square().squeeze(-1) - 0.5 * math.log(2 * math.pi))


@pytest.mark.parametrize("make", [small, hierarchical, lambda: small(posterior="full"), lambda: small(posterior="piecewise")],
                         ids=["diagonal", "two layers", "full", "piecewise"])
def test_bounds_rise_to_the_truth(make):
    """ELBO = L_1 <= L_5 <= L_50 <= log p(x), and split's parts make up the ELBO, within five standard errors."""
    model, x = make(), six_pixels(3)
    truth = vae.exact(model, x)
    with torch.no_grad():
        weights = vae.log_weights(model, x, 20_000, generator=stream()).double()
        bounds, errors = [], []
        for k in (1, 5, 50):
            groups = weights.T.reshape(3, -1, k).logsumexp(-1) - math.log(k)
            bounds.append(groups.mean(-1))
            errors.append(groups.std(-1) / math.sqrt(groups.shape[-1]))
        assert (bounds[0] < bounds[1]).all() and (bounds[1] < bounds[2] + 5 * errors[2]).all()
        assert (bounds[2] < truth + 5 * errors[2]).all()
        reconstruction, rate = vae.split(model, x, 20_000, generator=stream(1))
        assert ((reconstruction - rate - bounds[0]).abs() < 7 * errors[0] + 1e-3).all() and (rate > 0).all()
        once = torch.stack([vae.iwae_bound(model, x, 5, generator=stream(i)) for i in range(300)])
        assert ((once.mean(0) - bounds[1]).abs() < 5 * once.std(0) / math.sqrt(300) + 5 * errors[1]).all()


# log p(x), three ways ----------------------------------------------------------------------------------------------

def test_exact_agrees_with_adaptive_cubature():
    """Two codes that share nothing but the log joint: one lattice for all images, and SciPy's adaptive rule for each."""
    model = vae.two_latents()
    for i in range(3):
        problem = model.problem(digits()[i])
        found = float(exact.quadrature(problem))
        assert float(problem.log_evidence) == pytest.approx(found, abs=1e-6)
        assert float(truth()[i]) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus, nn.ReLU], ids=["tanh", "softplus", "ReLU"])
@pytest.mark.parametrize("dim", [1, 2])
def test_exact_agrees_with_a_brute_sum(dim, activation):
    for seed in range(2):
        model, x = small(dim, seed, activation=activation), six_pixels(4, seed)
        axis = torch.linspace(-9, 9, (1_000_001, 1_201)[dim - 1], dtype=torch.float64)
        step = float(axis[1] - axis[0])
        z = torch.cartesian_prod(*[axis] * dim).reshape(-1, 1, dim)
        with torch.no_grad():
            expected = evaluate.frozen(model, torch.float64).log_joint(x.double(), z).logsumexp(0) + dim * math.log(step)
        assert (vae.exact(model, x) - expected).abs().max() < (3e-6 if activation is nn.ReLU else 1e-7)


def test_exact_of_a_linear_gaussian_model():
    """Factor analysis has log p(x) = log N(x; b, W W' + s^2 I) in closed form; narrow noise makes narrow posteriors."""
    for noise in (1.0, 0.05):
        model = vae.VAE(nn.Identity(), nn.Linear(2, 6), vae.Gaussian(least=1e-4), 2)
        model.decoder.weight.data = normal(6, 2).float()
        model.likelihood.log_scale.data.fill_(math.log(noise))
        W, b = model.decoder.weight.detach().double(), model.decoder.bias.detach().double()
        s = noise + 1e-4
        x = (normal(20, 2, seed=1) @ W.T + b + s * normal(20, 6, seed=2)).float()
        expected = stats.multivariate_normal(b, W @ W.T + s**2 * np.eye(6)).logpdf(x)
        np.testing.assert_allclose(vae.exact(model, x), expected, atol=2e-5)      # single-precision log scale


def test_exact_finds_a_needle():
    """A posterior with a width of 6e-6 in both directions."""
    model = vae.VAE(nn.Identity(), nn.Linear(2, 2), vae.Gaussian(least=1e-9), 2).double()
    model.decoder.weight.data, model.decoder.bias.data = torch.eye(2).double(), torch.zeros(2).double()
    model.likelihood.log_scale.data.fill_(-12.0)
    x = torch.tensor([[0.31, 0.77]])
    assert float(vae.exact(model, x)) == pytest.approx(stats.multivariate_normal(np.zeros(2)).logpdf(x[0]), abs=1e-4)


def test_exact_follows_a_posterior_far_from_the_origin():
    model = vae.VAE(nn.Identity(), nn.Linear(1, 1), vae.Gaussian(least=1e-4), 1)
    model.decoder.weight.data.fill_(1.0)
    model.likelihood.log_scale.data.fill_(0.0)
    x, scale = torch.tensor([[40.0]]), 1 + 1e-4
    expected = stats.norm(float(model.decoder.bias.detach()), math.sqrt(1 + scale**2)).logpdf(40.0)
    assert float(vae.exact(model, x)) == pytest.approx(expected, abs=1e-3)


def test_exact_does_not_hang_on_the_batch_and_leaves_the_model_alone():
    model = vae.two_latents().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = torch.cat([vae.exact(model, digits()[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(one, truth()[:6], atol=1e-7, rtol=0)
    assert model.training and all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_exact_refuses():
    model = small(3)
    with pytest.raises(ValueError, match="one or two latents, this one has 3: .*importance_sampled"):
        vae.exact(model, six_pixels())
    with pytest.raises(ValueError, match=r"\(B, D\).*x\[None\]"):
        vae.exact(small(), six_pixels()[0])
    broken = small()
    broken.decoder[0].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN in the weights"):
        vae.exact(broken, six_pixels())

    class Improper:
        dim = 1

        def log_joint(self, x, z):
            return 0 * z.sum(-1) + 0 * x.sum(-1)

    with pytest.raises(ValueError, match="does not fade"):
        vae.exact(Improper(), six_pixels())
    ridge = vae.VAE(nn.Identity(), nn.Linear(2, 1), vae.Gaussian(least=1e-9), 2)          # a line, and hardly any width
    ridge.decoder.weight.data = torch.tensor([[1.0, 0.3]])
    ridge.likelihood.log_scale.data.fill_(-11.0)
    with pytest.raises(RuntimeError, match="of 1 of 1 images is not yet known"):
        vae.exact(ridge, torch.tensor([[0.31]]))


def test_importance_sampling_meets_the_truth_where_its_weights_are_tame():
    """Each image's error in units of its standard error is about one, for an encoder that covers, over several seeds."""
    model, x = small(), six_pixels(40)
    with torch.no_grad():
        model.encoder.head.weight.zero_()
        model.encoder.head.bias.copy_(torch.tensor([0.0, 0.0, 0.2, 0.2]))        # a little wider than the prior
    truth, scores = vae.exact(model, x), []
    for seed in range(10):
        found = vae.importance_sampled(model, x, 2_000, seed=seed)
        assert (found.k_hat < 0.7).all()
        scores.append((found.log_evidence - truth) / found.standard_error)
    scores = torch.cat(scores)
    assert abs(float(scores.mean())) < 0.25 and 0.85 < float(scores.std()) < 1.15


def test_importance_sampling_can_be_far_off_and_not_know():
    """Where the encoder misses a part of the posterior, the estimate is low and its standard error says nothing of it."""
    model, x = vae.two_latents(), vae.binary_digits("test")[0]
    x = x[:100]
    found = vae.importance_sampled(model, x, 2_000)
    error = found.log_evidence - vae.exact(model, x)
    worst = error.argmin()
    assert error[worst] < -5 * found.standard_error[worst] and error[worst] < -1 and error.mean() < -0.05


def test_importance_sampling_agrees_with_the_chapter_on_one_problem():
    model, x = vae.two_latents(), digits()[:1]
    problem = model.problem(x[0])
    ours = vae.importance_sampled(evaluate.frozen(model, torch.float64), x.double(), 50_000, batch=1_000)
    theirs = importance.approximate(problem, proposal=_one(model.double().posterior(x.double())), num_samples=50_000)
    assert abs(float(ours.log_evidence) - float(theirs.log_evidence)) < 5 * math.hypot(
        float(ours.standard_error), theirs.log_evidence.standard_error)
    assert float(ours.ess) == pytest.approx(theirs.diagnostics["ess"], rel=0.2)


def _one(q):
    return DiagonalGaussian(q.loc[0].detach(), q.stddev[0].detach())


def test_pieces_of_the_work_do_not_change_what_is_estimated():
    """The running sums, against all weights at once."""
    model, x = small(), six_pixels(3)
    noise = stream(5)
    found = vae.importance_sampled(model, x, 1_000, batch=90, seed=5)            # 30 samples at once
    with torch.no_grad():
        weights = torch.cat([vae.log_weights(model, x, min(30, 1_000 - i), generator=noise) for i in range(0, 1_000, 30)])
    weights = weights.double().T
    torch.testing.assert_close(found.log_evidence, weights.logsumexp(-1) - math.log(1_000))
    torch.testing.assert_close(found.k_hat, importance.pareto_k_hat(weights))
    ess = weights.exp().sum(-1) ** 2 / (2 * weights).exp().sum(-1)
    torch.testing.assert_close(found.ess, ess)
    torch.testing.assert_close(found.standard_error, (1 / ess - 1 / 1_000).sqrt())


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_annealing_meets_the_truth(start):
    model, x = vae.two_latents(), digits(20)
    found = vae.annealed(model, x, 25, num_temperatures=100, start=start)
    error = found.log_evidence - truth()[:20]
    assert error.abs().max() < 1 and error.abs().mean() < 0.3
    scores = error / found.standard_error
    assert float(scores.abs().median()) < 1.5


def test_annealing_is_unbiased_whatever_the_number_of_temperatures():
    """E[w] = p(x), even with few temperatures: over many chains, and with step sizes found beforehand."""
    model, x = small(), six_pixels(2)
    truth = vae.exact(model, x)
    for temperatures in (2, 10):
        found = vae.annealed(model, x, 4_000, num_temperatures=temperatures, num_leapfrog=2, batch=10_000)
        assert ((found.log_evidence - truth).abs() < 4 * found.standard_error).all()
        assert (found.standard_error < 0.2).all()


def test_annealing_two_layers_from_its_prior():
    model, x = hierarchical(), six_pixels(3)
    found = vae.annealed(model, x, 100, num_temperatures=50)
    assert ((found.log_evidence - vae.exact(model, x)).abs() < 5 * found.standard_error + 1e-3).all()


def test_annealing_beats_a_poor_encoder():
    """The encoder knows nothing, the prior and the decoder suffice."""
    model, x = vae.two_latents(), digits(10)
    with torch.no_grad():
        model.encoder.head.weight.zero_()
        model.encoder.head.bias.copy_(torch.tensor([2.0, 2.0, -2.0, -2.0]))
    by_samples = (vae.importance_sampled(model, x, 2_500).log_evidence - truth()[:10]).abs().mean()
    by_annealing = (vae.annealed(model, x, 25, num_temperatures=100).log_evidence - truth()[:10]).abs().mean()
    assert by_annealing < 0.2 and by_samples > 1


@pytest.mark.parametrize("options, message", [
    ({"num_samples": 3}, "num_samples"), ({"num_temperatures": 0}, "num_temperatures"), ({"start": "middle"}, "unknown start"),
    ({"num_leapfrog": 0}, "num_leapfrog"), ({"batch": 0}, "batch")], ids=lambda value: str(value)[:20])
def test_annealing_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        vae.annealed(small(), six_pixels(), **options)


def test_exploding_scales_are_named():
    model = small()
    model.encoder.head.bias.data[2:] = 1e4
    with pytest.raises(ValueError, match="log weights of image 0 .*the encoder"):
        vae.importance_sampled(model, six_pixels(), 25)


def test_every_method_takes_the_problem_of_an_image():
    problem = vae.two_latents().problem(digits()[0])
    assert problem.dtype == torch.float64 and problem.log_evidence.kind == "exact"
    assert abs(laplace.approximate(problem).gap(problem)) < 2
    found = importance.approximate(problem, num_samples=20_000)
    assert abs(found.gap(problem)) < 5 * found.log_evidence.standard_error + 0.01
    assert abs(importance.anneal(problem, num_samples=100).gap(problem)) < 0.5
    assert -0.01 < divergences.approximate(problem).gap(problem) < 1
    assert small(3).problem(six_pixels()[0]).log_evidence is None
    with pytest.raises(ValueError, match=r"take x\[0\]"):
        small().problem(six_pixels())


def test_active_units_are_those_that_move():
    model, x = small(3), six_pixels(200)
    with torch.no_grad():
        model.encoder.head.weight[1] = 0
    assert vae.active_units(model, x).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="two images or more"):
        vae.active_units(model, x[:1])
    layers = hierarchical()
    with torch.no_grad():
        layers.encoder[1].head.weight.zero_()
    assert vae.active_units(layers, x, threshold=0.03, num_samples=2_000).tolist() == [True, False]
    deaf = vae.make(8, (30, 20), hidden=((8,), (8,)))
    with torch.no_grad():
        for encoder in (deaf.encoder, *getattr(deaf, "encoders", ())):
            for parameter in encoder.parameters():
                parameter.zero_()
    for seed in range(5):  # each unit's mean of 100 draws scatters by as much as the threshold
        assert not vae.active_units(deaf, torch.rand(200, 8).round(), seed=seed).any()


# The model that comes with the package -----------------------------------------------------------------------------

def test_the_model_of_the_digits_is_small_and_good():
    model, path = vae.two_latents(), __import__("pathlib").Path(vae.__file__).parent / "weights" / "two_latents.pt"
    assert path.stat().st_size < 60_000
    state = torch.load(path, weights_only=True)
    assert all(value.dtype == torch.float32 for value in state.values())
    mean = float(vae.exact(model, vae.binary_digits("test")[0]).mean())
    pixels = vae.binary_digits()[0].mean(0).clamp(1e-3, 1 - 1e-3)                # independent pixels, for comparison
    x = vae.binary_digits("test")[0]
    alone = float((x * pixels.log() + (1 - x) * (1 - pixels).log()).sum(1).mean())
    assert -18.5 < mean < -17.3 and mean > alone + 6
    one, two = vae.two_latents(), vae.two_latents()
    next(one.parameters()).data.zero_()
    assert not torch.equal(next(one.parameters()), next(two.parameters()))       # everyone gets a copy


def test_binary_digits():
    (x, labels), (held_out, _) = vae.binary_digits(), vae.binary_digits("test")
    assert x.shape == (1500, 64) and held_out.shape == (297, 64) and labels.shape == (1500,)
    assert set(x.unique().tolist()) == {0.0, 1.0} and x.dtype == torch.float32
    with pytest.raises(ValueError, match="unknown split"):
        vae.binary_digits("all")


def test_starting_weights_come_from_the_seed_and_leave_the_global_stream():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one, two, three = vae.make(6, 2), vae.make(6, 2), vae.make(6, 2, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.decoder[0].weight, two.decoder[0].weight)
    assert not torch.equal(one.decoder[0].weight, three.decoder[0].weight)
    assert likelihoods.make("gaussian").size == 1


# The exercise on samples ---------------------------------------------------------------------------------------------

def right_sample(mean, log_variance, eps):
    return checks.sample.reference(mean, log_variance, eps)


def from_numpy(mean, log_variance, eps):
    z, log_q = (torch.tensor(part.numpy()) for part in right_sample(mean, log_variance, eps))
    return z, log_q


def by_torch(mean, log_variance, eps):
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = mean + q.stddev * eps
    return z, q.log_prob(z.detach()).sum(-1)


def of_own_noise(mean, log_variance, eps):
    return right_sample(mean, log_variance, torch.randn_like(eps))


@pytest.mark.parametrize(("function", "diagnosis", "words"), [
    (right_sample, None, ""), (by_torch, None, ""),
    (lambda mean, log_variance, eps: tuple(part.detach() for part in right_sample(mean, log_variance, eps)), "gradient cut",
     "from z to the mean or"),
    (from_numpy, "gradient cut", "from z to the mean or"),
    (lambda mean, log_variance, eps: right_sample(mean.detach(), log_variance, eps), "gradient cut", "from z to the mean"),
    (lambda mean, log_variance, eps: right_sample(mean, log_variance.detach(), eps), "gradient cut", "from z to the log variance"),
    (of_own_noise, "own noise", "of `eps`")],
    ids=["right", "by torch", "detached", "by NumPy", "no gradient of the mean", "no gradient of the width", "own noise"])
def test_a_sample_is_made_of_the_given_noise_and_carries_the_gradient(function, diagnosis, words):
    found = checks.sample.diagnose(function, seed=0)
    assert found is None and diagnosis is None or found[0] == diagnosis and words in found[1]


def test_typical_ways_to_the_likelihood_from_logits():
    """Each is right for moderate logits, and is told what large ones do to it."""
    def through_probabilities(hold):
        def function(x, logits):
            mu = hold(torch.sigmoid(logits))
            return (x * mu.log() + (1 - x) * (1 - mu).log()).sum(-1)
        return function

    def shifted(small):
        def function(x, logits):
            mu = torch.sigmoid(logits)
            return (x * (mu + small).log() + (1 - x) * (1 - mu + small).log()).sum(-1)
        return function

    def overflows(x, logits):
        return (x * logits - torch.log1p(logits.exp())).sum(-1)

    def by_library(x, logits):
        return -torch.nn.functional.binary_cross_entropy(torch.sigmoid(logits), x, reduction="none").sum(-1)

    right = [lambda x, logits: torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)]
    surprised = [by_library, shifted(1e-7), shifted(1e-8), shifted(1e-12),
                 through_probabilities(lambda mu: mu.clamp(1e-7, 1 - 1e-7)),
                 lambda x, logits: checks.bernoulli.reference(x, logits.clamp(-30, 30))]
    for seed in range(20):
        for functions, name in ((right, None), (surprised, "a sure decoder that is wrong"), ([overflows], "overflow"),
                                ([through_probabilities(lambda mu: mu)], "NaN")):
            for function in functions:
                found = checks.bernoulli.diagnose(function, seed=seed)
                assert (found and found[0]) == name
