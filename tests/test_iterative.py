"""Iterative inference: signals against differences and closed forms, rules against torch's own, gaps against quadrature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from tightbound import iterative as it
from tightbound import problems, vae
from tightbound import vae_practice as vp
from tightbound.data import nile
from tightbound.explore import iterative as explore
from tightbound.training import fit

small = st.floats(-2, 2)


@pytest.fixture(scope="module")
def digits():
    model = vae.evaluate.frozen(vae.two_latents(), torch.float64)
    return model, vae.binary_digits("test")[0][:12].double()


def linear(d=2, size=4, noise=0.5, seed=0):
    model = vp.linear_vae(size, d, noise, seed=seed).double()
    model.requires_grad_(False)
    return model


def lam_of(rows, d, seed=0):
    return 0.5 * torch.randn(rows, 2, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The bound and its signals ---------------------------------------------------------------------------------------

@settings(deadline=None, max_examples=20)
@given(small, st.floats(-1.5, 1), st.floats(-3, 3), st.floats(0.05, 1))
def test_the_folded_bound_is_that_of_scipy(mean, log_scale, x, noise):
    scale = math.exp(log_scale)

    def inside(z):
        return norm.pdf(z, mean, scale) * (norm.logpdf(x, abs(z), math.sqrt(noise)) + norm.logpdf(z) - norm.logpdf(z, mean, scale))

    expected = sum(quad(inside, *ends, limit=200)[0] for ends in ((min(mean - 12 * scale, 0), 0), (0, max(mean + 12 * scale, 0))))
    assert float(it.folded_bound(x, mean, log_scale, noise)) == pytest.approx(expected, abs=1e-6)


def test_quadrature_is_exact_for_a_linear_model():
    model, lam, x = linear(), lam_of(5, 2), torch.randn(5, 4, dtype=torch.float64)
    mean, scale = lam[:, 0], lam[:, 1].exp()
    W, b, noise = model.decoder.weight, model.decoder.bias, model.likelihood.scale**2
    square = (x - mean @ W.mT - b).square().sum(-1) + (scale**2 * W.square().sum(0)).sum(-1)
    expected = -0.5 * (square / noise + 4 * math.log(2 * math.pi * noise)) - vp.gaussian_rates(mean, lam[:, 1]).sum(-1)
    assert torch.allclose(it.elbo(model, x, lam, it.hermite(2, 3)), expected, atol=1e-10)


def test_draws_are_unbiased_and_come_in_pairs(digits):
    model, x = digits
    lam = it.numbers(model.posterior(x))
    nodes = it.draws(4000, lam, torch.Generator().manual_seed(0))
    assert torch.equal(nodes.points[:2000], -nodes.points[2000:])
    values = it.bound.log_weights(model, x, lam, nodes)
    pairs = 0.5 * (values[:2000] + values[2000:])
    error = pairs.std(0) / math.sqrt(2000)
    exact = it.elbo(model, x, lam, it.hermite(2, 24))
    assert ((it.elbo(model, x, lam, nodes) - exact).abs() < 4.5 * error + 1e-9).all()


def test_the_gradient_is_that_of_differences(digits):
    model, x = digits
    lam, nodes = it.numbers(model.posterior(x[:2])), it.hermite(2, 6)
    value, slope = it.gradient(model, x[:2], lam, nodes)
    for i in range(2):
        for j in range(2):
            step = torch.zeros_like(lam)
            step[:, i, j] = 1e-5
            difference = (it.elbo(model, x[:2], lam + step, nodes) - it.elbo(model, x[:2], lam - step, nodes)) / 2e-5
            assert torch.allclose(slope[:, i, j], difference, rtol=1e-5, atol=1e-5)
    assert not slope.requires_grad and not value.requires_grad


@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_is_made_of_errors_with_the_corrected_sign_alone(sign):
    """grad_z log p = J' eps_x / s_x - eps_z / s_z, errors being observed minus expected; the lecture's sign turns it round."""
    model, x = linear(noise=0.3), torch.randn(6, 4, dtype=torch.float64)
    z = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(model.log_joint(x, z).sum(), z)
    found = sign * it.errors(model, x, z.detach())
    W, s = model.decoder.weight, model.likelihood.scale
    agrees = torch.allclose(found[:, :4] @ W / s - found[:, 4:], slope, atol=1e-9)
    assert agrees == (sign == 1)


def test_errors_of_bernoulli_pixels_are_slopes_in_the_logit(digits):
    model, x = digits
    z = torch.zeros(12, 2, dtype=torch.float64)
    logits = model.decoder(z).requires_grad_(True)
    (slope,) = torch.autograd.grad(model.likelihood(logits).log_prob(x).sum(), logits)
    assert torch.allclose(it.errors(model, x, z)[:, :64], slope, atol=1e-9)


def test_errors_of_a_hierarchical_model_are_given_the_layer_above():
    model = vae.make(16, (3, 2), hidden=((8,), (8,)), likelihood="bernoulli").double()
    x, z = torch.ones(4, 16, dtype=torch.float64), torch.randn(7, 4, 5, dtype=torch.float64)
    found = it.errors(model, x, z)
    assert found.shape == (7, 4, 21)
    lower = model.priors[0](z[..., 3:])
    assert torch.allclose(found[..., 16:19], (z[..., :3] - lower.mean) / lower.stddev)
    assert torch.allclose(found[..., 19:], z[..., 3:])


# Rules -----------------------------------------------------------------------------------------------------------

def test_adam_is_torchs_adam(digits):
    model, x = digits
    nodes, start = it.hermite(2, 5), lam_of(12, 2)
    lams, values, slopes = it.Inference(model, it.Adam(0.2), nodes=nodes).path(x, 6, start=start)
    at = start.clone().requires_grad_(True)
    theirs = torch.optim.Adam([at], lr=0.2)
    for step in range(6):
        theirs.zero_grad()
        (-it.elbo(model, x, at, nodes).sum()).backward()
        theirs.step()
        assert torch.allclose(at, lams[step + 1], atol=1e-9)
    assert lams.shape == (7, 12, 2, 2) and values.shape == (6, 12) and slopes.shape == (6, 12, 2, 2)


def test_ascent_is_torchs_sgd_where_nothing_is_clipped():
    model, x, nodes, start = linear(), torch.randn(3, 4, dtype=torch.float64), it.hermite(2, 3), lam_of(3, 2)
    lams, _, _ = it.Inference(model, it.Ascent(0.01, momentum=0.5, clip=1e9), nodes=nodes).path(x, 5, start=start)
    at = start.clone().requires_grad_(True)
    theirs = torch.optim.SGD([at], lr=0.01, momentum=0.5)
    for _ in range(5):
        theirs.zero_grad()
        (-it.elbo(model, x, at, nodes).sum()).backward()
        theirs.step()
    assert torch.allclose(at, lams[-1], atol=1e-6)


def test_ascent_clips_each_datum_by_itself():
    rule = it.Ascent(1.0, clip=2.0)
    lam, slope = torch.zeros(2, 2, 1), torch.tensor([[[3.0], [4.0]], [[0.3], [0.4]]])
    moved, _ = rule(it.Signal(lam, slope, None, 0), rule.remember(lam))
    assert torch.allclose(moved.flatten(1).norm(dim=1), torch.tensor([2.0, 0.5]), atol=1e-6)


def test_log_scaling_keeps_size_and_sign():
    found = it.log_scaled(torch.tensor([[100.0, -1e-2, 0.0, 1e-9]]))
    assert torch.allclose(found[0, :2], torch.tensor([math.log(100) / 10, math.log(0.01) / 10]), atol=1e-6)
    assert found[0, 2:4].tolist() == [-1, -1] and found[0, 4:6].tolist() == [1, -1]
    assert found[0, 6] == 0 and abs(float(found[0, 7]) - 1e-9 * math.e**10) < 1e-9


SWITCHES = [{}, {"gated": False}, {"normalised": False}, {"log_scaled": True}, {"recurrent": True}, {"told_step": True},
            {"inputs": "errors"}, {"inputs": "both", "recurrent": True, "log_scaled": True}, {"detached": True}]


@pytest.mark.parametrize("options", SWITCHES, ids=lambda options: "-".join(options) or "plain")
def test_every_switch_learns_on_any_model(options):
    """A model with two layers, about which nothing was written down: its gradient is enough."""
    model = vae.make(16, (2, 2), hidden=((8,), (8,)), seed=1)
    model.requires_grad_(False)
    x = (torch.rand(96, 16, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    pixels = {"num_pixels": 16} if options.get("inputs") else {}
    machine = it.Inference(model, it.Learned(4, width=16, **options, **pixels), num_steps=3, num_samples=4)

    def mean_bound():
        lam = it.numbers(machine.posterior(x))
        with torch.no_grad():
            return float(it.elbo(model, x, lam, it.draws(400, lam[:1], torch.Generator().manual_seed(3))).mean())

    before = mean_bound()
    fit(machine, x, it.unrolled, num_epochs=12, batch_size=32, learning_rate=1e-2)
    assert mean_bound() > before + 0.02


def test_truncated_training_sees_no_gradient_from_later_steps():
    model, x = linear().float(), torch.randn(8, 4)

    machine = it.Inference(model, it.Learned(2, detached=True), start="prior", num_steps=2, num_samples=2)
    start = torch.zeros(8, 2, 2, requires_grad=True)
    lams, _, _ = machine.path(x, start=start, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.grad(lams[-1].sum(), start)[0].abs().max() == 0
    machine.rule.detached = False
    lams, _, _ = machine.path(x, start=start, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.grad(lams[-1].sum(), start)[0].abs().max() > 0


def test_only_the_semi_amortised_rule_trains_through_the_gradient():
    model, x = linear().float(), torch.randn(8, 4)
    start = torch.zeros(8, 2, 2, requires_grad=True)
    found = {}
    for through in (False, True):
        machine = it.Inference(model, it.Ascent(0.1, through=through, clip=1e9), num_steps=1, nodes=it.hermite(2, 3, dtype=torch.float32))
        lams, _, _ = machine.path(x, start=start)
        (found[through],) = torch.autograd.grad(lams[-1][:, 0].sum(), start)
    assert torch.allclose(found[False][:, 0], torch.ones(8, 2))
    W, noise = model.decoder.weight, model.likelihood.scale**2
    hessian = -(W.mT @ W / noise + torch.eye(2))
    assert torch.allclose(found[True][:, 0], (torch.ones(2) + 0.1 * hessian.sum(0)).expand(8, 2), atol=1e-5)


# The interface ----------------------------------------------------------------------------------------------------

def test_an_inference_stands_wherever_a_model_stands(digits):
    model, x = digits
    machine = it.Inference(model, it.Adam(0.1), start="encoder", num_steps=10, num_samples=10)
    direct = it.Inference(model, start="encoder", num_steps=0)
    assert torch.equal(direct.posterior(x).mean, model.posterior(x).mean)
    before, after = (vae.elbo(m, x, 200, generator=torch.Generator().manual_seed(0)).mean() for m in (direct, machine))
    assert after > before
    truth = vae.exact(machine, x)
    assert torch.allclose(truth, vae.exact(model, x))
    found = vae.importance_sampled(machine, x, 2000)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 0.05).all()


def test_the_league_takes_it(digits):
    model, x = digits
    problem = model.problem(x[0])
    found = it.Inference(model, it.Adam(0.1), start="encoder", num_steps=20, num_samples=10).approximate(x[0])(problem)
    assert found.method == "iterative" and found.evaluations == 200 and len(found.history) == 20
    assert found.gap(problem) > -4 * found.log_evidence.standard_error


def test_the_same_noise_gives_the_same_posterior(digits):
    model, x = digits
    machine = it.Inference(model, it.Adam(0.1), num_steps=3, num_samples=2)
    assert torch.equal(machine.posterior(x).mean, machine.posterior(x).mean)
    other = machine.posterior(x, generator=torch.Generator().manual_seed(5)).mean
    assert not torch.equal(other, machine.posterior(x).mean)


def test_aggressive_training_lets_the_decoder_wait():
    model, slow = it.sentence_vae()
    before = {name: p.clone() for name, p in model.named_parameters()}
    x, _ = it.sequences(64)
    fit(model, x, vp.Objective(), num_epochs=2, batch_size=32, optimizer=it.aggressive(slow, inner=5))
    waiting = {id(p) for module in slow for p in module.parameters()}
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) in waiting), name
    fit(model, x, vp.Objective(), num_epochs=3, batch_size=32, optimizer=it.aggressive(slow, inner=5))
    assert not torch.equal(model.output.weight, before["output.weight"])


# Gaps -------------------------------------------------------------------------------------------------------------

def test_gaps_add_up_and_are_not_negative(digits):
    model, x = digits
    found = it.gaps(model, x)
    assert torch.allclose(found.approximation + found.amortisation, found.inference)
    assert torch.allclose(found.log_evidence, vae.exact(model, x))
    assert (found.approximation > 0).all() and (found.amortisation >= 0).all() and (found.amortisation > 0.01).any()
    assert (found.standard_error == 0).all() and (found.bound_error == 0).all()
    _, slope = it.gradient(model, x, found.optimum, it.hermite(2, 12))
    slope[:, 0] *= found.optimum[:, 1].exp()                               # a gradient for each width of q
    assert slope.abs().max() < 0.1                                         # the optimum is one


def test_a_linear_model_has_the_gap_of_its_correlations():
    """The best diagonal q has the posterior's precisions: KL = 1/2 (sum log P_jj - log det P)."""
    model, x = linear(noise=0.3), torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    W = model.decoder.weight
    P = torch.eye(2, dtype=torch.float64) + W.mT @ W / model.likelihood.scale**2
    expected = 0.5 * (P.diagonal().log().sum() - torch.logdet(P))
    found = it.gaps(model, x, num_steps=400)
    assert torch.allclose(found.approximation, expected.expand(6), atol=2e-3)
    mean = torch.linalg.solve(P, W.mT @ (x - model.decoder.bias).mT / model.likelihood.scale**2).mT
    assert torch.allclose(found.optimum[:, 0], mean, atol=5e-2)


