"""Likelihoods p(x | z): what a decoder's numbers mean.

A likelihood is called with the decoder's output and returns a `torch.distributions.Distribution` over x, whose `log_prob`
is in nats and sums over the D pixels. `size` says how many numbers a pixel it takes from the decoder::

    Bernoulli              1    x in {0, 1}                            logit
    Gaussian               1    x real, one learned scale for all      mean
    Gaussian(scale=...)    2    x real, a scale a pixel                mean, log scale
    Categorical(K)         K    x in {0, ..., K - 1}                   logits
    DiscretisedLogistic    2    x in {0, 1/255, ..., 1}                mean, log scale

The first and the last two give probabilities, whose log is at most 0; the Gaussian gives a density, whose log has no upper
limit. Nats of the one and of the other do not compare. `check(x)` says whether a likelihood is meant for these x at all.

Source: Kingma & Welling (2014), Auto-encoding variational Bayes; Salimans, Karpathy, Chen & Kingma
(2017), PixelCNN++, for the discretised logistic.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from tightbound.arguments import count, one_of, positive


class Pixels(Distribution):
    """A distribution over x (..., D) given by a function that scores it: what the likelihoods here have in common."""

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 1)

    def __init__(self, shape: torch.Size):
        super().__init__(shape[:-1], shape[-1:], validate_args=False)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """sum_i x_i y_i over the last dimension; as a matrix product where one side is to meet many of the other."""
    return (x * y).sum(-1) if x.numel() == y.numel() else torch.einsum("...i,...i->...", x.to(y.dtype), y)


class BernoulliPixels(Pixels):
    """x_i = 1 with probability sigmoid(logits_i)::

        log p(x) = sum_i x_i log mu_i + (1 - x_i) log(1 - mu_i),    mu = sigmoid(logits)        (nats)

    For x strictly between 0 and 1 this is no log density, for it does not integrate to one: a cross-entropy only.
    """

    def __init__(self, logits: Tensor):
        super().__init__(logits.shape)
        self.logits = logits

    mean = property(lambda self: torch.sigmoid(self.logits))

    def log_prob(self, x: Tensor) -> Tensor:
        return _inner(x, self.logits) - F.softplus(self.logits).sum(-1)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean.expand(torch.Size(sample_shape) + self.logits.shape)
        return torch.bernoulli(mean, generator=generator)


class Likelihood(nn.Module):
    """Turns a decoder's output (..., D * size) into a distribution over x, event shape (D,)."""

    size = 1

    def check(self, x: Tensor) -> None:
        """Nothing, where the likelihood is meant for the images x (..., D).

        Raises:
            ValueError: where it is not; says what to do with the first pixel that is out of range.
        """
        self._refuse(~torch.isfinite(x), x, "pixels must be finite: leave such images out, or fill the pixels in")

    def _refuse(self, bad: Tensor, x: Tensor, remedy: str) -> None:
        if bad.any():
            *row, pixel = bad.nonzero()[0].tolist()
            where = f"pixel {pixel}" + (f" of image {row[-1]}" if row else "")
            raise ValueError(f"{where} is {float(x[(*row, pixel)]):g}; {remedy}")


class Bernoulli(Likelihood):
    """Black or white: one logit a pixel.

    Args:
        grey: take grey pixels too, as if each were that share of a black one. The number is then a cross-entropy,
            no log-likelihood, and does not compare with that of any black and white image.
    """

    def __init__(self, grey: bool = False):
        super().__init__()
        self.grey = grey

    def forward(self, output: Tensor) -> BernoulliPixels:
        return BernoulliPixels(output)

    def check(self, x: Tensor) -> None:
        if torch.linalg.vector_norm(x - x * x) == 0:  # zeros and ones: the quick way, for it is asked at every step
            return
        super().check(x)
        self._refuse((x < 0) | (x > 1), x, "a Bernoulli's pixels lie in [0, 1]: divide by the largest value, 255 or 16")
        if not self.grey:
            self._refuse(x != x.round(), x, "under a Bernoulli a grey pixel has no probability, only a cross-entropy: make "
                         "it black or white with (x > 0.5).float() or torch.bernoulli(x), take another likelihood, or say "
                         "Bernoulli(grey=True) and quote no nats")


