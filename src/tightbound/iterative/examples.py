"""Models on which the claims about inference can be held against exact answers."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tightbound import vae
from tightbound.arguments import count, positive
from tightbound.device import generator, seeded
from tightbound.distributions import DiagonalGaussian
from tightbound.iterative.rules import Learned
from tightbound.problem import Problem
from tightbound.problems import bayesian
from tightbound.vae_practice import END, FixedNoise, SentenceVAE

HERE = Path(__file__).parent


# Estimation by errors, where it is exact -----------------------------------------------------------------------------------

class LinearPosterior(NamedTuple):
    """N(mean, covariance), and the gain that makes the mean out of the data's error."""

    mean: Tensor
    covariance: Tensor
    gain: Tensor


def linear_gaussian_posterior(A: Tensor, x: Tensor, noise: Tensor | float,
                              prior_covariance: Tensor | None = None) -> LinearPosterior:
    """The posterior of z ~ N(0, C) from x = A z + e, e ~ N(0, noise): Wiener's estimate, a gain times an error::

        mean = K (x - A 0),    K = C A' (A C A' + noise)^-1,    covariance = C - K A C

    Args:
        A: the forward model, (D, d).
        x: what was seen, (D,) or (B, D).
        noise: a variance, or one a pixel (D,).
        prior_covariance: C, (d, d); the identity if left out.

    Source: Wiener (1949), Extrapolation, interpolation and smoothing of stationary time series.
    """
    if A.ndim != 2 or x.shape[-1] != len(A):
        raise ValueError(f"a forward model A (D, d) and data (..., D) must agree, got {tuple(A.shape)} and {tuple(x.shape)}")
    C = torch.eye(A.shape[1], dtype=A.dtype, device=A.device) if prior_covariance is None else prior_covariance
    noise = torch.as_tensor(noise, dtype=A.dtype, device=A.device).expand(len(A))
    gain = torch.linalg.solve(A @ C @ A.mT + noise.diag(), A @ C).mT
    return LinearPosterior(x @ gain.mT, C - gain @ A @ C, gain)


class Filtered(NamedTuple):
    """What a Kalman filter knows of the level at each time, (T,) each: before and after the datum was seen, and its error."""

    predicted: Tensor
    predicted_variance: Tensor
    mean: Tensor
    variance: Tensor
    error: Tensor
    gain: Tensor


def kalman(y: Tensor, *, walk: float, noise: float, mean: float = 0.0, variance: float = 1e7) -> Filtered:
    """The level of a random walk seen in noise, one datum after the other: prediction, error, gain::

        z_t = z_{t-1} + N(0, walk),   y_t = z_t + N(0, noise)
        error = y_t - m,   K = P / (P + noise),   m <- m + K error,   P <- (1 - K) P,   then P <- P + walk

    Args:
        y: (T,).
        walk, noise: variances.
        mean, variance: of the level before the first datum.

    Source: Kalman (1960); Durbin & Koopman (2012), chapter 2.
    """
    walk, noise = positive("walk", walk), positive("noise", noise)
    if y.ndim != 1 or not bool(torch.isfinite(y).all()):
        raise ValueError(f"the filter takes finite numbers in a row (T,), got shape {tuple(y.shape)}")
    m, P, rows = float(mean), positive("variance", variance), []
    for datum in y.tolist():
        error, K = datum - m, P / (P + noise)
        rows.append((m, P, m + K * error, (1 - K) * P, error, K))
        m, P = m + K * error, (1 - K) * P + walk
    return Filtered(*torch.tensor(rows, dtype=torch.float64).T)


def two_level_gaps(upper: float = 0.5, lower: float = 0.5) -> dict[str, float]:
    """What three kinds of q miss on two linear levels, each at its best, in nats::

        z_2 ~ N(0, 1),    z_1 | z_2 ~ N(z_2, upper),    x | z_1 ~ N(z_1, lower)

        q(z_1 | x) q(z_2 | z_1) and q(z_2 | x) q(z_1 | z_2, x):   0, for both are the exact posterior written down
        q(z_1 | x) q(z_2 | x):   -1/2 log(1 - rho^2), with rho the posterior's correlation

    Both `upper` and `lower` are variances.
    """
    upper, lower = positive("upper", upper), positive("lower", lower)
    precision = torch.tensor([[1 / upper + 1 / lower, -1 / upper], [-1 / upper, 1 + 1 / upper]], dtype=torch.float64)
    squared = float(precision[0, 1] ** 2 / (precision[0, 0] * precision[1, 1]))
    return {"bottom-up, z_2 sees z_1": 0.0, "top-down, z_1 sees z_2 and x": 0.0,
            "each level sees x alone": -0.5 * math.log1p(-squared)}


