"""A sigmoid belief net with one layer of bits: small enough that its evidence is a sum one can do."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tightbound.arguments import count
from tightbound.device import generator
from tightbound.distributions import BernoulliVector


class BeliefNet(nn.Module):
    """Bits that cause pixels, and an encoder that guesses the bits::

        b_j ~ Bernoulli(sigmoid(a_j)),      x_i | b ~ Bernoulli(sigmoid((b W + c)_i)),      j = 1..d,  i = 1..D
        q(b | x) = prod_j Bernoulli(sigmoid((V x + e)_j))

    `num_replicates` nets that differ in their random start live side by side on a leading axis R, and learn at once.

    Args:
        num_pixels: D.
        num_bits: d, up to 12 so that log p(x) can be summed over all 2^d values of b.
        num_replicates: R.
        seed: of the random start.

    Source: Neal (1992), Connectionist learning of belief networks.
    """

    def __init__(self, num_pixels: int, num_bits: int, *, num_replicates: int = 1, seed: int | torch.Generator = 0):
        super().__init__()
        D, d, R = count("num_pixels", num_pixels, least=1), count("num_bits", num_bits, least=1, most=12), count(
            "num_replicates", num_replicates, least=1)
        stream = generator(seed)

        def start(*shape, scale=0.1):
            return nn.Parameter(scale * torch.randn(R, *shape, generator=stream, dtype=torch.float64))

        self.prior, self.weight, self.bias = start(1, d, scale=0.0), start(d, D), start(1, D, scale=0.0)
        self.encoder_weight, self.encoder_bias = start(D, d), start(1, d, scale=0.0)

    def encode(self, x: Tensor) -> BernoulliVector:
        """q(b | x), of batch shape (R, N), for x (N, D) or (R, N, D)."""
        self._check(x)
        return BernoulliVector((x - 0.5) @ self.encoder_weight + self.encoder_bias)

    def log_joint(self, x: Tensor, b: Tensor) -> Tensor:
        """log p(x, b) in nats: x (N, D) or (R, N, D), b (..., R, N, d) -> (..., R, N)."""
        pixels = b @ self.weight + self.bias
        log_prior = BernoulliVector(self.prior).log_prob(b)
        return log_prior + (x * pixels - softplus(pixels)).sum(-1)

    def objective(self, x: Tensor):
        """f(b) = log p(x, b) - log q(b | x) and q, as the estimators take them."""
        q = self.encode(x)
        return (lambda b: self.log_joint(x, b) - q.log_prob(b)), q

    @torch.no_grad()
    def every_log_joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All 2^d values of the bits (2^d, d), and log p(x, b) of each, (R, N, 2^d), in two matrix products."""
        self._check(x)
        d = self.prior.shape[-1]
        states = ((torch.arange(2**d).unsqueeze(-1) >> torch.arange(d)) & 1).to(self.prior)
        pixels = states @ self.weight + self.bias  # (R, 2^d, D)
        log_prior = BernoulliVector(self.prior).log_prob(states)  # (R, 2^d)
        return states, x @ pixels.mT + (log_prior - softplus(pixels).sum(-1)).unsqueeze(-2)

    @torch.no_grad()
    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) in nats, exact by enumeration, (R, N)."""
        return self.every_log_joint(x)[1].logsumexp(-1)

    @torch.no_grad()
    def bound(self, x: Tensor) -> Tensor:
        """E_q[log p(x, b)] + H[q] in nats, exact by enumeration, (R, N)."""
        q = self.encode(x)
        states, log_joint = self.every_log_joint(x)
        log_q = q.logits @ states.mT - softplus(q.logits).sum(-1, keepdim=True)
        return (log_q.exp() * log_joint).sum(-1) + q.entropy()

    def _check(self, x: Tensor) -> None:
        D = self.weight.shape[-1]
        if not isinstance(x, Tensor) or x.shape[-1:] != (D,) or not x.is_floating_point():
            shape = (tuple(x.shape), x.dtype) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"expected images as floating-point zeros and ones, (N, {D}), got {shape}")


def minibatches(x: Tensor, size: int, seed: int | torch.Generator = 0):
    """Endless minibatches (size, ...) of the rows of x, a new random order every time through.

    Raises:
        ValueError: for a size below one or above the number of rows.
    """
    size, stream = count("size", size, least=1, most=len(x)), generator(seed)
    while True:
        order = torch.randperm(len(x), generator=stream)
        for i in range(0, size * math.floor(len(x) / size), size):
            yield x[order[i:i + size]]
