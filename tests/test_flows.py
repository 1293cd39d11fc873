"""Flows: log-determinants against the Jacobian, inverses to rounding, exact bounds, and every error by its name."""

import functools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch.distributions import TransformedDistribution
from torch.nn.functional import softplus

from tightbound import Problem, divergences, flows, problems, vae
from tightbound.checks import flows as checks
from tightbound.explore import flows as explore
from tightbound.flows import (MADE, ActNorm, Affine, Autoregressive, Box, Chain, Coupling, ExponentialMap, Flow, Inverse,
                              Permute, Planar, Plane, Radial, Spline, StandardNormal, TorusCoupling, UniformSphere, UniformTorus,
                              rational_quadratic)
from tightbound.flows import amortised
from tightbound.flows.shipped import MADE as SHIPPED
from tightbound.flows.shipped import load, parabolas

D = 4


def triangular(d):
    return torch.eye(d, dtype=torch.float64) + 0.3 * torch.ones(d, d, dtype=torch.float64).tril(-1)


BIJECTIONS = {
    "affine": lambda: Affine(D, loc=torch.arange(D, dtype=torch.float64), scale_tril=triangular(D)),
    "diagonal": lambda: Affine(D, full=False), "act norm": lambda: ActNorm(D), "permute": lambda: Permute([2, 0, 3, 1]),
    "box": lambda: Box([(-1, 1), (0, 3), (2, 5), (-4, 4)]),
    "planar": lambda: Planar(D, 3, scale=1.0), "radial": lambda: Radial(D, scale=1.0), "spline": lambda: Spline(D),
    "additive": lambda: Coupling(D, 3, kind="additive", hidden=(16,)), "real nvp": lambda: Coupling(D, 3, hidden=(16,)),
    "spline coupling": lambda: Coupling(D, 3, kind="spline", hidden=(16,)), "odd": lambda: Chain([Permute([1, 0, 2, 3]), Coupling(D, 2)]),
    "iaf": lambda: Autoregressive(D, hidden=(16,)), "maf": lambda: Autoregressive(D, kind="affine", hidden=(16, 16)).inv,
    "torus": lambda: TorusCoupling(D, 5, num_centres=3, hidden=(8,)),
}
CONTEXTUAL = {
    "planar": lambda: Planar(D, 3, context_dim=2), "coupling": lambda: Coupling(D, 2, context_dim=2, hidden=(8,)),
    "spline coupling": lambda: Coupling(D, 2, kind="spline", context_dim=2, hidden=(8,)),
    "iaf": lambda: Autoregressive(D, context_dim=2, hidden=(8,)),
    "chain": lambda: Chain([Affine(D), Planar(D, 2, context_dim=2), Autoregressive(D, context_dim=2, hidden=(8,)).inv]),
}


