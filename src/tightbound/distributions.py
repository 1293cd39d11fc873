"""Distributions of this book's own making: each can score its own samples in one pass."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import (Distribution, Independent, LowRankMultivariateNormal, MultivariateNormal, Normal,
                                 constraints, register_kl)
from torch.nn.functional import softplus


def standard_normal(shape, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64,
                    device: str | torch.device = "cpu") -> Tensor:
    """Noise eps ~ N(0, 1) of any shape. In double precision on a CPU by inversion, eps = sqrt(2) erf^-1(2u - 1) with u
    uniform on (0, 1), which takes a third of the time of `torch.randn`."""
    options = {"generator": generator, "dtype": dtype, "device": device}
    if dtype != torch.float64 or torch.device(device).type != "cpu":
        return torch.randn(shape, **options)
    u = torch.rand(shape, **options)  # on [0, 1), in steps of 2^-53: half a step more, and 0 is as far away as 1
    return math.sqrt(2) * torch.erfinv(2 * u - (1 - 2**-53))


class Gaussian(MultivariateNormal):
    """The multivariate normal N(mean, Sigma), given its covariance or its precision (see `MultivariateNormal`).

    What it adds is `rsample_and_log_prob`, which takes a generator and never solves a system to score its own samples.
    """

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples z = mean + L eps, with Sigma = L L', and their log density, in one pass::

            log q(z) = -1/2 |eps|^2 - log det L - d/2 log 2 pi        (nats)

        Returns:
            z of shape ``sample_shape + batch_shape + (d,)`` and log q(z) of shape ``sample_shape + batch_shape``.
        """
        return self.push(_noise(self, sample_shape, generator))

    def push(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z = mean + L eps and log q(z), for standard normal noise eps (..., d) of the caller's choice."""
        L = self.scale_tril
        if L.ndim == 2:
            offset = eps @ L.mT
        elif L.ndim == 3 and eps.shape[-2] == len(L):  # a batch of normals: one matrix product each, for all samples
            offset = torch.einsum("rij,...rj->...ri", L, eps)
        else:
            offset = (L @ eps.unsqueeze(-1)).squeeze(-1)
        return self.loc + offset, log_standard_normal(eps) - self.log_det_scale

    noise_dim = property(lambda self: self.event_shape[0])
    log_det_covariance = property(lambda self: 2 * self.log_det_scale)

    @cached_property
    def log_det_scale(self) -> Tensor:
        """log det L. Who holds L by the logarithms of its diagonal may set it, and spare their gradient a way through L."""
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class DiagonalGaussian(Independent):
    """The normal with independent coordinates, N(mean, diag(scale^2)); mean and scale are (..., d)."""

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None):
        super().__init__(Normal(loc, scale, validate_args=validate_args), 1, validate_args=validate_args)

    loc = property(lambda self: self.base_dist.loc)
    covariance_matrix = property(lambda self: torch.diag_embed(self.variance))
    noise_dim = property(lambda self: self.event_shape[0])

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples of shape ``sample_shape + batch_shape + (d,)`` and their log density in nats, in one pass."""
        return self.push(_noise(self, sample_shape, generator))

    def push(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z = mean + scale * eps and log q(z), for standard normal noise eps (..., d)."""
        scale = self.base_dist.scale
        return self.loc + scale * eps, log_standard_normal(eps) - scale.log().sum(-1)


class LowRankGaussian(LowRankMultivariateNormal):
    """The normal N(mean, W W' + D), with W (..., d, r) and D diagonal: d (r + 2) numbers in place of d (d + 3) / 2."""

    noise_dim = property(lambda self: sum(self.cov_factor.shape[-2:]))

    @property
    def log_det_covariance(self) -> Tensor:
        """log det(W W' + D) = log det D + log det(I + W' D^-1 W), a determinant of size r."""
        inner = self._capacitance_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.cov_diag.log().sum(-1) + 2 * inner

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples of shape ``sample_shape + batch_shape + (d,)`` and their log density in nats."""
        return self.push(_noise(self, sample_shape, generator))

    def push(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z = mean + D^(1/2) eps_1 + W eps_2 and log q(z), for standard normal noise eps (..., d + r)."""
        d = self.event_shape[0]
        across = (self.cov_factor @ eps[..., d:].unsqueeze(-1)).squeeze(-1)
        z = self.loc + self.cov_diag.sqrt() * eps[..., :d] + across
        return z, self.log_prob(z)


