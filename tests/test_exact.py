"""Quadrature and enumeration against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tightbound import Problem, exact
from tightbound.problems import banana, coin, eight_schools, funnel, rosenbrock


def gaussian(mean, cov, name="Gaussian"):
    """An unnormalised Gaussian, exp(-1/2 (z - mean)' cov^-1 (z - mean)), that knows its log volume."""
    mean, cov = torch.tensor(mean, dtype=torch.float64), torch.tensor(cov, dtype=torch.float64)
    precision = torch.linalg.inv(cov)
    volume = 0.5 * float(torch.logdet(2 * math.pi * cov))
    return Problem(
        lambda z: -0.5 * torch.einsum("...i,ij,...j->...", z - mean, precision, z - mean),
        len(mean),
        name=name,
        log_evidence=volume,
    )


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_quadrature_finds_a_gaussian_wherever_it_is(dim, shift, scale):
    problem = gaussian(
        [shift + 0.3 * i for i in range(dim)], np.diag([scale**2 * (1 + i) for i in range(dim)])
    )
    found = exact.quadrature(problem)
    assert float(found) == pytest.approx(float(problem.log_evidence), abs=1e-8)
    assert found.kind == "exact" and found.source == "quadrature" and found.standard_error is None


@pytest.mark.parametrize("rho", [0.5, -0.9, 0.99])
def test_quadrature_of_a_correlated_gaussian(rho):
    problem = gaussian([2.0, -1.0], [[1.0, 3 * rho], [3 * rho, 9.0]])
    assert float(exact.quadrature(problem)) == pytest.approx(float(problem.log_evidence), abs=1e-8)


@settings(max_examples=25)
@given(st.floats(-1e4, 1e4), st.floats(-6, 6), st.floats(-700, 700))
def test_quadrature_in_one_dimension_of_any_place_scale_and_height(shift, log_scale, height):
    scale = math.exp(log_scale)
    problem = Problem(lambda z: height - ((z - shift) / scale).abs()[..., 0] ** 3, 1)
    expected = height + math.log(2 * scale * math.gamma(4 / 3))
    assert float(exact.quadrature(problem)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("problem", [rosenbrock(), banana()], ids=["Rosenbrock", "banana"])
def test_quadrature_along_a_curved_ridge(problem):
    assert float(exact.quadrature(problem)) == pytest.approx(float(problem.log_evidence), abs=1e-8)


def test_quadrature_in_a_box():
    problem = Problem(lambda z: -(z.sum(-1)), 2, box=((0.0, 1.0), (0.0, 2.0)))
    assert float(exact.quadrature(problem)) == pytest.approx(
        math.log((1 - math.exp(-1)) * (1 - math.exp(-2))), abs=1e-9
    )
    half = exact.quadrature(gaussian([0.0], [[1.0]]), box=((0.0, 12.0),))
    assert float(half) == pytest.approx(0.5 * math.log(2 * math.pi) - math.log(2), abs=1e-9)


def test_find_box_leaves_nothing_outside_and_little_room():
    ((low, high),) = exact.find_box(gaussian([1000.0], [[4.0]]))
    edge = 2 * math.sqrt(2 * exact.NEGLIGIBLE)  # where the density is exp(-50) of its maximum
    assert low < 1000 - edge and high > 1000 + edge and high - low < 2.5 * edge


def test_find_box_reaches_the_ends_of_a_ridge():
    """The banana's standard deviation is 10 along z1, and its density exp(-50) of the maximum 100 away."""
    box = torch.tensor(exact.find_box(banana(0.3)))
    assert (box[0].abs() > 100).all() and box[0].diff() < 250
    assert box[1, 0] < 30 - 0.3 * 100**2 and 30 + 10 < box[1, 1] < 50


def test_find_box_ends_where_the_support_ends():
    beyond = Problem(
        lambda z: torch.where((z >= 0.3).all(-1) & (z[..., 1] <= 7.1), -z.sum(-1), -torch.inf), 2
    )
    (low, _), sides = exact.find_box(beyond)
    assert low == pytest.approx(0.3, abs=1e-14) and sides == pytest.approx((0.3, 7.1), abs=1e-14)
    expected = -0.3 + math.log(math.exp(-0.3) - math.exp(-7.1))
    assert float(exact.quadrature(beyond)) == pytest.approx(expected, abs=1e-9)
    assert exact.find_box(eight_schools(coordinate="tau"))[1][0] == pytest.approx(0.0, abs=1e-12)
    flat = Problem(coin(0, 0, 1.0, 1.0, "p").log_joint, 1)  # the box not said
    assert exact.find_box(flat)[0] == pytest.approx((0.0, 1.0), abs=1e-12)


def test_posterior_means_also_where_they_are_zero():
    problem = gaussian([0.0, 3.0], [[1.0, 0.5], [0.5, 2.0]])
    moments = exact.quadrature(problem, of=lambda z: torch.cat([z, z**2, z.prod(-1, keepdim=True)], -1))
    assert moments == pytest.approx(np.array([0.0, 3.0, 1.0, 11.0, 0.5]), abs=1e-8)
    assert exact.quadrature(gaussian([0.0], [[1.0]]), of=lambda z: z) == pytest.approx(np.zeros(1), abs=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize(
    "log_joint",
    [lambda z: 0.0 * z.sum(-1), lambda z: z[..., 0], lambda z: -(z[..., 0] ** 2 + 1).log()],
    ids=["flat", "rising", "a Cauchy"],
)
def test_a_density_that_does_not_decay_is_named(dim, log_joint):
    with pytest.raises(
        ValueError, match="'endless' does not decay: it may have no finite integral. Give the box"
    ):
        exact.quadrature(Problem(log_joint, dim, name="endless"))


def test_four_dimensions_are_too_many():
    with pytest.raises(ValueError, match="up to three dimensions, 'wide' has 4"):
        exact.quadrature(Problem(lambda z: -(z**2).sum(-1), 4, name="wide"))


@pytest.mark.parametrize("box", [((0.0, 1.0),), ((0.0, 1.0), (2.0, 2.0)), ((0.0, math.inf), (0.0, 1.0)),
                                 ((0.0, math.nan), (0.0, 1.0))], ids=str)
def test_a_crooked_box_is_named(box):
    with pytest.raises(ValueError, match="must hold 2 finite pairs"):
        exact.quadrature(gaussian([0.0, 0.0], np.eye(2)), box=box)


def test_a_needle_in_a_haystack_is_no_answer():
    needle = gaussian([500.3], [[1e-4]], name="needle")
    with pytest.raises(RuntimeError, match="'needle'.*tighter box"):
        exact.quadrature(needle, box=((0.0, 1000.0),))
    elsewhere = Problem(
        lambda z: torch.where(z[..., 0].abs() < 1, 0.0, -torch.inf).to(z), 1, name="elsewhere"
    )
    with pytest.raises(RuntimeError, match="'elsewhere' has no density"):
        exact.quadrature(elsewhere, box=((5.0, 6.0),))


@pytest.mark.parametrize(
    "problem",
    [funnel(2), gaussian([2.2, 2.2], [[1.0, -0.9999], [-0.9999, 1.0]], "thin")],
    ids=["funnel", "thin Gaussian"],
)
def test_what_an_adaptive_rule_steps_over_is_noticed(problem):
    with pytest.raises(RuntimeError, match=f"'{problem.name}' steps over a part of the density"):
        exact.quadrature(problem, rtol=1e-6)


def test_a_tolerance_out_of_reach_is_no_answer():
    noise = Problem(lambda z: torch.sin(1e9 * z[..., 0]), 1, name="noise", box=((0.0, 1.0),))
    with pytest.raises(RuntimeError, match="'noise' did not reach a relative error of 1e-09"):
        exact.quadrature(noise)


# Enumeration


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 5000), st.integers(0, 1000))
def test_enumeration_of_independent_sites(num_states, num_sites, batch, seed):
    """log sum_z exp(sum_i w[i, z_i]) = sum_i log sum_k exp(w[i, k]), whatever the batch."""
    w = 3 * torch.randn(
        num_sites, num_states, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    if num_states**num_sites / batch > 200:
        batch = 1000
    found = exact.enumeration(
        lambda z: w[torch.arange(num_sites), z].sum(-1), num_states, num_sites, batch=batch
    )
    assert float(found) == pytest.approx(float(w.logsumexp(1).sum()), abs=1e-10)
    assert found.kind == "exact" and found.source == "enumeration"


def test_enumeration_counts():
    ones = exact.enumeration(lambda z: torch.zeros(z.shape[:-1]), 3, 12, batch=10_000)
    assert float(ones) == pytest.approx(12 * math.log(3), abs=1e-10)
    none = exact.enumeration(lambda z: torch.full(z.shape[:-1], -torch.inf), 2, 3)
    assert float(none) == -math.inf


@given(
    st.one_of(
        st.tuples(st.integers(max_value=0), st.integers(1, 5)),
        st.tuples(st.integers(1, 5), st.integers(max_value=0)),
        st.tuples(st.integers(2, 9), st.integers(35, 10**6)),
    )
)
def test_enumeration_refuses_what_cannot_be_counted(sizes):
    with pytest.raises(ValueError, match="must have between 1 and 2\\^34 terms"):
        exact.enumeration(lambda z: z.sum(-1), *sizes)


@pytest.mark.parametrize("log_joint", [lambda z: z, lambda z: z.sum(), lambda z: z.sum(-1, keepdim=True)],
                         ids=["none", "all", "keepdim"])
def test_enumeration_names_a_log_joint_of_the_wrong_shape(log_joint):
    with pytest.raises(ValueError, match="must map \\(..., 4\\) to \\(...\\)"):
        exact.enumeration(log_joint, 2, 4)


def test_enumeration_refuses_an_empty_batch_and_nan():
    with pytest.raises(ValueError, match="batch must be at least 1"):
        exact.enumeration(lambda z: z.sum(-1), 2, 4, batch=0)
    with pytest.raises(ValueError, match="cannot be NaN"):
        exact.enumeration(lambda z: torch.full(z.shape[:-1], math.nan), 2, 4)
