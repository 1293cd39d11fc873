"""The explorers of the chapter on gradient estimators."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
import torch

from tightbound import figures, gradients
from tightbound.distributions import BernoulliVector
from tightbound.explore import Area, Explorer, Line, Points, Slider

TARGET = 0.3
ROWS = {"score function": gradients.score_function, "with leave-one-out": gradients.leave_one_out, "MuProp": gradients.muprop,
        "REBAR": gradients.rebar, "ARM": gradients.arm, "DARN": gradients.darn,
        "straight through": gradients.straight_through, "Gumbel-softmax": gradients.gumbel_softmax}
BIASED = ("straight through", "Gumbel-softmax")
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DIMENSIONS = (1, 2, 4, 8, 16)
SAMPLES = (2, 4, 8, 16, 32, 64)
BANK, REPETITIONS = 3000, 1000
SOFT = 0.5  # the temperature that `gumbel_softmax` has if none is given


def _short(values):
    """Numbers to 2^-14, which leave a page little to carry."""
    return np.round(2**14 * np.asarray(values)) / 2**14


def _objective(copies: torch.Tensor):
    return (lambda b: gradients.toy(b, TARGET)), BernoulliVector(copies)


@lru_cache(maxsize=None)
def _bank(name: str, probability: float, dimension: int) -> torch.Tensor:
    """Estimates of the first bit's gradient from one sample each, (BANK,)."""
    logits = torch.logit(torch.full((dimension,), probability, dtype=torch.float64))
    return gradients.replicate(ROWS[name], _objective, logits, BANK, num_samples=1, seed=1)[:, 0]


@cache
def _groups(count: int) -> torch.Tensor:
    return torch.randint(BANK, (REPETITIONS, count), generator=torch.Generator().manual_seed(2))


@lru_cache(maxsize=None)
def estimates(name: str, probability: float, dimension: int, count: int) -> torch.Tensor:
    """Repetitions of one estimate of the first bit's gradient from `count` samples, (REPETITIONS,)."""
    if name != "with leave-one-out":  # a mean of single estimates, drawn from a bank of them
        return _bank(name, probability, dimension)[_groups(count)].mean(1)
    # Each sample's baseline is the others' mean: (f - mean f) (b - m) averaged, times S/(S-1). Here f hangs on the sum of the bits.
    first, total = _bits_on(probability)
    f = -(1 - 2 * TARGET) * total[dimension][:, :count]
    return ((f - f.mean(1, keepdim=True)) * (first[:, :count] - probability)).sum(1) / (count - 1)


@cache
def _bits_on(probability: float) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """The first bit of every sample, (REPETITIONS, SAMPLES[-1]), and how many of the first d are on."""
    stream, first, total, found = torch.Generator().manual_seed(3), None, 0.0, {}
    for d in range(1, DIMENSIONS[-1] + 1):
        bit = (torch.rand(REPETITIONS, SAMPLES[-1], generator=stream, dtype=torch.float64) < probability).double()
        first, total = (bit if first is None else first), total + bit
        if d in DIMENSIONS:
            found[d] = total
    return first, found


