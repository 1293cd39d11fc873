"""When VAEs fail, and what helps: measures of collapse, the linear case that is exact, remedies, and models to try them on.

The bound of a VAE is reconstruction minus rate, and the rate has parts of its own::

    rate   R = E_x KL(q(z | x) || p(z)) = sum_j R_j      where q and the prior are independent over units
             = I_q(x; z) + KL(q(z) || p(z)),             q(z) = E_x q(z | x), the aggregated posterior

A unit whose R_j is zero tells the decoder nothing: it has collapsed. All expectations over x are means over the rows given.

Source: Bowman et al. (2016); Burda, Grosse & Salakhutdinov (2016); Hoffman & Johnson (2016); Lucas et al. (2019).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from tightbound.arguments import count, positive, real
from tightbound.data import three_men
from tightbound.device import generator
from tightbound.distributions import DiagonalGaussian
from tightbound.vae import VAE, Bernoulli, DiagonalEncoder, mlp
from tightbound.vae.likelihoods import Likelihood

PAIRS = 2**18   # log densities at once


# What a latent is worth ---------------------------------------------------------------------------------------------------

def unit_rates(model, x: Tensor) -> Tensor:
    """The rate of every unit: rows x (N, D) give (d,), in nats::

        R_j = E_x KL(q(z_j | x) || N(0, 1))
            = E_x 1/2 (mu_j^2 + s_j^2 - 1 - log s_j^2)

    The model's q is a diagonal Gaussian, its prior standard normal.
    """
    with torch.no_grad():
        q = model.posterior(_rows(x))
        return gaussian_rates(q.mean, q.stddev.log()).mean(0)


def gaussian_rates(mean: Tensor, log_scale: Tensor) -> Tensor:
    """KL(N(mean, s^2) || N(0, 1)) in nats, element by element, from the logarithm of s: no ratio, and no root."""
    return 0.5 * (mean.square() + torch.expm1(2 * log_scale)) - log_scale


class Surgery(NamedTuple):
    """The two parts of a rate, in nats: rate = information + mismatch.

    Attributes:
        rate: E_x KL(q(z | x) || p(z)).
        information: I_q(x; z), what z says of *which* x it was; at most log N.
        mismatch: KL(q(z) || p(z)), between the aggregated posterior and the prior.
    """

    rate: float
    information: float
    mismatch: float


def surgery(model, x: Tensor, *, num_samples: int = 4, seed: int = 0) -> Surgery:
    """The parts of the rate, by samples held against all N posteriors::

        I_q(x; z) = E_n E_q(z | x_n) [log q(z | x_n) - log q(z)]
        mismatch  = E_n E_q(z | x_n) [log q(z) - log p(z)]
        q(z)      = 1/N sum_m q(z | x_m)

    The information is that about which row it was: it depends on N, and
    is at most log N. Source: Hoffman & Johnson (2016), ELBO surgery.
    """
    stream = generator(seed, _rows(x).device)
    draws = torch.Size([count("num_samples", num_samples, least=1)])
    with torch.no_grad():
        q = model.posterior(x)
        z, log_q = q.rsample_and_log_prob(draws, generator=stream)
        parts = z.flatten(0, 1).split(max(1, PAIRS // len(x)))
        pairs = (q.log_prob(part.unsqueeze(1)).logsumexp(-1) for part in parts)
        aggregated = torch.cat(list(pairs)) - math.log(len(x))
        log_prior = model.prior().log_prob(z).flatten()
        information = float((log_q.flatten() - aggregated).double().mean())
        mismatch = float((aggregated - log_prior).double().mean())
    return Surgery(information + mismatch, information, mismatch)


def defended_log_evidence(model, x: Tensor, num_samples: int = 200, *, seed: int | torch.Generator = 0) -> Tensor:
    """log p(x) of each row by importance sampling from half encoder, half prior, (N, ...) gives (N,), in nats::

        log p(x) ≈ log 1/S sum_s p(x, z_s) / m(z_s),    m(z) = 1/2 q(z | x) + 1/2 p(z)

    The prior defends the estimate where q is too narrow: no weight exceeds 2 p(x | z). It is a consistent estimate, low on
    average.

    Source: Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions.
    """
    half, stream = count("num_samples", num_samples, least=2) // 2, generator(seed, x.device)
    found = []
    with torch.no_grad():
        for part in x.split(128):
            q, prior = model.posterior(part), model.prior()
            guessed, _ = q.rsample_and_log_prob((half,), generator=stream)
            blind, _ = prior.rsample_and_log_prob((half, len(part)), generator=stream)
            z = torch.cat([guessed, blind])
            log_mixture = torch.logaddexp(q.log_prob(z), prior.log_prob(z)) - math.log(2)
            found.append((model.log_joint(part, z) - log_mixture).logsumexp(0) - math.log(2 * half))
    return torch.cat(found)


def grid_log_evidence(model, x: Tensor, *, half: float = 6.0, num_points: int | None = None) -> Tensor:
    """log p(x) = log ∫ p(x, z) dz of each row, by equal weights on a grid of [-half, half], (N, ...) gives (N,), in nats.

    `vae.exact` refines its grid until the answer stands, at a cost that a recurrent decoder makes long; this grid is what you
    say, and exact as long as its spacing is below the width of the posteriors.

    Args:
        model: anything with `log_joint` and one or two latents.
        num_points: on each axis; 2001 for one latent and 61 for two if left out.
    """
    if model.dim not in (1, 2):
        raise ValueError(f"a grid serves models with one or two latents, this one has {model.dim}, got none for them")
    num_points = num_points or {1: 2001, 2: 61}[model.dim]
    axis = torch.linspace(-half, half, num_points)
    z = torch.cartesian_prod(*[axis] * model.dim).reshape(-1, 1, model.dim)
    with torch.no_grad():
        parts = [model.log_joint(part, z).double().logsumexp(0) for part in x.split(8 if model.dim == 2 else 500)]
    return torch.cat(parts) + model.dim * math.log(2 * half / (num_points - 1))


def _rows(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim != 2 or not len(x):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"expected a tensor (N, D) with a row a datum, got {got}: one datum x is x[None]")
    return x


# The linear case, exactly -------------------------------------------------------------------------------------------------

def principal_variances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (D,) of the data (N, D) along their principal directions, largest first, and the directions (D, D), a column
    each; in double precision."""
    values, vectors = torch.linalg.eigh(torch.cov(_rows(x).double().mT, correction=0).reshape(x.shape[1], -1))
    return values.flip(0).clamp(min=0), vectors.flip(1)


