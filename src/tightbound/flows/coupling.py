"""Couplings: half of the coordinates decide how the other half is moved.

    y_a = x_a,      y_b = g(x_b; net(x_a))

The Jacobian is triangular, whatever the network, and the inverse needs no inverse of the network.

Source: Dinh, Krueger & Bengio (2015), NICE; Dinh, Sohl-Dickstein & Bengio (2017), Real NVP; Durkan et al. (2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tightbound.arguments import count, one_of, positive
from tightbound.device import generator
from tightbound.flows.spline import num_parameters, rational_quadratic
from tightbound.flows.transforms import Bijection, Network, Seed

LIMIT = 3.0  # a coupling's log scales lie between -LIMIT and LIMIT


class Coupling(Bijection):
    """A stack of couplings in which the two halves take turns::

        additive (NICE)      y_b = x_b + t                         log |det| = 0
        affine (Real NVP)    y_b = x_b * exp(s) + t                log |det| = sum_i s_i
        spline               y_b = rational quadratic spline       log |det| = sum_i log slope_i

    with t, s or the spline's parameters computed by a network from the half that stays.

    Args:
        dim: d; the first half are the first d // 2 coordinates.
        num_layers: how many couplings.
        kind: "additive", "affine" or "spline".
        hidden: hidden layers of every network.
        context_dim: size of a context that the networks read, too.
        bins, bound: of the spline.

    Raises:
        ValueError: for dimension one, which has no two halves, and for numbers out of range.
    """

    def __init__(self, dim: int, num_layers: int = 1, *, kind: str = "affine", hidden: Sequence[int] = (64, 64), context_dim: int = 0,
                 bins: int = 8, bound: float = 5.0, seed: Seed = 0):
        if dim == 1:
            raise ValueError("a coupling needs two halves, and dimension one has none: use a Spline or an Affine map")
        super().__init__(dim, context_dim=context_dim, least=2)
        self.kind, stream = one_of("kind", kind, ("additive", "affine", "spline")), generator(seed)
        self.num_layers, self.bins, self.bound = count("num_layers", num_layers, least=1), count("bins", bins, least=2), positive("bound", bound)
        self.sizes = (dim // 2, dim - dim // 2)
        numbers = {"additive": 1, "affine": 2, "spline": num_parameters(bins)}[kind]
        self.networks = nn.ModuleList(
            Network(self.sizes[k % 2], numbers * self.sizes[1 - k % 2], hidden, context_dim=context_dim, seed=stream)
            for k in range(num_layers))

    def _move(self, x: Tensor, numbers: Tensor, inverse: bool):
        """The half that moves, moved; and its log-derivatives."""
        if self.kind == "spline":
            numbers = numbers.unflatten(-1, (x.shape[-1], -1))
            return rational_quadratic(x, numbers, self.bound, inverse=inverse)
        if self.kind == "additive":
            y = x - numbers if inverse else x + numbers
            return y, torch.zeros_like(x)
        t, s = numbers.chunk(2, -1)
        s = LIMIT * torch.tanh(s / LIMIT)
        if inverse:
            return (x - t) * torch.exp(-s), s
        return torch.addcmul(t, x, torch.exp(s)), s  # x exp(s) + t

    def _each(self, x: Tensor, context: Tensor | None, inverse: bool) -> Iterator[tuple[list[Tensor], Tensor]]:
        halves = list(x.split(self.sizes, -1))
        for k in reversed(range(self.num_layers)) if inverse else range(self.num_layers):
            stays, moves = k % 2, 1 - k % 2
            halves[moves], ladj = self._move(halves[moves], self.networks[k](halves[stays], context), inverse)
            yield halves, ladj

    def _through(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        ladjs = []
        for halves, ladj in self._each(x, context, inverse):
            ladjs.append(ladj)
        return torch.cat(halves, -1), torch.cat(ladjs, -1).sum(-1)

    def call_and_ladj(self, x, context=None):
        return self._through(x, context, False)

    def inverse_and_ladj(self, y, context=None):
        return self._through(y, context, True)

    def steps(self, x, context=None):
        total = 0.0
        for halves, ladj in self._each(x, context, False):
            total = total + ladj.sum(-1)
            yield torch.cat(halves, -1), total
