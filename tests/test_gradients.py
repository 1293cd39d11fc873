"""Gradient estimators: one table, each held to the exact gradient by a z-test, or to the bias that it is known to have."""

import functools
import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch.distributions import Bernoulli, Independent, Laplace, Normal

from tightbound import Problem, exact, gradients, problems
from tightbound.distributions import BernoulliVector, DiagonalGaussian, Gaussian
from tightbound.explore import gradients as explore

LIMIT = 4.5  # standard errors; some two hundred numbers are held to it, of which chance would pass it once in seven hundred runs
REPETITIONS = 40_000


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


WEIGHT = vector(0.7, -1.1, 0.4)
LOGITS = {1: vector(0.6), 3: vector(0.3, -1.0, 0.8)}


def coupled(b):
    """No sum over the bits, and no polynomial."""
    return -(b @ WEIGHT[: b.shape[-1]] - 0.45) ** 2 + torch.exp(0.7 * b[..., 0] * b[..., -1])


def with_entropy(b, q):
    """An f that holds parameters of q, as the ELBO does."""
    return coupled(b) - q.log_prob(b)


INTEGRANDS = {"toy": lambda q: gradients.toy, "coupled": lambda q: coupled, "entropy": lambda q: functools.partial(with_entropy, q=q)}


@functools.cache
def learned(kind, dim):
    """An estimator with parameters of its own, half trained."""
    estimator = {"NVIL": gradients.NVIL, "RELAX": gradients.Relax}[kind](dim)
    start = LOGITS[dim].expand(20, dim).clone().requires_grad_()
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02, maximize=True)
    draws = stream(5)
    for _ in range(150):
        optimizer.zero_grad()
        estimator(coupled, BernoulliVector(start), 1, generator=draws)[1].sum().backward()
        optimizer.step()
    return estimator


UNBIASED = {
    "score function": lambda d: gradients.score_function,
    "baseline": lambda d: functools.partial(gradients.score_function, baseline=-0.6),
    "leave one out": lambda d: gradients.leave_one_out,
    "NVIL": lambda d: learned("NVIL", d),
    "MuProp": lambda d: gradients.muprop,
    "ARM": lambda d: gradients.arm,
    "REBAR": lambda d: gradients.rebar,
    "REBAR, cold": lambda d: functools.partial(gradients.rebar, temperature=0.1),
    "REBAR, half": lambda d: functools.partial(gradients.rebar, temperature=2.0, scale=0.5),
    "RELAX": lambda d: learned("RELAX", d)}


def bits(integrand):
    def objective(copies):
        q = BernoulliVector(copies)
        return integrand(q), q

    return objective


def truth(objective, at):
    return gradients.replicate(gradients.enumeration, objective, at, 1)[0]


@pytest.mark.parametrize("dim", LOGITS)
@pytest.mark.parametrize("integrand", INTEGRANDS)
@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_of_many_estimates_is_the_exact_gradient(name, integrand, dim):
    objective, at = bits(INTEGRANDS[integrand]), LOGITS[dim]
    found = gradients.moments(gradients.replicate(UNBIASED[name](dim), objective, at, REPETITIONS, num_samples=2, seed=1))
    assert (found.variance > 1e-6).all()
    assert found.z(truth(objective, at)).abs().max() < LIMIT


BIASED = {"straight through": gradients.straight_through, "DARN": gradients.darn, "Gumbel-softmax": gradients.gumbel_softmax,
          "hard Gumbel-softmax": functools.partial(gradients.gumbel_softmax, hard=True)}


@pytest.mark.parametrize("name", BIASED)
def test_the_z_test_finds_a_bias(name):
    objective, at = bits(INTEGRANDS["coupled"]), LOGITS[3]
    found = gradients.moments(gradients.replicate(BIASED[name], objective, at, REPETITIONS, seed=1))
    assert found.z(truth(objective, at)).abs().max() > 2 * LIMIT


def mean_of(estimator, at, f=gradients.toy, **options):
    return gradients.moments(gradients.replicate(estimator, bits(lambda q: f), at, REPETITIONS, seed=2, **options))