# Several answers, equally good ---------------------------------------------------------------------------------------------

class Absolute(nn.Module):
    """The absolute value of z."""

    def forward(self, z: Tensor) -> Tensor:
        return z.abs()


def folded_vae(noise: float = 0.1, *, width: int = 32, seed: int = 0) -> vae.VAE:
    """A model with two answers to every x, and an encoder that has to give one.

    It is ``x = |z| + e`` with z ~ N(0, 1) and e ~ N(0, noise).
    """
    with seeded(seed):
        return vae.VAE(vae.DiagonalEncoder(vae.mlp(1, width, width), width, 1), Absolute(), FixedNoise(noise), 1)


def folded_bound(x, mean, log_scale, noise: float = 0.1):
    """The bound of q = N(m, s^2) for `folded_vae` in closed form, elementwise, in nats::

        E|z| = m erf(m / (s 2^(1/2))) + s (2/pi)^(1/2) exp(-m^2 / (2 s^2))
        L    = -(x^2 - 2 x E|z| + m^2 + s^2) / (2 noise) - 1/2 log(2 pi noise) - (m^2 + s^2) / 2 + log s + 1/2

    Its arguments are broadcast against each other, and taken to double precision.
    """
    x, mean, log_scale = (torch.as_tensor(value, dtype=torch.float64) for value in (x, mean, log_scale))
    scale = log_scale.exp()
    ratio = mean / scale
    absolute = mean * torch.erf(ratio / math.sqrt(2)) + scale * math.sqrt(2 / math.pi) * torch.exp(-ratio**2 / 2)
    square = mean**2 + scale**2
    return (-(x**2 - 2 * x * absolute + square) / (2 * noise) - 0.5 * math.log(2 * math.pi * noise)
            - square / 2 + log_scale + 0.5)


class Scene(nn.Module):
    """A picture of two equal objects that stand at a and at -a: z = a (..., 2) to size * size pixels.

    Each object is a bump, ``exp(-distance^2 / (2 width^2))`` at each pixel. Which object is which, no picture can tell; and as
    a goes half around the origin the two change places, so that no continuous function of the picture can name one of them.
    """

    def __init__(self, size: int = 8, width: float = 0.6, half: float = 2.5):
        super().__init__()
        axis = torch.linspace(-half, half, count("size", size, least=2))
        self.register_buffer("pixels", torch.cartesian_prod(axis, axis))      # (D, 2): x, then y
        self.width = positive("width", width)

    def forward(self, a: Tensor) -> Tensor:
        squares = [(a.unsqueeze(-2) * sign - self.pixels).square().sum(-1) for sign in (1, -1)]
        return sum(torch.exp(-square / (2 * self.width**2)) for square in squares)


def scene_vae(noise: float = 0.2, *, size: int = 8, width: int = 64, seed: int = 0) -> vae.VAE:
    """Pictures of two equal objects at a and -a with noise, a ~ N(0, I), and a direct encoder beside them."""
    with seeded(seed):
        encoder = vae.DiagonalEncoder(vae.mlp(size * size, width, width), width, 2)
        return vae.VAE(encoder, Scene(size), FixedNoise(noise), 2)


def simulate(model: vae.VAE, num_data: int, *, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor]:
    """Data (N, D) that a model with normal noise of a fixed scale makes up, and the latents (N, d) behind them."""
    stream = generator(seed)
    with torch.no_grad():
        z = torch.randn(num_data, model.dim, generator=stream)
        q = model.decode(z)
        return q.mean + q.stddev * torch.randn(q.mean.shape, generator=stream), z


# A data set as one datum ---------------------------------------------------------------------------------------------------

