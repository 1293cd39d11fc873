"""What we want to know: questions as integrals, one model that answers them exactly, and a grid for all others.

A generative model is a joint density p(x, z) of what is observed, x, and what is not, z. To answer a question is to
add up over z::

    p(x)        = ∫ p(x | z) p(z) dz                 (the evidence)
    p(z | x)    = p(x | z) p(z) / p(x)               (Bayes' rule)
    p(x* | x)   = ∫ p(x* | z) p(z | x) dz = p(x, x*) / p(x)

`LinearGaussian` does these integrals by linear algebra, `Mixture` and `NGram` by finite sums, and `approximate` puts a
grid over z: k points a side, k^d in d dimensions, which is why the book has more chapters.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, constraints

from tightbound.approximation import Approximation, log_mean_exp
from tightbound.arguments import count, positive
from tightbound.device import generator
from tightbound.distributions import Gaussian
from tightbound.estimate import Estimate
from tightbound.exact import find_box
from tightbound.problem import Problem

LOG_2PI = math.log(2 * math.pi)
Seed = int | torch.Generator


# ---- one model, exact to the last digit --------------------------------------------------------------------

class LinearGaussian:
    """Gaussian latents, seen through a linear map and Gaussian noise::

        z ~ N(m, S),      x | z ~ N(A z + b, D),      D = diag(noise_variance)

    With A a design matrix it is regression, with A a matrix of loadings the linear factor model, and with A rows of a
    Fourier transform an inverse problem. With S = L L' and B = D^-1/2 A L (the map in units of prior and noise)::

        p(x)      = N(x; A m + b, A S A' + D)
        p(z | x)  = N(z; m + L M^-1 B' D^-1/2 (x - A m - b), L M^-1 L'),      M = I + B'B

    Today's posterior is tomorrow's prior: ``LinearGaussian(A_new, ..., prior=model.posterior(x)).marginal()`` predicts new
    observations.

    Args:
        A: (n, d), a row for each observation.
        noise_variance: a number, or one for each observation (n,).
        offset: b, (n,); zero if left out.
        prior: N(m, S) over z, any `MultivariateNormal` of event shape (d,); the standard normal if left out.

    Raises:
        ValueError: for an A that is no finite matrix, a noise variance not above zero, or sizes that do not fit.

    Source: Bishop (2006), section 2.3.3.
    """

    def __init__(self, A: Tensor, noise_variance: Tensor | float = 1.0, *, offset: Tensor | None = None,
                 prior: MultivariateNormal | None = None):
        self.A = _finite("A", A)
        if self.A.ndim != 2 or 0 in self.A.shape:
            raise ValueError(f"A must be a matrix (n, d), a row for each observation, got shape {tuple(self.A.shape)}")
        n, d = self.A.shape
        self.noise_variance = _vector("noise_variance", noise_variance, n)
        if not bool((self.noise_variance > 0).all()):
            raise ValueError("noise_variance must be above zero: without noise the density of x is no density")
        self.offset = _vector("offset", 0.0 if offset is None else offset, n)
        prior = prior or Gaussian(torch.zeros(d, dtype=torch.float64), scale_tril=torch.eye(d, dtype=torch.float64))
        if not isinstance(prior, MultivariateNormal) or tuple(prior.loc.shape) != (d,):
            raise ValueError(f"prior must be one MultivariateNormal over {d} latents, got {prior}")
        self.prior = prior

    def sample(self, sample_shape=(), *, seed: Seed = 0) -> tuple[Tensor, Tensor]:
        """Ancestral sampling, first the cause and then the effect: z (..., d) and x (..., n)."""
        stream = generator(seed)
        shape = torch.Size(sample_shape)
        eps = torch.randn(shape + self.prior.loc.shape, generator=stream, dtype=torch.float64)
        z = self.prior.loc + eps @ self.prior.scale_tril.T
        noise = torch.randn(shape + self.offset.shape, generator=stream, dtype=torch.float64)
        return z, self.mean(z) + self.noise_variance.sqrt() * noise

    def mean(self, z: Tensor) -> Tensor:
        """A z + b: (..., d) -> (..., n)."""
        return z @ self.A.T + self.offset

    def log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x | z) = log N(x; A z + b, D) in nats: (..., d), (..., n) -> (...)."""
        residual = self._observations(x) - self.mean(z)
        return -0.5 * (residual**2 / self.noise_variance + self.noise_variance.log() + LOG_2PI).sum(-1)

    def log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(x, z) = log p(z) + log p(x | z) in nats: (..., d), (..., n) -> (...)."""
        return self.prior.log_prob(z) + self.log_likelihood(z, x)

    def marginal(self) -> Gaussian:
        """p(x) = N(x; A m + b, A S A' + D), the density of the data."""
        AL = self.A @ self.prior.scale_tril
        covariance = AL @ AL.T + torch.diag(self.noise_variance)
        mean = self.mean(self.prior.loc)
        return Gaussian(mean, covariance_matrix=covariance)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) in nats: (..., n) -> (...)."""
        return self.marginal().log_prob(self._observations(x))

    def posterior(self, x: Tensor) -> Gaussian:
        """p(z | x), a `Gaussian`; data sets side by side (..., n) make a batch of them."""
        B, L = self._whitened(), self.prior.scale_tril
        residual = (self._observations(x) - self.mean(self.prior.loc)) / self.noise_variance.sqrt()
        root = torch.linalg.cholesky(self._gain_matrix(B))
        mean = self.prior.loc + torch.cholesky_solve(B.T @ residual.unsqueeze(-1), root).squeeze(-1) @ L.T
        half = torch.linalg.solve_triangular(root, L.T, upper=False)  # S after x = half' half
        return Gaussian(mean, covariance_matrix=half.T @ half)

    def information_gain(self) -> float:
        """What the observations tell about z on average, in nats: the mutual information of x and z::

            EIG = E_x KL(p(z | x) || p(z)) = 1/2 log det(I + B'B) = 1/2 log det(I + D^-1/2 A S A' D^-1/2)

        Source: Lindley (1956).
        """
        return 0.5 * float(torch.logdet(self._gain_matrix(self._whitened())))

    def rows(self, index: Tensor) -> LinearGaussian:
        """The same latents, seen through some of the observations only (a list of indices, or a mask)."""
        return LinearGaussian(self.A[index], self.noise_variance[index], offset=self.offset[index], prior=self.prior)

    def problem(self, x: Tensor, name: str = "linear Gaussian") -> Problem:
        """The question "what is z, given this x?" as a `Problem` whose log evidence is known."""
        x = self._observations(x)
        if x.ndim != 1:
            raise ValueError(f"a problem has one data set, of shape ({len(self.offset)},), got {tuple(x.shape)}")
        return Problem(lambda z: self.log_joint(z, x), self.A.shape[1], name=name,
                       log_evidence=Estimate(self.log_evidence(x), "exact", source="Gaussian integral"))

    def _whitened(self) -> Tensor:
        return self.A @ self.prior.scale_tril / self.noise_variance.sqrt().unsqueeze(-1)

    @staticmethod
    def _gain_matrix(B: Tensor) -> Tensor:
        return torch.eye(B.shape[1], dtype=B.dtype) + B.T @ B

    def _observations(self, x: Tensor) -> Tensor:
        x = _finite("x", x)
        if x.shape[-1:] != self.offset.shape:
            raise ValueError(f"expected observations of shape (..., {len(self.offset)}), got {tuple(x.shape)}: "
                             "`rows` makes the model of those that there are")
        return x


def _finite(name: str, value) -> Tensor:
    value = torch.as_tensor(value, dtype=torch.float64)
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite, but holds NaN or infinity: leave out what was not observed, with `rows`")
    return value


def _vector(name: str, value, size: int) -> Tensor:
    value = _finite(name, value)
    if tuple(value.shape) not in ((), (size,)):
        raise ValueError(f"{name} must be a number or a vector of {size}, one an observation, got shape {tuple(value.shape)}")
    return value.expand(size)


def nested_monte_carlo(model: LinearGaussian, num_outer: int = 1000, num_inner: int = 100, *, seed: Seed = 0) -> Estimate:
    """The expected information gain of an experiment by sampling alone, in nats::

        z_n, x_n ~ p(z) p(x | z),    z_nm ~ p(z)
        EIG ≈ 1/N sum_n [ log p(x_n | z_n) - log 1/M sum_m p(x_n | z_nm) ]

    It asks no more of a model than `sample` and `log_likelihood`. The logarithm of the inner average lies below
    log p(x_n) in expectation (Jensen), so the estimate is an upper bound in expectation, which falls to the EIG as M grows.

    Args:
        num_outer, num_inner: N and M.

    Raises:
        ValueError: for fewer than two outer samples, or no inner ones.

    Source: Ryan (2003); Rainforth, Cornish, Yang, Warrington & Wood (2018).
    """
    count("num_outer", num_outer, least=2), count("num_inner", num_inner, least=1)
    stream, gains = generator(seed), []
    for size in _pieces(num_outer, max(1, 500_000 // num_inner)):  # keeps memory small
        z, x = model.sample((size,), seed=stream)
        inner, _ = model.sample((num_inner, size), seed=stream)
        log_marginal = log_mean_exp(model.log_likelihood(inner, x).movedim(0, -1))
        gains.append(model.log_likelihood(z, x) - log_marginal)
    gains = torch.cat(gains)
    return Estimate(gains.mean(), "upper bound", standard_error=gains.std() / math.sqrt(num_outer),
                    source="nested Monte Carlo")


def _pieces(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def factor_model(X: Tensor, num_factors: int = 2) -> LinearGaussian:
    """The linear factor model with one noise variance, fitted to the rows of X (N, D) by maximum likelihood::

        x = W z + mean + noise,    z ~ N(0, I_q),    noise ~ N(0, s^2 I)
        s^2 = mean of the D - q smallest eigenvalues l of the covariance of X,    W = U_q diag(l_q - s^2)^1/2

    Raises:
        ValueError: for data that are no finite matrix, a number of factors not from 1 to D - 1, or data without noise.

    Source: Tipping & Bishop (1999), Probabilistic principal component analysis.
    """
    X = _finite("X", X)
    if X.ndim != 2 or min(X.shape) < 2:
        raise ValueError(f"X must be a matrix (N, D) of at least two rows and two columns, got shape {tuple(X.shape)}")
    q = count("num_factors", num_factors, least=1, most=X.shape[1] - 1)
    values, vectors = torch.linalg.eigh(torch.cov(X.T, correction=0))  # from small to large
    noise = values[:-q].mean()
    if noise <= 1e-12 * values[-1]:
        raise ValueError(f"{q} factors explain all of X and leave no noise: take fewer factors, or more data")
    W = vectors[:, -q:].flip(-1) * (values[-q:].flip(-1) - noise).clamp(min=0).sqrt()
    return LinearGaussian(W, noise, offset=X.mean(0))


def fourier_rows(num_pixels: int, frequencies: Tensor) -> Tensor:
    """Rows of A that measure a square picture of num_pixels^2 pixels at m frequencies (u, v), cycles a picture::

        sum_ij cos(2 pi (u x_i + v y_j)) z_ij / num_pixels,    and the same with sin:    (2 m, num_pixels^2)

    Raises:
        ValueError: for frequencies that are no finite tensor of shape (m, 2), or fewer than two pixels a side.
    """
    frequencies = _finite("frequencies", frequencies)
    if frequencies.ndim != 2 or frequencies.shape[1] != 2:
        raise ValueError(f"frequencies must have shape (m, 2), got {tuple(frequencies.shape)}")
    place = torch.arange(count("num_pixels", num_pixels, least=2), dtype=torch.float64) / num_pixels - 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    phase = 2 * math.pi * frequencies @ torch.stack([x.flatten(), y.flatten()])
    return torch.cat([phase.cos(), phase.sin()]) / num_pixels


def smooth_prior(num_pixels: int, mean: float = 0.0, scale: float = 1.0, length: float = 0.1) -> Gaussian:
    """Pictures in which near pixels are alike: a Gaussian over num_pixels^2 pixels with covariance::

        S_ij = scale^2 (exp(-|r_i - r_j|^2 / (2 length^2)) + 1e-4 [i = j]),     r in widths of the picture

    Raises:
        ValueError: for a scale or length not above zero, or fewer than two pixels a side.
    """
    place = torch.arange(count("num_pixels", num_pixels, least=2), dtype=torch.float64) / num_pixels
    r = torch.cartesian_prod(place, place)
    near = torch.exp(-0.5 * torch.cdist(r, r) ** 2 / positive("length", length) ** 2)
    covariance = positive("scale", scale) ** 2 * (near + 1e-4 * torch.eye(len(r), dtype=torch.float64))
    return Gaussian(torch.full((len(r),), float(mean), dtype=torch.float64), covariance_matrix=covariance)


# ---- latents that can be counted ---------------------------------------------------------------------------

class Mixture:
    """Points that come in clusters, each drawn in two steps::

        z_n ~ Categorical(pi_1, ..., pi_K),      x_n | z_n = k ~ N(mu_k, s_k^2 I)

    Args:
        weights: pi, (K,), positive; they are divided by their sum.
        means: mu, (K, D).
        scales: s, a number or (K,).

    Raises:
        ValueError: for weights or scales not above zero, or sizes that do not fit.
    """

    def __init__(self, weights: Tensor, means: Tensor, scales: Tensor | float = 1.0):
        self.weights, self.means = _finite("weights", weights), _finite("means", means)
        if self.weights.ndim != 1 or self.means.ndim != 2 or len(self.weights) != len(self.means):
            raise ValueError("weights must have shape (K,) and means (K, D), got "
                             f"{tuple(self.weights.shape)} and {tuple(self.means.shape)}")
        self.scales = _vector("scales", scales, len(self.weights))
        if not bool((self.weights > 0).all() and (self.scales > 0).all()):
            raise ValueError("weights and scales must be above zero")
        self.weights = self.weights / self.weights.sum()

    def sample(self, num_data: int, *, seed: Seed = 0) -> tuple[Tensor, Tensor]:
        """Ancestral sampling: clusters z (N,), integers from 0, and points x (N, D)."""
        stream = generator(seed)
        z = torch.multinomial(self.weights, count("num_data", num_data, least=1), replacement=True, generator=stream)
        noise = torch.randn(len(z), self.means.shape[1], generator=stream, dtype=torch.float64)
        return z, self.means[z] + self.scales[z].unsqueeze(-1) * noise

    def log_components(self, x: Tensor) -> Tensor:
        """log pi_k + log N(x_n; mu_k, s_k^2 I) in nats, the N K terms from which all else is made: (N, D) -> (N, K)."""
        x = _finite("x", x)
        if x.shape[-1:] != self.means.shape[-1:]:
            raise ValueError(f"expected points of shape (N, {self.means.shape[1]}), got {tuple(x.shape)}")
        distance = (x.unsqueeze(-2) - self.means).square().sum(-1)
        return (self.weights.log() - 0.5 * distance / self.scales**2
                - self.means.shape[1] * (self.scales.log() + 0.5 * LOG_2PI))

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) = sum_n log (pi_k N(x_n; mu_k, s_k^2 I)) at k = z_n, in nats: (N, D), (..., N) -> (...)."""
        terms = self.log_components(x)
        return terms[torch.arange(len(x)), z].sum(-1)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) = sum_n log sum_k pi_k N(x_n; mu_k, s_k^2 I) in nats: the sum over all K^N assignments, by N K terms."""
        return self.log_components(x).logsumexp(-1).sum(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(z_n = k | x_n), by Bayes' rule: (N, K)."""
        return self.log_components(x).softmax(-1)