@pytest.mark.parametrize("a", [-1.5, 0.0, 0.9])
def test_straight_through_has_the_bias_that_is_known(a):
    """Of -(b - t)² it takes the slope -2(b - t), on average -2(m - t): right at m = 1/2, zero where m = t."""
    m, t = 1 / (1 + math.exp(-a)), 0.45
    found = mean_of(gradients.straight_through, vector(a))
    assert found.z(vector(-2 * (m - t) * m * (1 - m))).abs().max() < LIMIT
    assert (found.z(gradients.toy_gradient(vector(a))).abs().max() > 2 * LIMIT) == (a != 0)


def test_straight_through_ends_where_its_own_gradient_does():
    a = vector(2.0).requires_grad_()
    gradients.climb(lambda: (gradients.toy, BernoulliVector(a)), [a], gradients.straight_through, num_samples=50, num_steps=400,
                    step_size=0.05)
    assert float(torch.sigmoid(a.detach())) == pytest.approx(0.45, abs=0.05)  # where the truth is 0: f(0) > f(1)
    b = vector(2.0).requires_grad_()
    gradients.climb(lambda: (gradients.toy, BernoulliVector(b)), [b], gradients.arm, num_samples=50, num_steps=400, step_size=0.05)
    assert float(torch.sigmoid(b.detach())) < 0.05


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_gumbel_softmax_has_the_bias_that_quadrature_finds(temperature, hard):
    a, t = 0.6, 0.45

    def slope(y):
        s = 1 / (1 + math.exp(-y / temperature))
        at = float(y > 0) if hard else s
        return -2 * (at - t) * s * (1 - s) / temperature / (4 * math.cosh((y - a) / 2) ** 2)

    expected = quad(slope, -40, 0, limit=200)[0] + quad(slope, 0, 40, limit=200)[0]
    found = mean_of(functools.partial(gradients.gumbel_softmax, temperature=temperature, hard=hard), vector(a))
    assert found.z(vector(expected)).abs().max() < LIMIT
    assert abs(expected - float(gradients.toy_gradient(vector(a)))) > 0.001


def test_darn_is_unbiased_where_f_is_quadratic_and_not_elsewhere():
    def quadratic(b):
        return -(b @ WEIGHT - 0.45) ** 2 + b[..., 0] * b[..., 1]

    objective = bits(lambda q: quadratic)
    found = mean_of(gradients.darn, LOGITS[3], quadratic)
    assert found.z(truth(objective, LOGITS[3])).abs().max() < LIMIT
    cubic = mean_of(gradients.darn, LOGITS[3], lambda b: b[..., 0] ** 3 + b.sum(-1))
    assert cubic.z(truth(bits(lambda q: lambda b: b.sum(-1) * 1.0 + b[..., 0] ** 3), LOGITS[3])).abs().max() > 2 * LIMIT


@settings(max_examples=20)
@given(logits=st.lists(st.floats(-8, 8), min_size=1, max_size=5), t=st.floats(-2, 2))
def test_the_toys_gradient_is_that_of_the_enumeration(logits, t):
    at = vector(*logits)
    objective = bits(lambda q: functools.partial(gradients.toy, t=t))
    torch.testing.assert_close(truth(objective, at), gradients.toy_gradient(at, t), atol=1e-12, rtol=1e-9)


# Several samples in one bound ----------------------------------------------------------------------------------

