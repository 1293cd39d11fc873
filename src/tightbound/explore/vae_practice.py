"""The explorers of the chapter on VAEs in practice."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from tightbound import figures, vae_practice
from tightbound.data import digits
from tightbound.explore import Area, Choice, Explorer, HeatMap, Image, Line, Points, Slider

NOISE = 0.01    # the variance of a pixel, in `water` and in the networks beside it
PRICES = (1, 1.4, 2, 2.8, 4, 5, 6, 7, 8, 9.5, 11, 13, 16, 19, 22, 26, 32, 38, 45, 54, 64, 80)


def water() -> Explorer:
    """The price of a nat as a water level over the spectrum of the digits, and what it leaves of a picture."""
    learn, test = (digits(split).images for split in ("train", "test"))
    variances, directions = vae_practice.principal_variances(learn)
    middle = learn.double().mean(0)
    half_log = 0.5 * variances.clamp(min=1e-4).log()
    bottom = 0.5 * np.log(0.003)
    pictures = {f"test image {row}": row for row in (0, 3, 8, 11, 21)}
    edges = np.repeat(np.arange(45), 2)[1:-1] + 0.5
    heights = np.repeat(half_log[:44].numpy(), 2)
    curve = [vae_practice.water_filling(variances, NOISE * price) for price in np.geomspace(0.8, 80, 120)]
    networks = vae_practice.results()["beta"]["scores"].values()

    def flood(beta):
        level = NOISE * beta
        found = vae_practice.water_filling(variances, level)
        surface = max(0.5 * float(np.log(level)), bottom)
        return {"surface": [surface, surface], "flat": np.full(len(edges), surface), "above": np.maximum(heights, surface), "rate": float(found.rates.sum()),
                "distortion": float(found.distortions.sum()), "active": int((variances > level).sum()),
                "keeps": 100 * float(((variances - level).clamp(min=0).square() / variances.clamp(min=1e-12)).sum() / variances.sum())}

    def picture(beta, image):
        x = test[pictures[image]].double()
        share = (1 - NOISE * beta / variances.clamp(min=1e-12)).clamp(min=0)
        return {"copy": (middle + directions @ (share * (directions.mT @ (x - middle)))).reshape(8, 8).clamp(0, 1)}

    def original(image):
        return {"original": test[pictures[image]].double().reshape(8, 8)}

    def figure():
        fig, axes = figures.subplots(2, 2, figsize=(6.6, 5.4), gridspec_kw={"width_ratios": [1.7, 1], "height_ratios": [1.15, 1]})
        spectrum, first, plane, second = axes.flatten()
        spectrum.set(xlim=(0.5, 44.5), ylim=(bottom, 0.1), xlabel="unit, by its direction's variance",
                     ylabel="½ log variance, nats")
        spectrum.plot(edges, heights, **figures.line("truth", lw=1.4))
        plane.set(xlim=(0, 36), ylim=(0, 4.6), xlabel="rate, nats a picture", ylabel="squared error a picture")
        plane.plot([float(c.rates.sum()) for c in curve], [float(c.distortions.sum()) for c in curve], **figures.line("truth"))
        plane.text(11, 4.1, "line: best linear VAE", color=figures.colour("truth"))
        plane.text(11, 3.6, "squares: networks, held out", color=figures.colour("bound"))
        for ax, words in ((first, "the picture"), (second, "its reconstruction")):
            ax.set(xlim=(0, 8), ylim=(0, 8), xticks=[], yticks=[], title=words, aspect="equal")
        return fig

    return Explorer(
        [flood, picture, original],
        {"beta": Slider("beta, the price of a nat", PRICES, 1, play=True), "image": Choice("picture", list(pictures), "test image 3")},
        figure,
        [Area(x=[0.5, 44.5], low=np.full(2, bottom), high="surface", role="bound", alpha=0.15),
         Area(x=edges, low="flat", high="above", alpha=0.5, label="above the water: the rate"),
         Line(x=[0.5, 44.5], y="surface", role="bound", width=2.4, label="the water: ½ log(beta · 0.01)"),
         Points(axes=2, x=np.array([np.mean(n["rate"]) for n in networks]), y=np.array([np.mean(n["distortion"]) for n in networks]),
                role="bound", shape="square", size=3.5),
         Points(axes=2, x="rate", y="distortion", size=6.0),
         Image(axes=1, z="original", extent=(0, 8, 0, 8)), Image(axes=3, z="copy", extent=(0, 8, 0, 8))],
        title="Explorer: the price of a nat",
        alt="""Above left, the variances of the digits along their principal directions, as a falling staircase in nats, and a
            water level that rises with beta: what stands out of the water is the rate that each unit carries, and units under water
            are collapsed. Below left, squared error against rate: the curve of the best linear VAE falls from the upper left to the lower
            right, and a dot moves along it. Squares show networks, all of them a little below the line. On the right a digit and its
            reconstruction, sharp for a small beta, a blur for a large one, and in the end the mean of all digits.""",
        readout=["rate {rate:.2f} nats a picture, squared error {distortion:.3f} of 4.681: {active:d} of 64 units stand out of the water",
                 "reconstructions keep {keeps:.0f} % of the variance of the pictures"])


SIGNALS = (0.7, 0.8, 0.95, 1.05, 1.2, 1.5, 2, 3, 5)
MOMENTS, STRIDE, PACE = 60, 20, 0.05
START = (0.1, 0.02)
WEIGHTS, SLOPES = np.linspace(-2.4, 2.4, 41), np.linspace(-1.1, 1.1, 41)


@lru_cache(maxsize=None)
def _climbs() -> dict[tuple[float, bool], np.ndarray]:
    """Gradient ascent of `single_unit_bound` from START, all side by side: rows (w, v, rate, beta), one for each moment."""
    keys = [(signal, warm) for signal in SIGNALS for warm in (False, True)]
    signal, warm = (torch.tensor(column, dtype=torch.float64) for column in zip(*keys))
    at = torch.tensor(START, dtype=torch.float64).unsqueeze(1).repeat(1, len(keys))
    rows, total = [], MOMENTS * STRIDE
    for step in range(total + 1):
        beta = torch.where(warm > 0, min(1.0, 0.02 + step / (0.5 * total)), 1.0)
        w, v = at.requires_grad_(True)
        if step % STRIDE == 0:
            variance = beta / (beta + w**2)
            rows.append(torch.stack([w, v, 0.5 * (v**2 * signal + variance - 1 - variance.log()), beta]).detach())
        (slope,) = torch.autograd.grad(vae_practice.single_unit_bound(w, v, signal, beta).sum(), at)
        at = (at + PACE * slope).detach()
    return dict(zip(keys, torch.stack(rows).permute(2, 0, 1).numpy()))


def landscape() -> Explorer:
    """One linear unit: its bound over the decoder's weight and the encoder's slope, and a climb with and without annealing."""
    w, v = (torch.tensor(grid) for grid in np.meshgrid(WEIGHTS, SLOPES))
    words = {"none": False, "in the first half": True}

    def field(signal):
        bound = vae_practice.single_unit_bound(w, v, signal)
        best = np.sqrt(max(signal - 1, 0))
        top = np.array([best, -best])
        return {"bound": (1 - (bound.max() - bound).sqrt()).clamp(min=0), "top_w": top, "top_v": top / (1 + top**2),
                "best": np.full(2, 0.5 * max(np.log(signal), 0.0)), "best_rate": 0.5 * max(np.log(signal), 0.0)}

    def path(signal, annealing):
        rows = _climbs()[signal, words[annealing]]
        return {"path_w": rows[:, 0], "path_v": rows[:, 1], "rates": rows[:, 2], "prices": rows[:, 3]}

    def now(signal, annealing, step):
        here = _climbs()[signal, words[annealing]][int(step) // STRIDE]
        return {"w": here[0], "v": here[1], "rate": here[2], "price": here[3], "at": int(step)}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(6.8, 3.6), gridspec_kw={"width_ratios": [1.35, 1]})
        left.set(xlim=(-2.4, 2.4), ylim=(-1.1, 1.1), xlabel="decoder's weight w", ylabel="encoder's slope v")
        right.set(xlim=(0, STRIDE * MOMENTS), ylim=(0, 2.4), xlabel="step", ylabel="rate, nats; beta")
        return fig

    steps = STRIDE * np.arange(MOMENTS + 1)
    return Explorer(
        [field, path, now],
        {"signal": Slider("signal: variance over noise", SIGNALS, 1.5), "annealing": Choice("annealing of beta", list(words), "none"),
         "step": Slider("step", range(0, STRIDE * MOMENTS + 1, STRIDE), 12 * STRIDE, play=True)},
        figure,
        [HeatMap(z="bound", extent=(-2.46, 2.46, -1.1275, 1.1275)),
         Points(x="top_w", y="top_v", role="truth", shape="cross", size=6.0, label="crosses: the best there is"),
         Line(x="path_w", y="path_v", width=1.6, label="the climb"), Points(x="w", y="v", size=6.0),
         Line(axes=1, x=steps, y="prices", role="prior", label="beta"),
         Line(axes=1, x=steps, y="rates", label="rate of the unit"),
         Line(axes=1, x=[0.0, float(steps[-1])], y="best", role="truth", width=1.4, label="its best rate"),
         Points(axes=1, x="at", y="rate", size=5.0)],
        title="Explorer: a unit that may die",
        alt="""Left, the bound of a model with one linear unit, bright where it is high, over the decoder's weight and the encoder's slope. With a signal
            above one there are two equal hills, in the upper right and the lower left, and a saddle at the origin between
            them; with a signal below one the only hill is at the origin. A path climbs from near the origin. Right, the unit's rate against
            the step, and beta. Without annealing the rate stays near zero for long before it rises, if the signal is above one; with annealing it
            jumps up at once, and then settles at its best value, which is zero if the signal is below one.""",
        readout=["step {at:d}, beta {price:.2f}: w {w:.2f}, v {v:.2f}, rate {rate:.3f} nats; the best rate is {best_rate:.3f}"])