def test_with_more_latents_gaps_have_errors_that_cover_the_truth():
    model, x = linear(d=4, size=5, noise=0.4, seed=3).float(), torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    W, noise = model.decoder.weight.double(), model.likelihood.scale**2
    cov = W @ W.mT + noise * torch.eye(5).double()
    truth = torch.distributions.MultivariateNormal(model.decoder.bias.double(), cov).log_prob(x.double())
    found = it.gaps(model, x, num_samples=1000, num_temperatures=50)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 0.02).all()
    P = torch.eye(4).double() + W.mT @ W / noise
    expected = 0.5 * (P.diagonal().log().sum() - torch.logdet(P))
    assert float(found.best.mean()) == pytest.approx(float((truth - expected).mean()), abs=0.08)
    assert float(found.approximation.mean()) == pytest.approx(float(expected), abs=0.12)
    assert (found.bound_error > 0).all()


def test_a_known_evidence_is_taken(digits):
    model, x = digits
    found = it.gaps(model, x[:3], log_evidence=torch.zeros(3), num_steps=5)
    assert torch.equal(found.log_evidence, torch.zeros(3).double())


# Examples ---------------------------------------------------------------------------------------------------------

def test_the_kalman_filter_is_the_joint_normal_conditioned():
    y = nile()[1][:12].double()
    found = it.kalman(y, walk=1469.0, noise=15099.0, mean=1000.0, variance=1e5)
    times = torch.arange(12)
    prior = 1e5 + 1469.0 * torch.minimum(times[:, None], times[None]).double()
    for t in (0, 5, 11):
        C = prior[: t + 1, : t + 1]
        K = torch.linalg.solve(C + 15099.0 * torch.eye(t + 1).double(), C[:, t])
        assert float(1000 + K @ (y[: t + 1] - 1000)) == pytest.approx(float(found.mean[t]), rel=1e-9)
        assert float(C[t, t] - K @ C[:, t]) == pytest.approx(float(found.variance[t]), rel=1e-9)