def stirred(bijection, seed=0, by=0.2):
    """The bijection with parameters away from where they start."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in bijection.parameters():
            p += by * torch.randn(p.shape, generator=stream, dtype=p.dtype)
    return bijection


def points(bijection, num=30, seed=1):
    x = torch.randn(num, bijection.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.remainder(x, 2 * math.pi) if isinstance(bijection, TorusCoupling) else x


def jacobians(f, x):
    return torch.stack([torch.func.jacrev(f)(row) for row in x])


def on_sphere(num, seed=0):
    x = torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


each = pytest.mark.parametrize("make", BIJECTIONS.values(), ids=BIJECTIONS)
each_contextual = pytest.mark.parametrize("make", CONTEXTUAL.values(), ids=CONTEXTUAL)


# Every map -----------------------------------------------------------------------------------------------------------------

@each
@pytest.mark.parametrize("seed", range(3))
def test_the_log_determinant_is_that_of_the_jacobian(make, seed):
    f = stirred(make(), seed)
    x = points(f, seed=seed)
    y, ladj = f.call_and_ladj(x)
    sign, found = torch.linalg.slogdet(jacobians(lambda v: f.call_and_ladj(v)[0], x))
    torch.testing.assert_close(ladj, found, rtol=0, atol=1e-8)
    assert y.shape == x.shape and ladj.shape == x.shape[:-1]
    assert bool((sign > 0).all()) or isinstance(f, Permute) or "Permute" in str(f)


@each
@pytest.mark.parametrize("seed", range(3))
def test_there_and_back_again(make, seed):
    f = stirred(make(), seed)
    x = points(f, seed=seed)
    y, ladj = f.call_and_ladj(x)
    back, same = f.inverse_and_ladj(y)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(same, ladj, rtol=0, atol=1e-9)
    forth, _ = f.call_and_ladj(f.inverse_and_ladj(x)[0]) if not isinstance(f, Box) else (x, None)
    torch.testing.assert_close(forth, x, rtol=0, atol=1e-10)


@each
def test_the_inverse_is_a_bijection_too(make):
    f = stirred(make())
    y, ladj = f.call_and_ladj(points(f))
    assert f.inv.inv is f or isinstance(f, Inverse)
    x, minus = f.inv.call_and_ladj(y)
    torch.testing.assert_close(x, points(f), rtol=0, atol=1e-10)
    torch.testing.assert_close(minus, -ladj, rtol=0, atol=1e-9)


@each
def test_gradients_reach_every_parameter_in_both_directions(make):
    f = stirred(make())
    y, ladj = f.call_and_ladj(points(f))
    for value in ((y.sin().sum() + ladj.square().sum()), sum(t.sin().sum() for t in f.inverse_and_ladj(y.detach()))):
        f.zero_grad()
        value.backward() if value.requires_grad else None
        assert all(p.grad is not None and bool((p.grad != 0).any()) and bool(torch.isfinite(p.grad).all()) for p in f.parameters())


@each
def test_the_inverse_has_the_inverse_derivatives(make):
    """Numeric inverses among them: their derivatives come from one Newton step."""
    f = stirred(make())
    x = points(f, 5)
    y = f.call_and_ladj(x)[0].detach()
    there, back = (jacobians(g, at) for g, at in ((lambda v: f.call_and_ladj(v)[0], x), (lambda v: v, y)))
    back = torch.stack([torch.autograd.functional.jacobian(lambda v: f.inverse_and_ladj(v)[0], row) for row in y])
    torch.testing.assert_close(there @ back, torch.eye(D, dtype=torch.float64).expand(5, D, D), rtol=0, atol=1e-8)


@each
def test_steps_end_where_the_map_does(make):
    f = stirred(make())
    *_, (y, ladj) = f.steps(points(f))
    expected, same = f.call_and_ladj(points(f))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ladj, same, rtol=0, atol=1e-12)


@each
def test_a_bijection_is_a_torch_transform_and_a_module(make):
    f = stirred(make())
    if isinstance(f, TorusCoupling):
        pytest.skip("lives on another space")
    ours = Flow(f)()
    theirs = TransformedDistribution(StandardNormal(torch.zeros(D, dtype=torch.float64)), [f], validate_args=False)
    y, log_q = ours.rsample_and_log_prob((50,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs.log_prob(y), log_q, rtol=0, atol=1e-8)
    torch.testing.assert_close(ours.log_prob(y), log_q, rtol=0, atol=1e-8)
    assert isinstance(f, torch.nn.Module) and isinstance(f, torch.distributions.Transform) and hash(f) == hash(f)
    assert theirs.sample((3,)).shape == (3, D)


@each
def test_leading_axes_are_a_batch(make):
    f = stirred(make())
    x = points(f, 24)
    y, ladj = f.call_and_ladj(x.reshape(2, 3, 4, D))
    expected, same = f.call_and_ladj(x)
    torch.testing.assert_close(y.reshape(24, D), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ladj.reshape(24), same, rtol=0, atol=1e-12)


@each
def test_single_precision_stays_single(make):
    f = stirred(make()).float()
    y, ladj = f.call_and_ladj(points(f).float())
    assert y.dtype == ladj.dtype == torch.float32
    torch.testing.assert_close(f.inverse_and_ladj(y)[0], points(f).float(), rtol=0, atol=2e-3)


@each_contextual
def test_a_context_makes_a_batch_of_densities(make):
    flow = Flow(stirred(make()))
    context = torch.tensor([[0.0, 1.0], [2.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    q = flow(context)
    y, log_q = q.rsample_and_log_prob((7,), generator=torch.Generator().manual_seed(0))
    assert q.batch_shape == (3,) and y.shape == (7, 3, D) and log_q.shape == (7, 3)
    torch.testing.assert_close(q.log_prob(y), log_q, rtol=0, atol=1e-9)
    for i in range(3):  # each is the density of its own context
        torch.testing.assert_close(flow(context[i]).log_prob(y[:, i]), log_q[:, i], rtol=0, atol=1e-9)
    assert not torch.allclose(flow(context[0]).log_prob(y[:, 1]), log_q[:, 1])
    sign, found = torch.linalg.slogdet(jacobians(lambda v: flow.bijection.call_and_ladj(v, context[1])[0], points(flow.bijection, 4)))
    torch.testing.assert_close(flow.bijection.call_and_ladj(points(flow.bijection, 4), context[1])[1], found, rtol=0, atol=1e-9)
    (log_q.sum() + y.square().sum()).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in flow.parameters())


# What a layer says of itself -------------------------------------------------------------------------------------------------

def test_planar_against_the_formula_of_the_paper_in_numpy():
    f = stirred(Planar(3, 1), by=1.0)
    w, u, b = (p.detach().numpy()[0] for p in (f.w, f.u, f.b))
    x = points(f, 6).numpy()
    u_hat = u + (np.log1p(np.exp(w @ u)) - 1 - w @ u) * w / (w @ w)
    t = np.tanh(x @ w + b)
    y, ladj = f.call_and_ladj(torch.tensor(x))
    np.testing.assert_allclose(y.detach(), x + t[:, None] * u_hat, atol=1e-12)
    np.testing.assert_allclose(ladj.detach(), np.log1p((1 - t**2) * (w @ u_hat)), atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(0.01, 300), seed=st.integers(0, 10_000))
def test_any_planar_layer_is_invertible(scale, seed):
    """Even where log(1 + exp(w'u)) overflows, and where w'û is close to -1."""
    f = Planar(2, 1, scale=scale, seed=seed)
    wu = float((f.w * f.u).sum().detach())
    y, ladj = f.call_and_ladj(points(f))
    assert bool(torch.isfinite(ladj).all())
    _, _, _, s = f._parts(None)
    assert float(s.detach()) == pytest.approx(float(softplus(torch.tensor(wu, dtype=torch.float64))), rel=1e-9, abs=1e-300)
    if wu > -15:  # beyond, the map is flat to the last digit
        assert float((f.inverse_and_ladj(y)[0] - points(f)).abs().max().detach()) < 1e-6


def test_without_the_constraint_a_planar_layer_folds_the_plane():
    """The lectures' layer with u free: two points on one place, and a log-determinant that is none."""
    w, u = torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 0.0])
    x = torch.stack([torch.linspace(-3, 3, 601), torch.zeros(601)], -1)
    folded = x + torch.tanh(x @ w).unsqueeze(-1) * u
    assert bool((folded[1:, 0] < folded[:-1, 0]).any()) and bool((1 + (1 - torch.tanh(x @ w) ** 2) * (w @ u) < 0).any())
    f = Planar(2, 1)
    with torch.no_grad():
        f.w.copy_(w), f.u.copy_(u)
    assert bool((f(x.double())[:, 0].diff() > 0).all())


