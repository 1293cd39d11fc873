"""`Problem`: what it refuses, and how constrained latents move to R^d."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch.distributions import Beta, Distribution, Gamma, HalfCauchy, Normal, constraints

from tightbound import Estimate, Problem, exact


def gaussian(dim=2, **options):
    return Problem(lambda z: -0.5 * (z**2).sum(-1), dim, **options)


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


# What is no problem


@given(st.one_of(st.integers(max_value=0), st.booleans(), st.floats(), st.text(), st.none()))
def test_a_dimension_is_a_positive_integer(dim):
    with pytest.raises(ValueError, match="at least one latent: dim must be a positive integer"):
        gaussian(dim)


@given(st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers())))
def test_a_log_joint_is_a_function(value):
    with pytest.raises(TypeError, match="must be a function"):
        Problem(value, 2)


@given(st.integers(1, 6), st.lists(st.text(max_size=3), max_size=8))
def test_names_are_as_many_as_latents(dim, latents):
    if len(latents) == dim:
        assert gaussian(dim, latents=latents).latents == latents
    else:
        with pytest.raises(ValueError, match=rf"has {dim} latents, but {len(latents)} names"):
            gaussian(dim, latents=latents)


@given(st.integers(1, 3), st.lists(st.tuples(st.floats(), st.floats()), max_size=4))
def test_a_box_holds_finite_pairs_in_order(dim, box):
    sound = len(box) == dim and all(
        math.isfinite(low) and math.isfinite(high) and low < high for low, high in box
    )
    if sound:
        assert gaussian(dim, box=tuple(box)).box == tuple(box)
    else:
        with pytest.raises(ValueError, match=f"must hold {dim} finite pairs"):
            gaussian(dim, box=tuple(box))


def test_an_evidence_is_no_nan():
    with pytest.raises(ValueError, match="cannot be NaN"):
        gaussian(log_evidence=math.nan)
    assert gaussian(log_evidence=-1.5).log_evidence == Estimate(-1.5, "exact")
    assert gaussian().log_evidence is None and "unknown" in repr(gaussian())
    with pytest.raises(
        ValueError, match="unknown kind of estimate 'guess': choose one of exact, lower bound"
    ):
        Estimate(0.0, "guess")


# What is no point, and no log joint


@given(st.integers(1, 4), st.lists(st.integers(0, 3), max_size=3))
def test_points_end_in_the_dimension(dim, shape):
    problem = gaussian(dim)
    for ask in (problem.log_joint, problem.value_and_gradient, problem.hessian):
        if shape and shape[-1] == dim:
            continue
        with pytest.raises(ValueError, match=rf"has {dim} latents: expected z of shape \(..., {dim}\)"):
            ask(zeros(*shape))
    assert problem.evaluations == 0


@pytest.mark.parametrize("z", [[0.0, 0.0], 0.0, None, "z"], ids=repr)
def test_points_are_tensors(z):
    for ask in (gaussian().log_joint, gaussian().value_and_gradient, gaussian().hessian):
        with pytest.raises(TypeError, match="takes a torch.Tensor"):
            ask(z)


@pytest.mark.parametrize(
    "log_joint",
    [
        lambda z: -(z**2),
        lambda z: -(z**2).sum(),
        lambda z: -(z**2).sum(-1, keepdim=True),
        lambda z: -(z**2).sum(0),
    ],
    ids=["none", "all", "keepdim", "first"],
)
@given(st.integers(2, 4), st.integers(5, 7))
def test_a_log_joint_of_the_wrong_shape_is_named_with_its_remedy(log_joint, rows, dim):
    problem = Problem(log_joint, dim, name="crooked")
    for ask in (problem.log_joint, problem.value_and_gradient):
        with pytest.raises(
            ValueError, match=rf"'crooked' must map \(..., {dim}\) to \(...\).*Sum over the last dimension"
        ):
            ask(zeros(rows, dim))


@pytest.mark.parametrize("value", [1.0, None, [0.0]], ids=repr)
def test_a_log_joint_returns_a_tensor(value):
    with pytest.raises(TypeError, match="must return a torch.Tensor"):
        Problem(lambda z: value, 2).log_joint(zeros(3, 2))


@given(st.sampled_from([math.nan, math.inf]), st.integers(0, 4))
def test_nan_and_plus_infinity_are_named_with_the_point(bad, row):
    def log_joint(z):
        return torch.where(z[..., 0] == row, bad, -z[..., 0])

    z = torch.arange(5, dtype=torch.float64).unsqueeze(-1).expand(5, 2)
    with pytest.raises(
        ValueError, match=rf"is {bad} at z = \[{row}.0, {row}.0\]; it must be finite, or -inf outside"
    ):
        Problem(log_joint, 2).log_joint(z)
    with pytest.raises(ValueError, match=rf"is {bad} at z"):
        Problem(log_joint, 2).value_and_gradient(z)


def test_minus_infinity_is_outside_of_the_support():
    problem = Problem(lambda z: torch.where(z[..., 0] > 0, -z[..., 0], -torch.inf), 1)
    assert problem.log_joint(torch.tensor([[-1.0], [2.0]])).tolist() == [-math.inf, -2.0]


@pytest.mark.parametrize(
    "log_joint",
    [
        lambda z: -0.5 * (z.detach() ** 2).sum(-1),
        lambda z: torch.from_numpy(-(z.detach().numpy() ** 2).sum(-1)),
    ],
    ids=["cut", "numpy"],
)
def test_a_log_joint_without_gradient_is_named(log_joint):
    with pytest.raises(ValueError, match="has no gradient: write it in torch operations"):
        Problem(log_joint, 2).value_and_gradient(zeros(3, 2))


# Points to start from


def test_a_density_that_is_nowhere_has_no_starting_points():
    nowhere = Problem(lambda z: torch.full(z.shape[:-1], -torch.inf, dtype=z.dtype), 2, name="nowhere")
    with pytest.raises(
        ValueError, match="'nowhere' is finite at none of the 1000 points tried: check its support"
    ):
        nowhere.points(5)


@given(st.integers(1, 30), st.integers(0, 2**40), st.integers(1, 4))
def test_points_are_of_the_support_and_of_their_seed(num_points, seed, dim):
    half = Problem(lambda z: torch.where(z[..., 0] > 0.5, -z.abs().sum(-1), -torch.inf), dim)
    z = half.points(num_points, seed=seed)
    assert z.ndim == 2 and 1 <= len(z) <= num_points and (z[:, 0] > 0.5).all()
    assert torch.equal(z, half.points(num_points, seed=seed))


@given(st.integers(1, 30), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_points_of_a_box_lie_in_it(num_points, low, width):
    z = gaussian(2, box=((low, low + width), (-1.0, 1.0))).points(num_points)
    assert len(z) == num_points
    assert (z[:, 0] >= low).all() and (z[:, 0] <= low + width).all() and (z[:, 1].abs() <= 1).all()


@given(st.integers(max_value=0))
def test_no_points_cannot_be_asked_for(num_points):
    with pytest.raises(ValueError, match="num_points must be at least 1"):
        gaussian().points(num_points)


# Derivatives


def test_a_log_joint_that_branches_on_its_values_has_a_hessian_too():
    def branching(z):
        return -((z**4).sum(-1)) if bool((z > 0).all()) else -(z**2).sum(-1)

    problem = Problem(branching, 2)
    for z, expected in (([1.0, 2.0], [-12.0, -48.0]), ([-1.0, 2.0], [-2.0, -2.0])):
        hessian = problem.hessian(torch.tensor(z, dtype=torch.float64))
        torch.testing.assert_close(hessian, torch.diag(torch.tensor(expected).double()))


@pytest.mark.parametrize("log_joint, expected", [
    (lambda z: 3.0 * z[..., 0] - z[..., 1], torch.zeros(2, 2)),                                  # linear: no graph is left
    (lambda z: z[..., 1] - z[..., 0] ** 2, torch.tensor([[-2.0, 0.0], [0.0, 0.0]])),             # linear in one latent
    (lambda z: z.prod(-1), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))])
def test_a_hessian_of_terms_without_curvature_is_zero_there(log_joint, expected):
    hessian = Problem(log_joint, 2).hessian(zeros(3, 4, 2) + 0.5)
    torch.testing.assert_close(hessian, expected.double().expand(3, 4, 2, 2))


def test_a_hessian_leaves_the_validation_of_distributions_as_it_was(monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)  # the first torch.compile of a process switches it off
    problem = Problem(lambda z: Normal(zeros(), 1.0).log_prob(z).sum(-1), 2)
    torch.testing.assert_close(problem.hessian(zeros(3, 2)), -torch.eye(2).double().expand(3, 2, 2))
    with pytest.raises(ValueError):
        Normal(0.0, -1.0)


# Constrained latents

# A Gamma density rounds its argument to the precision of its parameters.
GAMMA = Gamma(torch.tensor(2.0, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64))


def test_constrained_problem_against_a_jacobian_by_hand():
    """(mu, tau, p) with tau = exp(z2), p = sigmoid(z3): the volume is tau p (1 - p)."""
    def log_joint(mu, tau, p):
        return Normal(0.0, 2.0).log_prob(mu) + HalfCauchy(3.0).log_prob(tau) + Beta(2.0, 5.0).log_prob(p)

    problem = Problem.constrained(log_joint, {"mu": constraints.real, "tau": constraints.positive,
                                              "p": constraints.unit_interval})
    z = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mu, tau, p = z[..., 0], z[..., 1].exp(), torch.sigmoid(z[..., 2])
    by_hand = log_joint(mu, tau, p) + torch.log(tau) + torch.log(p) + torch.log(1 - p)
    torch.testing.assert_close(problem.log_joint(z), by_hand)
    assert problem.latents == ["mu", "tau", "p"]
    torch.testing.assert_close(problem.constrain(z), {"mu": mu, "tau": tau, "p": p})


def test_constrained_vectors_are_slices():
    def log_joint(mu, tau):
        return Normal(0.0, 1.0).log_prob(mu).sum(-1) + GAMMA.log_prob(tau).sum(-1)

    problem = Problem.constrained(
        log_joint, {"mu": (constraints.real, 3), "tau": (constraints.positive, 2)}, name="two"
    )
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = log_joint(z[:, :3], z[:, 3:].exp()) + z[:, 3:].sum(-1)
    torch.testing.assert_close(problem.log_joint(z), expected)
    assert problem.dim == 5 and problem.latents == ["mu1", "mu2", "mu3", "tau1", "tau2"]
    assert problem.constrain(z)["tau"].shape == (7, 2)


def test_constrained_problem_takes_names_and_evidence():
    def log_joint(tau, p):  # normalised
        return GAMMA.log_prob(tau) + Beta(GAMMA.concentration, GAMMA.rate).log_prob(p)

    problem = Problem.constrained(log_joint, {"tau": constraints.positive, "p": constraints.unit_interval},
                                  latents=["log tau", "logit p"], log_evidence=0.0)
    assert problem.latents == ["log tau", "logit p"]
    assert float(exact.quadrature(problem)) == pytest.approx(float(problem.log_evidence), abs=1e-8)
