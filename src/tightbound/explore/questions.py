"""The explorers of the first chapter, on what we want to know."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import beta, norm

from tightbound import figures, problems
from tightbound.data import diabetes
from tightbound.explore import Area, Arrows, Choice, Explorer, HeatMap, Image, Line, Points, Slider, Toggle
from tightbound.questions import LinearGaussian, Mixture, fourier_rows, smooth_prior

FLIPS = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200)
PATIENTS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 200, 442)
NOISE = 0.7  # standard deviation of a patient's progression about the line

CLUSTERS = Mixture(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[-1.5, 0.0], [1.5, 1.2], [1.2, -1.5]]),
                   torch.tensor([0.7, 0.45, 0.3]))

NUM_PIXELS = 20
COEFFICIENTS = (0, 1, 2, 4, 8, 16, 24, 32, 48, 64)
LEVELS = (0.01, 0.03, 0.1, 0.3)


def coin() -> Explorer:
    """Bayes' rule: the posterior of a coin's probability of heads sharpens, flip by flip."""
    p = np.linspace(0.0, 1.0, 161)
    falls = (torch.rand(FLIPS[-1], generator=torch.Generator().manual_seed(5)) < 0.2).numpy()
    priors = {"flat, Beta(1, 1)": (1.0, 1.0), "fair, Beta(10, 10)": (10.0, 10.0), "few heads, Beta(2, 6)": (2.0, 6.0)}

    def before(prior):
        return {"prior_density": beta(*priors[prior]).pdf(p)}

    def after(flips, prior):
        (a, b), heads = priors[prior], int(falls[:flips].sum())
        posterior = beta(a + heads, b + flips - heads)
        sequence = float(problems.coin(heads, flips - heads, a, b).log_evidence)
        return {"heads": heads, "posterior": posterior.pdf(p), "mean": posterior.mean(), "sd": posterior.std(),
                "sequence": sequence, "count": sequence + math.log(math.comb(flips, heads)), "next": posterior.mean()}

    def figure():
        fig, ax = figures.subplots(figsize=(6.4, 3.2))
        ax.set(xlim=(0, 1), ylim=(0, 15), xlabel="p, the probability of heads", ylabel="density")
        ax.axvline(0.2, color=figures.colour("faint"), lw=4, zorder=0)
        ax.text(0.21, 14.2, "the coin", va="center")
        return fig

    return Explorer(
        [before, after],
        {"flips": Slider("flips seen", FLIPS, 10, play=True), "prior": Choice("prior", list(priors), "flat, Beta(1, 1)")},
        figure,
        [Line(x=p, y="prior_density", role="prior", label="prior"),
         Area(x=p, high="posterior", role="truth", alpha=0.15),
         Line(x=p, y="posterior", role="truth", label="posterior")],
        title="Explorer: a coin, flip by flip",
        alt="""The density of a coin's probability of heads, before the flips and after them. A grey bar marks the coin's own
            probability, 0.2. With more flips the posterior grows narrow and settles on the bar; a prior that expects a
            fair coin holds it to the right of the bar for the first dozens of flips, after two hundred it makes little
            difference.""",
        readout=["{heads:d} heads in {flips:d} flips: p = {mean:.3f} ± {sd:.3f}; the next flip falls heads with probability {next:.3f}",
                 "log evidence of this sequence {sequence:.4f} nats, of this number of heads {count:.4f} nats"])


def patients() -> Explorer:
    """One linear Gaussian model of real patients, and six of its seven answers as patients come in."""
    X, y, _ = diabetes(["bmi"])
    line = torch.linspace(-2.5, 3.5, 61, dtype=torch.float64)
    design = torch.stack([torch.ones_like(line), line], -1)
    shown = [np.where(np.arange(len(y)) < n, y, np.nan) for n in PATIENTS]

    @lru_cache(maxsize=None)
    def model(seen):
        both = LinearGaussian(X[:seen], NOISE**2) if seen else None
        return both.posterior(y[:seen]) if seen else LinearGaussian(X[:1], NOISE**2).prior

    def fit(seen):
        q = model(seen)
        band = LinearGaussian(design, NOISE**2, prior=q).marginal()
        sd = band.variance.sqrt()
        exact = [float(LinearGaussian(A[:seen], NOISE**2).log_evidence(y[:seen])) if seen else 0.0 for A in (X, X[:, :1])]
        return {"y": shown[PATIENTS.index(seen)] if seen in PATIENTS else np.where(np.arange(len(y)) < seen, y, np.nan),
                "middle": band.loc, "low": band.loc - sd, "high": band.loc + sd,
                "slope": q.loc[1], "slope_sd": q.variance[1].sqrt(), "factor": exact[0] - exact[1],
                "bits": -exact[0] / math.log(2)}

    def at_next(seen, bmi):
        new = LinearGaussian(torch.tensor([[1.0, bmi]]), NOISE**2, prior=model(seen))
        mean, sd = float(new.marginal().loc), float(new.marginal().variance.sqrt())
        return {"where": [bmi], "mean": [mean], "down": [-sd], "up": [sd], "flat": [0.0], "predicted": mean, "spread": sd,
                "action": mean + sd * norm.ppf(0.8), "gain": new.information_gain()}

    def figure():
        fig, ax = figures.subplots(figsize=(6.4, 3.6))
        ax.set(xlim=(-2.5, 3.5), ylim=(-3, 3.5), xlabel="body mass index, standardised",
               ylabel="progression, standardised")
        return fig

    return Explorer(
        [fit, at_next],
        {"seen": Slider("patients seen", PATIENTS, 20, play=True),
         "bmi": Slider("BMI of the next patient", np.arange(-2, 3.01, 0.5), 2)},
        figure,
        [Area(x=line.numpy(), low="low", high="high", role="truth", alpha=0.18, label="one standard deviation of a new patient"),
         Line(x=line.numpy(), y="middle", role="truth", label="prediction"),
         Points(x=X[:, 1].numpy(), y="y", role="ink", size=2.5, alpha=0.6, label="patients seen"),
         Arrows(x="where", y="mean", dx="flat", dy="up", role="accent", label="the next patient"),
         Arrows(x="where", y="mean", dx="flat", dy="down", role="accent")],
        title="Explorer: one model, six answers",
        alt="""Patients as points, body mass index against progression of diabetes, with the predicted line and a band of one
            standard deviation. Without any patient the band is wide and flat in the middle, and widens to both sides. As
            patients come in it narrows to the spread of the patients themselves, and the line tilts upwards. A green
            double arrow shows the prediction for one more patient.""",
        readout=["prediction {predicted:.3f} ± {spread:.3f}; best action at costs 1 to 4: {action:.3f}; slope {slope:.3f} ± {slope_sd:.3f}",
                 "one more patient at BMI {bmi:.1f} tells {gain:.4f} nats; log Bayes factor for BMI {factor:+.3f} nats",
                 "code length {bits:.1f} bits, at a resolution of one unit"])


def mixture() -> Explorer:
    """A mixture of three Gaussians drawn point by point: first the cluster, then the point."""
    most, seeds = 40, (1, 2, 3)
    draws = {seed: [part.numpy() for part in CLUSTERS.sample(most, seed=seed)] for seed in seeds}
    means = CLUSTERS.means.numpy()

    def across(seed):
        return {"x": draws[seed][1][:, 0]}

    def drawn(points, seed, labels):
        z, x = draws[seed]
        seen = np.arange(most) < points
        return {**{f"y{k}": np.where(seen & (z == k) & labels, x[:, 1], np.nan) for k in range(3)},
                "hidden": np.where(seen & (not labels), x[:, 1], np.nan)}

    def last(points, seed, labels):
        z, x = draws[seed]
        at = means[z[points - 1]] if points and labels else np.full(2, np.nan)
        step = x[points - 1] - at if points else np.zeros(2)
        data = torch.tensor(x[:points])
        log_evidence = float(CLUSTERS.log_evidence(data)) if points else 0.0
        log_joint = float(CLUSTERS.log_joint(data, torch.tensor(z[:points]))) if points else 0.0
        return {"from_x": at[:1], "from_y": at[1:], "dx": step[:1], "dy": step[1:],
                "cluster": z[points - 1] + 1 if points and labels else np.nan,
                "evidence": log_evidence, "joint": log_joint if labels else np.nan}

    def figure():
        fig, ax = figures.subplots(figsize=(6.4, 4.4))
        ax.set(xlim=(-4.2, 3.4), ylim=(-3, 3), xlabel="x1", ylabel="x2", aspect="equal")
        turn = np.linspace(0, 2 * np.pi, 73)
        for mean, scale in zip(means, CLUSTERS.scales.tolist()):
            for radius in (1, 2):
                ax.plot(mean[0] + radius * scale * np.cos(turn), mean[1] + radius * scale * np.sin(turn),
                        **figures.line("prior", lw=1.2))
        return fig

    return Explorer(
        [across, drawn, last],
        {"points": Slider("points drawn", range(most + 1), 12, play=True), "seed": Slider("seed", seeds, 1),
         "labels": Toggle("show which cluster", True)},
        figure,
        [Points(x="x", y="y0", role="approximation", size=5.0, label="cluster 1"),
         Points(x="x", y="y1", role="bound", shape="square", size=5.0, label="cluster 2"),
         Points(x="x", y="y2", role="accent", shape="cross", size=5.0, label="cluster 3"),
         Points(x="x", y="hidden", role="truth", size=5.0, label="what is observed"),
         Arrows(x="from_x", y="from_y", dx="dx", dy="dy", role="ink", width=1.5, label="the last draw")],
        title="Explorer: a mixture, drawn in two steps",
        alt="""Points in the plane drawn one after another from three round clusters, a wide one to the left and two narrower
            ones to the right. Each point has the mark of its cluster: a circle, a square or a cross; an arrow leads from the
            cluster's centre to the newest point. With the labels switched off all points are the same grey dots.""",
        readout=["{points:d} points; cluster of the last one: {cluster:d} (n/a: no point yet, or not shown)",
                 "complete data log p(x, z) = {joint:.3f} nats; points alone log p(x) = {evidence:.3f} nats"])


