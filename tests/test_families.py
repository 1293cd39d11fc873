"""The families: each member's density, samples and gradients, held against torch's own distributions and closed forms."""

import math

import pytest
import torch
from torch.distributions import (Categorical, Independent, LowRankMultivariateNormal, MixtureSameFamily,
                                 MultivariateNormal, Normal)

from tightbound import families
from tightbound.distributions import MixtureOfGaussians

MAKERS = {"diagonal": lambda: families.Diagonal(3), "low rank": lambda: families.LowRank(3, 2),
          "full": lambda: families.Full(3), "mixture": lambda: families.Mixture(3, 4),
          "diagonal mixture": lambda: families.Mixture(3, 2, covariance="diagonal")}
each_family = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def stirred(make, seed=0):
    """A family whose parameters are anything."""
    family, stream = make(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += 0.6 * torch.randn(parameter.shape, generator=stream, dtype=parameter.dtype)
    return family


def torchs_own(q):
    """The same distribution by torch."""
    if isinstance(q, MixtureOfGaussians):
        parts = MultivariateNormal(q.components.loc, scale_tril=q.components.scale_tril)
        return MixtureSameFamily(Categorical(logits=q.log_weights), parts)
    if hasattr(q, "cov_factor"):
        return LowRankMultivariateNormal(q.loc, q.cov_factor, q.cov_diag)
    if isinstance(q, Independent):
        return Independent(Normal(q.loc, q.base_dist.scale), 1)
    return MultivariateNormal(q.loc, scale_tril=q.scale_tril)


@each_family
def test_shapes_density_and_repeatability(make):
    q = stirred(make)()
    z, log_q = q.rsample_and_log_prob((5, 7), generator=torch.Generator().manual_seed(1))
    again, _ = q.rsample_and_log_prob((5, 7), generator=torch.Generator().manual_seed(1))
    assert z.shape == (5, 7, 3) and log_q.shape == (5, 7) and torch.equal(z, again)
    assert torch.allclose(log_q, q.log_prob(z), atol=1e-10)
    assert torch.allclose(log_q, torchs_own(q).log_prob(z), atol=1e-9)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)], ids=["one", "five", "two by three"])
@pytest.mark.parametrize("d", [1, 2, 7])
def test_a_triangular_matrix_is_the_one_written_entry_by_entry(shape, d):
    """Its values, and the gradients that come back through it; and what is below its diagonal is what was put there."""
    stream = torch.Generator().manual_seed(d)
    diagonal, below, weights = (torch.randn(*shape, *size, generator=stream, dtype=torch.float64)
                                for size in ((d,), (d * (d - 1) // 2,), (d, d)))
    diagonal.requires_grad_(), below.requires_grad_()
    rows, columns = torch.tril_indices(d, d, -1)
    plain = torch.diag_embed(diagonal)
    plain[..., rows, columns] = below
    found = families.triangular(diagonal, below)
    assert torch.equal(found, plain) and torch.equal(families.below_diagonal(found), below)
    for a, b in zip(*(torch.autograd.grad((weights * L).sum(), (diagonal, below)) for L in (found, plain))):
        assert torch.equal(a, b)


def test_the_full_family_knows_its_determinant():
    """The same log det L, and the same gradient, as from the diagonal of L."""
    family = stirred(lambda: families.Full(4))
    q = family()
    wanted = q.scale_tril.diagonal().log().sum()
    assert torch.allclose(q.log_det_scale, wanted, rtol=1e-14) and torch.allclose(q.log_det_covariance, 2 * wanted, rtol=1e-14)
    assert torch.allclose(torch.autograd.grad(q.log_det_scale, family.log_diagonal)[0], torch.ones(4).double())
    other = q.expand((3,))
    assert torch.allclose(other.log_det_scale, wanted, rtol=1e-14)


@each_family
@pytest.mark.parametrize("seed", range(3))
def test_samples_have_the_moments_that_they_say(make, seed):
    q, S = stirred(make, seed)(), 40_000
    with torch.no_grad():
        z, _ = q.rsample_and_log_prob((S,), generator=torch.Generator().manual_seed(seed))
        offset = z - q.mean
        square = offset.unsqueeze(-1) * offset.unsqueeze(-2)
        assert (offset.mean(0).abs() < 4.5 * z.std(0) / S**0.5).all()
        assert ((square.mean(0) - q.covariance_matrix).abs() < 4.5 * square.std(0) / S**0.5).all()
        assert torch.allclose(q.covariance_matrix.diagonal(), q.variance)


@each_family
def test_every_parameter_gets_a_gradient(make):
    family = stirred(make)
    z, log_q = family().rsample_and_log_prob((50,), generator=torch.Generator().manual_seed(0))
    (z.square().sum(-1) + z.prod(-1) - log_q).mean().backward()
    assert all(p.grad is not None and (p.grad.abs() > 0).all() and torch.isfinite(p.grad).all() for p in family.parameters())


@pytest.mark.parametrize("seed", range(4))
def test_the_mixtures_samples_carry_the_gradient_of_every_expectation(seed):
    """Pathwise, through the weights too: against the exact derivative of E[f], f quadratic, from the closed moments."""
    family = stirred(lambda: families.Mixture(2, 3), seed)
    matrix = torch.tensor([[1.0, 0.7], [0.7, -0.5]]).double()

    def exact():
        q = family()
        return (matrix * (q.covariance_matrix + torch.outer(q.mean, q.mean))).sum()

    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact(), list(family.parameters()))])
    found = []
    for block in range(30):
        z, _ = family().rsample_and_log_prob((1000,), generator=torch.Generator().manual_seed(100 * seed + block))
        value = ((z @ matrix) * z).sum(-1).mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(family.parameters()))]))
    found = torch.stack(found)
    assert ((found.mean(0) - wanted).abs() < 4.5 * found.std(0) / 30**0.5 + 1e-9).all()
    assert (found[:, :3].abs().mean(0) > 0.01).all()  # the weights' own


