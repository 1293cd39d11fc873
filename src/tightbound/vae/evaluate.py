"""What a trained model is worth: log p(x) of each image, exactly for one or two latents, estimated for more.

Three numbers that papers call "the log-likelihood", beside the truth::

    exact                 log ∫ p(x, z) dz            quadrature, one or two latents
    importance_sampled    log 1/S sum_s w_s           z_s ~ q(z | x); low on average, far too low where q misses a part
    annealed              the same, after a journey from the prior to the posterior; dearer, and hangs less on the encoder

All of them ask of a model no more than `log_joint` and `posterior` (`annealed` also `prior`), and batch over images.

Source: Burda, Grosse & Salakhutdinov (2016); Wu, Burda, Salakhutdinov & Grosse (2017), On the quantitative analysis of
decoder-based generative models.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tightbound import importance
from tightbound.arguments import count
from tightbound.device import generator, meet

NEGLIGIBLE = 1e-10    # the share of the sum over a grid that all points together hold which are left out of the next
FIRST = 0.125         # the spacing of the first grid
MOST = 2**22          # points of a grid that may be made finer
VALUES = 2**18        # log joints at once, in quadrature
PAIRS = 2**12         # pairs of an image and a sample at once


class Evidence(NamedTuple):
    """Estimates of log p(x), one an image, each (B,).

    Attributes:
        log_evidence: log 1/S sum_s w_s, in nats; a consistent estimate, low on average.
        standard_error: sqrt(1/ESS - 1/S), in nats, as the weights that were seen tell it.
        ess: the effective sample size, between 1 and S.
        k_hat: the tail index of the weights (see `importance.pareto_k_hat`): beyond 0.7 do not trust the other three. A mode
            that no sample has visited raises no alarm.
    """

    log_evidence: Tensor
    standard_error: Tensor
    ess: Tensor
    k_hat: Tensor


def frozen(model, dtype: torch.dtype | None = None):
    """A copy of a model to evaluate: without gradients, in evaluation mode, in another precision if one is given."""
    if not isinstance(model, nn.Module):
        return model
    return copy.deepcopy(model).to(dtype=dtype).eval().requires_grad_(False)


# Exactly ----------------------------------------------------------------------------------------------------------

def exact(model, x: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """log p(x) = log ∫ p(x, z) dz of each image in nats, by quadrature over one or two latents: (B, D) gives (B,).

    A smooth density needs nothing better than equal weights on an even grid: once the spacing h is below the density's
    width, the error falls exponentially in 1/h. One grid serves all images, so that the decoder sees it once. It is made
    twice as fine until log p(x) has settled, each time only where an image that has not settled has density. All in double
    precision.

    Args:
        model: anything with `log_joint(x, z)` and `dim`; a copy of it is taken to double precision.
        x: images (B, D).
        tolerance: in nats, of the change from one grid to the next. The error is far smaller with smooth activations
            (tanh, softplus), where 1e-3 is mostly right to 1e-5; and of about that size with ones that have kinks (ReLU).

    Raises:
        ValueError: for more than two latents, x of another shape, or a density that does not fade.
        RuntimeError: when sixteen million points are not enough.
    """
    if model.dim not in (1, 2):
        raise ValueError(f"quadrature serves models with one or two latents, this one has {model.dim}: estimate log p(x) "
                         "by importance_sampled or annealed")
    _checked(model, x)
    model, x, d = frozen(model, torch.float64), x.double(), model.dim
    with torch.no_grad():
        cells, h, answer = _first_grid(model, x)
        going = torch.arange(len(x), device=x.device)                        # the images that have not settled
        while len(cells) < MOST:
            cells = _halved(_near(model, x[going], cells, h, answer[going] - d * math.log(h)))
            h = h / 2
            before, answer[going] = answer[going], _log_sum(model, x[going], cells, h) + d * math.log(h)
            going = going[~((answer[going] - before).abs() < tolerance)]
            if not len(going):
                return answer
    raise RuntimeError(f"log p(x) of {len(going)} of {len(x)} images is not yet known to {tolerance:g} nats on a grid with "
                       f"spacing {h:.2g}: their posteriors are too narrow for so wide a spread; give a larger tolerance, or "
                       "fewer images at once")


def _first_grid(model, x: Tensor) -> tuple[Tensor, float, Tensor]:
    """A grid so wide that no image has density at its ends: its cells, its spacing, and log p(x) as seen on it (B,).

    A cell is a row of d integers i, its middle is z = (i + 1/2) h.
    """
    half, h = 8.0, FIRST
    while half < 1e3:
        axis = torch.arange(-round(half / h), round(half / h), device=x.device)
        cells = torch.cartesian_prod(*[axis] * model.dim).reshape(-1, model.dim)
        log_sum = _log_sum(model, x, cells, h)
        if not torch.isfinite(log_sum).all():
            bad = int((~torch.isfinite(log_sum)).nonzero()[0])
            raise ValueError(f"log p(x) of image {bad} comes out as {float(log_sum[bad])}: look for NaN in the weights, and for "
                             "pixels that the likelihood gives no probability")
        cells = _near(model, x, cells, h, log_sum)
        if int(cells.min()) >= axis[0] and int(cells.max()) <= axis[-1]:  # nothing has reached beyond the ends
            return cells, h, log_sum + model.dim * math.log(h)
        half, h = 2 * half, (h if half < 32 else 2 * h)
    raise ValueError("the density of z does not fade at a distance of 1000: does the model's log joint hold a prior?")


def _log_sum(model, x: Tensor, cells: Tensor, h: float) -> Tensor:
    """log sum_g p(x_b, z_g) over the middles of the cells (G, d): (B,)."""
    return torch.stack([part.logsumexp(0) for part in _log_joint(model, x, cells, h)]).logsumexp(0)


def _near(model, x: Tensor, cells: Tensor, h: float, log_sum: Tensor) -> Tensor:
    """Those of the cells (G, d) where some image has more than a negligible share of its sum, and their neighbours."""
    least = log_sum + math.log(NEGLIGIBLE / len(cells))
    chosen = cells[torch.cat([(part > least).any(1) for part in _log_joint(model, x, cells, h)])]
    key = (chosen * chosen.new_tensor([2**31, 1])[-model.dim:]).sum(-1)                  # one number a cell
    for step in (2**31, 1)[-model.dim:]:
        key = torch.cat([key - step, key, key + step]).unique()
    last = (key + 2**30) % 2**31 - 2**30
    return torch.stack([(key - last) // 2**31, last][-model.dim:], -1)


def _halved(cells: Tensor) -> Tensor:
    """The 2^d cells of half the size that each cell is made of."""
    d = cells.shape[-1]
    return torch.cat([2 * cells + cells.new_tensor(corner) for corner in itertools.product((0, 1), repeat=d)])


def _log_joint(model, x: Tensor, cells: Tensor, h: float) -> Iterator[Tensor]:
    """log p(x_b, z_g) of each cell's middle and each image x (B, D): (G, B), a part of the cells at a time."""
    for part in cells.split(max(1, VALUES // len(x))):
        z = (part.to(x.dtype) + 0.5) * h
        yield model.log_joint(x, z.unsqueeze(1)).expand(len(part), len(x))


# By importance sampling -------------------------------------------------------------------------------------------

def importance_sampled(model, x: Tensor, num_samples: int = 5_000, *, batch: int = PAIRS,
                       seed: int | torch.Generator = 0) -> Evidence:
    """log p(x) of each image by importance sampling from the encoder's q(z | x): the field's "IS(5000)"::

        log p(x) ≈ log 1/S sum_s p(x, z_s) / q(z_s | x),    z_s ~ q(z | x)        (nats)

    Its mean is the importance-weighted bound L_S, so it is low on average; memory does not grow with S or B.

    Args:
        model: anything with `log_joint` and `posterior`.
        x: images (B, D).
        num_samples: S, at least 25.
        batch: pairs of an image and a sample at once.

    Raises:
        ValueError: for too few samples, x of another shape, or log weights that are NaN or +inf.
    """
    num_samples, batch = count("num_samples", num_samples, least=25), count("batch", batch, least=1)
    _checked(model, x)
    model, stream = frozen(model), generator(seed, x.device)
    with torch.no_grad():
        parts = [_importance_sampled(model, part, num_samples, max(1, batch // len(part)), stream)
                 for part in x.split(min(batch, 128))]
    return Evidence(*map(torch.cat, zip(*parts)))


def _importance_sampled(model, x: Tensor, num_samples: int, at_once: int, stream: torch.Generator) -> Evidence:
    q, num_tail = model.posterior(x), importance._tail_length(num_samples) + 1
    first = second = tail = None
    for start in range(0, num_samples, at_once):
        z, log_q = q.rsample_and_log_prob((min(at_once, num_samples - start),), generator=stream)
        log_weights = (model.log_joint(x, z) - log_q).double().mT                      # (B, samples)
        sums = torch.stack([log_weights, 2 * log_weights]).logsumexp(-1)
        first, second = sums if first is None else torch.logaddexp(torch.stack([first, second]), sums)
        largest = log_weights if tail is None else torch.cat([tail, log_weights], -1)
        tail = largest.topk(min(num_tail, largest.shape[-1])).values
    return _evidence(first, second, tail, num_samples)


def _evidence(first: Tensor, second: Tensor, tail: Tensor, num_samples: int) -> Evidence:
    """From log sum w, log sum w^2 (B,), and the largest log weights (B, M + 1) in descending order."""
    if not torch.isfinite(first).all():
        bad = int((~torch.isfinite(first)).nonzero()[0])
        raise ValueError(f"the log weights of image {bad} are NaN, +inf, or all -inf: look at its pixels, and at the "
                         "distribution that the encoder gives it")
    ess = torch.exp(2 * first - second)
    error = (1 / ess - 1 / num_samples).clamp(min=0).sqrt()
    return Evidence(first - math.log(num_samples), error, ess, importance._k_hat_of_tail(tail))


# By annealed importance sampling ----------------------------------------------------------------------------------

def annealed(model, x: Tensor, num_samples: int = 25, *, num_temperatures: int = 200, num_leapfrog: int = 5,
             start: str | Distribution = "prior", batch: int = PAIRS, seed: int | torch.Generator = 0) -> Evidence:
    """log p(x) of each image by annealed importance sampling, all chains of all images side by side::

        f_b(z) = p(z)^(1 - b) p(x, z)^b = p(z) p(x | z)^b,     0 = b_0 < ... < b_T = 1
        log w  = sum_t (b_t - b_{t-1}) log p(x | z_{t-1}),     z_t ~ a Markov chain that leaves f_{b_t} alone

    The chain is Hamiltonian Monte Carlo. How far it steps, at each temperature and for each image, is found in a first run
    of a few chains, which is then thrown away, so that the weights stay unbiased for p(x). The method, and the chain, are
    those of `importance.anneal`.

    Args:
        model: anything with `log_joint`, and `prior` or `posterior`, where the journey starts.
        x: images (B, D).
        num_samples: S chains an image, at least 25.
        num_temperatures: T; b_t = (t/T)^2.
        num_leapfrog: of the Hamiltonian dynamics.
        start: "prior", "posterior" (the encoder's) or a distribution over z with batch shape () or (B,).

    Raises:
        ValueError: for numbers out of range, x of another shape, another word for the start, or weights that are NaN.

    Source: Neal (2001); Wu et al. (2017).
    """
    count("num_samples", num_samples, least=25)
    for name, value in (("num_temperatures", num_temperatures), ("num_leapfrog", num_leapfrog), ("batch", batch)):
        count(name, value, least=1)
    _checked(model, x)
    if isinstance(start, str) and start not in ("prior", "posterior"):
        raise ValueError(f"unknown start {start!r}: choose 'prior' or 'posterior', or give a distribution over z")
    model, stream = frozen(model), generator(seed, x.device)
    size = len(x) if isinstance(start, Distribution) and start.batch_shape else max(1, batch // num_samples)
    parts = [_annealed(model, part, start, num_samples, num_temperatures, num_leapfrog, stream) for part in x.split(size)]
    return Evidence(*map(torch.cat, zip(*parts)))


def _annealed(model, x: Tensor, start, num_samples: int, num_temperatures: int, num_leapfrog: int,
              stream: torch.Generator) -> Evidence:
    with torch.no_grad():
        words = {"prior": lambda: model.prior(), "posterior": lambda: model.posterior(x)}
        q = words[start]() if isinstance(start, str) else start
    lead = () if q.batch_shape else (len(x),)

    def value_and_gradient(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            value = model.log_joint(x, z)
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient

    path = importance.Path(value_and_gradient, q)

    def draws(num_chains: int) -> Tensor:
        with torch.no_grad():
            return q.rsample_and_log_prob((num_chains, *lead), generator=stream)[0]

    def journey(num_chains: int, step):
        z = draws(num_chains)
        return importance.journey(path, z, num_temperatures, num_leapfrog, step, stream)

    steps = _StepSizes(0.5 * draws(100).std(0))
    for _ in journey(8, steps):
        pass
    for log_weights, *_ in journey(num_samples, steps.found):
        pass
    log_weights = log_weights.double().mT
    sums = torch.stack([log_weights, 2 * log_weights]).logsumexp(-1)
    return _evidence(*sums, log_weights.topk(importance._tail_length(num_samples) + 1).values, num_samples)


class _StepSizes:
    """Step sizes (B, d) for each temperature, made longer where more than 70 % of an image's moves are accepted."""

    def __init__(self, first: Tensor):
        self.now, self.all = first, []

    def __call__(self, t: int, accepted: Tensor | None) -> Tensor:
        if accepted is not None:
            share = accepted.to(self.now.dtype).mean(0)
            self.now = self.now * torch.exp(0.3 * (share - 0.7)).unsqueeze(-1)
        self.all.append(self.now)
        return self.now

    def found(self, t: int, accepted: Tensor | None) -> Tensor:
        return self.all[t - 1]


# Which latents are used --------------------------------------------------------------------------------------------

def active_units(model, x: Tensor, *, threshold: float = 0.01, num_samples: int = 100,
                 seed: int | torch.Generator = 0) -> Tensor:
    """Which latents speak of the image: those whose posterior mean moves from image to image, (d,), true or false::

        A_j = Var_x( E_q[z_j | x] ) > threshold

    The mean is q's own where it knows it, else that of S samples, whose own scatter, Var_q(z_j | x) / S, is taken off.

    Raises:
        ValueError: for a single image, of which nothing varies.

    Source: Burda, Grosse & Salakhutdinov (2016).
    """
    _checked(model, x)
    if len(x) < 2:
        raise ValueError("expected two images or more, got 1: active is what differs from image to image")
    with torch.no_grad():
        q = frozen(model).posterior(x)
        try:
            return q.mean.var(0) > threshold
        except NotImplementedError:
            z = q.rsample_and_log_prob((count("num_samples", num_samples, least=2),), generator=generator(seed, x.device))[0]
            return z.mean(0).var(0) - z.var(0).mean(0) / num_samples > threshold


def _checked(model, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 2 or not len(x):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"expected a tensor of images (B, D), at least one, got {got}: one image x is x[None]")
    meet(x, model, what="the images")
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x).all(-1)).nonzero()[0])
        raise ValueError(f"image {bad} has pixels that are NaN or infinite: log p(x) would be too")
    if hasattr(model, "check"):
        model.check(x)