def ring_image() -> torch.Tensor:
    """The picture behind the measurements: a ring, brighter below, (20, 20)."""
    place = (torch.arange(NUM_PIXELS, dtype=torch.float64) + 0.5) / NUM_PIXELS - 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    r = torch.sqrt(x**2 + y**2)
    return torch.exp(-0.5 * ((r - 0.25) / 0.06) ** 2) * (0.65 + 0.35 * y / r)


def frequencies(num_coefficients: int) -> torch.Tensor:
    """The first so many of a fixed list of frequencies (u, v), as baselines of telescopes would give them: (m, 2)."""
    j = torch.arange(1, num_coefficients + 1, dtype=torch.float64)
    angle, radius = math.pi * (0.618034 * j % 1), 0.7 + 4.3 * (0.754878 * j % 1)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


def telescope(num_coefficients: int, noise: float) -> LinearGaussian:
    """The inverse problem: a smooth picture seen through a few noisy Fourier coefficients."""
    return LinearGaussian(fourier_rows(NUM_PIXELS, frequencies(num_coefficients)), noise**2, prior=_pictures())


def measure(num_coefficients: int, noise: float) -> torch.Tensor:
    """What the telescope measured of the ring: the first coefficients of one night, always with the same noise."""
    most = COEFFICIENTS[-1]
    wobble = torch.randn(2, most, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    clean = fourier_rows(NUM_PIXELS, frequencies(num_coefficients)) @ ring_image().flatten()
    return clean + noise * wobble[:, :num_coefficients].flatten()


@lru_cache
def _pictures():
    return smooth_prior(NUM_PIXELS, mean=0.2, scale=0.3, length=0.07)


def ring() -> Explorer:
    """An inverse problem with an exact answer: a ring seen through a few noisy Fourier coefficients."""
    truth, uv = ring_image().numpy(), frequencies(COEFFICIENTS[-1]).numpy()
    prior = _pictures()

    @lru_cache(maxsize=None)
    def answer(coefficients, noise):
        if not coefficients:
            return prior.loc, prior.variance.sqrt(), 0.0
        model = telescope(coefficients, noise)
        q = model.posterior(measure(coefficients, noise))
        return q.loc, q.variance.sqrt(), model.information_gain()

    def images(coefficients, noise):
        mean, sd, gain = answer(coefficients, noise)
        mean, sd = mean.reshape(truth.shape).numpy(), sd.reshape(truth.shape).numpy()
        return {"estimate": mean, "sd": sd[::-1], "gain": gain, "gain_bits": gain / math.log(2),
                "rmse": float(np.sqrt(((mean - truth) ** 2).mean())), "typical": float(np.sqrt((sd**2).mean()))}

    def seen(coefficients):
        here = np.arange(len(uv)) < coefficients
        return {"u": np.where(here, uv[:, 0], np.nan), "u_back": np.where(here, -uv[:, 0], np.nan)}

    def figure():
        fig, axes = figures.subplots(2, 2, figsize=(6.4, 6.0))
        names = ("the picture", "frequencies measured", "posterior mean", "posterior standard deviation, 0 to 0.3")
        for ax, name in zip(axes.flat, names):
            ax.set_title(name, fontsize=10)
            ax.set(xlim=(-0.5, 0.5), ylim=(-0.5, 0.5), xticks=[], yticks=[], aspect="equal")
        axes[0, 1].set(xlim=(-5.5, 5.5), ylim=(-5.5, 5.5), xticks=[-5, 0, 5], yticks=[-5, 0, 5], xlabel="u", ylabel="v")
        return fig

    box = (-0.5, 0.5, -0.5, 0.5)
    return Explorer(
        [images, seen],
        {"coefficients": Slider("Fourier coefficients", COEFFICIENTS, 16, play=True),
         "noise": Slider("noise", LEVELS, 0.03)},
        figure,
        [Image(axes=0, z=truth, extent=box), Image(axes=2, z="estimate", extent=box),
         HeatMap(axes=3, z="sd", extent=box, low=0.0, high=0.3),
         Points(axes=1, x="u", y=uv[:, 1], role="ink", size=3.0, label="measured"),
         Points(axes=1, x="u_back", y=-uv[:, 1], role="prior", size=3.0, label="the same by symmetry")],
        title="Explorer: a ring through a keyhole",
        alt="""Four panels. The picture: a ring, brighter below. The frequencies at which it was measured, as points in the plane.
            The posterior mean: without coefficients an even grey, with eight a smear, with some two dozen a ring. The
            posterior standard deviation: bright where little is known; it grows darker, in stripes at first, as
            coefficients come in, and more so the less noise they have.""",
        readout=["expected gain {gain:.2f} nats = {gain_bits:.1f} bits",
                 "error of the posterior mean {rmse:.3f} a pixel; the posterior itself expects {typical:.3f}"])