class MixtureOfGaussians(Distribution):
    """A weighted sum of K normals, whose samples have a gradient in every parameter, the weights included::

        q(z) = sum_k w_k N(z; mean_k, L_k L_k')

    Which component a sample comes from has no derivative, but where it lies has one. Given the coordinates before it,
    coordinate i has the distribution function F_i; if z_i is to keep its level F_i as the parameters move, then
    ``dz_i = -dF_i / q(z_i | z_<i)`` (implicit reparametrisation).

    Args:
        log_weights: log w_k, (K,); they are normalised.
        loc, scale_tril: means (K, d) and lower triangular L_k (K, d, d).

    Raises:
        ValueError: for shapes that do not fit.

    Source: Figurnov, Mohamed & Mnih (2018), Implicit reparameterization gradients.
    """

    arg_constraints: dict = {}
    has_rsample = True
    support = constraints.real_vector

    def __init__(self, log_weights: Tensor, loc: Tensor, scale_tril: Tensor):
        if loc.ndim != 2 or log_weights.shape != loc.shape[:1] or scale_tril.shape != (*loc.shape, loc.shape[1]):
            raise ValueError(f"expected log weights (K,), means (K, d) and scales (K, d, d), got {tuple(log_weights.shape)}, "
                             f"{tuple(loc.shape)} and {tuple(scale_tril.shape)}")
        self.log_weights = log_weights.log_softmax(-1)
        self.components = Gaussian(loc, scale_tril=scale_tril, validate_args=False)
        super().__init__(torch.Size(), loc.shape[1:], validate_args=False)

    noise_dim = property(lambda self: self.event_shape[0])
    mean = property(lambda self: self.log_weights.exp() @ self.components.loc)
    variance = property(lambda self: self.covariance_matrix.diagonal())

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariances' mean plus the means' covariance."""
        weights, offset = self.log_weights.exp(), self.components.loc - self.mean
        within = (weights[:, None, None] * self.components.covariance_matrix).sum(0)
        return within + (weights[:, None] * offset).T @ offset

    def log_prob(self, z: Tensor) -> Tensor:
        return (self.log_weights + self.components.log_prob(z.unsqueeze(-2))).logsumexp(-1)

    def push(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (..., d) pushed through every component: z (..., K, d) and log q(z) (..., K), to be weighted by w_k."""
        z, _ = self.components.push(eps.unsqueeze(-2))
        return z, self.log_prob(z)

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples of shape ``sample_shape + (d,)``, differentiable in all parameters, and their log density in nats."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            k = choose(self.log_weights.exp(), shape.numel(), generator).reshape(shape)
            eps = _noise(self, shape, generator)
            loc, scale_tril = self.components.loc, self.components.scale_tril
            z = loc[k] + (scale_tril[k] @ eps.unsqueeze(-1)).squeeze(-1)
        if torch.is_grad_enabled() and any(p.requires_grad for p in (self.log_weights, loc, scale_tril)):
            z = self._with_gradient(z)
        return z, self.log_prob(z)

    def _with_gradient(self, z: Tensor) -> Tensor:
        """The same z, each coordinate now carrying its derivative in the parameters."""
        loc, L = self.components.loc, self.components.scale_tril
        moved, eps, log_share = [], [], self.log_weights  # log_share: of the components, given the coordinates so far
        for i in range(z.shape[-1]):
            def standardised(coordinate):  # (..., K)
                earlier = sum((L[:, i, j] * eps[j] for j in range(i)), start=torch.zeros_like(loc[:, i]))
                return (coordinate.unsqueeze(-1) - loc[:, i] - earlier) / L[:, i, i]

            share, at = log_share.softmax(-1), standardised(z[..., i])
            level = (share * torch.special.ndtr(at)).sum(-1)
            density = (share * torch.exp(-0.5 * at.square()) / (L[:, i, i] * math.sqrt(2 * math.pi))).sum(-1)
            tiny = torch.finfo(z.dtype).tiny
            moved.append(z[..., i] - (level - level.detach()) / density.detach().clamp(min=tiny))
            eps.append(standardised(moved[-1]))
            log_share = log_share - 0.5 * eps[-1].square() - L[:, i, i].log()
        return torch.stack(moved, -1)

    def rsample(self, sample_shape=()):
        return self.rsample_and_log_prob(sample_shape)[0]


def _noise(q: Distribution, sample_shape, generator: torch.Generator | None) -> Tensor:
    shape = torch.Size(sample_shape) + q.batch_shape + (q.noise_dim,)
    return standard_normal(shape, generator=generator, dtype=q.mean.dtype, device=q.mean.device)