class NGram:
    """A language model by the chain rule: the next letter depends on the n - 1 before it::

        p(x) = prod_t p(x_t | x_{t-n+1}, ..., x_{t-1}),      p(. | context) ~ Dirichlet(alpha, ..., alpha)

    The probabilities are latents, integrated out context by context: with c_k the number of times that letter k followed
    a context, C their sum and K the size of the alphabet::

        log p(x) = sum_contexts [ log Γ(K alpha) - log Γ(K alpha + C) + sum_k log Γ(alpha + c_k) - log Γ(alpha) ]

    The first n - 1 letters of a text are taken as given. A text is a tensor of integers from 0 to K - 1.

    Args:
        num_letters: K.
        n: 1 for a unigram, 2 for a bigram, 3 for a trigram.
        concentration: alpha.

    Raises:
        ValueError: for fewer than two letters, n not from 1 to 3, or a concentration not above zero.

    Source: MacKay & Peto (1995), A hierarchical Dirichlet language model.
    """

    def __init__(self, num_letters: int, n: int = 2, concentration: float = 0.1):
        self.num_letters, self.n = count("num_letters", num_letters, least=2), count("n", n, least=1, most=3)
        self.concentration = positive("concentration", concentration)

    def counts(self, text: Tensor) -> Tensor:
        """How often each letter followed each context: (K^(n-1), K)."""
        text = self._text(text)
        windows = text.unfold(0, self.n, 1) if len(text) >= self.n else text.new_zeros(0, self.n)
        places = self.num_letters ** torch.arange(self.n - 1, -1, -1)
        return torch.bincount(windows @ places, minlength=self.num_letters**self.n).reshape(-1, self.num_letters)

    def log_evidence(self, text: Tensor) -> float:
        """log p(text) in nats, the probabilities integrated out."""
        c = self.counts(text).double()
        c, alpha = c[c.sum(-1) > 0], torch.tensor(self.concentration, dtype=torch.float64)  # unseen contexts add zero
        whole = self.num_letters * alpha
        return float((torch.lgamma(whole) - torch.lgamma(whole + c.sum(-1))).sum()
                     + (torch.lgamma(alpha + c) - torch.lgamma(alpha)).sum())

    def log_predictive(self, text: Tensor, given: Tensor) -> float:
        """log p(text | given) in nats, one text after another: a ratio of two evidences, p(given, text) / p(given)."""
        return self.log_evidence(torch.cat([self._text(given), self._text(text)])) - self.log_evidence(given)

    def sample(self, length: int, given: Tensor, *, seed: Seed = 0) -> Tensor:
        """Letters drawn one by one, in the order of the chain rule, from the probabilities expected after `given`.

        They follow on the first n - 1 letters of `given`.

        Raises:
            ValueError: for a `given` of fewer letters than that, or no letter to draw.
        """
        chances = (self.counts(given) + self.concentration).double()
        stream, letters = generator(seed), self._text(given)[: self.n - 1].tolist()
        if len(letters) < self.n - 1:
            raise ValueError(f"given must hold at least {self.n - 1} letters, the first context, got {len(letters)}")
        for _ in range(count("length", length, least=1)):
            context = 0
            for letter in letters[len(letters) - self.n + 1:]:
                context = context * self.num_letters + letter
            letters.append(int(torch.multinomial(chances[context], 1, generator=stream)))
        return torch.tensor(letters[self.n - 1:])

    def _text(self, text: Tensor) -> Tensor:
        text = torch.as_tensor(text)
        if text.ndim != 1 or text.is_floating_point() or not bool(((text >= 0) & (text < self.num_letters)).all()):
            raise ValueError(f"a text must be a vector of integers from 0 to {self.num_letters - 1}")
        return text.long()