def test_vimco_has_the_gradient_of_the_importance_weighted_bound():
    """Exactly: a sum over all (2^d)^K ways to draw K samples of d bits."""
    K, at = 3, vector(0.4, -0.7)
    log_joint = lambda b: 1.3 * b[..., 0] - 0.8 * b[..., 0] * b[..., 1] + 2 * b[..., 1] - 1
    a = at.clone().requires_grad_()
    q = BernoulliVector(a)
    states = vector(0, 0, 0, 1, 1, 0, 1, 1).reshape(4, 2)
    tuples = torch.cartesian_prod(*[torch.arange(4)] * K)
    log_w = (log_joint(states) - q.log_prob(states))[tuples]
    bound = (q.log_prob(states)[tuples].sum(-1).exp() * (log_w.logsumexp(-1) - math.log(K))).sum()
    (exactly,) = torch.autograd.grad(bound, a)
    objective = bits(lambda q: lambda b: log_joint(b) - q.log_prob(b))
    drawn = gradients.replicate(gradients.vimco, objective, at, REPETITIONS, num_samples=K, seed=3)
    found = gradients.moments(drawn)
    assert found.z(exactly).abs().max() < LIMIT
    value, _ = gradients.vimco(*objective(at.expand(REPETITIONS, 2)), K, generator=stream(4))
    assert abs(float(value.mean() - bound.detach())) < LIMIT * float(value.std()) / math.sqrt(REPETITIONS)
    elbo = truth(objective, at)  # another bound has another gradient, and the test can tell
    assert found.z(elbo).abs().max() > 2 * LIMIT


# Variance ------------------------------------------------------------------------------------------------------

def variance(estimator, integrand, dim, num_samples=2):
    at = vector(0.3).repeat(dim)
    return gradients.moments(gradients.replicate(estimator, bits(INTEGRANDS[integrand]), at, 20_000, num_samples=num_samples,
                                                 seed=6)).variance.mean()


def test_the_variances_are_those_of_a_sum_over_all_bits():
    """E[g²] - (E[g])² of one sample, by enumeration, for the estimators that are functions of the bits alone."""
    at = LOGITS[3]
    states = ((torch.arange(8).unsqueeze(-1) >> torch.arange(3)) & 1).double()
    q = BernoulliVector(at)
    share, score = q.log_prob(states).exp().unsqueeze(-1), states - q.mean
    slope = torch.func.jacrev(coupled)(q.mean)
    tangent = coupled(q.mean) + (states - q.mean) @ slope
    for estimator, g in ((gradients.score_function, coupled(states).unsqueeze(-1) * score),
                         (gradients.muprop, (coupled(states) - tangent).unsqueeze(-1) * score + slope * q.mean * (1 - q.mean))):
        expected = (share * g**2).sum(0) - (share * g).sum(0) ** 2
        found = gradients.moments(gradients.replicate(estimator, bits(INTEGRANDS["coupled"]), at, REPETITIONS, seed=7))
        assert ((found.variance - expected) / found.variance_error).abs().max() < LIMIT


def test_what_lowers_the_variance_of_the_toy():
    plain = variance(gradients.score_function, "toy", 10)
    for estimator in (gradients.leave_one_out, gradients.arm, gradients.darn):
        assert variance(estimator, "toy", 10) < plain / 5
    assert plain / 5 < variance(gradients.rebar, "toy", 10) < plain / 3
    m = float(torch.sigmoid(vector(0.3)))
    residual = functools.partial(gradients.muprop, baseline=-10 * m * (1 - m))  # f - h = -sum_i (b_i - m)²
    assert variance(residual, "toy", 10) < plain / 5 < variance(gradients.muprop, "toy", 10)


def test_the_score_functions_variance_grows_with_the_square_of_the_dimension_and_less_with_a_baseline():
    plain = [float(variance(gradients.score_function, "toy", d)) for d in (8, 16, 32)]
    assert plain[2] / plain[1] == pytest.approx(4, rel=0.1)
    better = [float(variance(gradients.leave_one_out, "toy", d)) for d in (8, 16, 32)]
    assert better[2] / better[1] == pytest.approx(2, rel=0.15)
    local = [float(variance(gradients.darn, "toy", d)) for d in (8, 32)]
    assert local[1] / local[0] == pytest.approx(1, rel=0.05)


def test_relax_learns_to_vary_less():
    fresh, trained = gradients.Relax(3), learned("RELAX", 3)
    before, after = ((gradients.replicate(e, bits(INTEGRANDS["coupled"]), LOGITS[3], 20_000, seed=8)).var(0).sum()
                     for e in (fresh, trained))
    assert after < 0.9 * before


