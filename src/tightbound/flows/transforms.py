"""Invertible maps and what they do to volume.

A bijection f carries a density along: if x ~ p_0 and y = f(x), then::

    log p(y) = log p_0(x) - log |det df/dx|,      x = f^-1(y)

Every map here is a `torch.distributions.Transform`, so that it fits into a `TransformedDistribution`, and an `nn.Module`, so that it
learns. It is made in double precision (`.float()` turns it into single).

Source: Rezende & Mohamed (2015), Variational inference with normalizing flows, for the planar and the radial layer and their
constraints; Kingma & Dhariwal (2018) for activation normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn.functional import logsigmoid, softplus

from tightbound.arguments import count, positive
from tightbound.device import generator

Seed = int | torch.Generator


class FlowError(RuntimeError):
    """A flow has no answer here; the message says why, and what may help."""


class InverseNotConverged(FlowError):
    """A numeric inverse did not arrive."""


class NotFinite(FlowError):
    """A layer returned a value or a log-determinant that is not finite."""


class Bijection(Transform, nn.Module):
    """An invertible map of vectors (..., d), with its log-determinant; `context` (..., c) is what else it may depend on.

    A subclass writes `call_and_ladj` and `inverse_and_ladj`; both return ``log |det dy/dx|`` of the map x -> y, (...) in nats.
    """

    bijective = True
    domain = codomain = constraints.real_vector
    __hash__ = nn.Module.__hash__
    __repr__ = nn.Module.__repr__

    def __init__(self, dim: int, *, context_dim: int = 0, least: int = 1):
        super().__init__()
        self.dim, self.context_dim = count("dim", dim, least=least), count("context_dim", context_dim)

    def call_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y = f(x), (..., d), and ``log |det dy/dx|``, (...)."""
        raise NotImplementedError

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x = f^-1(y), (..., d), and ``log |det dy/dx|`` at that x, (...)."""
        raise NotImplementedError

    def steps(self, x: Tensor, context: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(y, log-determinant so far) after each layer of this map."""
        yield self.call_and_ladj(x, context)

    def initialise(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets what depends on data from a sample y of the *outputs*, and returns the inputs x, (..., d)."""
        return self.inverse_and_ladj(y, context)[0]

    @property
    def inv(self) -> Bijection:
        """The same map read in the other direction, with the same parameters."""
        return Inverse(self)

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(_fitting(self, x))[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(_fitting(self, y))[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(_fitting(self, x))[1]


def _fitting(map: Bijection, x: Tensor) -> Tensor:
    if x.shape[-1:] != (map.dim,):
        raise ValueError(f"{type(map).__name__} maps vectors of size {map.dim}: expected shape (..., {map.dim}), got {tuple(x.shape)}")
    return x


class Inverse(Bijection):
    """A bijection read backwards."""

    def __init__(self, bijection: Bijection):
        super().__init__(bijection.dim, context_dim=bijection.context_dim)
        self.bijection = bijection
        self.domain, self.codomain = bijection.codomain, bijection.domain

    inv = property(lambda self: self.bijection)

    def call_and_ladj(self, x, context=None):
        y, ladj = self.bijection.inverse_and_ladj(x, context)
        return y, -ladj

    def inverse_and_ladj(self, y, context=None):
        x, ladj = self.bijection.call_and_ladj(y, context)
        return x, -ladj


class Chain(Bijection):
    """Several bijections, one after another; their log-determinants add up.

    Raises:
        ValueError: for no bijection, or bijections of different dimensions.
    """

    def __init__(self, layers: Sequence[Bijection]):
        layers = list(layers)
        if not layers or len({layer.dim for layer in layers}) > 1:
            raise ValueError(f"a chain needs bijections of one dimension, got {[layer.dim for layer in layers]}")
        super().__init__(layers[0].dim, context_dim=max(layer.context_dim for layer in layers))
        self.layers = nn.ModuleList(layers)
        self.domain, self.codomain = layers[0].domain, layers[-1].codomain

    def call_and_ladj(self, x, context=None):
        total = 0.0
        for layer in self.layers:
            x, ladj = layer.call_and_ladj(x, context)
            total = total + ladj
        return x, total

    def inverse_and_ladj(self, y, context=None):
        total = 0.0
        for layer in reversed(self.layers):
            y, ladj = layer.inverse_and_ladj(y, context)
            total = total + ladj
        return y, total

    def steps(self, x, context=None):
        before = 0.0
        for layer in self.layers:
            for y, ladj in layer.steps(x, context):
                yield y, before + ladj
            x, before = y, before + ladj

    def initialise(self, y, context=None):
        for layer in reversed(self.layers):
            y = layer.initialise(y, context)
        return y


# Linear maps ---------------------------------------------------------------------------------------------------------------

class Affine(Bijection):
    """y = m + L x, with L lower triangular and a positive diagonal (or diagonal); ``log |det| = sum_i log L_ii``.

    Args:
        dim: d.
        loc: m to start from, (d,); zero if left out.
        scale_tril: L to start from, (d, d); the identity if left out.
        full: whether L has entries below its diagonal, or a diagonal alone.

    Raises:
        ValueError: for another shape, or a singular map: an L whose diagonal is not above zero.
    """

    def __init__(self, dim: int, *, loc: Tensor | None = None, scale_tril: Tensor | None = None, full: bool = True):
        super().__init__(dim)
        loc = torch.zeros(dim, dtype=torch.float64) if loc is None else loc.detach().clone()
        L = torch.eye(dim, dtype=torch.float64) if scale_tril is None else scale_tril.detach().clone()
        if loc.shape != (dim,) or L.shape != (dim, dim):
            raise ValueError(f"expected loc ({dim},) and scale_tril ({dim}, {dim}), got {tuple(loc.shape)} and {tuple(L.shape)}")
        if not bool((L.diagonal() > 0).all()) or not bool(torch.isfinite(L).all() & torch.isfinite(loc).all()):
            raise ValueError("a singular or improper map: the diagonal of scale_tril must lie above zero, and all be finite, got "
                             f"{L.diagonal().tolist()}")
        self.loc, self.log_diagonal = nn.Parameter(loc), nn.Parameter(L.diagonal().log())
        self.below = nn.Parameter(L.tril(-1)) if full and dim > 1 else None

    def _scale(self) -> Tensor:
        L = torch.diag_embed(self.log_diagonal.exp())
        return L if self.below is None else L + self.below.tril(-1)

    def call_and_ladj(self, x, context=None):
        y = torch.addcmul(self.loc, x, self.log_diagonal.exp()) if self.below is None else self.loc + x @ self._scale().mT
        return y, self.log_diagonal.sum().expand(x.shape[:-1])

    def inverse_and_ladj(self, y, context=None):
        if self.below is None:
            x = (y - self.loc) * torch.exp(-self.log_diagonal)
        else:
            x = torch.linalg.solve_triangular(self._scale(), (y - self.loc).unsqueeze(-1), upper=False).squeeze(-1)
        return x, self.log_diagonal.sum().expand(y.shape[:-1])


class ActNorm(Bijection):
    """y = m + s * x, whose m and s start as the mean and standard deviation of a sample of y: what lies before it sees
    standardised data. Until `initialise` is called it is the identity.

    Source: Kingma & Dhariwal (2018), Glow.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.loc = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def initialise(self, y, context=None):
        """Raises ValueError where a coordinate of y does not vary, or y has fewer than two rows."""
        rows = y.detach().reshape(-1, self.dim)
        if len(rows) < 2 or not bool((rows.std(0) > 0).all()):
            raise ValueError("activation normalisation needs two or more data that differ in every coordinate")
        with torch.no_grad():
            self.loc.copy_(rows.mean(0))
            self.log_scale.copy_(rows.std(0).log())
        return self.inverse_and_ladj(y)[0]

    def call_and_ladj(self, x, context=None):
        return torch.addcmul(self.loc, x, self.log_scale.exp()), self.log_scale.sum().expand(x.shape[:-1])

    def inverse_and_ladj(self, y, context=None):
        return (y - self.loc) * torch.exp(-self.log_scale), self.log_scale.sum().expand(y.shape[:-1])


class Permute(Bijection):
    """The coordinates in another order, y_i = x_order[i]; volume stays.

    Raises:
        ValueError: for an order that is no permutation.
    """

    def __init__(self, order: Sequence[int]):
        order = torch.as_tensor(order)
        super().__init__(len(order))
        if sorted(order.tolist()) != list(range(len(order))):
            raise ValueError(f"an order must name each of 0 to {len(order) - 1} once, got {order.tolist()}")
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def call_and_ladj(self, x, context=None):
        return x[..., self.order], x.new_zeros(x.shape[:-1])

    def inverse_and_ladj(self, y, context=None):
        return y[..., self.back], y.new_zeros(y.shape[:-1])


class Box(Bijection):
    """From all of R^d into a box, y_i = low_i + (high_i - low_i) sigmoid(x_i): for densities that end at an edge.

    Args:
        box: ((low, high), ...), a pair a coordinate.

    Raises:
        ValueError: for pairs that are not low < high; in the inverse, for a point on the edge of the box or outside, which no x reaches.
    """

    def __init__(self, box: Sequence[tuple[float, float]]):
        super().__init__(len(box))
        low, high = torch.tensor(box, dtype=torch.float64).T
        if not bool((torch.isfinite(low) & torch.isfinite(high) & (low < high)).all()):
            raise ValueError(f"a box needs finite pairs (low, high) with low < high, got {tuple(box)}")
        self.register_buffer("low", low)
        self.register_buffer("width", high - low)

    def call_and_ladj(self, x, context=None):
        s = torch.sigmoid(x)
        return self.low + self.width * s, (self.width.log() + logsigmoid(x) + logsigmoid(-x)).sum(-1)

    def inverse_and_ladj(self, y, context=None):
        s = (y - self.low) / self.width
        if not bool(((s > 0) & (s < 1)).all()):
            bad = y[~((s > 0) & (s < 1)).all(-1)].reshape(-1, self.dim)[0].tolist()
            raise ValueError(f"the point {bad} lies on the edge of the box or outside of it, where this flow has no density: "
                             "look inside alone")
        x = torch.logit(s)
        return x, (self.width.log() + logsigmoid(x) + logsigmoid(-x)).sum(-1)


# Planar and radial layers -----------------------------------------------------------------------------------------------------

class Planar(Bijection):
    """K planar layers: each moves every point along one direction, by how far it lies from one plane::

        y = x + û tanh(w'x + b),      û = u + (softplus(w'u) - 1 - w'u) w / |w|^2
        det = 1 + (1 - t^2) w'û = t^2 + (1 - t^2) softplus(w'u),      t = tanh(w'x + b)

    The û in place of u keeps w'û above -1, and so the determinant above zero: any w, u, b name an invertible layer. (Written with
    log(1 + exp(w'u)), as in the paper, it overflows; softplus does not.) It has no inverse in closed form; ours solves the one scalar
    equation w'y = a + (softplus(w'u) - 1) tanh(a + b) for a = w'x by bisection.

    Args:
        dim, num_layers: d and K.
        context_dim: c, the size of a context from which w, u and b are computed by a linear map, besides what is learned of them.
        scale: standard deviation of w and u to start from.

    Source: Rezende & Mohamed (2015), section 4.1 and appendix A.
    """

    def __init__(self, dim: int, num_layers: int = 1, *, context_dim: int = 0, scale: float = 0.3, seed: Seed = 0):
        super().__init__(dim, context_dim=context_dim)
        self.num_layers, stream = count("num_layers", num_layers, least=1), generator(seed)
        start = positive("scale", scale) * torch.randn(2, num_layers, dim, generator=stream, dtype=torch.float64)
        self.w, self.u = nn.Parameter(start[0]), nn.Parameter(start[1])
        self.b = nn.Parameter(torch.zeros(num_layers, dtype=torch.float64))
        self.heads = linear(context_dim, num_layers * (2 * dim + 1), stream, scale=0.1) if context_dim else None

    def _parts(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w, û (..., K, d), b and s = softplus(w'u), (..., K)."""
        w, u, b = self.w, self.u, self.b
        if self.heads is not None:
            more = self.heads(_needed(self, context)).unflatten(-1, (self.num_layers, 2 * self.dim + 1))
            w, u, b = w + more[..., : self.dim], u + more[..., self.dim:-1], b + more[..., -1]
        wu = (w * u).sum(-1)
        s = softplus(wu)
        tiny = torch.finfo(w.dtype).tiny
        return w, u + ((s - 1 - wu) / w.square().sum(-1).clamp(min=tiny)).unsqueeze(-1) * w, b, s

    def call_and_ladj(self, x, context=None):
        w, u, b, s = self._parts(context)
        if w.ndim > 2:
            *_, last = self._one_by_one(x, w, u, b, s)
            return last
        y, shape = x.reshape(-1, self.dim).mT, x.shape  # (d, B): a layer is then two products, fused with their sums, and a tanh
        t = []
        for k in range(self.num_layers):
            t.append(torch.tanh(torch.addmv(b[k].expand(y.shape[1]), y.mT, w[k])))
            y = torch.addr(y, u[k], t[-1])
        square = torch.stack(t, -1).square()
        ladj = torch.addcmul(square, 1 - square, s).log().sum(-1)
        return y.mT.reshape(shape), ladj.reshape(shape[:-1])

    def steps(self, x, context=None):
        yield from self._one_by_one(x, *self._parts(context))

    def _one_by_one(self, x, w, u, b, s):
        total = 0.0
        for k in range(self.num_layers):
            t = torch.tanh((x * w[..., k, :]).sum(-1) + b[..., k])
            x = x + u[..., k, :] * t.unsqueeze(-1)
            det = t.square() + (1 - t.square()) * s[..., k]
            total = total + det.log()
            yield x, total

    def inverse_and_ladj(self, y, context=None):
        w, u, b, s = self._parts(context)
        total = 0.0
        for k in reversed(range(self.num_layers)):
            wy, slack = (y * w[..., k, :]).sum(-1), s[..., k] - 1
            a = bisect(lambda a: a + slack * torch.tanh(a + b[..., k]), wy, wy - slack.abs(), wy + slack.abs())
            t = torch.tanh(a + b[..., k])
            y = y - u[..., k, :] * t.unsqueeze(-1)
            total = total + torch.log(t.square() + (1 - t.square()) * s[..., k])
        return y, total


class Radial(Bijection):
    """A radial layer: it pulls points towards a centre, or pushes them away::

        y = x + β h (x - c),      h = 1 / (α + r),   r = |x - c|,   α = softplus(a),   β = softplus(b) - α
        det = (1 + β h)^(d-1) (1 + α β h^2)

    β > -α keeps it invertible. Its inverse has a closed form: the new radius is r + β r / (α + r), a quadratic equation in r.

    Args:
        dim: d.
        scale: standard deviation of the centre to start from.

    Source: Rezende & Mohamed (2015), equation 14 and appendix A; Tabak & Turner (2013).
    """

    def __init__(self, dim: int, *, scale: float = 0.3, seed: Seed = 0):
        super().__init__(dim)
        start = positive("scale", scale) * torch.randn(dim, generator=generator(seed), dtype=torch.float64)
        self.centre = nn.Parameter(start)
        self.a = nn.Parameter(torch.tensor(math.log(math.e - 1), dtype=torch.float64))  # softplus(a) = 1, and β = 0
        self.b = nn.Parameter(self.a.detach().clone())

    def call_and_ladj(self, x, context=None):
        offset, alpha, beta = x - self.centre, softplus(self.a), softplus(self.b) - softplus(self.a)
        h = 1 / (alpha + _norm(offset))
        return x + (beta * h).unsqueeze(-1) * offset, self._ladj(h, alpha, beta)

    def inverse_and_ladj(self, y, context=None):
        offset, alpha, beta = y - self.centre, softplus(self.a), softplus(self.b) - softplus(self.a)
        far = _norm(offset)
        c = alpha + beta - far
        root = torch.sqrt(c.square() + 4 * alpha * far)
        r = torch.where(c > 0, 2 * alpha * far / (root + c.abs()), 0.5 * (root - c))
        h = 1 / (alpha + r)
        return self.centre + offset / (1 + beta * h).unsqueeze(-1), self._ladj(h, alpha, beta)

    def _ladj(self, h: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        return (self.dim - 1) * torch.log1p(beta * h) + torch.log1p(alpha * beta * h.square())


def _norm(offset: Tensor) -> Tensor:
    """|offset|, with a derivative at zero."""
    return torch.sqrt(offset.square().sum(-1) + torch.finfo(offset.dtype).tiny)


# Tools ---------------------------------------------------------------------------------------------------------------------

def bisect(f: Callable[[Tensor], Tensor], target: Tensor, low: Tensor, high: Tensor, *, tolerance: float | None = None,
           max_iterations: int = 200) -> Tensor:
    """The x between `low` and `high` where the increasing function f is `target`; all tensors of one shape, solved side by side.

    A last Newton step carries the derivatives of the solution in the target and in whatever f depends on.

    Raises:
        InverseNotConverged: where the target does not lie between f(low) and f(high), or the halving ends too early.
    """
    tolerance = 8 * torch.finfo(target.dtype).eps if tolerance is None else tolerance
    with torch.no_grad():
        low, high = torch.broadcast_tensors(low, high)
        if not bool(((f(low) <= target + 1e-6 * (1 + target.abs())) & (f(high) >= target - 1e-6 * (1 + target.abs()))).all()):
            raise InverseNotConverged("no point within the given ends is mapped to the target: is the map increasing, and every "
                                      "value finite?")
        for _ in range(max_iterations):
            x = 0.5 * (low + high)
            above = f(x) > target
            low, high = torch.where(above, low, x), torch.where(above, x, high)
            if bool((high - low <= tolerance * (1 + x.abs())).all()):
                break
        else:
            raise InverseNotConverged(f"after {max_iterations} halvings the inverse is still uncertain by "
                                      f"{float((high - low).max()):.2g}: give more of them (max_iterations)")
        x = 0.5 * (low + high)
    with torch.enable_grad():
        at = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(f(at).sum(), at)
    return x - (f(x) - target) / slope.detach()


def linear(inputs: int, outputs: int, stream: torch.Generator, *, scale: float = 1.0) -> nn.Linear:
    """A linear layer in double precision, its weights and biases uniform on ± scale / sqrt(inputs), from the stream."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=torch.float64)
    end = scale / math.sqrt(max(inputs, 1))
    with torch.no_grad():
        layer.weight.uniform_(-end, end, generator=stream)
        layer.bias.uniform_(-end, end, generator=stream)
    return layer


def _needed(map: Bijection, context: Tensor | None) -> Tensor:
    if context is None or context.shape[-1:] != (map.context_dim,):
        shape = None if context is None else tuple(context.shape)
        raise ValueError(f"this flow reads a context of shape (..., {map.context_dim}), got {shape}: call it with one, flow(context)")
    return context


class Network(nn.Module):
    """A multilayer perceptron; a context is added to its first layer, so that it may have fewer leading axes than x.

    Args:
        inputs, outputs: sizes.
        hidden: sizes of the hidden layers.
        context_dim: size of the context, 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int] = (64, 64), *, context_dim: int = 0, seed: Seed = 0):
        super().__init__()
        stream, sizes = generator(seed), [inputs, *(count("hidden", size, least=1) for size in hidden)]
        self.context_dim = context_dim
        self.layers = nn.ModuleList(linear(m, n, stream) for m, n in zip(sizes, sizes[1:]))
        self.context = linear(context_dim, sizes[1], stream) if context_dim else None
        self.last = linear(sizes[-1], outputs, stream, scale=0.1)  # nearly constant at first

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == 0 and self.context is not None:
                x = x + self.context(_needed(self, context))
            x = torch.relu_(x)  # in place: at these sizes a layer costs less than the memory for its activations
        return self.last(x)