def log_standard_normal(eps: Tensor) -> Tensor:
    half = eps.new_full(eps.shape[-1:], 0.5)  # a product with it is faster than a sum over few columns
    return -(eps.square() @ half) - 0.5 * eps.shape[-1] * math.log(2 * math.pi)


class PiecewiseConstant(Distribution):
    """Independent coordinates, each with K steps of its own height: a histogram, as flexible as it has steps::

        u = Phi(z),    q(u) = K a_k  where  k - 1 <= K u < k,    q(z) = K a_k N(z; 0, 1)

    The steps lie between the K-quantiles of N(0, 1) (Phi is its distribution function), so that equal heights are the
    standard normal itself, and its divergence from there is that of the heights from equal ones::

        KL(q || N(0, I)) = sum_j sum_k a_jk log(K a_jk)        (nats)

    Samples are differentiable in the heights: u = F^-1(v) is linear within a step, v being uniform. That gives the gradient of
    E_q[f(z)] for continuous f, which log q is not: it jumps between steps. So the log density that comes with samples has the
    gradient of its mean, sum_k a_k log a_k, known in closed form. The gradient of an ELBO is then right; that of objectives
    that are not linear in log q, as the importance-weighted bound, is not.

    Args:
        logits: (..., d, K), log a up to a constant.

    Source: Serban, Ororbia, Pineau & Courville (2017), there on [0, 1] and with a prior whose heights are learned.
    """

    arg_constraints: dict = {}
    has_rsample = True
    support = constraints.real_vector

    def __init__(self, logits: Tensor):
        self.log_heights = logits.log_softmax(-1)
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=False)

    num_pieces = property(lambda self: self.log_heights.shape[-1])
    noise_dim = property(lambda self: self.event_shape[0])

    def _moments(self) -> tuple[Tensor, Tensor]:
        """The mean and the second moment of z, from those of the normal between its quantiles."""
        levels = torch.linspace(0, 1, self.num_pieces + 1).to(self.log_heights)
        t = torch.special.ndtri(levels)
        density = torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
        edge = torch.where(torch.isfinite(t), t, 0.0) * density
        a = self.log_heights.exp() * self.num_pieces
        return a @ -density.diff(), a @ (levels - edge).diff()

    mean = property(lambda self: self._moments()[0])
    variance = property(lambda self: self._moments()[1] - self._moments()[0].square())

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples of shape ``sample_shape + batch_shape + (d,)`` and their log density in nats, in one pass."""
        shape = torch.Size(sample_shape) + self.log_heights.shape[:-1]
        v = torch.rand(shape, generator=generator, dtype=self.log_heights.dtype, device=self.log_heights.device)
        ends = self.log_heights.exp().cumsum(-1).expand(*shape, -1)                    # F at the end of each step
        k = (v.unsqueeze(-1) > ends[..., :-1]).sum(-1, keepdim=True)
        log_height = self.log_heights.expand(*shape, -1).gather(-1, k)
        within = 1 - (ends.gather(-1, k) - v.unsqueeze(-1)) / log_height.exp()
        edge = torch.finfo(v.dtype).eps
        u = ((k + within.clamp(0, 1)) / self.num_pieces).squeeze(-1).clamp(edge, 1 - edge)
        z = torch.special.ndtri(u)
        log_q = (log_height.detach().squeeze(-1) + math.log(self.num_pieces)).sum(-1) + log_standard_normal(z)
        mean = (self.log_heights.exp() * self.log_heights).sum((-1, -2))
        return z, log_q + (mean - mean.detach())

    def rsample(self, sample_shape=()):
        return self.rsample_and_log_prob(sample_shape)[0]

    def log_prob(self, z: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(z.shape, self.log_heights.shape[:-1])
        k = (torch.special.ndtr(z) * self.num_pieces).long().clamp(max=self.num_pieces - 1)
        log_height = self.log_heights.expand(*shape, -1).gather(-1, k.expand(shape).unsqueeze(-1)).squeeze(-1)
        return (log_height + math.log(self.num_pieces)).sum(-1) + log_standard_normal(z)


class Chain(Distribution):
    """Several layers of latents laid side by side, each drawn given the one before it::

        z = (z_1, ..., z_L),    q(z) = q(z_1) q(z_2 | z_1) ... q(z_L | z_{L-1})

    Args:
        first: the distribution of the first layer.
        links: functions of one layer (..., d_l) that return the distribution of the next, batch shape (...).
        sizes: d_1, ..., d_L, in the order drawn.
        backwards: lay the layers down in reverse order: the first that is drawn stands last in z.
    """

    arg_constraints: dict = {}
    has_rsample = True
    support = constraints.real_vector

    def __init__(self, first: Distribution, links, sizes: list[int], *, backwards: bool = False):
        self.first, self.links, self.sizes, self.backwards = first, list(links), list(sizes), backwards
        super().__init__(first.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples of shape ``sample_shape + batch_shape + (d,)`` and their log density in nats, in one pass."""
        z, total = self.first.rsample_and_log_prob(sample_shape, generator=generator)
        layers = [z]
        for link in self.links:
            z, log_q = link(z).rsample_and_log_prob((), generator=generator)
            layers, total = [*layers, z], total + log_q
        return torch.cat(layers[::-1] if self.backwards else layers, -1), total

    def rsample(self, sample_shape=()):
        return self.rsample_and_log_prob(sample_shape)[0]

    def layers(self, z: Tensor) -> list[Tensor]:
        """The parts of z (..., d), in the order drawn."""
        parts = z.split(self.sizes[::-1] if self.backwards else self.sizes, -1)
        return list(parts[::-1] if self.backwards else parts)

    def log_prob(self, z: Tensor) -> Tensor:
        layers = self.layers(z)
        return self.first.log_prob(layers[0]) + sum(link(above).log_prob(here)
                                                   for link, above, here in zip(self.links, layers, layers[1:]))