def test_nvil_learns_the_mean_of_f_for_every_datum():
    """One network, three q's: its baseline ends near each one's E[f]."""
    at = vector(-3, -3, 0, 0, 3, 3).reshape(3, 2).requires_grad_()
    estimator, draws = gradients.NVIL(2, hidden=8), stream(9)
    f = lambda b: 3 * b.sum(-1)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02, maximize=True)
    for _ in range(600):
        optimizer.zero_grad()
        estimator(f, BernoulliVector(at), 20, generator=draws)[1].sum().backward()
        optimizer.step()
    expected = 3 * torch.sigmoid(at.detach()).sum(-1)
    torch.testing.assert_close(sum(estimator.baseline(BernoulliVector(at))).detach(), expected, atol=0.3, rtol=0)


def test_the_baselines_loss_leaves_the_gradient_alone_and_evaluation_leaves_the_baseline_alone():
    estimator = gradients.NVIL(3)
    a = LOGITS[3].expand(5, 3).clone().requires_grad_()
    before = estimator.centre.clone()
    estimator.eval()
    estimator(coupled, BernoulliVector(a), 2, generator=stream())[1].sum().backward()
    assert torch.equal(estimator.centre, before) and estimator.last.grad.abs().sum() > 0
    plain = a.detach().clone().requires_grad_()
    gradients.score_function(coupled, BernoulliVector(plain), 2, generator=stream())[1].sum().backward()
    torch.testing.assert_close(a.grad, plain.grad)  # a fresh baseline is zero


# The model's own parameters ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [*UNBIASED, "DARN", "straight through"])
def test_parameters_of_f_get_their_gradient_too(name):
    """∇_theta E_q[f_theta] = E_q[∇f_theta]: at the bits for all but those that feed other values to f."""
    theta = vector(0.8).requires_grad_()
    q = BernoulliVector(LOGITS[3].expand(20_000, 3).clone().requires_grad_())
    f = lambda b: torch.sin(theta * (b @ WEIGHT)) + b[..., 0]
    estimator = {**UNBIASED, "DARN": lambda d: gradients.darn, "straight through": lambda d: gradients.straight_through}[name](3)
    _, surrogate = estimator(f, q, 2, generator=stream(10))
    (found,) = torch.autograd.grad(surrogate.sum() / len(surrogate), theta)
    _, total = gradients.enumeration(f, BernoulliVector(LOGITS[3]))
    (expected,) = torch.autograd.grad(total, theta)
    assert float(found) == pytest.approx(float(expected), abs=LIMIT * 0.6 / math.sqrt(40_000))


# Gaussians -----------------------------------------------------------------------------------------------------

def rough(z):
    return z[..., 0] ** 4 - z[..., 0] ** 2 * z[..., 1] + torch.sin(2 * z[..., 1])


def gaussian(copies):
    """mean (2,), and L (2, 2) with two numbers on its diagonal and one below."""
    L = torch.stack([torch.stack([copies[..., 2].exp(), torch.zeros_like(copies[..., 2])], -1), copies[..., 3:5]], -2)
    return rough, Gaussian(copies[..., :2], scale_tril=L, validate_args=False)


AT = vector(0.4, -0.3, -0.5, 0.5, 0.7)