# ---- the naive search: a grid ------------------------------------------------------------------------------

class GridError(RuntimeError):
    """A grid has no answer for this problem; the message says why, and what may help."""


class TooManyPoints(GridError):
    """The grid would have more points than the budget allows."""


class NoDensity(GridError):
    """The log joint is -inf at every point of the grid."""


class Grid(Distribution):
    """A density over R^d that is constant on each of the k^d cells of a grid: a histogram of the posterior.

    Args:
        box: (d, 2), the lowest and the highest value of each coordinate.
        log_weights: (k, ..., k), a cell each, in nats; they need not be normalised.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, box: Tensor, log_weights: Tensor):
        self.box, self.num_points = box, log_weights.shape[0]
        self.width = (box[:, 1] - box[:, 0]) / self.num_points
        self.log_mass = log_weights - log_weights.flatten().logsumexp(0)
        super().__init__(event_shape=torch.Size([len(box)]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The posterior mean, (d,)."""
        return self._moment(lambda c: c)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, (d,), that inside of a cell included."""
        return self._moment(lambda c: c**2) - self.mean**2 + self.width**2 / 12

    def _moment(self, f) -> Tensor:
        mass = self.log_mass.exp()
        axes = range(mass.ndim)
        return torch.stack([mass.sum([j for j in axes if j != i] or 0) @ f(self.axis(i)) if mass.ndim > 1
                            else mass @ f(self.axis(i)) for i in axes])

    def axis(self, i: int) -> Tensor:
        """The middles of the cells along coordinate i, (k,)."""
        return self.box[i, 0] + self.width[i] * (
            torch.arange(self.num_points, dtype=self.box.dtype, device=self.box.device) + 0.5)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, -inf outside of the box: (..., d) -> (...)."""
        cell = torch.floor((z - self.box[:, 0]) / self.width)
        inside = ((cell >= 0) & (cell < self.num_points)).all(-1)
        place = cell.clamp(0, self.num_points - 1).long().unbind(-1)
        return torch.where(inside, self.log_mass[place] - self.width.log().sum(), -torch.inf)

    def rsample_and_log_prob(self, sample_shape=(), *, generator: torch.Generator | None = None):
        """Draws a cell, then a point in it: z of shape ``sample_shape + (d,)`` and log q(z). (No gradients flow.)"""
        shape, kind = torch.Size(sample_shape), {"generator": generator, "dtype": self.box.dtype,
                                                 "device": self.box.device}
        reached = self.log_mass.flatten().exp().cumsum(0)
        cell = torch.searchsorted(reached, reached[-1] * torch.rand(shape, **kind), right=True)
        place = torch.unravel_index(cell.clamp(max=len(reached) - 1), self.log_mass.shape)
        z = self.box[:, 0] + self.width * (torch.stack(place, -1) + torch.rand(shape + self.event_shape, **kind))
        return z, self.log_mass[place] - self.width.log().sum()

    def sample(self, sample_shape=()) -> Tensor:
        """Draws of shape ``sample_shape + (d,)``, from torch's own stream of random numbers."""
        return self.rsample_and_log_prob(sample_shape)[0]