def test_wieners_estimate_is_where_the_gradient_vanishes():
    model, x = linear(d=3, size=5, noise=0.7), torch.randn(5, dtype=torch.float64)
    found = it.linear_gaussian_posterior(model.decoder.weight, x - model.decoder.bias, 0.7)
    slope = torch.autograd.functional.jacobian(lambda z: model.log_joint(x[None], z[None])[0], found.mean)
    assert slope.abs().max() < 1e-9
    hessian = torch.autograd.functional.hessian(lambda z: model.log_joint(x[None], z[None])[0], found.mean)
    assert torch.allclose(torch.linalg.inv(-hessian), found.covariance, atol=1e-9)


@pytest.mark.parametrize(("upper", "lower"), [(0.5, 0.5), (0.1, 2.0)])
def test_two_levels_against_the_joint_normal(upper, lower):
    cov = torch.tensor([[1 + upper, 1.0], [1.0, 1.0]], dtype=torch.float64)      # of z_1, z_2
    gain = cov[:, 0] / (cov[0, 0] + lower)
    posterior = cov - torch.outer(gain, cov[0])
    precision = torch.linalg.inv(posterior)
    expected = 0.5 * (precision.diagonal().log().sum() + torch.logdet(posterior))
    assert it.two_level_gaps(upper, lower)["each level sees x alone"] == pytest.approx(float(expected), abs=1e-9)