class Schools(nn.Module):
    """Eight schools as a model whose "image" is a whole data set y, with z = (mu / 5, log(tau / 5)), both of size one.

    `log_joint` is that of `problems.eight_schools` in the plane, for many y at once, but for the change of the coordinate mu::

        y_j ~ N(mu, sigma_j^2 + tau^2),    mu ~ N(0, 5^2),    tau ~ half-Cauchy(0, 5)
    """

    dim = 2

    def __init__(self):
        super().__init__()
        self.register_buffer("sigma", torch.tensor(bayesian.EIGHT_SCHOOLS_SIGMA, dtype=torch.float32))

    def prior(self) -> DiagonalGaussian:
        """A normal where searches may start; not the prior of tau."""
        return DiagonalGaussian(self.sigma.new_zeros(2), self.sigma.new_ones(2), validate_args=False)

    def log_joint(self, y: Tensor, z: Tensor) -> Tensor:
        """log p(y, z) in nats: (B, 8) and (..., B, 2) give (..., B)."""
        m, t = z.unbind(-1)
        tau_squared = 25 * (2 * t).exp()
        prior = -0.5 * m**2 - 0.5 * math.log(2 * math.pi) + t - torch.log1p(tau_squared / 25) + math.log(2 / math.pi)
        return prior + bayesian._sum_log_normal(y - 5 * m.unsqueeze(-1), self.sigma**2 + tau_squared.unsqueeze(-1))

    def simulate(self, num_data: int, *, seed: int | torch.Generator = 0) -> Tensor:
        """Data sets from the prior, (N, 8), tau up to 50 (that leaves out a sixteenth of its tail)."""
        stream = generator(seed)
        mu = 5 * torch.randn(num_data, 1, generator=stream)
        most = 2 / math.pi * math.atan(10)
        tau = 5 * torch.tan(math.pi / 2 * most * torch.rand(num_data, 1, generator=stream))
        return mu + (self.sigma**2 + tau**2).sqrt() * torch.randn(num_data, 8, generator=stream)

    def log_evidence(self, y: Tensor) -> Tensor:
        """log p(y) of each data set (B, 8), by quadrature, in nats: (B,)."""
        return torch.tensor([bayesian._eight_schools_evidence(tuple(row)) for row in y.double().tolist()], dtype=torch.float64)

    def problem(self, y: Tensor) -> Problem:
        """The posterior of one data set y (8,) as a `Problem`, its log evidence exact."""
        model, y = vae.evaluate.frozen(self, torch.float64), y.double()
        return Problem(lambda z: model.log_joint(y, z), 2, name="eight schools", latents=["mu / 5", "log(tau / 5)"],
                       log_evidence=float(self.log_evidence(y[None])[0]))


def schools_encoder(*, width: int = 64, seed: int = 0) -> vae.DiagonalEncoder:
    """A direct encoder from eight effects, shrunk by asinh(y / 10), to q(z | y)."""
    with seeded(seed):
        return vae.DiagonalEncoder(nn.Sequential(Shrunk(), *vae.mlp(8, width, width)), width, 2)


class Shrunk(nn.Module):
    """asinh(y / 10): a line for small y, a logarithm for large."""

    def forward(self, y: Tensor) -> Tensor:
        return torch.asinh(y / 10)


# Sequences with one number behind them -------------------------------------------------------------------------------------

def sequences(num_data: int = 1000, *, num_words: int = 20, length: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of words (N, length + 1) from a recurrent network with random weights and one latent z ~ N(0, 1); and z (N,).

    They are the synthetic data of He et al. in small: the network that made them is a `SentenceVAE`, so a model of that kind
    can learn them; the last word is END.

    Source: He, Spokoyny, Neubig & Berg-Kirkpatrick (2019), section 3; Kim et al. (2018), section 4.1.
    """
    oracle, stream = SentenceVAE(num_words, 1, seed=seed), generator(seed)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.uniform_(-1, 1, generator=stream)
        z = torch.randn(count("num_data", num_data, least=1), 1, generator=stream)
        word, state, rows = torch.full((num_data, 1), oracle.start), None, []
        for _ in range(length):
            logits, state = oracle.predict(word, z, state)
            word = torch.multinomial(logits[:, 0, 1:].softmax(-1), 1, generator=stream) + 1
            rows.append(word)
    return torch.cat([*rows, torch.full((num_data, 1), END)], -1), z[:, 0]


def posterior_mean(model, x: Tensor, *, half: float = 6.0, num_points: int = 61) -> Tensor:
    """E[z | x] of each row, exact up to a grid of the one latent, (N,)."""
    if model.dim != 1:
        raise ValueError(f"the grid is for one latent, this model has {model.dim}")
    z = torch.linspace(-half, half, num_points, device=x.device)[:, None, None]
    with torch.no_grad():
        parts = [model.log_joint(part, z.expand(-1, len(part), 1)) for part in x.split(500)]
        return torch.cat([(part.softmax(0) * z[..., 0]).sum(0) for part in parts])


def sentence_vae(num_words: int = 20, *, seed: int = 0) -> tuple[SentenceVAE, list[nn.Module]]:
    """A small model for `sequences`, and those of its parts that are the generative model's, which `aggressive` lets wait."""
    model = SentenceVAE(num_words, 1, width=32, embedding=12, seed=seed)
    return model, [model.embed, model.write, model.output, model.first]


# Ready made ----------------------------------------------------------------------------------------------------------------

def two_latents_rule() -> Learned:
    """An inference model for `vae.two_latents`, trained from scattered starts; it sees lambda and the gradient alone."""
    return vae.ready.load(Learned(2), HERE / "two_latents_rule.pt").eval()


@lru_cache
def results() -> dict:
    """What ``python benchmarks/seeds/iterative.py`` found over ten seeds, with its machine and its time."""
    return json.loads((HERE / "results.json").read_text(encoding="utf-8"))
