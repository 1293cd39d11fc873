"""A flow: a simple density carried along by a bijection; and the flows that have names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tightbound.arguments import count, one_of
from tightbound.device import generator
from tightbound.distributions import DiagonalGaussian, log_standard_normal
from tightbound.flows.autoregressive import Autoregressive
from tightbound.flows.coupling import Coupling
from tightbound.flows.manifolds import UniformTorus
from tightbound.flows.spline import Spline
from tightbound.flows.transforms import ActNorm, Affine, Bijection, Box, Chain, NotFinite, Permute, Planar, Radial, Seed, _needed


class StandardNormal(DiagonalGaussian):
    """N(0, I) over vectors of the size, type and device of `like`."""

    def __init__(self, like: Tensor):
        super().__init__(torch.zeros_like(like), torch.ones_like(like), validate_args=False)

    def log_prob(self, value):
        return log_standard_normal(value)


class FlowDistribution(Distribution):
    """What becomes of a base density under a bijection: ``q(y) = p_0(x) / |det dy/dx|``, x = f^-1(y).

    Sampling and scoring the samples takes one pass of f; scoring any other y takes its inverse.

    Args:
        base: density of x over vectors (d,), without a batch shape or with that of the context.
        bijection: f.
        context: (..., c), for a bijection that reads one; its leading axes are the batch shape.
        validate_args: whether a log density that is not finite raises (as in torch, true unless switched off).
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, base: Distribution, bijection: Bijection, context: Tensor | None = None, validate_args: bool | None = None):
        self.base, self.bijection, self.context = base, bijection, context
        batch_shape = base.batch_shape if context is None else context.shape[:-1]
        super().__init__(batch_shape, base.event_shape, validate_args=False)
        self.checked = __debug__ if validate_args is None else validate_args

    @property
    def support(self):
        return self.bijection.codomain

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Samples of shape ``sample_shape + batch_shape + (d,)`` and their log density in nats, in one pass.

        Raises:
            NotFinite: when a log density is not finite; says which layer made it so.
        """
        lead = torch.Size(sample_shape) + self.batch_shape[: len(self.batch_shape) - len(self.base.batch_shape)]
        x, _ = self.base.rsample_and_log_prob(lead, generator=generator)
        return self.push(x)

    def push(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y = f(x) and log q(y), for points x (..., d) of the base."""
        y, ladj = self.bijection.call_and_ladj(x, self.context)
        log_q = self.base.log_prob(x) - ladj
        if self.checked and not bool(torch.isfinite(log_q).all()):
            raise NotFinite(_where(self.bijection, x, self.context))
        return y, log_q

    def rsample(self, sample_shape=()):
        return self.rsample_and_log_prob(sample_shape)[0]

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.rsample_and_log_prob(sample_shape, generator=generator)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(y) in nats, (..., d) -> (...).

        Raises:
            ValueError: for another last dimension, or values that are not finite.
            NotFinite: when the log density is not finite; says which layer made it so.
        """
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"expected points of shape (..., {self.event_shape[0]}), got {tuple(value.shape)}")
        x, ladj = self.bijection.inverse_and_ladj(value, self.context)
        log_q = self.base.log_prob(x) - ladj
        if self.checked and not bool(torch.isfinite(log_q).all()):
            if not bool(torch.isfinite(value).all()):
                raise ValueError("a density is asked for at a point that is not finite")
            raise NotFinite(_where(self.bijection, value, self.context, inverse=True))
        return log_q


def _where(bijection: Bijection, x: Tensor, context: Tensor | None, inverse: bool = False) -> str:
    """Which layer is the first whose value or log-determinant is not finite, in words."""
    layers = list(bijection.layers) if isinstance(bijection, Chain) else [bijection]
    remedy = "lower the learning rate, standardise the data, or start from smaller weights"
    for i, layer in reversed(list(enumerate(layers))) if inverse else enumerate(layers):
        x, ladj = (layer.inverse_and_ladj if inverse else layer.call_and_ladj)(x, context)
        for what, value in (("value", x), ("log-determinant", ladj)):
            if not bool(torch.isfinite(value).all()):
                return f"layer {i} ({type(layer).__name__}) has a {what} that is not finite: {remedy}"
    return f"the base density is not finite where the flow leads: {remedy}"


class Flow(nn.Module):
    """A family of densities: calling it returns the member that its parameters name at the moment.

    flow() is a `FlowDistribution`; where the bijection reads a context (..., c), flow(context) is one for each context. So the same
    class serves as a density, as the posterior of one problem (it is a family as those of `tightbound.families` are), and as the
    amortised posterior of an encoder.

    Args:
        bijection: f, from the base to the data.
        base: a function from a tensor (d,) of the right type and device to a `Distribution`; N(0, I) if left out.
    """

    def __init__(self, bijection: Bijection, base: Callable[[Tensor], Distribution] = StandardNormal):
        super().__init__()
        self.bijection, self.make_base = bijection, base
        self.register_buffer("like", torch.zeros(bijection.dim, dtype=torch.float64), persistent=False)

    def forward(self, context: Tensor | None = None, *, validate_args: bool | None = None) -> FlowDistribution:
        if self.bijection.context_dim:
            _needed(self.bijection, context)
        elif context is not None:
            raise ValueError("this flow reads no context: make its layers with context_dim")
        return FlowDistribution(self.make_base(self.like), self.bijection, context, validate_args)


KINDS = ("planar", "radial", "additive", "affine", "spline", "iaf", "maf", "moebius")


def make(kind: str, dim: int, *, num_layers: int = 8, hidden: Sequence[int] = (64, 64), context_dim: int = 0, box=None,
         data: bool = False, seed: Seed = 0, **options) -> Flow:
    """A flow by its word.

    =========== ==================================================================================
    "planar"    K planar layers
    "radial"    K radial layers
    "additive"  NICE: additive couplings and a diagonal scale
    "affine"    Real NVP: affine couplings
    "spline"    spline couplings; in one dimension, splines
    "iaf"       inverse autoregressive flow with gates, the order turned round between layers
    "maf"       its affine layers read in the other direction: fast densities, slow samples
    "moebius"   on the circle or the torus: Möbius couplings of a uniform base
    =========== ==================================================================================

    Every flow on R^d ends in an affine map y = m + L x (L triangular; diagonal for the couplings of data), which sets place and scale;
    with a `box`, in a `Box`. With `data`, an activation normalisation stands in its place, so that `fit_density` starts at the data's
    own place and scale.

    Args:
        kind: one of the words.
        dim: d.
        num_layers: K.
        hidden: hidden layers of the networks.
        context_dim: size of the context, for couplings, planar and autoregressive layers.
        options: passed on to the layers.

    Raises:
        ValueError: for another word, or numbers out of range.
    """
    one_of("kind", kind, KINDS)
    dim, K, stream = count("dim", dim, least=1), count("num_layers", num_layers, least=0), generator(seed)
    if kind == "moebius":
        from tightbound.flows.manifolds import TorusCoupling
        return Flow(TorusCoupling(dim, K, seed=stream, **options), UniformTorus)
    layers = _layers(kind, dim, K, hidden, context_dim, stream, options) if K else []
    layers.append(ActNorm(dim) if data else Affine(dim))
    if box is not None:
        layers.append(Box(box))
    return Flow(Chain(layers))


def _layers(kind: str, dim: int, K: int, hidden, context_dim: int, stream: torch.Generator, options: dict) -> list[Bijection]:
    if kind == "planar":
        return [Planar(dim, K, context_dim=context_dim, seed=stream, **options)]
    if kind == "radial":
        return [Radial(dim, seed=stream, **options) for _ in range(K)]
    if kind in ("iaf", "maf"):
        turned = Permute(range(dim - 1, -1, -1))
        found: list[Bijection] = []
        for k in range(K):
            layer = Autoregressive(dim, kind="gate" if kind == "iaf" else "affine", hidden=hidden, context_dim=context_dim,
                                   seed=stream, **options)
            found += [layer.inv if kind == "maf" else layer, turned]
        return found
    if kind == "spline" and dim == 1:
        return [Spline(1, seed=stream, **options)]
    coupling = {"kind": kind, "hidden": hidden, "context_dim": context_dim, "seed": stream, **options}
    if dim <= 3:
        return [Coupling(dim, K, **coupling)]
    found = []
    for k in range(0, K, 2):  # in pairs, so that both halves move; then new halves
        found.append(Coupling(dim, min(2, K - k), **coupling))
        found.append(Permute(torch.randperm(dim, generator=stream).tolist()))
    return found