def peers() -> Explorer:
    """Eight estimators of one gradient: their distributions, and their errors, as p, d and S move."""
    place = np.arange(len(ROWS), 0, -1.0)
    level = torch.tensor([0.05, 0.25, 0.75, 0.95], dtype=torch.float64)
    biased = np.array([name in BIASED for name in ROWS])
    low, high = -0.8, 0.6

    def distributions(probability, dimension, count):
        drawn = torch.stack([estimates(name, probability, dimension, count) for name in ROWS])
        truth = float(gradients.toy_gradient(torch.logit(torch.tensor(probability, dtype=torch.float64)), TARGET))
        q = torch.quantile(drawn, level, dim=1).numpy().clip(low, high)
        mean = drawn.mean(1).numpy()
        error = (drawn - truth).square().mean(1).sqrt().numpy()
        through = -2 * (probability - TARGET) * probability * (1 - probability)  # the exact means of the two biased ones
        soft = relaxed_moments(SOFT, probability)[0]
        nan = np.full(len(ROWS), np.nan)
        return {"wide": np.stack([q[0], q[3], nan], 1).ravel(), "middle": np.stack([q[1], q[2], nan], 1).ravel(),
                "fair": _short(np.where(biased, nan, mean.clip(low, high))), "unfair": _short(mean[biased].clip(low, high)),
                "truth": np.full(2, truth), "exact": truth, "error": _short(error.clip(1e-3, 5)),
                "plain": _short(error[0]), "other": _short(error[1]), "through": _short(error[6]),
                "off": abs(through - truth), "soft": _short(error[7]), "soft_off": _short(abs(soft - truth))}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(6.8, 3.7), gridspec_kw={"width_ratios": [3, 2]})
        left.set(xlim=(low, high), ylim=(0.4, len(ROWS) + 0.9), xlabel="estimates (beyond: at the edge)", yticks=place,
                 xticks=[-0.6, -0.3, 0, 0.3])
        left.set_yticklabels(list(ROWS))
        right.set(xlim=(1e-3, 5), xscale="log", ylim=(0.4, len(ROWS) + 0.9), yticks=[], xlabel="root mean square error")
        for ax in (left, right):
            ax.hlines(place, *ax.get_xlim(), color=figures.colour("faint"), lw=0.8)
        return fig

    rows = np.repeat(place, 3)
    return Explorer(
        [distributions],
        {"probability": Slider("probability of a bit, p", PROBABILITIES, 0.6),
         "dimension": Slider("bits d", DIMENSIONS, 4), "count": Slider("samples S", SAMPLES, 4, play=True)},
        figure,
        [Line(x="wide", y=rows, width=1.5, role="ink", label="90 % of estimates"),
         Area(x="middle", low=rows - 0.2, high=rows + 0.2, alpha=0.5, label="half of them"),
         Line(x="truth", y=[0.4, len(ROWS) + 0.6], role="truth", label="exact gradient"),
         Points(x="fair", y=place, role="ink", size=3.5, label="mean, unbiased here"),
         Points(x="unfair", y=place[biased], role="bound", size=5.0, shape="square", label="mean, biased"),
         Points(axes=1, x="error", y=place, size=5.0)],
        title="Explorer: eight estimators of one gradient",
        alt="""Left, eight rows, one an estimator of the same gradient, through d bits: a thin bar holds 90 % of its estimates, a
            thick one half of them, a dot is their mean; a vertical line is the exact gradient. The score function's bar is by far
            the widest and widens with d; a leave-one-out baseline narrows it. The dots of the unbiased ones lie on the line;
            the squares of straight through and Gumbel-softmax do not, but their bars are short and do not widen with d. Right, the
            root mean square errors on a logarithmic axis: with more samples all fall but those of the biased, which stop at
            their bias.""",
        readout=["exact gradient {exact:+.4f}; root mean square error of the score function {plain:.3f}, "
                 "with leave-one-out {other:.3f}",
                 "straight through: error {through:.3f}, exact bias {off:.3f}; Gumbel-softmax: error {soft:.3f}, exact bias "
                 "{soft_off:.3f} (errors from 1,000 repetitions)"])


TEMPERATURES = tuple(np.geomspace(0.05, 5, 21).round(3))


@cache
def _levels(num_points: int = 2000) -> np.ndarray:
    """logit(u) at the middles of equal shares of the logistic distribution."""
    u = (np.arange(num_points) + 0.5) / num_points
    return np.log(u) - np.log1p(-u)


def relaxed_moments(temperature: float, probability: float, target: float = TARGET) -> tuple[float, float]:
    """Mean and standard deviation of one sample's Gumbel-softmax gradient of E[-(s - t)²], by quadrature over its noise."""
    a = math.log(probability / (1 - probability))
    s = 0.5 * (1 + np.tanh(0.5 * (a + _levels()) / temperature))
    g = -2 * (s - target) * s * (1 - s) / temperature
    return float(g.mean()), float(g.std())