def test_a_scene_has_two_answers():
    model = it.scene_vae().double()
    x, a = it.simulate(it.scene_vae(), 5, seed=3)
    assert torch.allclose(model.log_joint(x.double(), a.double()), model.log_joint(x.double(), -a.double()))
    lam = lam_of(5, 2)
    mirrored = lam.clone()
    mirrored[:, 0] *= -1
    nodes = it.hermite(2, 6)
    assert torch.allclose(it.elbo(model, x.double(), lam, nodes), it.elbo(model, x.double(), mirrored, nodes))


def test_schools_are_the_books_eight_schools():
    model, y = it.Schools(), it.Schools().simulate(3, seed=1)
    for row in y:
        ours, theirs = model.problem(row), problems.eight_schools(y=row.double().tolist())
        assert float(ours.log_evidence) == pytest.approx(float(theirs.log_evidence), abs=1e-9)
        z = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
        moved = z * torch.tensor([5.0, 1.0]) + torch.tensor([0.0, math.log(5)])
        assert float(ours.log_joint(z) - theirs.log_joint(moved)) == pytest.approx(math.log(5), abs=1e-6)


def test_the_exact_posterior_mean_is_that_of_a_linear_model():
    model, x = linear(d=1, size=3, noise=0.8), torch.randn(4, 3, dtype=torch.float64)
    W = model.decoder.weight[:, 0]
    expected = (x - model.decoder.bias) @ W / (0.8 + W @ W)
    assert torch.allclose(it.posterior_mean(model.float(), x.float()).double(), expected, atol=1e-3)


