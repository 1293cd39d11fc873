"""Autoregressive flows: coordinate i moves by what a network says of the coordinates before it.

One network, MADE, gives all m_i(x_<i) and s_i(x_<i) in a single pass. The same map, read in its two directions, has two names::

    x -> y    all coordinates at once                 inverse autoregressive flow, IAF: fast to sample and to score its samples
    y -> x    one coordinate after another            masked autoregressive flow, MAF, whose density is read in the fast direction

Source: Germain et al. (2015), MADE; Kingma et al. (2016), IAF; Papamakarios, Pavlakou & Murray (2017), MAF.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from tightbound.arguments import count, one_of
from tightbound.device import generator
from tightbound.flows.transforms import Bijection, Seed, _needed, linear

LIMIT = 3.0  # log scales of kind "affine" lie between -LIMIT and LIMIT


class MADE(nn.Module):
    """A masked network whose i-th group of outputs depends on inputs x_1, ..., x_(i-1) alone: (..., d) -> (..., d, numbers).

    Every unit has a degree. Input i has degree i, hidden units have degrees from 1 to d - 1 in turn, and a connection stays only where
    the degree does not fall (into the outputs: where it rises).

    Args:
        dim: d.
        numbers: outputs a coordinate.
        hidden: sizes of the hidden layers.
        context_dim: size of a context that every output may depend on.

    Source: Germain, Gregor, Murray & Larochelle (2015).
    """

    def __init__(self, dim: int, numbers: int = 2, hidden: Sequence[int] = (64, 64), *, context_dim: int = 0, seed: Seed = 0):
        super().__init__()
        stream, self.dim, self.numbers, self.context_dim = generator(seed), dim, numbers, context_dim
        degrees = [torch.arange(1, dim + 1), *(torch.arange(count("hidden", n, least=1)) % max(dim - 1, 1) + 1 for n in hidden)]
        last = torch.arange(1, dim + 1).repeat_interleave(numbers)
        self.layers = nn.ModuleList(linear(len(m), len(n), stream) for m, n in zip(degrees, degrees[1:]))
        self.last = linear(len(degrees[-1]), len(last), stream, scale=0.1)
        self.context = linear(context_dim, len(degrees[1]), stream) if context_dim else None
        self.direct = linear(context_dim, len(last), stream, scale=0.1) if context_dim else None  # the first sees no other unit
        for i, (m, n) in enumerate(zip(degrees, degrees[1:])):
            self.register_buffer(f"mask{i}", (n.unsqueeze(-1) >= m).double())
        self.register_buffer("mask_last", (last.unsqueeze(-1) > degrees[-1]).double())

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = nn.functional.linear(x, layer.weight * getattr(self, f"mask{i}"), layer.bias)
            if i == 0 and self.context is not None:
                x = x + self.context(_needed(self, context))
            x = torch.relu(x)
        out = nn.functional.linear(x, self.last.weight * self.mask_last, self.last.bias)
        if self.direct is not None:
            out = out + self.direct(context)
        return out.unflatten(-1, (self.dim, self.numbers))


class Autoregressive(Bijection):
    """One autoregressive layer, in the fast direction x -> y; read it backwards (`.inv`) for a masked autoregressive flow::

        gate      y_i = σ_i x_i + (1 - σ_i) m_i,   σ_i = sigmoid(s_i)      log |det| = sum_i log σ_i
        affine    y_i = exp(s_i) x_i + m_i                                 log |det| = sum_i s_i

    (m_i, s_i) are functions of x_1, ..., x_(i-1), the *inputs* of the layer. The gate is numerically stable: it keeps or replaces,
    and never blows up. It starts nearly open.

    Args:
        dim: d.
        kind: "gate" or "affine".
        hidden, context_dim: as of `MADE`.

    Source: Kingma et al. (2016), algorithm 1 and equations 13 to 14.
    """

    def __init__(self, dim: int, *, kind: str = "gate", hidden: Sequence[int] = (64, 64), context_dim: int = 0, seed: Seed = 0):
        super().__init__(dim, context_dim=context_dim)
        self.kind = one_of("kind", kind, ("gate", "affine"))
        self.network = MADE(dim, 2, hidden, context_dim=context_dim, seed=seed)
        with torch.no_grad():
            self.network.last.bias.view(dim, 2)[:, 1] += 2.0 if kind == "gate" else 0.0

    def _scale_and_shift(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """log scale and shift, each (..., d), from the inputs."""
        m, s = self.network(x, context).unbind(-1)
        if self.kind == "gate":
            return logsigmoid(s), torch.sigmoid(-s) * m
        return LIMIT * torch.tanh(s / LIMIT), m

    def call_and_ladj(self, x, context=None):
        log_scale, shift = self._scale_and_shift(x, context)
        return torch.addcmul(shift, x, log_scale.exp()), log_scale.sum(-1)

    def inverse_and_ladj(self, y, context=None):
        x = torch.zeros_like(y)
        for i in range(self.dim):  # d passes: x_i can be had once x_1, ..., x_(i-1) are known
            log_scale, shift = self._scale_and_shift(x, context)
            found = (y - shift) * torch.exp(-log_scale)
            x = torch.cat([x[..., :i], found[..., i:i + 1], x[..., i + 1:]], -1)
        return x, log_scale.sum(-1)
