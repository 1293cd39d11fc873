"""The explorers of the chapter on importance sampling."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
import torch

from tightbound import figures, importance, laplace, problems
from tightbound.approximation import effective_sample_size, log_mean_exp
from tightbound.distributions import Gaussian, StudentT, standard_normal
from tightbound.explore import Area, Choice, Explorer, Line, Point, Points, Slider

SAMPLES = 80
THROW = 129  # the seed of one throw of the dice for all stops, so that the hand moves the samples; a typical one


def proposal() -> Explorer:
    """A proposal over the eight-schools posterior: dragged and widened by hand, its samples' weights drawn as bubbles."""
    problem = problems.eight_schools()
    exact, around = float(problem.log_evidence), laplace.approximate(problem).q
    middle = tuple(round(float(c), 2) for c in around.loc)
    mu, log_tau = np.unique([*range(-6, 17, 3), middle[0]]), np.unique([*np.linspace(-1.5, 3.5, 8).round(1), middle[1]])

    def make(centre, scale, shape):
        mean, factor = torch.tensor(centre, dtype=torch.float64), scale * around.scale_tril
        return Gaussian(mean, scale_tril=factor) if shape == "Gaussian" else StudentT(3, mean, factor)

    @lru_cache(maxsize=None)
    def weigh(centre, scale, shape):
        stream = torch.Generator().manual_seed(THROW)
        z, log_q = make(centre, scale, shape).rsample_and_log_prob((SAMPLES,), generator=stream)
        log_weights = problem.log_joint(z) - log_q
        ess = float(effective_sample_size(log_weights))
        estimate, error = float(log_mean_exp(log_weights)), math.sqrt(max(1 / ess - 1 / SAMPLES, 0))
        share = torch.softmax(log_weights, 0)
        size = (50 * share.sqrt()).clamp(1, 20).round()
        numbers = {"ess": ess, "k_hat": float(importance.pareto_k_hat(log_weights)), "estimate": estimate, "error": error,
                   "largest": 100 * float(share.max()), "bar": [estimate - 2 * error, estimate + 2 * error]}
        # Whole pixels, and numbers to 2^-12, leave a page little to carry.
        return {"x": z[:, 0], "y": z[:, 1], "size": size, **{key: np.round(4096 * np.array(v)) / 4096 for key, v in numbers.items()}}

    def centre_mark(centre):
        return {"cx": [centre[0]], "cy": [centre[1]]}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(6.4, 3.9), gridspec_kw={"width_ratios": [4, 1]})
        x, y = np.linspace(-9, 19, 121), np.linspace(-3.5, 5, 121)
        log_joint = problem.log_joint(torch.tensor(np.stack(np.meshgrid(x, y), -1))).numpy()
        levels = log_joint.max() - 0.5 * np.array([4.0, 3.0, 2.0, 1.0, 0.3]) ** 2
        left.contour(x, y, log_joint, levels=levels, colors=figures.colour("truth"), linewidths=1.2, linestyles="solid")
        left.text(0.02, 0.97, "contours: the posterior", transform=left.transAxes, va="top", color=figures.colour("truth"))
        left.set(xlabel="mu, the mean effect", ylabel="log tau, the spread between schools", xlim=(-9, 19), ylim=(-3.5, 5))
        right.set(xlim=(0, 1), ylim=(exact - 4, exact + 4), xticks=[], ylabel="log evidence in nats")
        right.axhline(exact, **figures.line("truth"))
        right.text(0.95, exact + 0.15, "exact", ha="right", color=figures.colour("truth"))
        return fig

    return Explorer(
        [weigh, centre_mark],
        {"centre": Point("centre", mu, log_tau, middle, names=("mu", "log tau")),
         "scale": Slider("width, times Laplace's", (0.3, 0.5, 0.7, 1.0, 2.0), 1.0),
         "shape": Choice("shape", ["Gaussian", "Student t (df 3)"], "Gaussian")},
        figure,
        [Points(x="x", y="y", size="size", alpha=0.55, label="samples of the proposal, area in proportion to the weight"),
         Points(x="cx", y="cy", role="bound", size=4.0, shape="square", label="centre of the proposal"),
         Line(axes=1, x=[0.5, 0.5], y="bar", width=3, label="estimate ± 2 standard errors"),
         Points(axes=1, x=0.5, y="estimate", size=5.0)],
        title="Explorer: a proposal by hand",
        alt="""Left, contours of the eight-schools posterior over mu and log tau, and eighty samples of a proposal whose centre can be
            dragged; each sample is a bubble, its area in proportion to its importance weight. With the proposal on the
            posterior, or wider, most bubbles are small and alike; made too narrow or moved away, a few large ones at its rim
            hold most of the weight. Right, the estimate of the log evidence with a bar of two standard errors, beside a line
            at the exact value: from a wide proposal the bar holds the line, from a narrow one it stays below it.""",
        readout=["estimate {estimate:.3f} ± {error:.3f} nats from 80 samples; exactly " + f"{exact:.3f}".replace("-", "−"),
                 "worth {ess:.1f} samples of the posterior; the largest weight holds {largest:.0f} % of the total; k-hat {k_hat:.2f}"])


DIMENSIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40)
COUNTS = (1, 10, 100, 1_000)
REPLICATES, NOISE, DATUM = 400, 0.5, 1.0
PROPOSALS = {"the prior": (0.0, 1.0), "the posterior, 1.3 times too wide": (None, 1.3)}


def normal_log_weights(eps: torch.Tensor, mean: float, scale: float) -> torch.Tensor:
    """The log weights of z = mean + scale eps, a dimension each, for z ~ N(0, 1) and a datum x ~ N(z, NOISE^2)."""
    z = mean + scale * eps
    log_joint = -0.5 * z**2 - 0.5 * ((DATUM - z) / NOISE) ** 2 - math.log(2 * math.pi * NOISE)
    return log_joint + 0.5 * eps**2 + math.log(scale) + 0.5 * math.log(2 * math.pi)


def log_evidence_per_dimension() -> float:
    """log N(DATUM; 0, 1 + NOISE^2), in nats."""
    variance = 1 + NOISE**2
    return -0.5 * DATUM**2 / variance - 0.5 * math.log(2 * math.pi * variance)


@cache
def _errors() -> dict[tuple[str, int, int], tuple[np.ndarray, np.ndarray]]:
    """log p-hat - log p(x) and the effective sample size of each replicate, for all proposals, dimensions and counts."""
    stream, variance = torch.Generator().manual_seed(0), 1 / (1 + 1 / NOISE**2)
    found: dict = {}
    for _ in range(REPLICATES // 40):
        eps = standard_normal((40, COUNTS[-1], DIMENSIONS[-1]), generator=stream)
        for name, (mean, scale) in PROPOSALS.items():
            if mean is None:
                mean, scale = variance * DATUM / NOISE**2, scale * math.sqrt(variance)
            # The dimensions are independent, so the weights of the first d of them are running sums.
            total = (normal_log_weights(eps, mean, scale) - log_evidence_per_dimension()).cumsum(-1)
            for d in DIMENSIONS:
                for count in COUNTS:
                    log_weights = total[:, :count, d - 1]
                    new = (log_mean_exp(log_weights), effective_sample_size(log_weights))
                    found.setdefault((name, d, count), []).append(torch.stack(new))
    return {key: tuple(torch.cat(parts, 1).numpy()) for key, parts in found.items()}


def dimensions() -> Explorer:
    """The curse of dimension: four hundred estimates of one log evidence, as the dimension grows."""
    edges = np.linspace(-20, 4, 61)

    def estimates(dimension, count, source):
        error, ess = _errors()[source, dimension, count]
        height, _ = np.histogram(error.clip(edges[0] + 1e-9, edges[-1] - 1e-9), edges)
        median, mean = float(np.median(error)), float(np.log(np.exp(error).mean()))
        return {"high": np.repeat(height / height.max(), 2), "mx": np.full(2, max(median, edges[0])), "median": median,
                "ax": np.full(2, max(mean, edges[0])), "mean": mean, "bound": float(error.mean()), "below": 100 * float((error < 0).mean()), "ess": float(np.median(ess)),
                "truth": dimension * log_evidence_per_dimension()}

    def figure():
        fig, ax = figures.subplots(figsize=(6.4, 3.2))
        ax.set(xlim=(-20, 4), ylim=(0, 1.25), yticks=[], xlabel="estimate minus exact log evidence, in nats (below −20: at the edge)",
               ylabel="how often, of 400 times")
        ax.axvline(0, **figures.line("truth"))
        ax.text(0.2, 1.2, "truth", color=figures.colour("truth"), va="top")
        return fig

    return Explorer(
        [estimates],
        {"dimension": Slider("dimensions d", DIMENSIONS, 5, play=True), "count": Slider("samples S", COUNTS, 100),
         "source": Choice("proposal", list(PROPOSALS), "the prior")},
        figure,
        [Area(x=np.repeat(edges, 2)[1:-1], high="high", label="estimates of log p(x)", alpha=0.4),
         Line(x="mx", y=[0, 1.08], label="their median"),
         Line(x="ax", y=[0, 1.16], role="bound", label="log of the mean of the 400 p-hats")],
        title="Explorer: the curse of dimension",
        alt="""A histogram of four hundred estimates of the log evidence, each from S samples, less the exact value. In one
            dimension it is a narrow heap at zero. With more dimensions the heap moves to the left, away from the truth,
            and widens; from the prior, at twenty dimensions and a hundred samples, the median is many nats too low, and the
            logarithm of the mean over all four hundred is too low as well. With the posterior as proposal, only a little too
            wide, the heap stays close to zero up to tens of dimensions.""",
        readout=["of the 400 estimates, less the truth: median {median:+.2f}, mean {bound:+.2f}; {below:.0f} % are below it; "
                 "the log of the mean p-hat {mean:+.2f}",
                 "in the median, {ess:.1f} effective samples of {count}; the exact log evidence is {truth:.2f} nats"])