@settings(max_examples=30, deadline=None)
@given(a=st.floats(-8, 8), b=st.floats(-8, 8), far=st.floats(0, 1e3))
def test_any_radial_layer_has_its_inverse_in_closed_form(a, b, far):
    f = Radial(3)
    with torch.no_grad():
        f.a.fill_(a), f.b.fill_(b)
    x = torch.tensor([[far, 0.3, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    y, ladj = f.call_and_ladj(x)
    back, same = f.inverse_and_ladj(y)
    assert bool(torch.isfinite(ladj).all())
    torch.testing.assert_close(back, x, rtol=1e-7, atol=1e-7)


def test_made_lets_an_output_see_what_comes_before_it_alone():
    net = MADE(5, 2, (16, 16), seed=3)
    J = torch.func.jacrev(net)(torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))  # (5, 2, 5)
    reach = J.abs().amax(1) > 0
    assert torch.equal(reach, torch.ones(5, 5).tril(-1).bool())


def test_the_gate_and_its_log_determinant():
    """ln q(z_T) = ln q(z_0) - sum_i ln sigma_i, with the numbers of the layer's *inputs*: the lecture reads them from z_t."""
    f = stirred(Autoregressive(3, hidden=(8,)), by=0.5)
    x = points(f)
    m, s = f.network(x).unbind(-1)
    y, ladj = f.call_and_ladj(x)
    sigma = torch.sigmoid(s)
    torch.testing.assert_close(y, sigma * x + (1 - sigma) * m)
    torch.testing.assert_close(ladj, sigma.log().sum(-1))
    as_printed = torch.sigmoid(f.network(y)[..., 1]).log().sum(-1)
    assert float((as_printed - ladj).abs().max()) > 0.01


def test_a_spline_is_the_identity_outside_and_smooth_at_its_boundary():
    numbers = torch.randn(23, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.tensor([-9.0, -2.0, 2.0, 7.5], dtype=torch.float64)  # two of them on the boundary itself
    for inverse in (False, True):
        y, log_slope = rational_quadratic(x, numbers, 2.0, inverse=inverse)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
        torch.testing.assert_close(log_slope, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)
    near = torch.tensor([2.0 - 1e-7, 2.0 + 1e-7], dtype=torch.float64)
    assert rational_quadratic(near, numbers, 2.0)[1].abs().max() < 1e-4


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0, 3), bins=st.integers(2, 20))
def test_any_spline_rises_and_comes_back(seed, scale, bins):
    numbers = scale * torch.randn(3 * bins - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.linspace(-4, 4, 401, dtype=torch.float64)
    y, log_slope = rational_quadratic(x, numbers, 3.0)
    assert bool((y.diff() > 0).all())
    back, same = rational_quadratic(y, numbers, 3.0, inverse=True)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-7)
    by_differences = (rational_quadratic(x + 1e-6, numbers, 3.0)[0] - rational_quadratic(x - 1e-6, numbers, 3.0)[0]) / 2e-6
    inside = (x.abs() < 2.99)
    assert float((by_differences.log() - log_slope)[inside].abs().max()) < 0.05  # a knot may lie between


def test_act_norm_starts_at_the_data():
    y = 3 + 2 * torch.randn(1000, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = Chain([Coupling(D, 2), ActNorm(D)])
    before = f.layers[1].inverse_and_ladj(y)[0]
    assert torch.equal(before, y)
    f.initialise(y)
    x = f.layers[1].inverse_and_ladj(y)[0]
    torch.testing.assert_close(x.mean(0), torch.zeros(D, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(D, dtype=torch.float64), atol=1e-12, rtol=0)


# Manifolds -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(3))
def test_densities_on_the_circle_and_the_torus_are_normalised(seed):
    side = torch.arange(600, dtype=torch.float64) / 600 * 2 * math.pi
    circle = Flow(stirred(TorusCoupling(1, 2), seed), UniformTorus)()
    assert float(circle.log_prob(side.unsqueeze(-1)).exp().mean()) * 2 * math.pi == pytest.approx(1, abs=1e-6)
    torus = Flow(stirred(TorusCoupling(2, 3, num_centres=2, hidden=(8,)), seed), UniformTorus)()
    grid = torch.cartesian_prod(side[::10], side[::10])
    assert float(torus.log_prob(grid).exp().mean()) * (2 * math.pi) ** 2 == pytest.approx(1, abs=2e-3)


def test_one_moebius_map_is_that_of_the_complex_plane():
    omega = 0.4 - 0.3j
    theta = np.linspace(0.1, 6.2, 50)
    z = np.exp(1j * theta)
    expected = np.abs((1 - abs(omega) ** 2) / np.abs(z - omega) ** 2)
    angle, slope = flows.moebius(torch.tensor(theta), torch.tensor([[omega.real, omega.imag]]), torch.ones(1).double())
    np.testing.assert_allclose(slope, expected, atol=1e-12)
    np.testing.assert_allclose(np.gradient(angle, theta)[1:-1], expected[1:-1], rtol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_the_exponential_map_stays_on_the_sphere_comes_back_and_is_normalised(seed):
    f = stirred(ExponentialMap(4, seed=seed), seed, by=0.5)
    x = on_sphere(200, seed)
    y, ladj = f.call_and_ladj(x)
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(200, dtype=torch.float64), atol=1e-13, rtol=0)
    back, same = f.inverse_and_ladj(y)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(same, ladj, atol=1e-9, rtol=0)
    J, E, frame = jacobians(f._map, x), flows.tangents(x), flows.tangents(y.detach())
    torch.testing.assert_close(ladj, torch.linalg.slogdet(frame @ J @ E.mT)[1], atol=1e-10, rtol=0)
    z, phi = np.polynomial.legendre.leggauss(60)[0], np.arange(120) / 120 * 2 * np.pi
    share = np.polynomial.legendre.leggauss(60)[1]
    zz, pp = np.meshgrid(z, phi, indexing="ij")
    grid = torch.tensor(np.stack([np.sqrt(1 - zz**2) * np.cos(pp), np.sqrt(1 - zz**2) * np.sin(pp), zz], -1).reshape(-1, 3))
    density = Flow(f, UniformSphere)().log_prob(grid).exp().reshape(60, 120)
    assert float((torch.tensor(share) @ density.detach()).mean()) * 2 * math.pi == pytest.approx(1, abs=1e-6)
    (ladj.sum() + y[:, 0].sum()).backward()
    assert all(bool((p.grad != 0).any()) for p in f.parameters())


# Densities of the plane, and fitting ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", Plane.WORDS)
def test_the_planes_are_normalised_and_their_entropy_is_that_of_samples(name):
    plane = Plane(name)
    x = plane.sample((100_000,), generator=torch.Generator().manual_seed(0))
    log_p = plane.log_prob(x)
    error = float(log_p.std()) / len(x) ** 0.5
    assert float(-log_p.mean()) == pytest.approx(float(plane.entropy()), abs=4 * error)
    side = torch.linspace(-6, 6, 301, dtype=torch.float64)
    assert float(plane.log_prob(torch.cartesian_prod(side, side)).exp().sum()) * 0.04**2 == pytest.approx(1, abs=1e-6)
    below = x[:, 0] < 0.3  # and the samples lie where the density says
    mass = float(plane.log_prob(torch.cartesian_prod(side, side)).exp().reshape(301, 301)[side < 0.3].sum()) * 0.04**2
    assert float(below.double().mean()) == pytest.approx(mass, abs=0.02)


def test_eight_gaussians_against_scipy():
    x = np.array([[1.7, 0.2], [0.0, 0.0], [-1.4, 1.4]])
    angle = np.arange(8) * np.pi / 4
    density = np.mean([multivariate_normal([2 * np.cos(a), 2 * np.sin(a)], 0.04 * np.eye(2)).pdf(x) for a in angle], 0)
    np.testing.assert_allclose(Plane("eight Gaussians").log_prob(torch.tensor(x)).exp(), density, rtol=1e-9)


def skewed():
    """A log-normal times a normal, evidence 1.5 nats: exactly what an affine map and an exponential make of N(0, I)."""
    return Problem(lambda z: 1.5 - 0.5 * (z[..., 0] ** 2 + (z[..., 1] - z[..., 0] ** 2) ** 2) - math.log(2 * math.pi), 2,
                   name="parabola", log_evidence=1.5)


@pytest.mark.parametrize("kind", ["affine", "planar", "iaf", "spline"])
def test_every_kind_beats_the_best_gaussian_and_its_bound_is_one(kind):
    problem = skewed()
    gaussian = divergences.approximate(problem, num_starts=1).gap(problem)
    small = {} if kind == "planar" else {"hidden": (16,)}
    found = flows.approximate(problem, kind, num_layers=4, num_steps=300, batch_size=128, learning_rate=0.03, **small)
    assert -4 * found.log_evidence.standard_error < found.gap(problem) < 0.9 * gaussian
    assert found.log_evidence.kind == "lower bound" and len(found.history) == 300
    assert found.evaluations == 300 * 128 + 20_000
    log_w = found.log_weights(problem, 4000, seed=1)
    assert float(log_w.mean()) == pytest.approx(float(found.log_evidence), abs=5 * float(log_w.std()) / 60)


def test_eight_schools_to_a_hundredth_of_a_nat():
    problem = problems.eight_schools()
    found = flows.approximate(problem, "affine", num_layers=4, hidden=(24,), num_steps=700, batch_size=128)
    assert found.gap(problem) + 3 * found.log_evidence.standard_error < 0.01


def test_a_box_is_filled_and_not_left():
    problem = problems.energy(2)
    found = flows.approximate(problem, "spline", num_layers=2, num_steps=200, hidden=(16,), learning_rate=0.02)
    z = found.q.sample((1000,))
    assert bool((z.abs() < 4).all()) and math.isfinite(float(found.log_evidence))


def test_dimension_one_and_no_layers():
    problem = problems.two_modes()
    found = flows.approximate(problem, "spline", num_steps=400, learning_rate=0.03)
    assert found.gap(problem) < 0.15
    gaussian = flows.approximate(problem, "planar", num_layers=0, num_steps=200, learning_rate=0.05)
    assert gaussian.gap(problem) > 0.2


def test_the_same_seed_gives_the_same_fit_and_leaves_torch_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two, other = (flows.approximate(skewed(), "affine", num_layers=2, hidden=(8,), num_steps=20, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.history, two.history) and not torch.equal(one.history, other.history)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_flow_given_is_copied_and_any_family_search_takes_one():
    flow = flows.make("planar", 2, num_layers=2)
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    fitted = flows.approximate(skewed(), flow, num_steps=5)
    assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())
    assert fitted.q.event_shape == (2,) and not any(p.requires_grad for p in fitted.diagnostics["flow"].parameters())
    q = flow()  # what divergences.approximate asks of a family
    assert isinstance(q, torch.distributions.Distribution) and q.event_shape == (2,) and q.has_rsample


def test_density_fits_are_as_far_from_the_truth_as_their_likelihood_says():
    plane = Plane("moons")
    fit = flows.fit_density(lambda stream: plane.sample((256,), generator=stream), "affine", num_layers=6, hidden=(24, 24), num_steps=400)
    x = plane.sample((20_000,), generator=torch.Generator().manual_seed(5))
    kl = float((plane.log_prob(x) - fit.q.log_prob(x)).mean())
    assert 0 < kl < 0.25
    side = torch.linspace(-6, 6, 301, dtype=torch.float64)
    assert float(fit.q.log_prob(torch.cartesian_prod(side, side)).exp().sum()) * 0.04**2 == pytest.approx(1, abs=2e-3)


def test_validation_keeps_the_best_state():
    x = Plane("pinwheel").sample((60,), generator=torch.Generator().manual_seed(0))
    held = Plane("pinwheel").sample((300,), generator=torch.Generator().manual_seed(1))
    fit = flows.fit_density(x, "affine", num_layers=6, hidden=(48, 48), num_steps=300, learning_rate=0.02, validation=held, every=20)
    assert float(fit.q.log_prob(held).mean()) == pytest.approx(float(fit.validation.max()), abs=1e-9)
    assert fit.validation[-1] < fit.validation.max() - 0.1  # sixty points are soon learnt by heart


@pytest.mark.parametrize("name", ["U1, 2 planar layers", "U4, 32 planar layers", "moons, 8 couplings"])
def test_shipped_flows_are_whole(name):
    q = load(name)()
    y, log_q = q.rsample_and_log_prob((200,), generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(log_q).all())
    torch.testing.assert_close(q.log_prob(y), log_q, rtol=0, atol=1e-6)


def test_more_planar_layers_come_nearer_on_every_energy():
    for n in (1, 2, 3, 4):
        target = problems.energy(n)
        gaps = []
        for K in (2, 8, 32):
            with torch.no_grad():
                z, log_q = load(f"U{n}, {K} planar layers")().rsample_and_log_prob((20_000,), generator=torch.Generator().manual_seed(0))
                log_w = target.log_joint(z) - log_q
            gaps.append(float(target.log_evidence) - float(log_w.mean()))
        assert gaps[0] > gaps[1] > gaps[2] > -0.01, (n, gaps)


def test_the_shipped_file_is_small_and_complete():
    from tightbound.flows.shipped import PATH
    assert PATH.stat().st_size < 180_000 and all(load(name) for name in SHIPPED)


@pytest.mark.parametrize("d", [2, 16])
def test_parabolas_have_evidence_one_and_couplings_are_nearer(d):
    problem = parabolas(d)
    a = torch.linspace(-8, 8, 401, dtype=torch.float64)
    pair = torch.cartesian_prod(a, torch.linspace(-6, 64, 1401, dtype=torch.float64))
    assert float(parabolas(2).log_joint(pair).exp().sum()) * 0.04 * 0.05 == pytest.approx(1, abs=1e-6)
    z = torch.randn(5, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # pairs are independent
    torch.testing.assert_close(problem.log_joint(z), parabolas(2).log_joint(z.reshape(5, d // 2, 2)).sum(-1))
    gap = {}
    for what in ("32 planar layers", "8 couplings"):
        y, log_q = load(f"{d // 2} parabolas, {what}")().rsample_and_log_prob((20_000,), generator=torch.Generator().manual_seed(0))
        gap[what] = float((log_q - problem.log_joint(y)).mean())
    assert 0 < gap["8 couplings"] < gap["32 planar layers"] / 2


# The posterior of a VAE ----------------------------------------------------------------------------------------------------

@functools.lru_cache
def encoders():
    x = vae.binary_digits("test")[0][:40]
    return x, {"chapter": vae.two_latents(), **{word: amortised.two_latents(word) for word in amortised.ENCODERS}}


def test_only_the_encoder_is_exchanged():
    x, models = encoders()
    truth = vae.exact(models["chapter"], x[:5], tolerance=1e-3)
    for model in models.values():
        torch.testing.assert_close(vae.exact(model, x[:5], tolerance=1e-3), truth)


def test_an_amortised_flow_is_a_density_for_every_picture():
    x, models = encoders()
    q = models["flow"].posterior(x[:4])
    z, log_q = q.rsample_and_log_prob((50,), generator=torch.Generator().manual_seed(0))
    assert q.batch_shape == (4,) and z.shape == (50, 4, 2) and log_q.shape == (50, 4)
    torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=2e-3)
    side = torch.linspace(-5, 5, 401)
    grid = torch.cartesian_prod(side, side).unsqueeze(1)
    mass = models["flow"].posterior(x[:2]).log_prob(grid).double().exp().sum(0) * 0.025**2
    torch.testing.assert_close(mass, torch.ones(2).double(), rtol=0, atol=3e-3)
    one = models["flow"].posterior(x[2:3]).log_prob(z[:, 2:3])
    torch.testing.assert_close(one, log_q[:, 2:3], rtol=0, atol=2e-3)


def test_the_flow_of_a_vae_is_nearer_and_its_bound_is_one():
    x, models = encoders()
    truth = vae.exact(models["chapter"], x, tolerance=1e-3)
    gaps = {}
    for name, model in models.items():
        with torch.no_grad():
            gaps[name] = truth - vae.elbo(model, x, 400, generator=torch.Generator().manual_seed(0)).double()
    assert all(bool((gap > -0.1).all()) for gap in gaps.values())  # 400 samples of a picture
    assert gaps["flow"].mean() < 0.7 * gaps["gaussian"].mean() < 0.7 * gaps["chapter"].mean()


def test_without_layers_that_move_the_encoder_is_its_gaussian():
    encoder = flows.FlowEncoder(vae.mlp(6, 5), 5, Affine(2))
    plain = vae.DiagonalEncoder(encoder.network, 5, 2)
    plain.head = encoder.head
    x, z = torch.rand(3, 6), torch.randn(3, 2)
    torch.testing.assert_close(encoder(x).log_prob(z), plain(x).log_prob(z))
    ours, theirs = (e(x).rsample_and_log_prob((4,), generator=torch.Generator().manual_seed(0)) for e in (encoder, plain))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)


# Speed has its equality tests ------------------------------------------------------------------------------------------------

def test_the_planar_stack_is_its_layers_one_by_one():
    f = stirred(Planar(3, 16), by=0.5)
    x = points(f, 100)
    fast, (*_, slow) = f.call_and_ladj(x), f.steps(x)
    for a, b in zip(fast, slow):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    grads = []
    for value in (fast, slow):
        f.zero_grad()
        (value[0].sin().sum() + value[1].sum()).backward()
        grads.append([p.grad.clone() for p in f.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_the_compiled_path_is_the_readable_one():
    """log q, its gradient and five steps of Adam, against the formula in a few lines."""
    def made():
        return flows.make("affine", 2, num_layers=2, hidden=(8,), data=True)

    def readable(flow, x):
        z, ladj = flow.bijection.inverse_and_ladj(x)
        return -(-0.5 * z.square().sum(-1) - math.log(2 * math.pi) - ladj).mean()

    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, fast = made(), made()
    expected, found = readable(plain, x), flows.negative_log_likelihood(fast, compile=True)(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(found, list(fast.parameters())), torch.autograd.grad(expected, list(plain.parameters()))):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    adam = torch.optim.Adam(plain.parameters(), lr=0.01)
    step = flows.training_step(fast.parameters(), flows.negative_log_likelihood(fast), learning_rate=0.01, compile=True)
    for _ in range(5):
        adam.zero_grad()
        loss = readable(plain, x)
        loss.backward()
        adam.step()
        torch.testing.assert_close(step(x), loss.detach(), rtol=0, atol=1e-12)
    for ours, theirs in zip(fast.parameters(), plain.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["additive", "affine"])
def test_a_coupling_is_its_two_lines(kind):
    """y_a = x_a, y_b = x_b exp(s(x_a)) + t(x_a): what `addcmul` and the loop over halves must come to."""
    f = stirred(Coupling(5, 1, kind=kind, hidden=(8,)))
    x = points(f)
    numbers = f.networks[0](x[:, :2])
    t, s = (numbers, torch.zeros(1)) if kind == "additive" else (numbers[:, :3], 3 * torch.tanh(numbers[:, 3:] / 3))
    y, ladj = f.call_and_ladj(x)
    torch.testing.assert_close(y, torch.cat([x[:, :2], x[:, 2:] * torch.exp(s) + t], -1), rtol=0, atol=1e-12)
    torch.testing.assert_close(ladj, (s + torch.zeros_like(t)).sum(-1).double(), rtol=0, atol=1e-12)


# Bad input -----------------------------------------------------------------------------------------------------------------

def nan_in(flow):
    with torch.no_grad():
        next(flow.parameters()).fill_(math.nan)
    return flow


def flattened(kind):
    """Layers that are singular to the last digit: a point lands, and its log-determinant is minus infinity."""
    f = Planar(2, 1) if kind == "planar" else ActNorm(2)
    with torch.no_grad():
        if kind == "planar":
            f.w.copy_(torch.tensor([[1.0, 0.0]])), f.u.copy_(torch.tensor([[-800.0, 0.0]]))
        else:
            f.log_scale.fill_(-math.inf)
    return Flow(Chain([Affine(2), f]))()


def away(z):
    return torch.where(z[..., 0] > 1, -z.square().sum(-1), -torch.inf)


BAD = {
    "coupling in one dimension": (lambda: Coupling(1), ValueError, "dimension one has none"),
    "singular scale": (lambda: Affine(2, scale_tril=torch.zeros(2, 2).double()), ValueError, "singular or improper map"),
    "scale of another shape": (lambda: Affine(2, scale_tril=torch.eye(3).double()), ValueError, r"expected loc \(2,\)"),
    "no permutation": (lambda: Permute([0, 0, 1]), ValueError, "name each of 0 to 2 once"),
    "box upside down": (lambda: Box([(1, 0)]), ValueError, "low < high"),
    "on the edge of the box": (lambda: Box([(0, 1)]).inverse_and_ladj(torch.tensor([[1.0]]).double()), ValueError, "edge of the box"),
    "points of another size": (lambda: Affine(3)(torch.zeros(4, 2).double()), ValueError, r"expected shape \(..., 3\), got \(4, 2\)"),
    "density at another size": (lambda: Flow(Affine(3))().log_prob(torch.zeros(4, 2).double()), ValueError, r"shape \(..., 3\)"),
    "density at NaN": (lambda: Flow(Affine(2))().log_prob(torch.full((1, 2), math.nan).double()), ValueError, "not finite"),
    "chain of two sizes": (lambda: Chain([Affine(2), Affine(3)]), ValueError, r"one dimension, got \[2, 3\]"),
    "empty chain": (lambda: Chain([]), ValueError, "one dimension"),
    "unknown coupling": (lambda: Coupling(2, kind="nvp"), ValueError, "unknown kind 'nvp'"),
    "unknown gate": (lambda: Autoregressive(2, kind="lstm"), ValueError, "unknown kind"),
    "unknown flow": (lambda: flows.make("glow", 2), ValueError, "unknown kind 'glow'"),
    "unknown plane": (lambda: Plane("spiral"), ValueError, "unknown name 'spiral'"),
    "unknown shipped": (lambda: load("U5"), ValueError, "unknown name 'U5'"),
    "no layers": (lambda: Planar(2, 0), ValueError, "num_layers must be an integer, at least 1"),
    "one bin": (lambda: Spline(1, bins=1), ValueError, "bins"),
    "too few layers for a torus": (lambda: TorusCoupling(3, 2), ValueError, "num_layers must be an integer, at least 3"),
    "context missing": (lambda: Flow(Planar(2, context_dim=3))(), ValueError, r"reads a context of shape \(..., 3\), got None"),
    "context of another size": (lambda: Flow(Planar(2, context_dim=3))(torch.zeros(5, 2)), ValueError, r"got \(5, 2\)"),
    "context not wanted": (lambda: Flow(Planar(2))(torch.zeros(5, 2)), ValueError, "reads no context"),
    "a layer that is NaN": (lambda: Flow(Chain([Affine(2), nan_in(Planar(2))]))().rsample_and_log_prob((5,)), flows.NotFinite,
                            r"layer 1 \(Planar\) has a value"),
    "a layer that is NaN, backwards": (lambda: Flow(Chain([Affine(2), nan_in(ActNorm(2))]))().log_prob(torch.zeros(5, 2).double()),
                                       flows.NotFinite, r"layer 1 \(ActNorm\)"),
    "a planar layer that flattens": (lambda: flattened("planar").push(torch.zeros(1, 2).double()), flows.NotFinite,
                                     r"layer 1 \(Planar\) has a log-determinant that is not finite"),
    "a scale of zero": (lambda: flattened("act norm").push(torch.ones(1, 2).double()), flows.NotFinite,
                        r"layer 1 \(ActNorm\) has a log-determinant that is not finite"),
    "flow in dimension one": (lambda: flows.make("affine", 1), ValueError, "use a Spline or an Affine map"),
    "Newton on the sphere": (lambda: nan_in(ExponentialMap(2)).inverse_and_ladj(on_sphere(3)), flows.InverseNotConverged,
                             "after 60 steps: are the parameters finite"),
    "features of another size": (lambda: flows.FlowEncoder(vae.mlp(6, 5), 5, Planar(2, context_dim=4)), ValueError,
                                 "make its layers with context_dim=5"),
    "unknown encoder": (lambda: amortised.two_latents("planar"), ValueError, "unknown posterior 'planar'"),
    "bisection outside": (lambda: flows.bisect(torch.tanh, torch.tensor([2.0]), torch.tensor([-9.0]), torch.tensor([9.0])),
                          flows.InverseNotConverged, "within the given ends"),
    "bisection cut short": (lambda: flows.bisect(torch.tanh, torch.tensor([0.3]), torch.tensor([-9.0]), torch.tensor([9.0]),
                                                 max_iterations=3), flows.InverseNotConverged, "after 3 halvings"),
    "mass outside of the support": (lambda: flows.approximate(Problem(away, 2, name="half"), num_steps=5), flows.FlowError,
                                    "log joint of 'half' is -inf"),
    "flow of another dimension": (lambda: flows.approximate(skewed(), Flow(Affine(3))), ValueError, "2 latents, but the flow is over 3"),
    "no steps": (lambda: flows.approximate(skewed(), num_steps=0), ValueError, "num_steps"),
    "no learning rate": (lambda: flows.approximate(skewed(), learning_rate=0.0, num_steps=2), ValueError, "learning_rate"),
    "one datum": (lambda: flows.fit_density(torch.zeros(1, 2)), ValueError, "two or more rows"),
    "data in a list": (lambda: flows.fit_density([1.0, 2.0]), ValueError, "got list"),
    "data with holes": (lambda: flows.fit_density(torch.full((5, 2), math.nan)), ValueError, "fill the missing"),
    "constant column": (lambda: flows.fit_density(torch.ones(5, 2).double()), ValueError, "differ in every coordinate"),
    "data of another size": (lambda: flows.fit_density(torch.randn(9, 3).double(), Flow(Affine(2))), ValueError, "3 columns"),
}


@pytest.mark.parametrize(("act", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_without_a_compiler_one_is_told_so(monkeypatch):
    from torch._inductor import cpp_builder, exc

    def none():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(flows.NoCompiler, match=r"install g\+\+ or clang\+\+"):
        flows.fit_density(Plane("moons").sample((50,)), compile=True, num_steps=1)


def test_a_fit_that_is_no_longer_finite_is_stopped_and_told():
    broken = Flow(Chain([Affine(2), nan_in(Planar(2))]))
    with pytest.raises(flows.NotFinite, match=r"layer 1 \(Planar\) has a value that is not finite"):
        flows.approximate(skewed(), broken, num_steps=2)
    with pytest.raises(flows.NotFinite, match=r"layer 1 \(ActNorm\)"):
        flows.fit_density(torch.randn(9, 2).double(), Flow(Chain([Affine(2), nan_in(ActNorm(2))])), num_steps=2)


# Explorers and exercises against the method -----------------------------------------------------------------------------------

def test_the_planar_explorer_shows_the_layer():
    explorer = explore.planar()
    for at in ({}, {"along": -2, "across": 1, "steepness": 3, "offset": 1.5}, {"along": 4, "steepness": 0.5}):
        frame = explorer.frame(**at)
        f = Planar(2, 1)
        with torch.no_grad():
            f.w.copy_(torch.tensor([[float(frame["steepness"]), 0.0]]))
            f.u.copy_(torch.tensor([[float(frame["along"]), float(frame["across"])]]))
            f.b.fill_(float(frame["offset"]))
        middle = torch.tensor([[float(frame["at"]), 0.0]], dtype=torch.float64)  # on the plane, volumes change by `least`
        assert float(f.call_and_ladj(middle)[1].detach().exp()) == pytest.approx(float(frame["least"]), rel=1e-9)
        expected = Flow(f)().log_prob(explore._lattice(-4.0, 4.0, 24)).exp().reshape(24, 24).detach()
        shown = np.sqrt((expected / 0.32).clamp(0, 1).numpy())  # a density above 0.32 is as dark as the palette goes
        assert np.abs(frame["density"] - shown).max() < 0.6 / explore.LEVELS


@pytest.mark.parametrize("trained", list(explore.TRAINED))
def test_the_explorer_of_layers_ends_at_the_trained_flow_and_starts_at_a_gaussian(trained):
    name, reach, high = explore.TRAINED[trained]
    explorer = explore.layers()
    frame = explorer.frame(trained=trained, layers=8)
    x = explore._lattice(-reach, reach, 40)
    expected = load(name)().log_prob(x).exp().reshape(40, 40)
    assert np.abs(frame["density"] - np.sqrt((expected / high).clamp(0, 1).numpy())).max() < 0.6 / explore.LEVELS
    assert float(frame["largest"]) == pytest.approx(float(expected.max()), rel=1e-9)
    start = Flow(Chain(list(load(name).bijection.layers)[1:]))().log_prob(x).exp()
    assert float(explorer.frame(trained=trained, layers=0)["largest"]) == pytest.approx(float(start.max()), rel=1e-9)


def test_the_exercises_agree_with_the_package():
    stream = random.Random(0)
    for _ in range(5):
        at = checks.planar.draw(stream)
        f = Planar(len(at["x"]), 1)
        with torch.no_grad():
            f.w.copy_(at["w"]), f.u.copy_(at["u"]), f.b.fill_(at["b"])
        for ours, theirs in zip(checks.planar.reference(**at), f.call_and_ladj(at["x"])):
            torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-10)
        at = checks.push.draw(stream)
        z, log_q = checks.push.reference(**at)
        normal = torch.distributions.MultivariateNormal(at["c"], at["A"] @ at["A"].T)
        expected = torch.distributions.TransformedDistribution(normal, [torch.distributions.ExpTransform()]).log_prob(z)
        assert float(log_q) == pytest.approx(float(expected), abs=1e-6)
    assert checks.own.diagnose(lambda problem: problem.log_evidence, seed=1)[0] == "returned nothing"
    degrees = torch.arange(16) % 4 + 1
    first, last = checks.masks.reference(5, degrees)
    net = MADE(5, 1, (16,))
    assert torch.equal(net.mask0, first) and torch.equal(net.mask_last, last)
    assert checks.bits.reference(0.0, 784, 256) == pytest.approx(8)
    for seed in range(20):
        assert all(0 < checks.bits.reference(**at) < math.log2(at["levels"]) for at in checks.bits.instances(seed))


def test_a_number_that_is_no_bound_or_a_low_one_is_told_so():
    bound = lambda gap: checks.own.diagnose(lambda problem: checks._exact(problem) - gap, seed=1)
    name, message = bound(0.03)
    assert name == "other" and message.startswith("below log Z") and "0.030 nats" in message
    assert bound(-0.03)[1].startswith("this is above log Z") and bound(0.015) is None