def temperature() -> Explorer:
    """Gumbel-softmax: what the temperature does to a relaxed bit, and to the bias and the spread of its gradient."""
    s = np.linspace(0.005, 0.995, 100)

    @lru_cache(maxsize=None)
    def curve(probability):
        return np.array([relaxed_moments(lam, probability) for lam in TEMPERATURES]).T

    def density(heat, probability):
        a = math.log(probability / (1 - probability))
        y = heat * np.log(s / (1 - s)) - a
        height = heat / (s * (1 - s)) / (4 * np.cosh(y / 2) ** 2)
        return {"height": height.clip(0, 6), "inside": float(100 * np.mean(np.abs(np.tanh(0.5 * (a + _levels()) / heat)) < 0.8))}

    def errors(probability, count):
        mean, spread = curve(probability)
        truth = -(1 - 2 * TARGET) * probability * (1 - probability)
        bias, spread = np.abs(mean - truth), spread / math.sqrt(count)
        total = np.hypot(bias, spread)
        best = TEMPERATURES[int(total.argmin())]
        inside = TEMPERATURES[0] < best < TEMPERATURES[-1]
        return {"bias": bias.clip(1e-4), "spread": spread, "total": total, "best": best if inside else math.nan,
                "edge": best, "exact": truth}

    def marker(heat, probability, count):
        found, at = errors(probability, count), TEMPERATURES.index(min(TEMPERATURES, key=lambda v: abs(v - heat)))
        return {"mx": np.full(3, heat), "my": _short([found[key][at] for key in ("bias", "spread", "total")]),
                "b": _short(found["bias"][at]), "sd": _short(found["spread"][at]), "rms": _short(found["total"][at])}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(6.8, 3.4), gridspec_kw={"width_ratios": [2, 3]})
        left.set(xlim=(0, 1), ylim=(0, 6), xlabel="relaxed bit s", ylabel="density (cut at 6)")
        right.set(xlim=(TEMPERATURES[0], TEMPERATURES[-1]), xscale="log", ylim=(1e-4, 2), yscale="log", xlabel="temperature",
                  ylabel="error of the gradient")
        return fig

    return Explorer(
        [density, errors, marker],
        {"heat": Slider("temperature", TEMPERATURES, TEMPERATURES[10], play=True),
         "probability": Slider("probability of the bit, p", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 0.3),
         "count": Slider("samples S", (1, 10, 100, 1000), 10)},
        figure,
        [Area(x=s, high="height", label="relaxed bit"),
         Line(axes=1, x=TEMPERATURES, y="total", role="truth", label="root mean square error"),
         Line(axes=1, x=TEMPERATURES, y="bias", role="bound", label="bias"),
         Line(axes=1, x=TEMPERATURES, y="spread", label="standard deviation"),
         Points(axes=1, x="mx", y="my", role="ink", size=4.0)],
        title="Explorer: the temperature of a relaxed bit",
        alt="""Left, the density of a relaxed bit between 0 and 1: at a low temperature nearly all of it stands at the two ends,
            at a high one it is a hump in the middle. Right, on logarithmic axes against the temperature, the bias of the relaxed
            gradient, its standard deviation, and the root mean square error. At low temperatures the standard deviation is
            large, at high ones the bias; the error is least between, and the more samples, the colder that best
            temperature.""",
        readout=["exact gradient {exact:+.4f}; bias {b:.4f}, standard deviation of the mean of S samples {sd:.4f}, error {rms:.4f}",
                 "least error at temperature {best:.3f}; {inside:.0f} % of the relaxed bits lie between 0.1 and 0.9"
                 " || least error at the edge of the picture, {edge:.3f}, or beyond; {inside:.0f} % of the relaxed bits lie "
                 "between 0.1 and 0.9"])


FREQUENCIES = tuple(np.geomspace(0.1, 20, 21).round(3))