class GaussianPixels(Pixels):
    """x_i ~ N(mean_i, exp(log_scale_i)^2)::

        log p(x) = -1/2 sum_i [ (x_i - mean_i)^2 / s_i^2 + 2 log s_i + log 2 pi ]        (nats, of a density)
    """

    def __init__(self, mean: Tensor, log_scale: Tensor):
        super().__init__(mean.shape)
        self.loc, self.log_scale = mean, log_scale

    mean = property(lambda self: self.loc)

    def log_prob(self, x: Tensor) -> Tensor:
        standardised = (x - self.loc) * torch.exp(-self.log_scale)
        log_scale = self.log_scale.expand_as(self.loc)
        return -0.5 * standardised.square().sum(-1) - (log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.Size(sample_shape) + self.loc.shape
        noise = torch.randn(shape, generator=generator, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.log_scale.exp() * noise


class Gaussian(Likelihood):
    """Real pixels with Gaussian noise, its scale learned.

    Args:
        scale: "shared", one number for all pixels of all images; or "decoder", which gives each pixel its own.
        least: no scale falls below it, for a pixel that never changes would draw its scale to zero, and its density
            to infinity. A step of the pixels' grey values is a natural choice.

    Raises:
        ValueError: for another word, or a least scale not above zero.
    """

    def __init__(self, scale: str = "shared", *, least: float = 1e-2):
        super().__init__()
        self.scale, self.log_least = one_of("scale", scale, ("shared", "decoder")), math.log(positive("least", least))
        self.size = 1 if scale == "shared" else 2
        if scale == "shared":
            self.log_scale = nn.Parameter(torch.tensor(-1.0))

    def forward(self, output: Tensor) -> GaussianPixels:
        mean, log_scale = (output, self.log_scale) if self.size == 1 else output.chunk(2, -1)
        return GaussianPixels(mean, torch.logaddexp(log_scale, torch.full_like(log_scale, self.log_least)))


class CategoricalPixels(Pixels):
    """x_i = k with probability softmax(logits_i)_k, for logits (..., D, K)::

        log p(x) = sum_i log softmax(logits_i)_{x_i}        (nats)
    """

    def __init__(self, logits: Tensor):
        super().__init__(logits.shape[:-1])
        self.log_probs = logits.log_softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The mean value of each pixel, between 0 and K - 1."""
        return self.log_probs.exp() @ torch.arange(self.log_probs.shape[-1]).to(self.log_probs)

    def log_prob(self, x: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(x.shape, self.log_probs.shape[:-1])
        index = x.long().expand(shape).unsqueeze(-1)
        return self.log_probs.expand(*shape, -1).gather(-1, index).squeeze(-1).sum(-1)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.Size(sample_shape) + self.log_probs.shape[:-1]
        level = torch.rand((*shape, 1), generator=generator, dtype=self.log_probs.dtype, device=self.log_probs.device)
        return (level > self.log_probs.exp().cumsum(-1)[..., :-1]).sum(-1).to(self.log_probs)


class Categorical(Likelihood):
    """Pixels of K kinds, each with its own probability: the most flexible, and the dearest.

    Args:
        num_values: K, at least 2.
    """

    def __init__(self, num_values: int):
        super().__init__()
        self.size = count("num_values", num_values, least=2)

    def forward(self, output: Tensor) -> CategoricalPixels:
        return CategoricalPixels(output.unflatten(-1, (-1, self.size)))

    def check(self, x: Tensor) -> None:
        super().check(x)
        self._refuse((x < 0) | (x > self.size - 1) | (x != x.round()), x, f"a categorical pixel is one of 0, 1, ..., "
                     f"{self.size - 1}: for x in [0, 1] take ({self.size - 1} * x).round()")


class DiscretisedLogisticPixels(Pixels):
    """x_i in {0, h, 2 h, ..., 1}, h = 1 / (levels - 1): a logistic variable, rounded to the nearest::

        P(x_i) = F(x_i + h/2) - F(x_i - h/2),    F(t) = sigmoid((t - mean_i) / s_i),    F(-h/2) := 0, F(1 + h/2) := 1

    With a and b the arguments of the two sigmoids, and so without cancellation::

        log P = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a))        (nats)
    """

    def __init__(self, mean: Tensor, log_scale: Tensor, levels: int):
        super().__init__(mean.shape)
        self.centre, self.log_scale, self.step = mean, log_scale, 1 / (levels - 1)

    @property
    def mean(self) -> Tensor:
        """The centre of the logistic, moved into [0, 1]."""
        return self.centre.clamp(0, 1)

    def log_prob(self, x: Tensor) -> Tensor:
        inverse = torch.exp(-self.log_scale)
        middle, half = (x - self.centre) * inverse, 0.5 * self.step * inverse
        below, above = F.logsigmoid(middle + half), F.logsigmoid(half - middle)  # log F(x + h/2), log (1 - F(x - h/2))
        inside = below + above + torch.log(-torch.expm1(-2 * half))
        edge = 0.5 * self.step
        return torch.where(x < edge, below, torch.where(x > 1 - edge, above, inside)).sum(-1)

    def sample(self, sample_shape=(), *, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.Size(sample_shape) + self.centre.shape
        u = torch.rand(shape, generator=generator, dtype=self.centre.dtype, device=self.centre.device)
        t = self.centre + self.log_scale.exp() * torch.logit(u, eps=1e-7)
        return ((t / self.step).round() * self.step).clamp(0, 1)


class DiscretisedLogistic(Likelihood):
    """Grey values as they come from a scanner, a fixed number of levels: a probability for each.

    Args:
        levels: 256 for bytes, 17 for the 8x8 digits.
    """

    size = 2

    def __init__(self, levels: int = 256):
        super().__init__()
        self.levels = count("levels", levels, least=2)

    def forward(self, output: Tensor) -> DiscretisedLogisticPixels:
        mean, log_scale = output.chunk(2, -1)
        return DiscretisedLogisticPixels(torch.sigmoid(mean), log_scale.clamp(min=-7), self.levels)

    def check(self, x: Tensor) -> None:
        super().check(x)
        top = self.levels - 1
        self._refuse((x < 0) | (x > 1), x, f"pixels lie in [0, 1], in steps of 1/{top}: divide by {top}")
        self._refuse((top * x - (top * x).round()).abs() > 1e-3, x, f"pixels are multiples of 1/{top}: give the right number "
                     f"of levels, or round with (x * {top}).round() / {top}")


WORDS = {"bernoulli": Bernoulli, "gaussian": Gaussian, "categorical": Categorical,
         "discretised logistic": DiscretisedLogistic}


def make(likelihood: str | Likelihood) -> Likelihood:
    """A likelihood by its word ("bernoulli", "gaussian", "discretised logistic"); a module is given back as it is.

    Raises:
        ValueError: for an unknown word, or "categorical", which needs its number of values.
    """
    if isinstance(likelihood, nn.Module):
        return likelihood
    kind = WORDS[one_of("likelihood", likelihood, tuple(WORDS))]
    if kind is Categorical:
        raise ValueError("a categorical likelihood needs its number of values: give Categorical(num_values)")
    return kind()