@functools.cache
def gaussian_truth():
    """The gradient of E[rough] at AT, by Gauss-Hermite quadrature in the plane."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    eps = torch.tensor(np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2))
    share = torch.tensor(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    at = AT.clone().requires_grad_()
    _, q = gaussian(at)
    return torch.autograd.grad((share * rough(q.push(eps)[0])).sum(), at)[0]


@pytest.mark.parametrize("estimator", [gradients.score_function, gradients.leave_one_out, gradients.pathwise,
                                       gradients.bonnet_price], ids=lambda e: e.__name__)
def test_gaussian_gradients_are_exact_on_average(estimator):
    found = gradients.moments(gradients.replicate(estimator, gaussian, AT, REPETITIONS, num_samples=2, seed=11))
    assert found.z(gaussian_truth()).abs().max() < LIMIT


def test_prices_theorem_and_the_lectures_slip():
    """Sigma = C'C and z = mu + C' xi: with Tr[H C ∇C] in place of Tr[H C' ∇C] the gradient is another one."""
    C = vector(0.8, 0.5, 0.0, 0.6).reshape(2, 2).requires_grad_()
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    eps = torch.tensor(np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2))
    share = torch.tensor(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    z = AT[:2] + eps @ C
    (expected,) = torch.autograd.grad((share * rough(z)).sum(), C)
    H = (share[:, None, None] * torch.func.vmap(torch.func.hessian(rough))(z.detach())).sum(0)
    right, printed = (C.detach() @ H), (C.detach().T @ H)  # tr(H C' dC) = <C H, dC>, tr(H C dC) = <C' H, dC>
    torch.testing.assert_close(right, expected, atol=1e-9, rtol=0)
    assert (printed - expected).abs().max() > 0.1


def test_a_jump_has_no_pathwise_gradient_and_a_score_function_one():
    step = lambda copies: ((lambda z: (z[..., 0] > 0).double() + 0 * z[..., 0]),
                           DiagonalGaussian(copies, torch.ones_like(copies), validate_args=False))
    at = vector(0.5)
    expected = torch.exp(Normal(vector(0.0), 1.0).log_prob(at))
    assert gradients.replicate(gradients.pathwise, step, at, 1000).abs().max() == 0
    found = gradients.moments(gradients.replicate(gradients.score_function, step, at, REPETITIONS))
    assert found.z(expected).abs().max() < LIMIT


@pytest.mark.parametrize("make", [lambda a: Independent(Laplace(a, 1.0), 1), lambda a: Independent(Normal(a, 1.0), 1)],
                         ids=["Laplace", "Normal"])
def test_torchs_own_distributions_serve_and_its_global_stream_stays(make):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    objective = lambda copies: ((lambda z: z.square().sum(-1)), make(copies))
    found = gradients.moments(gradients.replicate(gradients.leave_one_out, objective, vector(0.7), REPETITIONS, num_samples=4))
    assert found.z(vector(1.4)).abs().max() < LIMIT
    assert torch.equal(torch.get_rng_state(), before)


def test_bits_of_torch_serve_the_score_function():
    objective = lambda copies: (gradients.toy, Independent(Bernoulli(logits=copies), 1))
    found = gradients.moments(gradients.replicate(gradients.score_function, objective, LOGITS[3], REPETITIONS))
    assert found.z(gradients.toy_gradient(LOGITS[3])).abs().max() < LIMIT


@pytest.mark.parametrize("estimator", [gradients.pathwise, gradients.arm, gradients.rebar, gradients.vimco], ids=lambda e: e.__name__)
def test_a_batch_is_what_its_members_are_and_a_seed_repeats(estimator):
    make = (lambda a: DiagonalGaussian(a, torch.ones_like(a))) if estimator is gradients.pathwise else BernoulliVector
    at = torch.randn(4, 5, 3, generator=stream(1), dtype=torch.float64).requires_grad_()
    once, again = (estimator(coupled, make(at), 6, generator=stream(2)) for _ in range(2))
    assert once[0].shape == once[1].shape == (4, 5) and not once[0].requires_grad
    assert torch.equal(once[1], again[1])
    g = torch.autograd.grad(once[1].sum(), at, retain_graph=True)[0]
    one = torch.autograd.grad(once[1][2, 3], at)[0]
    assert torch.equal(one[2, 3], g[2, 3]) and one.abs().sum() == one[2, 3].abs().sum()


# The pieces -----------------------------------------------------------------------------------------------------

def test_bernoulli_vectors_agree_with_torch():
    a = torch.randn(4, 3, generator=stream(3), dtype=torch.float64)
    ours, theirs = BernoulliVector(a), Independent(Bernoulli(logits=a), 1)
    b = ours.sample((50_000,), generator=stream(4))
    torch.testing.assert_close(ours.log_prob(b), theirs.log_prob(b))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.variance, theirs.variance)
    assert ours.batch_shape == (4,) and ours.event_shape == (3,) and ours.mean.shape == (4, 3)
    assert ((b.mean(0) - theirs.mean) / (theirs.variance / 50_000).sqrt()).abs().max() < LIMIT
    with pytest.raises(ValueError, match="tensor"):
        BernoulliVector(torch.tensor(0.3))