def approximate(problem: Problem, *, num_points: int = 50, box: tuple[tuple[float, float], ...] | None = None,
                budget: int = 1_000_000) -> Approximation:
    """The integral as a plain sum over the middles z_i of the k^d cells of a grid, of volume v each::

        log p(x) ≈ log sum_i exp(log_joint(z_i)) + log v,       q(z) = const on each cell, as high as its middle says

    Args:
        problem: the question.
        num_points: k, cells a side.
        box: ((low, high), ...) to cover; if left out, the problem's own or (for d <= 3) one found by
            `tightbound.exact.find_box`, whose evaluations are counted in the cost.
        budget: the most points that a grid may have.

    Returns:
        An `Approximation` whose q is a `Grid`. In `diagnostics`: the `box`; `edge_mass`, the share of the mass in the
        outermost cells (if it is not close to zero, the box is too small); and `cells`, exp of the entropy of the
        cells' masses: how many of the k^d cells hold the mass (if it is close to one, k is too small).

    Raises:
        TooManyPoints: when k^d is above the budget.
        NoDensity: when the grid finds no density; both are a `GridError`.
        ValueError: for fewer than two points a side, a box of another length, or none for d > 3.
    """
    began, spent = time.perf_counter(), problem.evaluations
    k, d = count("num_points", num_points, least=2), problem.dim
    if k**d > budget:
        raise TooManyPoints(f"a grid of {k} points a side in {d} dimensions has {k}^{d} = {k**d:.1e} points, above the "
                            f"budget of {budget:,}: take fewer points a side, or a method that needs no grid")
    box = _box(problem, box)
    middles = [low + (high - low) * (torch.arange(k, dtype=box.dtype, device=box.device) + 0.5) / k for low, high in box]
    points = torch.cartesian_prod(*middles).reshape(-1, d)
    values = torch.cat([problem.log_joint(part) for part in points.split(8192)])
    if not bool((values > -torch.inf).any()):
        raise NoDensity(f"{problem.name!r} has no density at any of the {k**d:,} points in the box {box.tolist()}: "
                        "give a tighter box, or more points a side")
    q = Grid(box, values.reshape((k,) * d))
    return Approximation(
        method="grid", q=q, log_evidence=Estimate(values.logsumexp(0) + q.width.log().sum(), "consistent estimate"),
        history=torch.empty(0), evaluations=problem.evaluations - spent, seconds=time.perf_counter() - began,
        diagnostics={"box": box, "edge_mass": _edge_mass(q), "cells": _perplexity(q.log_mass)})


def _box(problem: Problem, box) -> Tensor:
    box = box or problem.box
    if box is None and problem.dim > 3:
        raise ValueError(f"{problem.name!r} has {problem.dim} latents: above three, give the box to cover, "
                         "a pair (low, high) a coordinate")
    if box is None:
        box = find_box(problem, num_points=21 if problem.dim == 3 else None)
    if len(box) != problem.dim or any(not -math.inf < low < high < math.inf for low, high in box):
        raise ValueError(f"the box for {problem.name!r} must hold {problem.dim} finite pairs (low, high) with low < high, "
                         f"got {box}")
    return torch.tensor(box, dtype=problem.dtype, device=problem.device)


def _edge_mass(q: Grid) -> float:
    inner = q.log_mass.exp()[(slice(1, -1),) * q.log_mass.ndim]
    return max(0.0, 1.0 - float(inner.sum()))


def _perplexity(log_mass: Tensor) -> float:
    return math.exp(float(torch.special.entr(log_mass.exp()).sum()))