def wave_moments(frequency, mean: float, scale: float) -> tuple[np.ndarray, ...]:
    """Of E[cos(w z)], z ~ N(mean, scale²): the exact gradient in the mean, and one sample's standard deviations::

        F = exp(-w²s²/2) cos(w m),    pathwise: -w sin(w z),    score function with the baseline F: (cos(w z) - F) eps / s

    Returns:
        exact gradient, pathwise standard deviation, score-function standard deviation.
    """
    w, s = np.asarray(frequency, dtype=float), scale
    k = w * s
    damped = np.exp(-0.5 * k**2)
    F, slope = damped * np.cos(w * mean), -w * damped * np.sin(w * mean)
    twice = np.exp(-2 * k**2) * np.cos(2 * w * mean)
    path = 0.5 * w**2 * (1 - twice) - slope**2
    squares = 0.5 * (1 + (1 - 4 * k**2) * twice)  # E[cos² eps²]
    score = (squares - 2 * F * (1 - k**2) * F + F**2) / s**2 - slope**2
    return slope, np.sqrt(path.clip(0)), np.sqrt(score.clip(0))


def roughness() -> Explorer:
    """A smooth average of a rough function: when the pathwise gradient is the worse one."""
    z = np.linspace(-4, 4, 241)

    def wave(frequency):
        return {"f": np.cos(frequency * z)}

    def bell(mean, scale):
        return {"q": np.exp(-0.5 * ((z - mean) / scale) ** 2)}

    def curves(mean, scale):
        _, path, score = wave_moments(FREQUENCIES, mean, scale)
        return {"path": path.clip(1e-4), "score": score.clip(1e-4), "cross": np.full(2, 1 / scale)}

    def here(frequency, mean, scale):
        slope, path, score = (float(v) for v in wave_moments(frequency, mean, scale))
        return {"mx": np.full(2, frequency), "my": _short(np.array([path, score]).clip(1e-3)), "product": frequency * scale,
                **{key: _short(v) for key, v in {"exact": slope, "p": path, "s": score, "ratio": (path / score) ** 2}.items()}}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(6.8, 3.3))
        left.set(xlim=(-4, 4), ylim=(-1.15, 1.3), xlabel="z", yticks=[-1, 0, 1], ylabel="f(z), and q(z) over its peak")
        right.set(xlim=(FREQUENCIES[0], FREQUENCIES[-1]), ylim=(1e-3, 30), xscale="log", yscale="log",
                  xlabel="frequency w", ylabel="standard deviation, one sample")
        return fig

    return Explorer(
        [wave, bell, curves, here],
        {"frequency": Slider("frequency w", FREQUENCIES, FREQUENCIES[10], play=True),
         "mean": Slider("mean of q", (0.0, 0.5, 1.0, 1.5, 2.0), 0.5),
         "scale": Slider("standard deviation of q", (0.1, 0.2, 0.4, 0.6, 1.0, 1.5), 0.6)},
        figure,
        [Area(x=z, high="q", alpha=0.3, label="q"), Line(x=z, y="f", role="truth", width=1.4, label="f(z) = cos(w z)"),
         Line(axes=1, x="cross", y=[1e-3, 30], role="prior", width=1.2, label="w = 1 over the width of q"),
         Line(axes=1, x=FREQUENCIES, y="path", label="pathwise"),
         Line(axes=1, x=FREQUENCIES, y="score", role="bound", label="score function, baseline F"),
         Points(axes=1, x="mx", y="my", role="ink", size=4.0)],
        title="Explorer: rough functions",
        alt="""Left, a cosine of the chosen frequency and a Gaussian bell that averages it. Right, on logarithmic axes against the
            frequency, the standard deviations of two gradient estimates of that average: the pathwise one rises with the
            frequency, without end; the score function's levels off. They cross near the frequency one over the bell's
            width: for slower waves the pathwise gradient is the better one, for faster waves the score function.""",
        readout=["exact gradient {exact:+.4f}; standard deviation: pathwise {p:.3f}, score function {s:.3f}",
                 "frequency times width {product:.2f}: the pathwise variance is {ratio:.2f} times the other"])