def test_moments_against_numpy_and_their_own_errors():
    x = torch.randn(2000, 500, generator=stream(5), dtype=torch.float64)
    found = gradients.moments(x)
    torch.testing.assert_close(found.variance.numpy(), np.var(x.numpy(), axis=0, ddof=1))
    assert found.z(torch.zeros(500)).std() == pytest.approx(1, abs=0.15)
    assert ((found.variance - 1) / found.variance_error).std() == pytest.approx(1, abs=0.15)


# The belief net ------------------------------------------------------------------------------------------------

@functools.cache
def net():
    made = gradients.BeliefNet(6, 4, num_replicates=3, seed=2)
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter += 0.7 * torch.randn(parameter.shape, generator=stream(i), dtype=torch.float64)
    return made, (torch.rand(5, 6, generator=stream(50), dtype=torch.float64) < 0.5).double()


def test_the_belief_nets_evidence_is_the_books_enumeration_and_it_is_normalised():
    model, x = net()
    found = model.log_evidence(x)
    assert found.shape == (3, 5)
    for n in range(5):
        for r in range(3):
            with torch.no_grad():
                by_enumeration = exact.enumeration(lambda b: model.log_joint(x[n:n + 1], b.double()[:, None, None])[:, r, 0], 2, 4)
            assert float(found[r, n]) == pytest.approx(float(by_enumeration), abs=1e-10)
    images = ((torch.arange(64).unsqueeze(-1) >> torch.arange(6)) & 1).double()
    torch.testing.assert_close(model.log_evidence(images).exp().sum(-1), torch.ones(3, dtype=torch.float64))


def test_the_belief_nets_bound_is_the_enumerated_mean_and_below_the_evidence():
    model, x = net()
    f, q = model.objective(x)
    value, _ = gradients.enumeration(f, q)
    torch.testing.assert_close(model.bound(x), value)
    assert (model.bound(x) < model.log_evidence(x)).all()
    drawn, _ = gradients.score_function(f, q, 20_000, generator=stream())
    torch.testing.assert_close(drawn, value, atol=0.05, rtol=0)


def test_replicates_learn_as_if_alone():
    """Two nets side by side move as each would by itself, fed the same noise."""
    x = net()[1]
    steps = {}
    for R in (2, 1):
        model = gradients.BeliefNet(6, 4, num_replicates=2, seed=0)
        if R == 1:
            for parameter in model.parameters():
                parameter.data = parameter.data[:1].clone()
        gradients.climb(lambda: model.objective(x), model.parameters(), gradients.enumeration, num_steps=5, step_size=0.1)
        steps[R] = model.weight.detach()[0]
    torch.testing.assert_close(steps[2], steps[1])


@pytest.mark.parametrize("name", ["leave one out", "NVIL", "ARM", "REBAR"])
def test_one_loop_trains_with_any(name):
    x = net()[1]
    estimator = gradients.NVIL(4, replicates=(4,)) if name == "NVIL" else UNBIASED[name](4)
    model = gradients.BeliefNet(6, 4, num_replicates=4, seed=0)
    before = model.bound(x).mean(-1)
    history = gradients.climb(lambda: model.objective(x), model.parameters(), estimator, num_samples=2, num_steps=300, step_size=0.03)
    assert history.shape == (300, 4, 5) and (model.bound(x).mean(-1) > before + 1).all()


def test_minibatches_pass_every_row_once_a_round():
    rows = torch.arange(10.0)
    batches = gradients.minibatches(rows, 3, seed=1)
    round_one = torch.cat([next(batches) for _ in range(3)])
    assert len(set(round_one.tolist())) == 9
    again = gradients.minibatches(rows, 3, seed=1)
    assert torch.equal(next(again), round_one[:3])