def test_sequences_depend_on_their_latent_and_end():
    x, z = it.sequences(500)
    assert x.shape == (500, 7) and (x[:, -1] == 0).all() and (x[:, :-1] > 0).all()
    again, _ = it.sequences(500)
    assert torch.equal(x, again)


def test_the_ready_rule_beats_as_many_adam_steps(digits):
    model, x = vae.evaluate.frozen(vae.two_latents()), vae.binary_digits("test")[0][:60]
    nodes = it.hermite(2, 8, dtype=torch.float32)
    bounds = {}
    for name, rule in (("learned", it.two_latents_rule()), ("Adam", it.Adam(0.3))):
        with torch.no_grad():
            lams, _, _ = it.Inference(model, rule, num_samples=10).path(x, 8, generator=torch.Generator().manual_seed(0))
            bounds[name] = float(it.elbo(model, x, lams[-1], nodes).mean())
    assert bounds["learned"] > bounds["Adam"] + 1


def test_the_stored_results_are_ten_seeds():
    stored = it.results()
    parts = [name for name, part in stored.items() if isinstance(part, dict)]
    assert {"tricks", "methods", "scene", "lagging", "schools", "league"} <= set(parts)
    for name in set(parts) - {"rule"}:
        for method, scores in stored[name]["scores"].items():
            assert all(len(values) == 10 and np.isfinite(values).all() for values in scores.values()), (name, method)