@register_kl(Gaussian, DiagonalGaussian)
@register_kl(LowRankGaussian, DiagonalGaussian)
def _kl_to_diagonal(q: Distribution, p: DiagonalGaussian) -> Tensor:
    """1/2 [ sum_j (Sigma_jj + (mu_j - m_j)^2) / s_j^2 - d + sum_j log s_j^2 - log det Sigma ]"""
    distance = (q.variance + (q.loc - p.loc).square()) / p.variance - 1 + p.variance.log()
    return 0.5 * (distance.sum(-1) - q.log_det_covariance)


@register_kl(PiecewiseConstant, DiagonalGaussian)
def _kl_of_steps(q: PiecewiseConstant, p: DiagonalGaussian) -> Tensor:
    """Against N(0, I) that of the heights; against another normal, that and the mean difference of the two log normals."""
    of_heights = (q.log_heights.exp() * (q.log_heights + math.log(q.num_pieces))).sum((-1, -2))
    mean, square = q._moments()
    moved = (square - 2 * p.loc * mean + p.loc.square()) / p.variance - square + p.variance.log()
    return of_heights + 0.5 * moved.sum(-1)


class StudentT(Distribution):
    """The multivariate Student t of `df` degrees of freedom: a Gaussian whose scale is itself random::

        z = mean + L eps sqrt(df / chi2),      eps ~ N(0, I),  chi2 ~ chi-squared(df)
        log q(z) = log Γ((df + d)/2) - log Γ(df/2) - d/2 log(df π) - log det L - (df + d)/2 log(1 + |L^-1 (z - mean)|^2 / df)

    Its tails fall like a power, ``|z|^-(df + d)``: heavier than any Gaussian's, so that as a proposal it rarely misses one.

    Args:
        df: degrees of freedom, a whole number (chi-squared is drawn as a sum of df squares).
        loc: the mean (d,).
        scale_tril: L (d, d), lower triangular.

    Raises:
        ValueError: for df that is no whole number above zero, or shapes that do not fit.
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, df: int, loc: Tensor, scale_tril: Tensor):
        if isinstance(df, bool) or not isinstance(df, int) or df < 1:
            raise ValueError(f"df must be a whole number, at least 1, got {df!r}")
        if loc.ndim != 1 or scale_tril.shape != (*loc.shape, *loc.shape):
            raise ValueError(f"loc must be (d,) and scale_tril (d, d), got {tuple(loc.shape)} and {tuple(scale_tril.shape)}")
        self.df, self.loc, self.scale_tril = df, loc, scale_tril
        super().__init__(torch.Size(), loc.shape, validate_args=False)

    support = constraints.real_vector
    mean = property(lambda self: self.loc if self.df > 1 else torch.full_like(self.loc, math.nan))

    @property
    def variance(self) -> Tensor:
        factor = self.df / (self.df - 2) if self.df > 2 else math.inf
        return factor * self.scale_tril.square().sum(-1)

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples of shape ``sample_shape + (d,)`` and their log density in nats, in one pass."""
        shape, options = torch.Size(sample_shape), {"dtype": self.loc.dtype, "device": self.loc.device}
        eps = standard_normal(shape + self.loc.shape, generator=generator, **options)
        chi = torch.linalg.vector_norm(standard_normal((*shape, self.df), generator=generator, **options), dim=-1)
        stretched = eps * (math.sqrt(self.df) / chi).unsqueeze(-1)
        log_q = self._log_prob(torch.linalg.vector_norm(stretched, dim=-1).square())
        return self.loc + stretched @ self.scale_tril.mT, log_q

    def rsample(self, sample_shape=()):
        return self.rsample_and_log_prob(sample_shape)[0]

    def log_prob(self, z: Tensor) -> Tensor:
        offset = torch.linalg.solve_triangular(self.scale_tril, (z - self.loc).unsqueeze(-1), upper=False)
        return self._log_prob(offset.squeeze(-1).square().sum(-1))

    def _log_prob(self, distance: Tensor) -> Tensor:
        df, d = self.df, len(self.loc)
        constant = math.lgamma((df + d) / 2) - math.lgamma(df / 2) - d / 2 * math.log(df * math.pi)
        return constant - self.scale_tril.diagonal().log().sum() - (df + d) / 2 * torch.log1p(distance / df)