# The method ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("estimator", [gradients.leave_one_out, gradients.pathwise, gradients.bonnet_price],
                         ids=lambda e: e.__name__)
def test_eight_schools_bound_is_that_of_the_best_diagonal_gaussian(estimator):
    problem = problems.eight_schools()
    found = gradients.approximate(problem, estimator=estimator, num_steps=600, seed=1)
    assert found.log_evidence.kind == "lower bound" and found.history.shape == (600,) and found.evaluations >= 16_000
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    eps = torch.tensor(np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2))
    share = torch.tensor(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    at = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def loss():
        optimizer.zero_grad()
        bound = (share * problem.log_joint(at[:2] + at[2:].exp() * eps)).sum() + at[2:].sum() + 1 + math.log(2 * math.pi)
        (-bound).backward()
        return -bound

    optimizer = torch.optim.LBFGS([at], max_iter=100, line_search_fn="strong_wolfe")
    optimizer.step(loss)
    best = -float(loss().detach())
    assert float(found.log_evidence) == pytest.approx(best, abs=4 * found.log_evidence.standard_error + 0.01)


def test_a_posterior_inside_the_family_is_found():
    P, c = vector(1.0, 0.6, 0.6, 2.0).reshape(2, 2), vector(0.5, -1.0)
    truth = 0.3 + math.log(2 * math.pi) - 0.5 * math.log(1.64)
    problem = Problem(lambda z: 0.3 - 0.5 * ((z - c) @ P * (z - c)).sum(-1), 2, name="quadratic", log_evidence=truth)
    found = gradients.approximate(problem, estimator=gradients.pathwise, family="full", num_steps=800, seed=0)
    assert -3 * found.log_evidence.standard_error <= found.gap(problem) < 0.01
    torch.testing.assert_close(found.q.covariance_matrix, torch.linalg.inv(P), atol=0.05, rtol=0)


# Bad input -----------------------------------------------------------------------------------------------------

Q = BernoulliVector(vector(0.1, 0.2))
G = DiagonalGaussian(vector(0.0, 0.0), vector(1.0, 1.0))


@pytest.mark.parametrize("call, error, message", [
    (lambda: gradients.score_function(gradients.toy, Q, 0, generator=stream()), ValueError, "num_samples must be an integer, at least 1"),
    (lambda: gradients.leave_one_out(gradients.toy, Q, 1, generator=stream()), ValueError, "at least 2"),
    (lambda: gradients.vimco(gradients.toy, Q, 1, generator=stream()), ValueError, "at least 2"),
    (lambda: gradients.score_function(lambda b: b, Q, 3, generator=stream()), ValueError, r"sum over the last axis"),
    (lambda: gradients.score_function(lambda b: 1.0, Q, 3, generator=stream()), ValueError, "returned float"),
    (lambda: gradients.arm(lambda b: b.sum(-1) * math.nan, Q, 3, generator=stream()), ValueError, "NaN"),
    (lambda: gradients.pathwise(gradients.toy, Q, 3, generator=stream()), TypeError, "cannot be reparametrised.*score_function"),
    (lambda: gradients.arm(gradients.toy, G, 3, generator=stream()), TypeError, "must be a BernoulliVector, got DiagonalGaussian"),
    (lambda: gradients.bonnet_price(gradients.toy, Q, 3, generator=stream()), TypeError, "holds for Gaussians"),
    (lambda: gradients.enumeration(gradients.toy, BernoulliVector(torch.zeros(17))), ValueError, "from 1 to 16"),
    (lambda: gradients.gumbel_softmax(gradients.toy, Q, 3, generator=stream(), temperature=0.0), ValueError, "temperature"),
    (lambda: gradients.moments(torch.zeros(1, 2)), ValueError, "at least 2"),
    (lambda: gradients.NVIL(0), ValueError, "dim"),
    (lambda: gradients.Relax(2, temperature=-1.0), ValueError, "temperature"),
    (lambda: gradients.BeliefNet(4, 13), ValueError, "num_bits must be an integer, from 1 to 12"),
    (lambda: gradients.BeliefNet(4, 2).encode(torch.zeros(3, 5)), ValueError, r"floating-point zeros and ones, \(N, 4\)"),
    (lambda: gradients.BeliefNet(4, 2).bound(torch.zeros(3, 4, dtype=torch.int64)), ValueError, "floating-point"),
    (lambda: next(gradients.minibatches(torch.zeros(3), 4)), ValueError, "from 1 to 3"),
    (lambda: gradients.approximate(problems.coin(), num_steps=1), ValueError, "num_steps"),
    (lambda: gradients.approximate(problems.coin(), step_size=0.0), ValueError, "step_size"),
], ids=range(20))
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# The explorers ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", explore.ROWS)
def test_the_explorers_estimates_are_the_estimators(name):
    p, d, S = 0.3, 4, 4
    at = torch.logit(vector(p).repeat(d))
    drawn = explore.estimates(name, p, d, S)
    direct = gradients.replicate(explore.ROWS[name], explore._objective, at, 20_000, num_samples=S, seed=77)[:, 0]
    one, other = gradients.moments(drawn), gradients.moments(direct)
    bank = 0 if name == "with leave-one-out" else float(one.variance) * S / explore.BANK
    assert abs(float(one.mean - other.mean)) < LIMIT * math.sqrt(float(one.mean_error) ** 2 + float(other.mean_error) ** 2 + bank)
    assert float(drawn.std()) == pytest.approx(float(direct.std()), rel=0.1)


def test_what_the_explorer_of_peers_says():
    explorer = explore.peers()
    few, many = explorer.frame(dimension=1), explorer.frame(dimension=16)
    assert many["plain"] > 6 * few["plain"] and many["through"] == pytest.approx(few["through"], rel=0.1)
    few, many = explorer.frame(count=2), explorer.frame(count=64)
    assert many["through"] < 1.5 * many["off"] and few["through"] > 2 * few["off"]
    assert explorer.frame(probability=0.5)["off"] < 0.01 < explorer.frame(probability=0.3)["off"]


def test_the_explorer_of_temperature_is_quadrature():
    for lam in (0.1, 0.7, 3.0):
        mean, sd = explore.relaxed_moments(lam, 0.3)
        found = gradients.moments(gradients.replicate(functools.partial(gradients.gumbel_softmax, temperature=lam),
                                                      explore._objective, torch.logit(vector(0.3)), REPETITIONS, seed=12))
        assert found.z(vector(mean)).abs().max() < LIMIT
        assert float(found.variance.sqrt()) == pytest.approx(sd, rel=0.03)
    explorer = explore.temperature()
    assert explorer.frame(count=1)["best"] > explorer.frame(count=1000)["best"]


def test_the_explorer_of_rough_functions_is_the_estimators():
    w, mean, scale = 1.5, 0.5, 0.6
    slope, path, score = explore.wave_moments(w, mean, scale)
    F = math.exp(-0.5 * (w * scale) ** 2) * math.cos(w * mean)
    objective = lambda copies: ((lambda z: torch.cos(w * z[..., 0])),
                                DiagonalGaussian(copies, torch.full_like(copies, scale), validate_args=False))
    for estimator, sd in ((gradients.pathwise, path), (functools.partial(gradients.score_function, baseline=F), score)):
        found = gradients.moments(gradients.replicate(estimator, objective, vector(mean), 100_000, seed=13))
        assert found.z(vector(float(slope))).abs().max() < LIMIT
        assert abs(float(found.variance) - sd**2) < LIMIT * float(found.variance_error)


def test_the_sources_that_the_chapter_shows_fit_a_page():
    for part in (gradients.score_function, gradients.arm, gradients.rebar, gradients.pathwise, gradients.leave_one_out):
        source = inspect.getsource(part)
        assert len(source.splitlines()) <= 30