@each_family
def test_noise_pushed_through_is_the_sample(make):
    q = stirred(make)()
    eps = torch.randn(6, q.noise_dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z, log_q = q.push(eps)
    assert torch.allclose(log_q, q.log_prob(z), atol=1e-9)
    if isinstance(q, MixtureOfGaussians):
        assert z.shape == (6, *q.components.loc.shape)
    else:
        assert z.shape == (6, 3) and torch.allclose(q.push(0 * eps)[0], q.mean.expand(6, 3))


def test_what_each_family_can_say():
    low = stirred(lambda: families.LowRank(5, 1))()
    off = low.covariance_matrix - torch.diag(low.cov_diag)
    assert torch.linalg.matrix_rank(off) == 1
    assert sum(p.numel() for p in families.Full(5).parameters()) == 5 * 8 // 2
    assert sum(p.numel() for p in families.LowRank(5, 2).parameters()) == 5 * 4
    L = stirred(lambda: families.Full(4))().scale_tril
    assert torch.equal(L, L.tril()) and (L.diagonal() > 0).all()
    parts = stirred(lambda: families.Mixture(3, 2, covariance="diagonal"))().components.covariance_matrix
    assert torch.equal(parts, torch.diag_embed(parts.diagonal(dim1=-2, dim2=-1)))


def test_far_samples_of_a_mixture_keep_finite_gradients():
    family = families.Mixture(1, 2, scale=1e-3)
    with torch.no_grad():
        family.loc.copy_(torch.tensor([[-50.0], [50.0]]))
    z, _ = family().rsample_and_log_prob((200,), generator=torch.Generator().manual_seed(0))
    z.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in family.parameters())


def test_make_gives_words_their_family_and_copies_modules():
    start = torch.tensor([1.0, -2.0]).double()
    for word, kind in families.WORDS.items():
        made = families.make(word, 2, loc=start)
        assert isinstance(made, kind)
    assert torch.equal(families.make("full", 2, loc=start)().mean, start)
    own = families.Full(2)
    copied = families.make(own, 2)
    assert copied is not own and torch.equal(copied.loc, own.loc)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: families.Diagonal(0), ValueError, "dim must be an integer, at least 1"),
    (lambda: families.Full(2, loc=torch.zeros(3)), ValueError, r"finite point of shape \(2,\)"),
    (lambda: families.Full(2, scale=-1.0), ValueError, "scale must be a finite number above zero"),
    (lambda: families.Full(1, loc=torch.tensor([math.nan])), ValueError, "finite point"),
    (lambda: families.LowRank(2, 3), ValueError, "rank must be an integer, from 1 to 2"),
    (lambda: families.Mixture(2, 0), ValueError, "num_components must be an integer, at least 1"),
    (lambda: families.Mixture(2, covariance="banded"), ValueError, "'full' or 'diagonal'"),
    (lambda: families.make("fuller", 2), ValueError, "unknown family 'fuller'"),
    (lambda: families.make(families.Full(3), 2), ValueError, "dim=2"),
    (lambda: families.make(3.0, 2), TypeError, "nn.Module"),
    (lambda: families.make(torch.nn.Identity, 2), TypeError, "nn.Module"),
    (lambda: MixtureOfGaussians(torch.zeros(2), torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2)), ValueError, "expected log weights"),
])
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_module_that_returns_no_distribution_is_named():
    class Odd(torch.nn.Module):
        def forward(self):
            return 3.0

    with pytest.raises(TypeError, match="this one returns float"):
        families.make(Odd(), 2)