# Explorers -------------------------------------------------------------------------------------------------------

def test_the_surface_shows_the_paths_of_the_method():
    shown = explore.surface().frame(image="test image 3", start=(1.2, -0.6))
    model, x = vae.evaluate.frozen(vae.two_latents(), torch.float64), vae.binary_digits("test")[0][3:4].double()
    start = torch.tensor([[[1.2, -0.6], [0.0, 0.0]]], dtype=torch.float64)
    nodes = it.hermite(2, 6)
    with torch.no_grad():
        lams, _, _ = it.Inference(model, it.two_latents_rule().double(), nodes=nodes).path(x, 8, start=start)
    assert np.allclose(shown["lx"], lams[:, 0, 0, 0].clamp(-6, 6)) and np.allclose(shown["ly"], lams[:, 0, 0, 1].clamp(-6, 6))
    assert float(shown["after"]) == pytest.approx(float(it.elbo(model, x, lams[-1], nodes)))
    assert max(float(shown[name]) for name in ("after", "long", "direct")) <= float(shown["best"]) + 1e-2


@pytest.mark.parametrize("start", [-0.5, 0.0, 0.5])
def test_the_start_decides(start):
    """From a narrow start beside zero q ends at the mode on its side, and misses log 2; from zero it stays and misses more."""
    shown = explore.fold().frame(x=2.0, start=start)
    assert float(shown["mean"]) == pytest.approx(math.copysign(2 / 1.05, start) if start else 0.0, abs=0.02)
    evidence = math.log(quad(lambda z: norm.pdf(2.0, abs(z), math.sqrt(0.05)) * norm.pdf(z), -8, 8, points=[-2, 0, 2])[0])
    assert float(shown["evidence"]) == pytest.approx(evidence, abs=1e-6)
    assert float(shown["missing"]) == pytest.approx(math.log(2), abs=0.01) if start else float(shown["missing"]) > 5


# Errors -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("make", "message"), [
    (lambda: it.Inference(linear(), start="origin", num_steps=0), "unknown start"),
    (lambda: it.Inference(linear(), num_steps=3), "steps need a rule"),
    (lambda: it.Learned(2, inputs="error"), "unknown inputs"),
    (lambda: it.Learned(2, inputs="errors"), "say num_pixels"),
    (lambda: it.Ascent(0.0), "rate"),
    (lambda: it.Ascent(momentum=1.0), "momentum"),
    (lambda: it.draws(3, torch.zeros(1, 2, 2)), "one or even"),
    (lambda: it.hermite(4), "up to three latents"),
    (lambda: it.numbers(torch.distributions.Normal(0, 1)), "start from the prior"),
    (lambda: it.gaps(vae.two_latents(), torch.zeros(64)), "images"),
    (lambda: it.posterior_mean(vae.two_latents(), torch.zeros(1, 64)), "one latent"),
    (lambda: it.kalman(torch.zeros(2, 2), walk=1.0, noise=1.0), "in a row"),
    (lambda: it.linear_gaussian_posterior(torch.eye(3), torch.zeros(4), 1.0), "must agree"),
    (lambda: it.two_level_gaps(upper=0.0), "upper"),
], ids=range(14))
def test_bad_input_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_chain_of_layers_has_no_diagonal_encoder():
    model = vae.make(8, (2, 2), hidden=((4,), (4,)))
    with pytest.raises(TypeError, match="Chain: start from the prior"):
        it.Inference(model, it.Adam(), start="encoder").path(torch.zeros(2, 8), 1)
