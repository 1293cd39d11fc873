"""VAEs in practice: what collapse is measured by, the linear case against its closed form, remedies, sentences, and the game."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from tightbound import vae
from tightbound import vae_practice as vp
from tightbound.distributions import DiagonalGaussian
from tightbound.explore import vae_practice as explore
from tightbound.training import fit

numbers = st.floats(-3, 3)


class Fixed:
    """A stand-in for a model: the posteriors of as many data as there are rows, given outright."""

    def __init__(self, mean, scale):
        self.q = DiagonalGaussian(torch.as_tensor(mean).double(), torch.as_tensor(scale).double())

    def posterior(self, x):
        return self.q

    def prior(self):
        d = self.q.event_shape[0]
        return DiagonalGaussian(torch.zeros(d).double(), torch.ones(d).double())


def rows(n):
    return torch.zeros(n, 1)


# Measures -----------------------------------------------------------------------------------------------------------------

@given(mean=numbers, log_scale=numbers)
def test_the_rate_is_the_divergence(mean, log_scale):
    mean, log_scale = torch.tensor(mean).double(), torch.tensor(log_scale).double()
    expected = kl_divergence(Normal(mean, log_scale.exp()), Normal(0.0, 1.0))
    assert float(vp.gaussian_rates(mean, log_scale)) == pytest.approx(float(expected), abs=1e-10)


def test_the_rate_keeps_its_digits_near_zero_and_is_never_negative():
    tiny = torch.tensor([1e-6, -1e-6, 3e-4], dtype=torch.float32)
    found = vp.gaussian_rates(torch.zeros(3), tiny)
    assert (found >= 0).all() and float(found[2]) == pytest.approx(9e-8, rel=0.2)  # 1/2 (s^2 - 1) - log s, to second order


def test_rates_by_unit_and_the_lectures_slip():
    model = Fixed([[0.0, 1.0], [0.0, -2.0]], [[1.0, 0.5], [1.0, 0.3]])
    found = vp.unit_rates(model, rows(2))
    s2 = model.q.variance
    by_hand = 0.5 * (model.q.mean**2 + s2 - 1 - s2.log()).mean(0)
    assert torch.allclose(found, by_hand) and float(found[0]) == 0
    without_variance = 0.5 * (model.q.mean**2 - 1 - s2.log()).mean(0)  # as one of the lectures prints it
    assert float(without_variance[0]) == -0.5


def test_surgery_where_the_answer_is_known():
    nothing = vp.surgery(Fixed(np.zeros((6, 2)), np.ones((6, 2))), rows(6))
    assert nothing == pytest.approx((0, 0, 0), abs=1e-12)
    far = vp.surgery(Fixed(100 * np.arange(8.0)[:, None], np.full((8, 1), 0.1)), rows(8))
    assert far.information == pytest.approx(math.log(8), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_surgery_against_quadrature(seed):
    stream = np.random.default_rng(seed)
    mean, scale = stream.normal(size=5) * 1.5, stream.uniform(0.3, 1.2, size=5)

    def aggregated(z):
        return norm.pdf(z, mean, scale).mean()

    mismatch = quad(lambda z: aggregated(z) * (math.log(aggregated(z)) - norm.logpdf(z)), -9, 9, limit=200)[0]
    rate = np.mean(0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)))
    found = vp.surgery(Fixed(mean[:, None], scale[:, None]), rows(5), num_samples=40_000, seed=seed)
    assert found.rate == pytest.approx(rate, abs=0.02) and found.mismatch == pytest.approx(mismatch, abs=0.02)
    assert found.information == pytest.approx(rate - mismatch, abs=0.02) and 0 < found.information < math.log(5)


@pytest.mark.parametrize("call", [
    lambda: vp.unit_rates(Fixed([[0.0]], [[1.0]]), torch.zeros(3)), lambda: vp.surgery(Fixed([[0.0]], [[1.0]]), torch.zeros(0, 2)),
    lambda: vp.water_filling(torch.ones(2), 0.0),
    lambda: vp.water_filling(torch.tensor([-1.0]), 1.0), lambda: vp.FixedNoise(0), lambda: vp.curved(2, circle=True),
    lambda: vp.Objective(beta=-1), lambda: vp.Objective(dropout=1.5), lambda: vp.Objective(warm_up=-3),
    lambda: vp.curved(0), lambda: vp.Objective(floor=math.nan)],
    ids=["one row of no axis", "no rows", "level zero", "negative variance", "no noise", "circle in a plane", "beta",
         "dropout", "warm-up", "no dimension", "floor"])
def test_bad_input_is_named(call):
    with pytest.raises(ValueError, match="got|not negative|one dimension"):
        call()


# The linear case ----------------------------------------------------------------------------------------------------------

@settings(max_examples=30, deadline=None)
@given(variance=st.floats(0.01, 10), noise=st.floats(0.05, 2), beta=st.floats(0.2, 5))
def test_water_filling_is_the_optimum_of_one_direction(variance, noise, beta):
    """The beta-bound of one direction, its encoder solved for, its weight found by SciPy."""
    def cost(w2):
        s2 = beta * noise / (w2 + beta * noise)
        slope = math.sqrt(w2) / (w2 + beta * noise)
        error = variance * (1 - math.sqrt(w2) * slope) ** 2 + w2 * s2
        rate = 0.5 * (slope**2 * variance + s2 - 1 - math.log(s2))
        return error / (2 * noise) + beta * rate, rate, error

    best = minimize_scalar(lambda w2: cost(w2)[0], bounds=(0, 20), method="bounded", options={"xatol": 1e-12}).x
    _, rate, error = cost(best)
    found = vp.water_filling(torch.tensor([variance]).double(), beta * noise)
    assert float(found.rates) == pytest.approx(rate, abs=2e-3) and float(found.distortions) == pytest.approx(error, abs=2e-3)
    assert (float(found.rates) == 0) == (variance <= beta * noise)


def test_the_slope_of_the_curve_is_minus_twice_the_level():
    variances = torch.tensor([3.0, 1.0, 0.4, 0.1]).double()
    low, high = (vp.water_filling(variances, level) for level in (0.299, 0.301))
    slope = (high.distortions.sum() - low.distortions.sum()) / (high.rates.sum() - low.rates.sum())
    assert float(slope) == pytest.approx(-0.6, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_linear_vae_finds_the_exact_evidence(seed):
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 6, generator=stream).double() * torch.tensor([2.0, 1.4, 1.0, 0.5, 0.3, 0.2]).double()
    x = x - x.mean(0)
    variances, _ = vp.principal_variances(x)
    assert np.allclose(variances.numpy(), np.sort(np.linalg.svd(x.numpy(), compute_uv=False) ** 2 / 300)[::-1])
    model = vp.linear_vae(6, 5, 0.3, seed=seed)
    bound = vp.fit_linear(model, x)
    learned = vp.unit_rates(model, x).sort(descending=True).values
    assert torch.allclose(learned, vp.water_filling(variances[:5], 0.3).rates, atol=2e-3)
    W = model.decoder.weight.detach()
    exact = MultivariateNormal(model.decoder.bias.detach(), W @ W.mT + 0.3 * torch.eye(6, dtype=torch.float64)).log_prob(x).mean()
    assert 0 <= float(exact) - bound < 1e-3
    keep = torch.where(variances > 0.3, variances, torch.full_like(variances, 0.3))   # what the best covariance has there
    optimum = -0.5 * (6 * math.log(2 * math.pi) + keep.log().sum() + (variances / keep).sum())
    assert float(exact) == pytest.approx(float(optimum), abs=1e-3)


def test_the_linear_bound_is_the_mean_of_sampled_ones():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double()
    model = vp.linear_vae(5, 2, 0.5, seed=1).double()
    sampled = vae.elbo(model, x, 4000, generator=torch.Generator().manual_seed(0)).mean()
    assert float(sampled.detach()) == pytest.approx(float(vp.linear_bound(model, x).detach()), abs=0.02)


@pytest.mark.parametrize(("w", "v", "signal", "beta"), [(0.7, 0.4, 1.5, 1.0), (-1.2, -0.3, 0.8, 0.3), (0.0, 0.0, 2.0, 2.0)])
def test_the_landscape_is_the_bound_at_its_best_scale(w, v, signal, beta):
    def minus_bound(log_s2):
        s2 = math.exp(log_s2)
        error = signal * (1 - w * v) ** 2 + w**2 * s2
        return 0.5 * (error + beta * (v**2 * signal + s2 - 1 - log_s2) + math.log(2 * math.pi))

    best = -minimize_scalar(minus_bound).fun
    found = vp.single_unit_bound(*(torch.tensor(value).double() for value in (w, v)), signal, beta)
    assert float(found) == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize(("signal", "saddle"), [(0.5, False), (0.95, False), (1.05, True), (5.0, True)])
def test_the_origin_is_a_saddle_where_the_signal_beats_the_noise(signal, saddle):
    H = torch.func.hessian(lambda at: vp.single_unit_bound(at[0], at[1], signal))(torch.zeros(2).double())
    assert (float(torch.linalg.eigvalsh(H)[1]) > 0) == saddle


# Remedies -----------------------------------------------------------------------------------------------------------------

def digits_model(dim=3):
    return vp.dense_vae(dim, size=8, width=16, seed=0)


def binary(n, size=8):
    return torch.randint(2, (n, size), generator=torch.Generator().manual_seed(1)).float()


def value(objective, x, step=0, seed=0):
    return objective(digits_model(), x, generator=torch.Generator().manual_seed(seed), step=step)


def test_without_remedies_it_is_the_bound():
    x = binary(30)
    reconstruction, rate = vae.split(digits_model(), x, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(value(vp.Objective(), x), reconstruction - rate, atol=1e-5)
    assert torch.allclose(value(vp.Objective(beta=3.0), x), reconstruction - 3 * rate, atol=1e-5)
    assert torch.allclose(value(vp.Objective(beta=2.0, warm_up=10), x, step=5), reconstruction - rate, atol=1e-5)


def test_the_price_rises_and_stays():
    objective = vp.Objective(beta=0.8, warm_up=4)
    assert [objective.weight(step) for step in (0, 1, 2, 4, 100)] == pytest.approx([0, 0.2, 0.4, 0.8, 0.8])


def test_below_the_floor_the_rate_has_no_gradient_and_above_it_one():
    x, model = binary(30), digits_model()
    low, high = 0.5 * vp.unit_rates(model, x).min(), 2 * vp.unit_rates(model, x).max()
    full, above, below = (value(vp.Objective(floor=float(floor)), x).mean() for floor in (0, low, high))
    assert float(above.detach()) == pytest.approx(float(full.detach()), abs=1e-5)   # in the mean over the batch
    assert below < full

    def slope(objective):
        model = digits_model()
        # at mean zero and scale one nothing of z depends on the encoder but the rate
        objective(model, x, generator=torch.Generator().manual_seed(0)).mean().backward()
        return model.encoder.head.bias.grad

    reconstruction_only = slope(vp.Objective(beta=0.0))
    assert torch.allclose(slope(vp.Objective(floor=float(high))), reconstruction_only, atol=1e-7)
    assert not torch.allclose(slope(vp.Objective()), reconstruction_only, atol=1e-4)


@pytest.mark.parametrize("objective", [vp.Objective(), vp.Objective(warm_up=10), vp.Objective(dropout=0.3)],
                         ids=["bound", "annealed", "dropout"])
def test_training_repeats_itself_and_leaves_the_global_stream_alone(objective):
    x = vp.character_names().train[:256]

    def trained():
        model = vp.SentenceVAE(202, 2, width=8, embedding=4, seed=3)
        return fit(model, x, objective, num_epochs=2, seed=5)

    state = torch.random.get_rng_state()
    first, second = trained(), trained()
    assert torch.equal(first, second) and torch.equal(state, torch.random.get_rng_state())
    assert first[-1] > first[0]


# Sentences ----------------------------------------------------------------------------------------------------------------

def sentence_model(dim=2, words=4):
    return vp.SentenceVAE(words, dim, width=8, embedding=5, seed=0).double()


@pytest.mark.parametrize("dim", [0, 2])
def test_probabilities_of_all_sentences_sum_to_one(dim):
    model = sentence_model(dim)
    sentences = {row[:row.index(0) + 1] if 0 in row else row for row in itertools.product(range(4), repeat=3)}
    x = torch.tensor([[*row, *[0] * (3 - len(row))] for row in sentences])
    z = torch.tensor([[0.7, -1.1]]).double()[:, :dim].expand(len(x), -1)
    with torch.no_grad():  # sentences that end within three words, and the beginnings of those that do not
        assert float(model.decode(z).log_prob(x).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_log_prob_against_a_loop_word_by_word():
    model, z = sentence_model(), torch.tensor([[0.3, -0.8]]).double()
    sentence, total = [2, 3, 1, 0], 0.0
    with torch.no_grad():
        state, word = torch.tanh(model.first(z)), model.start
        cell = torch.nn.GRUCell(5 + 2, 8).double()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).copy_(getattr(model.write, f"{name}_l0"))
        for target in sentence:
            state = cell(torch.cat([model.embed(torch.tensor([word])), z], -1), state)
            total += float(torch.log_softmax(model.output(state), -1)[0, target])
            word = target
        found = model.decode(z).log_prob(torch.tensor([[*sentence, 0, 3]]))
    assert float(found) == pytest.approx(total, abs=1e-12)   # what follows the end does not count


def test_what_follows_the_end_is_not_read():
    model = sentence_model()
    with torch.no_grad():
        first, second = (model.posterior(torch.tensor([row])).mean for row in ([2, 3, 0, 0, 0], [2, 3, 0, 1, 3]))
    assert torch.equal(first, second)


def test_latents_have_any_leading_axes():
    model, x = sentence_model(), torch.randint(4, (5, 6), generator=torch.Generator().manual_seed(0))
    z = torch.randn(3, 2, 5, 2, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        together = model.log_joint(x, z)
        one_by_one = torch.stack([torch.stack([model.log_joint(x, z[i, j]) for j in range(2)]) for i in range(3)])
        shared = model.log_joint(x, z[:, 0, :1])
    assert together.shape == (3, 2, 5) and torch.allclose(together, one_by_one, atol=1e-12) and shared.shape == (3, 5)


def test_without_latents_the_bound_is_the_log_likelihood():
    model, x = sentence_model(0), torch.randint(4, (5, 6), generator=torch.Generator().manual_seed(0))
    bound = vae.elbo(model, x, 3)
    assert torch.allclose(bound, model.decode(torch.zeros(5, 0).double()).log_prob(x)) and vp.unit_rates(model, x).shape == (0,)


def test_word_dropout_hides_words_from_the_decoder_alone():
    model, x = sentence_model(), torch.randint(1, 4, (40, 6), generator=torch.Generator().manual_seed(0))
    z = torch.zeros(40, 2).double()
    with torch.no_grad():
        all_hidden = model.decode(z).log_prob(x, dropout=1.0, generator=torch.Generator().manual_seed(0))
        blind, _ = model.predict(torch.full_like(x, model.start), z)
    expected = torch.log_softmax(blind, -1).gather(-1, x[..., None])[..., 0].sum(-1)
    assert torch.allclose(all_hidden, expected)


def test_the_bounds_stay_below_the_quadrature():
    text = vp.character_names()
    model = vp.SentenceVAE(len(text.vocabulary), 2, width=12, embedding=8, seed=0)
    fit(model, text.train, vp.Objective(floor=1.0), num_epochs=3, learning_rate=1e-2)
    x = text.test[:4]
    exact = vp.grid_log_evidence(model, x)
    assert torch.allclose(exact, vp.grid_log_evidence(model, x, half=5, num_points=101), atol=1e-4)
    sampled = vae.importance_sampled(model, x, 2000)
    bound = vae.elbo(model, x, 500).detach()
    assert (bound < exact + 0.02).all()
    assert ((sampled.log_evidence - exact).abs() < 6 * sampled.standard_error + 0.01).all()
    assert ((vp.defended_log_evidence(model, x, 4000) - exact).abs() < 0.1).all()


def test_the_names_are_the_same_everywhere():
    text = vp.character_names()
    assert (len(text.train), len(text.test), len(text.vocabulary)) == (2013, 504, 202)
    assert text.words(text.test[0]) == "malayalam digit two" and text.vocabulary[2] == "letter"
    as_rows = {tuple(row) for row in text.train.tolist()}
    assert len(as_rows) == 2013 and not as_rows & {tuple(row) for row in text.test.tolist()}
    assert int(text.train.max()) == 201 and vp.UNKNOWN not in text.train and (text.train[:, -1] == vp.END).all()


def test_rare_words_are_unknown_or_leave():
    sentences = [["a", "b"], ["a", "c"], ["a", "b", "b"], ["d"], ["a", "b"]]
    kept, marked = (vp.number(sentences, 2, unknown=unknown) for unknown in (False, True))
    assert len(kept.train) + len(kept.test) == 2 and len(marked.train) + len(marked.test) == 4
    assert kept.vocabulary == ["<end>", "<unknown>", "a", "b"]
    assert sorted(marked.words(row) for row in torch.cat([marked.train, marked.test])) == [
        "<unknown>", "a <unknown>", "a b", "a b b"]


# Networks, sheets, and the game -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [vp.dense_vae, vp.convolutional_vae], ids=["dense", "convolutional"])
def test_networks_for_pictures(make):
    model, x = make(3, seed=0), binary(7, 64)
    z, _ = model.posterior(x).rsample_and_log_prob((5,))
    assert model.log_joint(x, z).shape == (5, 7) and torch.isfinite(vae.elbo(model, x)).all()
    with torch.no_grad():
        assert torch.allclose(model.log_joint(x, z)[2], model.log_joint(x, z[2]), atol=1e-4)
    same = make(3, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters()))


def test_curved_sheets():
    x = vp.curved(2, 500, seed=1)
    assert x.shape == (500, 20) and torch.equal(x, vp.curved(2, 500, seed=1)) and not torch.equal(x, vp.curved(2, 500, seed=2))
    clean = vp.curved(1, 500, circle=True, noise=1e-12, seed=0)
    nearest = (clean[:, None] - clean).norm(dim=-1).fill_diagonal_(9.0)
    assert float(nearest.min(1).values.max()) < 0.6   # a closed line: everyone has neighbours close by


def test_two_modes_is_what_its_density_says():
    total, mean = (quad(lambda x: x**k * math.exp(float(vp.two_modes_log_prob(torch.tensor([[x]], dtype=torch.float64)))), -9, 9, points=[-4, 4])[0]
                   for k in (0, 1))
    x = vp.two_modes(100_000, seed=0)
    assert total == pytest.approx(1, abs=1e-9) and float(x.mean()) == pytest.approx(mean, abs=0.05)


def test_one_latent_by_equal_weights_agrees_with_the_engine():
    x = vp.two_modes(12, seed=3)
    model = vp.dense_vae(1, size=1, width=16, likelihood=vp.OwnNoise(), seed=2)
    assert torch.allclose(vp.grid_log_evidence(model, x, half=8), vae.exact(model, x), atol=1e-4)
    plane = vp.dense_vae(2, size=8, width=16, seed=0)
    assert torch.allclose(vp.grid_log_evidence(plane, binary(5)), vae.exact(plane, binary(5)), atol=1e-4)
    with pytest.raises(ValueError, match="one or two latents"):
        vp.grid_log_evidence(digits_model(3), binary(5))


@pytest.mark.parametrize("seed", range(3))
def test_the_value_of_the_game(seed):
    stream = np.random.default_rng(seed)
    p, g = stream.dirichlet(np.ones(6)), stream.dirichlet(np.ones(6))
    g[0] = 0
    g = g / g.sum()
    best, found = vp.game_value(torch.tensor(p), torch.tensor(g), 1.0)
    assert found == pytest.approx(2 * jensenshannon(p, g) ** 2 - 2 * math.log(2), abs=1e-12)
    for other in (0.9 * best + 0.05, best**1.1):
        played = (torch.xlogy(torch.tensor(p), other) + torch.xlogy(torch.tensor(g), 1 - other)).sum()
        assert float(played) < found


def test_a_gan_learns_one_bell_and_repeats_itself():
    x = 2 + 0.5 * torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    first, second = (vp.fit_gan(x, num_steps=400, seed=1) for _ in range(2))
    assert torch.equal(first.history, second.history) and first.history.shape == (400, 2)
    draws = first.sample(4000, seed=0)
    assert float(draws.mean()) == pytest.approx(2, abs=0.4)


# What the chapter says over ten seeds -------------------------------------------------------------------------------------

def scores(part, model, name):
    return np.array(vp.results()[part]["scores"][model][name])


def gain(part, model, other, name="log_evidence"):
    """Mean and standard error of the difference, in pairs."""
    difference = scores(part, model, name) - scores(part, other, name)
    return difference.mean(), difference.std(ddof=1) / np.sqrt(len(difference))


def test_results_hold_ten_seeds_of_everything():
    found = vp.results()
    parts = ("names", "novel", "beta", "dimension", "architecture", "modes", "league")
    assert set(parts) < set(found) and found["command"] == "python benchmarks/seeds/vae_practice.py"
    for part in parts:
        for model in found[part]["scores"].values():
            assert all(len(values) == 10 and np.isfinite(values).all() for values in model.values())
    assert json.dumps(found)


@pytest.mark.parametrize("part", ["names", "novel"])
def test_the_plain_sentence_vae_collapses_and_nothing_is_lost(part):
    assert scores(part, "VAE", "rate").max() < 0.05
    difference, error = gain(part, "VAE", "language model")
    assert abs(difference) < 4 * error + 0.05
    assert scores(part, "free bits", "rate").min() > 10 * scores(part, "VAE", "rate").max()


def test_annealing_and_word_dropout_hold_on_names_and_not_on_english():
    for model in ("KL annealing", "word dropout"):
        assert scores("names", model, "rate").min() > 0.3 and scores("novel", model, "rate").max() < 0.05
    assert scores("novel", "KL annealing", "log_evidence").mean() > scores("novel", "language model", "log_evidence").mean()
    assert (scores("novel", "free bits", "mismatch") > 0.1).all()


def test_against_the_collapsed_vae_the_gains_are_small_and_those_of_free_bits_are_real():
    difference, error = gain("names", "free bits", "VAE")
    assert 4 * error < difference < 0.1
    for model in ("KL annealing", "beta = 1/2"):
        difference, error = gain("names", model, "VAE")
        assert abs(difference) < 2 * error
    annealed, floored = (gain("novel", model, "VAE")[0] for model in ("KL annealing", "free bits"))
    assert abs(annealed - floored) < 0.01 < annealed < 0.1


def test_a_lower_price_gives_a_better_model_and_a_worse_bound():
    difference, error = gain("league", "beta = 1/4", "VAE")
    assert difference > 3 * error
    worse, error = gain("league", "beta = 1/4", "VAE", "bound")
    assert worse < -3 * error


@pytest.mark.parametrize("part", ["names", "novel", "league"])
def test_bounds_lie_below_log_evidence(part):
    for name, model in vp.results()[part]["scores"].items():
        if name != "language model":
            assert (np.array(model["bound"]) < np.array(model["log_evidence"]) + 0.03).all()


def test_networks_beat_the_line_where_nats_are_few():
    assert scores("beta", "1", "rate").mean() > scores("beta", "32", "rate").mean() > 0


def test_a_game_may_lose_a_mode_and_a_likelihood_does_not():
    assert (scores("modes", "gan", "left") < 0.01).sum() >= 5
    assert (abs(scores("modes", "vae", "left") - 0.3) < 0.1).all()


# Explorers ----------------------------------------------------------------------------------------------------------------

def test_the_water_of_the_explorer():
    explorer = explore.water()
    from tightbound.data import digits

    variances, _ = vp.principal_variances(digits("train").images)
    for beta in (1, 8, 80):
        frame, found = explorer.frame(beta=beta), vp.water_filling(variances, 0.01 * beta)
        assert frame["rate"] == pytest.approx(float(found.rates.sum())) and frame["active"] == int((found.rates > 0).sum())
        assert frame["distortion"] == pytest.approx(float(found.distortions.sum()))
        area = np.clip(frame["above"] - frame["surface"][0], 0, None)[::2].sum()    # a bar of width one for each unit
        assert area == pytest.approx(float(found.rates[:44].sum()), abs=1e-6)
    assert np.allclose(explorer.frame(beta=80)["copy"], digits("train").images.mean(0).reshape(8, 8), atol=1e-6)


@pytest.mark.parametrize(("signal", "annealing", "rate"), [
    (5, "none", 0.5 * math.log(5)), (3, "in the first half", 0.5 * math.log(3)), (0.8, "in the first half", 0.0),
    (0.8, "none", 0.0)])
def test_the_climb_of_the_explorer_ends_at_the_best_rate(signal, annealing, rate):
    frame = explore.landscape().frame(signal=signal, annealing=annealing, step=explore.STRIDE * explore.MOMENTS)
    assert frame["rate"] == pytest.approx(rate, abs=0.01) and frame["best_rate"] == pytest.approx(rate, abs=1e-12)
    if annealing != "none":
        assert frame["rates"].max() > 0.3