class BernoulliVector(Distribution):
    """Independent bits b_i, on with probability sigmoid(a_i)::

        log q(b) = sum_i b_i a_i - log(1 + exp(a_i))        (nats)

    The formula is also defined between the bits, which relaxations of them ask for.

    Args:
        logits: a, (..., d).

    Raises:
        ValueError: for logits without an axis.
    """

    arg_constraints: dict = {}
    has_enumerate_support = False
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits: Tensor):
        if not isinstance(logits, Tensor) or logits.ndim == 0:
            raise ValueError(f"logits must be a tensor (..., d), one a bit, got {logits!r}")
        self.logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    mean = property(lambda self: torch.sigmoid(self.logits))
    variance = property(lambda self: torch.sigmoid(self.logits) * torch.sigmoid(-self.logits))

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        """Bits of shape ``sample_shape + (..., d)``, as floating-point zeros and ones."""
        u = torch.rand(torch.Size(sample_shape) + self.logits.shape, generator=generator, dtype=self.logits.dtype,
                       device=self.logits.device)
        return (u < self.mean).to(self.logits.dtype)

    def log_prob(self, b: Tensor) -> Tensor:
        return (b * self.logits - softplus(self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """In nats, (...)."""
        return (softplus(self.logits) - self.mean * self.logits).sum(-1)


class Particles(Distribution):
    """A distribution on S points z_s with weights w_s: what sampling methods know of a posterior::

        E[f(z)] = sum_s w_s f(z_s) / sum_s w_s

    It can be sampled and averaged over, but has no density.

    Args:
        z: points (S, d).
        log_weights: (S,) in nats, up to a constant; all equal if left out.
    """

    arg_constraints: dict = {}

    def __init__(self, z: Tensor, log_weights: Tensor | None = None):
        log_weights = z.new_zeros(len(z)) if log_weights is None else log_weights
        if z.ndim != 2 or log_weights.shape != z.shape[:1]:
            raise ValueError(f"expected points (S, d) and log weights (S,), got {tuple(z.shape)} and {tuple(log_weights.shape)}")
        self.z, self.weights = z, torch.softmax(log_weights, 0)
        super().__init__(torch.Size(), z.shape[1:], validate_args=False)

    mean = property(lambda self: self.weights @ self.z)
    variance = property(lambda self: self.weights @ (self.z - self.mean).square())
    effective_sample_size = property(lambda self: 1 / self.weights.square().sum())

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        """Points drawn with replacement in proportion to their weights, ``sample_shape + (d,)``."""
        shape = torch.Size(sample_shape)
        return self.z[choose(self.weights, shape.numel(), generator)].reshape(*shape, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError("samples have no density: ask for a mean, or for a sample; for log weights, see the "
                                  "proposal that they came from")


def choose(weights: Tensor, num_draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Indices (num_draws,) drawn with replacement in proportion to weights (S,), by inverting their cumulative sum."""
    total = weights.cumsum(0)
    level = total[-1] * torch.rand(num_draws, generator=generator, dtype=weights.dtype, device=weights.device)
    return torch.searchsorted(total, level, right=True).clamp(max=len(weights) - 1)


def draw(q: Distribution, sample_shape=(), *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples of any distribution and their log density: from the generator, and leaving torch's global stream alone."""
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob(sample_shape, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # torch's own distributions take no generator
        torch.manual_seed(seed)
        z = q.sample(torch.Size(sample_shape))
    return z, q.log_prob(z)
