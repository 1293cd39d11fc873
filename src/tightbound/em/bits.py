"""Bits back: a code for data with a latent, whose length is the negative bound.

Source: Hinton & van Camp (1993); Townsend, Bird & Barber (2019).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from tightbound.arguments import count


class Stack:
    """A message that is one large whole number: what is pushed last is popped first (asymmetric numeral systems)::

        push s:  state <- (state // f_s) M + c_s + state mod f_s           about log2(M / f_s) bits more
        pop:     s is where state mod M falls;  state <- f_s (state // M) + state mod M - c_s

    f_s are whole counts with sum M, c_s the sum of the counts before s, so s has the probability f_s / M. To pop what
    nobody pushed is to *draw* from that distribution, with the message for randomness; pushing it back loses nothing.

    Args:
        state: a whole number above zero to start from.

    Source: Duda (2009); as a stack for bits back: Townsend, Bird & Barber (2019).
    """

    def __init__(self, state: int = 1):
        self.state = count("state", state, least=1)

    @property
    def bits(self) -> float:
        """log2 of the state: the length of the message."""
        return math.log2(self.state)

    def push(self, symbol: int, counts: Sequence[int]) -> None:
        ends = list(accumulate(counts))
        f, c = counts[symbol], ends[symbol] - counts[symbol]
        self.state = (self.state // f) * ends[-1] + c + self.state % f

    def pop(self, counts: Sequence[int]) -> int:
        ends = list(accumulate(counts))
        remainder = self.state % ends[-1]
        symbol = bisect_right(ends, remainder)
        f, c = counts[symbol], ends[symbol] - counts[symbol]
        self.state = f * (self.state // ends[-1]) + remainder - c
        return symbol


def counts(p: Tensor, total: int = 2**16) -> list:
    """Whole counts of sum `total` in proportion to probabilities, at least one each: (..., K) -> nested lists."""
    p = p / p.sum(-1, keepdim=True)
    K = p.shape[-1]
    if total < K:
        raise ValueError(f"a total of {total} cannot give {K} symbols a count each: give a larger total")
    ends = torch.round(p.cumsum(-1) * (total - K)).long()
    return (ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1])) + 1).tolist()


def send(message: Stack, borrowed: Stack, x: Sequence[int], prior: Sequence[int], likelihood: Sequence,
         q: Sequence) -> list[int]:
    """Codes symbols x with bits back, and returns the z that were drawn on the way::

        for each x:   z <- pop from `borrowed` with q(z | x);    push x with p(x | z);    push z with p(z)

    The message grows by -log2 p(x, z) bits a datum, `borrowed` shrinks by -log2 q(z | x): together -ELBO / ln 2
    on average.
    (With one stack for both, the bits of the z just pushed would decide the next one, and they are not random.)

    Args:
        message: what is coded goes here.
        borrowed: other data, as good as random bits, that have to be sent anyway; `receive` restores them.
        x: symbols.
        prior: counts of p(z).
        likelihood: for every z, the counts of p(x | z).
        q: for every x, the counts of q(z | x).
    """
    drawn = []
    for symbol in x:
        z = borrowed.pop(q[symbol])
        message.push(symbol, likelihood[z])
        message.push(z, prior)
        drawn.append(z)
    return drawn


def receive(message: Stack, borrowed: Stack, num: int, prior: Sequence[int], likelihood: Sequence,
            q: Sequence) -> list[int]:
    """Decodes what `send` coded, its steps backwards; both stacks are then as they were before."""
    found = []
    for _ in range(num):
        z = message.pop(prior)
        symbol = message.pop(likelihood[z])
        borrowed.push(z, q[symbol])
        found.append(symbol)
    return found[::-1]
