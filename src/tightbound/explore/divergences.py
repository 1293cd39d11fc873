"""The explorers of the chapter on divergences."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from tightbound import divergences, figures, problems
from tightbound.explore import Area, Explorer, Line, Slider, Text

GRID = torch.linspace(-12.0, 12.0, 961, dtype=torch.float64)   # where integrals are done
STEP = float(GRID[1] - GRID[0])
SHOWN = slice(280, 681, 4)                                     # what is drawn: from -5 to 5
WIDE = torch.linspace(-24.0, 21.0, 1801, dtype=torch.float64)  # as fine as GRID, for a q that the hand moves far away
WIDE_SHOWN = slice(696, 1161, 4)                               # from -6.6 to 5
ALPHAS = (-1, -0.75, -0.5, -0.25, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 2)
SEPARATIONS = (0, 0.5, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4)


def _target(separation: float, grid: torch.Tensor = GRID) -> torch.Tensor:
    """The log density of 30 % in a left hump and 70 % in a right one, on the grid."""
    return problems.two_modes(separation=separation, weight=0.3, scale=0.5).log_joint(grid.unsqueeze(-1))


def _log_normal(mean: float, deviation: float, grid: torch.Tensor = GRID) -> torch.Tensor:
    return -0.5 * ((grid - mean) / deviation) ** 2 - math.log(deviation) - 0.5 * math.log(2 * math.pi)


def _left_of_zero(mean: float, deviation: float) -> float:
    """The share of a normal density left of zero, per cent."""
    return 50 * (1 + math.erf(-mean / (deviation * math.sqrt(2))))


def _shown(number: float, digits: int) -> float:
    """What would print as minus zero is zero."""
    return 0.0 if abs(number) < 0.5 * 10**-digits else number


@lru_cache(maxsize=1)
def _best() -> dict[tuple[float, float], tuple[float, float]]:
    """The best Gaussian at every stop, all in one batch: (separation, alpha) -> mean and standard deviation."""
    stops = [(separation, alpha) for separation in SEPARATIONS for alpha in ALPHAS]
    log_p = torch.stack([_target(separation) for separation, _ in stops])
    alpha = torch.tensor([alpha for _, alpha in stops], dtype=torch.float64)
    starts = torch.tensor([[[-s / 2, 0.5], [s / 2, 0.5], [0.2 * s, math.sqrt(0.25 + 0.21 * s**2)]] for s, _ in stops],
                          dtype=torch.float64)
    found = divergences.best_gaussian(log_p[:, ::2], GRID[::2], alpha, starts)  # a step of 0.05 is exact enough
    return {stop: tuple(pair) for stop, pair in zip(stops, found.tolist())}


def alpha() -> Explorer:
    """A target with two humps, and the Gaussian that is best by the divergence that the hand has chosen."""

    def target(separation):
        left = 0.3 * _left_of_zero(-separation / 2, 0.5) + 0.7 * _left_of_zero(separation / 2, 0.5)
        return {"p": torch.exp(_target(separation)[SHOWN]), "left_p": left}

    def nearest(separation, alpha):
        log_p = _target(separation)
        mean, deviation = _best().get((separation, alpha)) or _between(log_p, separation, alpha)
        log_q = _log_normal(mean, deviation)
        distance, reverse, forward = (float(divergences.criterion(log_q, log_p, STEP, a)) for a in (alpha, 1, 0))
        return {"q": torch.exp(log_q[SHOWN]), "mean": _shown(mean, 2), "deviation": deviation, "distance": _shown(distance, 3),
                "bound": _shown(-alpha * distance, 3), "reverse": _shown(reverse, 3), "forward": _shown(forward, 3),
                "left": _left_of_zero(mean, deviation)}

    def figure():
        fig, ax = figures.subplots(figsize=(6.4, 3.2))
        ax.set(xlim=(-5, 5), ylim=(0, 0.95), xlabel="z", ylabel="density")
        return fig

    z = GRID[SHOWN].numpy()
    return Explorer(
        [target, nearest],
        {"alpha": Slider("alpha", ALPHAS, 1, play=True), "separation": Slider("distance between the humps", SEPARATIONS, 3)}, figure,
        [Area(x=z, high="p", role="truth", alpha=0.15), Line(x=z, y="p", role="truth", label="target p"),
         Line(x=z, y="q", label="best Gaussian q for this alpha")],
        title="Explorer: one dial from seeking a mode to covering the mass",
        alt="""A target density with two humps, 30 per cent of the mass in the left one, and the Gaussian that is nearest to it by
            the alpha-divergence. With far humps and alpha at one or more it sits on the right hump alone; as alpha falls it
            lets go, jumps to a broad bell over both humps, and for negative alpha becomes broader still. With humps that
            touch, the change is gradual and there is no jump.""",
        readout=["mean {mean:.2f}, standard deviation {deviation:.2f}; left of zero: {left:.0f} % of q, {left_p:.0f} % of p",
                 "C_alpha {distance:.3f} nats, bound L_alpha = log p(x) − alpha C_alpha = {bound:+.3f} nats (log p(x) = 0)",
                 "reverse KL(q ‖ p) {reverse:.3f} nats, forward KL(p ‖ q) {forward:.3f} nats"])


def _between(log_p, separation, alpha):
    """The best Gaussian off the stops, for a live slider."""
    starts = torch.tensor([[[-separation / 2, 0.5], [separation / 2, 0.5], [0.2 * separation, 0.5 + 0.4 * separation]]], dtype=torch.float64)
    return divergences.best_gaussian(log_p[None], GRID, torch.tensor([alpha], dtype=torch.float64), starts)[0].tolist()


BARS = {"reverse KL(q ‖ p)": "reverse", "C at alpha = 1/2": "half", "Jensen–Shannon": "middle", "forward KL(p ‖ q)": "forward"}
MOST = 4.0  # nats, where a bar ends


def by_hand() -> Explorer:
    """A target with two humps and a Gaussian that the hand moves, with its divergences from the target."""
    log_p = _target(3.0, WIDE)

    def gaussian(mean, deviation):
        log_q = _log_normal(mean, deviation, WIDE)
        value = {"reverse": divergences.criterion(log_q, log_p, STEP, 1), "forward": divergences.criterion(log_q, log_p, STEP, 0),
                 "half": divergences.criterion(log_q, log_p, STEP, 0.5),
                 "middle": divergences.f_divergence("Jensen–Shannon", log_p, log_q, STEP)}
        value = {name: float(number) for name, number in value.items()}
        return {"q": torch.exp(log_q[WIDE_SHOWN]), **value, **{f"{name}_bar": [0.0, min(v, MOST)] for name, v in value.items()},
                **{f"{name}_end": min(v, MOST) + 0.1 if v < 0.8 * MOST else 0.6 * MOST for name, v in value.items()},
                "variation": float(divergences.f_divergence("total variation", log_p, log_q, STEP)),
                "moved": float(divergences.wasserstein(log_p, log_q, STEP))}

    def figure():
        fig, (left, right) = figures.subplots(2, 1, figsize=(6.4, 4.8), gridspec_kw={"height_ratios": [3, 2]})
        left.set(xlim=(-6.6, 5), ylim=(0, 0.95), xlabel="z", ylabel="density")
        right.set(xlim=(0, MOST), ylim=(len(BARS) - 0.5, -0.5), yticks=range(len(BARS)), yticklabels=list(BARS),
                  xlabel="nats (a bar ends at 4)")
        right.tick_params(axis="y", length=0)
        return fig

    z = WIDE[WIDE_SHOWN].numpy()
    marks = [Area(x=z, high=torch.exp(log_p[WIDE_SHOWN]).numpy(), role="truth", alpha=0.15),
             Line(x=z, y=torch.exp(log_p[WIDE_SHOWN]).numpy(), role="truth", label="target p"), Line(x=z, y="q", label="your q")]
    for i, name in enumerate(BARS.values()):
        marks += [Area(axes=1, x=f"{name}_bar", low=np.full(2, i - 0.3), high=np.full(2, i + 0.3), role="bound", alpha=0.45),
                  Text(axes=1, x=f"{name}_end", y=float(i), text=f"{{{name}:.2f}}")]
    return Explorer(
        [gaussian],
        {"mean": Slider("mean of q", np.arange(-5.1, 3.01, 0.3).round(1).tolist(), 0),
         "deviation": Slider("standard deviation of q", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3), 1)},
        figure, marks,
        title="Explorer: move q yourself",
        alt="""Above, a target density with two humps, 30 per cent of its mass around −1.5 and 70 per cent around 1.5, and a
            Gaussian that two sliders move and widen. Below, four bars in nats: reverse KL, the symmetric divergence at alpha one
            half, Jensen–Shannon, and forward KL. A narrow Gaussian on the right hump makes the reverse KL small and the
            forward KL large; a broad one over both humps makes the forward KL small.""",
        readout=["reverse {reverse:.3f}, alpha 1/2 {half:.3f}, Jensen–Shannon {middle:.3f}, forward {forward:.3f} nats",
                 "total variation {variation:.3f} (between 0 and 1); Wasserstein distance {moved:.3f} (in the units of z)"])