class WaterFilling(NamedTuple):
    """What the best linear VAE does with each principal direction: rates (d,) in nats, distortions (d,) squared errors."""

    rates: Tensor
    distortions: Tensor


def water_filling(variances: Tensor, level: float) -> WaterFilling:
    """The optimum of the linear beta-VAE, a unit for every principal direction of variance lambda_j; level s = beta sigma^2::

        rate        R_j = 1/2 log(lambda_j / s)    where lambda_j > s, else 0: collapsed      (nats)
        distortion  D_j = min(lambda_j, s)                                                     (squared error)

    It is the rate-distortion function of a Gaussian source: no code of any kind does better on one.

    Raises:
        ValueError: for a level that is not above zero, or variances that are negative or not finite.

    Source: Tipping & Bishop (1999); Lucas et al. (2019); Cover & Thomas (2006), section 10.3.
    """
    level = positive("level", level)
    variances = torch.as_tensor(variances)
    if not bool((torch.isfinite(variances) & (variances >= 0)).all()):
        raise ValueError("variances must be finite and not negative: they are the eigenvalues of a covariance")
    return WaterFilling(0.5 * (variances.clamp(min=level) / level).log(), variances.clamp(max=level))


class FixedNoise(Likelihood):
    """x ~ N(mean, noise I), the noise a variance that is given and not learned; the decoder's numbers are the mean."""

    def __init__(self, noise: float):
        super().__init__()
        self.scale = math.sqrt(positive("noise", noise))

    def forward(self, output: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(output, torch.full_like(output, self.scale), validate_args=False)


class OwnNoise(Likelihood):
    """x ~ N(mean, s^2) with an s for every number, both from the decoder, s as its logarithm."""

    size = 2

    def forward(self, output: Tensor) -> DiagonalGaussian:
        mean, log_scale = output.chunk(2, -1)
        return DiagonalGaussian(mean, log_scale.exp(), validate_args=False)


class LinearEncoder(nn.Module):
    """q(z | x) = N(V x + c, diag(s^2)), with one s for all x: the form that the exact posterior has."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.mean, self.log_scale = nn.Linear(size, dim), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> DiagonalGaussian:
        mean = self.mean(x)
        return DiagonalGaussian(mean, self.log_scale.exp().expand_as(mean), validate_args=False)


def linear_vae(size: int, dim: int, noise: float, *, seed: int = 0) -> VAE:
    """A VAE with x | z ~ N(W z + b, noise I) and a linear encoder: probabilistic PCA, trained by the bound."""
    with _seeded(seed):
        return VAE(LinearEncoder(size, dim), nn.Linear(dim, size), FixedNoise(noise), dim)


def linear_bound(model: VAE, x: Tensor) -> Tensor:
    """The ELBO of a `linear_vae`, averaged over x and with the mean over q done by hand: no sample, no noise in it::

        -1/(2 noise) E_x[ |x - W mu - b|^2 + sum_j s_j^2 |w_j|^2 ] - D/2 log(2 pi noise) - sum_j R_j,    mu = V x + c   (nats)
    """
    W, b, noise = model.decoder.weight, model.decoder.bias, model.likelihood.scale**2
    mean, log_scale = model.encoder.mean(x), model.encoder.log_scale
    squares = (x - mean @ W.mT - b).square().sum(-1).mean() + ((2 * log_scale).exp() * W.square().sum(0)).sum()
    rates = gaussian_rates(mean, log_scale).mean(0)
    return -0.5 * (squares / noise + x.shape[-1] * math.log(2 * math.pi * noise)) - rates.sum()


def fit_linear(model: VAE, x: Tensor, *, num_iterations: int = 600) -> float:
    """Maximises `linear_bound` by L-BFGS in double precision, the model in place; returns the bound in nats."""
    model.double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=num_iterations, history_size=30, tolerance_grad=1e-9,
                                  tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -linear_bound(model, x.double())
        value.backward()
        return value

    optimizer.step(loss)
    return -float(loss().detach())


def single_unit_bound(weight, slope, signal, beta=1.0):
    """The beta-bound of one datum x ~ N(0, signal), a unit x | z ~ N(w z, 1) and q = N(v x, s^2), at its best s::

        -1/2 [ signal (1 - w v)^2 + beta signal v^2 + beta log(1 + w^2 / beta) ] - 1/2 log 2 pi     (nats)

    At beta = 1 the origin, where the unit is collapsed, is the only maximum for signal <= 1 and a saddle for signal > 1.
    """
    return -0.5 * (signal * (1 - weight * slope) ** 2 + beta * signal * slope**2
                   + beta * torch.log1p(weight**2 / beta) + math.log(2 * math.pi))


# Remedies -----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Objective:
    """A bound with remedies, to be given to `training.fit`; with none it is the ELBO, in nats::

        E_q[log p(x | z)] - beta_t sum_j max(floor, R_j)

    Attributes:
        beta: the price of a nat of rate. Below one it is no bound; above one it is a bound, but a loose one.
        warm_up: steps in which beta_t rises from 0 in a straight line: KL annealing.
        floor: free bits: nats a unit (in the mean over the batch) that cost nothing less when saved.
        dropout: the share of words that the decoder is not shown while it predicts the next: word dropout.

    Source: Higgins et al. (2017) for beta; Bowman et al. (2016) for annealing and word dropout; Kingma et al. (2016) for
    free bits.
    """

    beta: float = 1.0
    warm_up: int = 0
    floor: float = 0.0
    dropout: float = 0.0

    def __post_init__(self):
        for name in ("beta", "floor", "dropout"):
            if real(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        count("warm_up", self.warm_up)
        if self.dropout > 1:
            raise ValueError(f"dropout is a share of words, at most 1, got {self.dropout!r}")

    def weight(self, step: int) -> float:
        """beta_t = beta min(1, t / warm_up)."""
        return self.beta * min(1.0, step / self.warm_up) if self.warm_up else self.beta

    def __call__(self, model, x: Tensor, *, generator=None,
                 step: int = 0) -> Tensor:
        """The objective of each row: (B, ...) gives (B,)."""
        q = model.posterior(x)
        z, _ = q.rsample_and_log_prob((), generator=generator)
        hide = {"dropout": self.dropout, "generator": generator}
        hide = hide if self.dropout else {}
        reconstruction = model.decode(z).log_prob(x, **hide)
        rates = gaussian_rates(q.mean, q.stddev.log())
        if self.floor:
            rates = rates.mean(0, keepdim=True).clamp(min=self.floor)
        return reconstruction - self.weight(step) * rates.sum(-1)


def remedies(num_steps: int) -> dict[str, Objective]:
    """The objectives that the chapter holds against each other, for a training of so many steps."""
    return {"language model": Objective(), "VAE": Objective(), "KL annealing": Objective(warm_up=num_steps // 2),
            "free bits": Objective(floor=1.0), "word dropout": Objective(dropout=0.4), "beta = 1/2": Objective(beta=0.5)}


def two_latent_objectives() -> dict[str, Objective]:
    """Those of the chapter's last table: sixty epochs of twelve steps each, the annealing over the first half."""
    return {"VAE": Objective(), "KL annealing": Objective(warm_up=360), "free bits": Objective(floor=2.0),
            "beta = 1/4": Objective(beta=0.25), "beta = 4": Objective(beta=4.0)}


# A sentence model ---------------------------------------------------------------------------------------------------------

END, UNKNOWN = 0, 1


class Sentences(Distribution):
    """A sentence given its latent, word by word: log p(x | z) = sum_t log p(x_t | x_<t, z), in nats.

    Sentences are rows of word numbers that end in END = 0; what follows the first END does not count.
    """

    arg_constraints: dict = {}
    support = constraints.nonnegative_integer

    def __init__(self, model: SentenceVAE, z: Tensor):
        super().__init__(z.shape[:-1], validate_args=False)
        self.model, self.z = model, z

    def log_prob(self, x: Tensor, *, dropout: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """(B, T) gives the latents' shape (..., B). Word dropout hides that share of the words from the decoder."""
        x = x.long()
        seen = F.pad(x[:, :-1], (1, 0), value=self.model.start)
        if dropout:
            hide = torch.rand(seen.shape, generator=generator, device=x.device) < dropout
            seen = torch.where(hide, self.model.start, seen)
        shape = self.z.shape[:-2]
        z = self.z.expand(*shape, len(x), -1).flatten(0, -2)
        logits, _ = self.model.predict(seen.repeat(math.prod(shape), 1), z)
        words = torch.log_softmax(logits, -1).unflatten(0, (-1, len(x)))
        scores = words.gather(-1, x.expand(len(words), -1, -1).unsqueeze(-1)).squeeze(-1)
        return (scores * _counts(x)).sum(-1).reshape(*shape, len(x))

    def most_likely(self, length: int) -> Tensor:
        """Greedy sentences (B, length) for latents (B, d): the likeliest word at each step."""
        word = torch.full((len(self.z), 1), self.model.start, device=self.z.device)
        state, found = None, []
        for _ in range(length):
            logits, state = self.model.predict(word, self.z, state)
            word = logits.argmax(-1)
            found.append(word)
        return torch.cat(found, 1)


def _counts(x: Tensor) -> Tensor:
    """Which words of (B, T) count: up to the first END, that one included."""
    return ((x == END).cumsum(-1) - (x == END).long()) == 0


class SentenceVAE(nn.Module):
    """A VAE for sentences: a GRU reads the sentence into q(z | x), another writes it, shown z and all words so far::

        q(z | x) = N(mean, diag(s^2)) of the last state;     p(x | z) = prod_t p(x_t | x_<t, z)

    With ``dim=0`` there is no latent, and the same decoder is a language model: its "bound" is log p(x) itself.

    Args:
        num_words: V, the size of the vocabulary, END and UNKNOWN included.
        dim: d, the number of latents.
        width: of both GRUs.
        embedding: of a word.

    Source: Bowman et al. (2016), Generating sentences from a continuous space.
    """

    def __init__(self, num_words: int, dim: int, *, width: int = 48, embedding: int = 24, seed: int = 0):
        super().__init__()
        self.start, self.dim, self.width = num_words, dim, width
        with _seeded(seed):
            self.embed = nn.Embedding(num_words + 1, embedding)
            self.write = nn.GRU(embedding + dim, width, batch_first=True)
            self.output = nn.Linear(width, num_words)
            if dim:
                self.read, self.head = nn.GRU(embedding, width, batch_first=True), nn.Linear(width, 2 * dim)
                self.first = nn.Linear(dim, width)
        self.register_buffer("origin", torch.zeros(dim))

    def prior(self) -> DiagonalGaussian:
        """p(z) = N(0, I)."""
        return DiagonalGaussian(self.origin, torch.ones_like(self.origin), validate_args=False)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z | x) for sentences (B, T)."""
        x = x.long()
        if not self.dim:
            nothing = self.origin.expand(len(x), 0)
            return DiagonalGaussian(nothing, nothing, validate_args=False)
        states, _ = self.read(self.embed(x))
        last = states[torch.arange(len(x), device=x.device), _counts(x).sum(-1) - 1]
        mean, log_scale = self.head(last).chunk(2, -1)
        return DiagonalGaussian(mean, log_scale.exp(), validate_args=False)

    def decode(self, z: Tensor) -> Sentences:
        """p(x | z) for z (..., B, d)."""
        return Sentences(self, z)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) in nats: (B, T) and (..., B, d) give (..., B)."""
        return self.prior().log_prob(z) + self.decode(z).log_prob(x)

    def predict(self, seen: Tensor, z: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) of the next word after each of the words seen (B, T), for z (B, d); and the state (1, B, width)."""
        words = self.embed(seen)
        if self.dim:
            words = torch.cat([words, z.unsqueeze(1).expand(-1, seen.shape[1], -1)], -1)
            state = torch.tanh(self.first(z)).unsqueeze(0) if state is None else state
        states, state = self.write(words, state)
        return self.output(states), state


class Text(NamedTuple):
    """Sentences as rows of word numbers (N, T), split in two, and the words by number."""

    train: Tensor
    test: Tensor
    vocabulary: list[str]

    def words(self, x: Tensor) -> str:
        """A sentence (T,) as words."""
        kept = x[_counts(x[None])[0]].tolist()
        return " ".join(self.vocabulary[i] for i in kept if i != END)


def number(sentences: Sequence[Sequence[str]], num_words: int, *, unknown: bool, seed: int = 0) -> Text:
    """Distinct sentences as numbers: the `num_words` most frequent words, four fifths of the sentences to train on.

    Args:
        unknown: keep sentences with rarer words, each as UNKNOWN; else leave these sentences out.
    """
    distinct = sorted({tuple(sentence) for sentence in sentences})
    frequency = Counter(word for sentence in distinct for word in sentence)
    ranked = sorted(frequency, key=lambda word: (-frequency[word], word))[:num_words]
    place = {word: i for i, word in enumerate(ranked, start=2)}
    if not unknown:
        distinct = [sentence for sentence in distinct if all(word in place for word in sentence)]
    x = torch.zeros(len(distinct), max(map(len, distinct)) + 1, dtype=torch.long)
    for row, sentence in zip(x, distinct):
        row[:len(sentence)] = torch.tensor([place.get(word, UNKNOWN) for word in sentence])
    x = x[torch.randperm(len(x), generator=generator(seed))]
    cut = 4 * len(x) // 5
    return Text(x[:cut], x[cut:], ["<end>", "<unknown>", *ranked])


@lru_cache
def character_names(num_words: int = 200) -> Text:
    """Names of characters, as "greek small letter alpha with tonos": three to seven words each, from Unicode 3.2.

    Every Python brings them along, and that version is frozen since 2002, so they are the same everywhere.

    Source: The Unicode Consortium (2002), version 3.2, `unicodedata.ucd_3_2_0`.
    """
    found = (unicodedata.ucd_3_2_0.name(chr(code), "").lower() for code in range(0x30000))
    names = [name.split() for name in found if name and not name.startswith(("cjk", "hangul syllable"))]
    return number([name for name in names if 3 <= len(name) <= 7], num_words, unknown=False)


@lru_cache
def novel(num_words: int = 500) -> Text:
    """Sentences of 3 to 14 words from *Three Men in a Boat*: lower case, marks of punctuation are words, rare words UNKNOWN.

    Source: Jerome (1889), as `tightbound.data.three_men` brings it.
    """
    sentences = [re.findall(r"[a-z]+(?:'[a-z]+)?|[.,;:?!]", sentence.lower())
                 for _, paragraph in three_men() for sentence in re.split(r"(?<=[.!?])[\"']?\s+", paragraph)]
    return number([sentence for sentence in sentences if 3 <= len(sentence) <= 14], num_words, unknown=True)


# Networks for pictures ----------------------------------------------------------------------------------------------------

def dense_vae(dim: int, *, size: int = 64, width: int = 128, likelihood: nn.Module | None = None, seed: int = 0) -> VAE:
    """A VAE of two dense networks with one hidden layer of tanh units each; Bernoulli pixels unless another likelihood."""
    likelihood = likelihood or Bernoulli()
    with _seeded(seed):
        decoder = nn.Sequential(mlp(dim, width), nn.Linear(width, size * likelihood.size))
        return VAE(DiagonalEncoder(mlp(size, width), width, dim), decoder, likelihood, dim)


def convolutional_vae(dim: int, *, channels: int = 16, seed: int = 0) -> VAE:
    """A VAE of 8x8 pixels with two strided convolutions each way, shaped like DCGAN's.

    Source: Radford, Metz & Chintala (2016), Unsupervised representation learning with deep convolutional GANs.
    """
    with _seeded(seed):
        c = channels
        down = nn.Sequential(nn.Unflatten(-1, (1, 8, 8)), nn.Conv2d(1, c, 4, 2, 1), nn.ELU(),
                             nn.Conv2d(c, 2 * c, 4, 2, 1), nn.ELU(), nn.Flatten(-3))
        up = nn.Sequential(nn.Linear(dim, 8 * c), nn.ELU(), Folded(nn.Sequential(
            nn.Unflatten(-1, (2 * c, 2, 2)), nn.ConvTranspose2d(2 * c, c, 4, 2, 1), nn.ELU(),
            nn.ConvTranspose2d(c, 1, 4, 2, 1), nn.Flatten(-3))))
        return VAE(DiagonalEncoder(down, 8 * c, dim), up, Bernoulli(), dim)


class Folded(nn.Module):
    """Calls a network that takes one batch axis with any number of them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


# Data of known dimension --------------------------------------------------------------------------------------------------

def curved(dim: int, num_data: int = 2000, *, size: int = 20, noise: float = 0.1, circle: bool = False,
           seed: int | torch.Generator = 0) -> Tensor:
    """Points on a curved sheet of `dim` dimensions in `size` of them, with Gaussian noise of variance `noise`: (num_data, size)::

        x = A_2 tanh(0.4 A_1 u + a) + noise^(1/2) eps,    u ~ N(0, I) of `dim` dimensions, or a point (cos, sin) of a circle

    Args:
        circle: u lies on a circle of radius 1.4, which has one dimension but fits into no line.

    Raises:
        ValueError: for a circle of more than one dimension.
    """
    if circle and dim != 1:
        raise ValueError(f"a circle has one dimension, got dim={dim}")
    stream, width = generator(seed), 3 * size

    def noise_of(*shape):
        return torch.randn(*shape, generator=stream)

    u = noise_of(num_data, count("dim", dim, least=1) + circle)
    u = 1.4 * F.normalize(u, dim=-1) if circle else u
    first, offset = 0.4 * noise_of(u.shape[-1], width), 0.5 * noise_of(width)
    second = 1.25 * noise_of(width, size) / math.sqrt(width / 4)
    return torch.tanh(u @ first + offset) @ second + math.sqrt(positive("noise", noise)) * noise_of(num_data, size)


def two_modes(num_data: int = 2000, *, seed: int | torch.Generator = 0) -> Tensor:
    """Numbers from 0.3 N(-4, 1/4) + 0.7 N(4, 1/4): (num_data, 1)."""
    stream = generator(seed)
    left = torch.rand(num_data, 1, generator=stream) < 0.3
    return torch.where(left, -4.0, 4.0) + 0.5 * torch.randn(num_data, 1, generator=stream)


def two_modes_log_prob(x: Tensor) -> Tensor:
    """The log density of `two_modes` in nats: (N, 1) gives (N,)."""
    parts = [math.log(weight) - 2 * (x - centre).square() for weight, centre in ((0.3, -4.0), (0.7, 4.0))]
    return torch.logaddexp(*parts).squeeze(-1) - math.log(0.5) - 0.5 * math.log(2 * math.pi)


# Another road: adversarial training -----------------------------------------------------------------------------------------

class GAN(NamedTuple):
    """A generator, z (n, 1) to x (n, 1), the discriminator's logit, and the two losses of every step (steps, 2) in nats."""

    generator: nn.Module
    discriminator: nn.Module
    history: Tensor

    def sample(self, num_samples: int, *, seed: int | torch.Generator = 0) -> Tensor:
        """Draws x = G(z), z ~ N(0, 1): (num_samples, 1). There is no density to go with them."""
        with torch.no_grad():
            return self.generator(torch.randn(num_samples, 1, generator=generator(seed)))


def fit_gan(data: Tensor, *, num_steps: int = 2000, batch_size: int = 128, width: int = 32, learning_rate: float = 1e-3,
            seed: int = 0) -> GAN:
    """Plays the game of Goodfellow et al., with the generator's non-saturating loss::

        D ascends  E_data[log D(x)] + E_z[log(1 - D(G(z)))],      G ascends  E_z[log D(G(z))]         (nats)

    For the best D the first is 2 JS(data || G) - 2 log 2, with JS the Jensen-Shannon divergence.

    Args:
        data: (N, 1).

    Source: Goodfellow et al. (2014), Generative adversarial nets.
    """
    stream = generator(seed)
    with _seeded(seed):
        make, judge = (nn.Sequential(mlp(1, width, width), nn.Linear(width, 1)) for _ in range(2))
    players = [torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.5, 0.999)) for net in (judge, make)]
    history = torch.zeros(num_steps, 2)
    for step in range(num_steps):
        real_x = data[torch.randint(len(data), (batch_size,), generator=stream)]
        fake = make(torch.randn(batch_size, 1, generator=stream))
        losses = (lambda: F.softplus(-judge(real_x)).mean() + F.softplus(judge(fake.detach())).mean(),
                  lambda: F.softplus(-judge(fake)).mean())
        for turn, (player, loss) in enumerate(zip(players, losses)):
            value = loss()
            player.zero_grad()
            value.backward()
            player.step()
            history[step, turn] = value.detach()
    return GAN(make, judge, history)


def game_value(real_density: Tensor, fake_density: Tensor, cell: float) -> tuple[Tensor, float]:
    """The best discriminator against two densities on a grid with cells of that size, and the value of the game in nats.

    ::

        D*(x) = p(x) / (p(x) + g(x)),     E_p[log D*] + E_g[log(1 - D*)] = 2 JS(p || g) - 2 log 2
    """
    total = real_density + fake_density
    best = real_density / total
    value = cell * (torch.xlogy(real_density, best) + torch.xlogy(fake_density, fake_density / total)).sum()
    return best, float(value)


# Ten seeds ------------------------------------------------------------------------------------------------------------------

@lru_cache
def results() -> dict:
    """What ``python benchmarks/seeds/vae_practice.py`` found over ten seeds, with its machine and its time."""
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


class _seeded:
    """Inside, torch's global stream starts at `seed`, for layers draw their first weights from it; outside it is as it was."""

    def __init__(self, seed: int):
        self.seed = seed

    def __enter__(self):
        self.state = torch.random.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *_):
        torch.random.set_rng_state(self.state)
