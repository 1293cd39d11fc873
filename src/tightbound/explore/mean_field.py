"""The explorers of the mean field chapter."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import brentq

from tightbound import figures, mean_field
from tightbound.data import iris
from tightbound.explore import Choice, Ellipse, Explorer, Line, Points, Slider, Text

MOVES = 24                 # coordinate steps that the Gaussian's explorer walks
ITERATIONS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60)
COMPONENTS = 8


def gaussian() -> Explorer:
    """A correlated Gaussian, its best factorised stand-in, and the staircase by which coordinate ascent gets
    there."""
    start = torch.tensor([-2.4, 2.2], dtype=torch.float64)

    @lru_cache(maxsize=None)
    def target(rho):
        covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
        posterior = mean_field.GaussianPosterior(torch.zeros(2, dtype=torch.float64),
                                                 torch.linalg.inv(covariance))
        path = mean_field.coordinate_steps(posterior, start, MOVES // 2)
        return posterior, mean_field.factorise(posterior), path

    def shapes(rho):
        posterior, q, _ = target(rho)
        return {"truth": posterior.covariance, "variance": float(q.covariance[0, 0]), "least": q.kl}

    def walk(rho, step):
        posterior, q, path = target(rho)
        m = path[step]
        drawn = path[torch.arange(MOVES + 1).clamp(max=step)]
        away = float(0.5 * m @ posterior.precision @ m)
        # before its first step a factor has no variance yet; the picture shows the final one
        return {"mean": m, "q": q.covariance, "x": drawn[:, 0], "y": drawn[:, 1], "at_x": m[:1],
                "at_y": m[1:], "away": away,
                "kl": q.kl + away}

    def figure():
        fig, ax = figures.subplots(figsize=(5.2, 4.4))
        ax.set(xlim=(-3, 3), ylim=(-3, 3), xlabel="z1", ylabel="z2")
        ax.set_aspect("equal")
        return fig

    rhos = np.round(np.concatenate([np.arange(-0.9, 0.91, 0.1), [-0.99, -0.97, -0.95, 0.95, 0.97, 0.99]]), 2)
    return Explorer(
        [shapes, walk],
        {"rho": Slider("correlation", np.sort(rhos), 0.9),
         "step": Slider("coordinate steps", range(MOVES + 1), 0, play=True)},
        figure,
        [Ellipse(mean=np.zeros(2), covariance="truth", role="truth",
                 label="posterior, 1 and 2 standard deviations"),
         Ellipse(mean="mean", covariance="q", label="q, the best factors around the means so far"),
         Line(x="x", y="y", role="bound", label="the means, one coordinate at a time"),
         Points(x="at_x", y="at_y", role="bound", size=4.0)],
        title="Explorer: a correlated Gaussian",
        alt="""Ellipses of a plane Gaussian posterior with correlation, and the upright ellipse of the
        factorised q, whose two axes are
            those of the picture. Step by step the mean of q walks to the posterior's along a staircase of
            horizontal and vertical moves. With little correlation two steps are enough and the ellipses
            nearly agree; with correlation 0.99 the steps are tiny, and q is a small circle inside a long
            narrow ellipse.""",
        readout=["Variance of each latent: 1 in truth, {variance:.3f} in q, which is 1 − correlation²",
                 "KL(q ‖ p) = {least:.3f} (shape, stays) + {away:.3f} (mean, shrinks) = {kl:.3f} nats"])


def ising() -> Explorer:
    """The self-consistent magnetisation: where tanh(4 beta m) meets m, and the bound as a function of m."""
    grid = np.linspace(-1, 1, 161)

    def curves(beta):
        up = 0.5 * (1 + grid)
        safe = up.clip(1e-12, 1 - 1e-12)
        bound = 2 * beta * grid**2 - safe * np.log(safe) - (1 - safe) * np.log1p(-safe)
        m = _fixed_point(beta)
        truth, log_z = mean_field.onsager(beta)
        best = float(2 * beta * m**2 + _entropy(m))
        return {"pull": np.tanh(4 * beta * grid), "bound": bound, "log_z": log_z, "floor": np.full(2, log_z),
                "m": m, "onsager": truth,
                "best": best, "loss": log_z - best, "best_x": [m, -m], "best_y": [best, best]}

    def cobweb(beta, start):
        path = [start]
        for _ in range(12):
            path.append(math.tanh(4 * beta * path[-1]))
        x, y = np.repeat(path, 2)[:-1], np.repeat(path, 2)[1:]
        y = np.concatenate([[path[0]], y[1:]])
        reached = path[-1]
        return {"web_x": x, "web_y": y, "dot": [reached], "reached": round(reached, 3) + 0.0,
                "height": [2 * beta * reached**2 + _entropy(reached)],
                "end": math.copysign(_fixed_point(beta), start) + 0.0 if start and 4 * beta > 1 else 0.0}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(7.6, 3.5))
        left.plot(grid, grid, **figures.line("prior", lw=1.2))
        left.set(xlim=(-1, 1), ylim=(-1, 1), xlabel="m, what the neighbours show on average",
                 ylabel="what the spin then shows")
        right.set(xlim=(-1, 1), ylim=(0.4, 1.6), xlabel="m", ylabel="nats a site")
        return fig

    betas = np.unique(np.round(np.concatenate([np.arange(0.05, 0.76, 0.05),
                                               [0.22, 0.24, 0.26, 0.28, 0.32, 0.38, 0.42, 0.44, 0.46]]), 2))
    return Explorer(
        [curves, cobweb],
        {"beta": Slider("inverse temperature beta", betas, 0.4, play=True),
         "start": Slider("start", np.round(np.linspace(-0.9, 0.9, 13), 2) + 0.0, 0.15)},
        figure,
        [Line(x=grid, y="pull", label="tanh(4 beta m)"),
         Line(x="web_x", y="web_y", role="accent", width=1.4, label="coordinate ascent, 12 steps"),
         Points(x="dot", y="dot", role="accent", size=4.5, shape="square"),
         Line(axes=1, x=[-1.0, 1.0], y="floor", role="truth",
              label="log Z a site, infinite lattice (Onsager)"),
         Line(axes=1, x=grid, y="bound", role="bound", label="the bound a site"),
         Points(axes=1, x="best_x", y="best_y", size=4.5),
         Points(axes=1, x="dot", y="height", role="accent", size=4.5, shape="square")],
        title="Explorer: the moment when symmetry breaks",
        alt="""Left, the curve tanh(4 beta m) and the diagonal: below beta = 0.25 they meet at m = 0 alone,
        above it at two more points, to
            which a staircase between curve and diagonal climbs. Right, the bound a site as a function of m
            under a horizontal line at the exact value: one hill at m = 0 for small beta, a valley there and
            two hills beside it above 0.25. The gap between the line and the hills is largest around beta 0.3
            and closes again at low temperature. A square marks the point that the ascent has reached after twelve
        steps: started at zero, it stays there.""",
        readout=["This start: m = {reached:.3f} after 12 steps, {end:.3f} in the end",
                 "The best |m| is {m:.3f} in mean field, {onsager:.3f} in truth (Onsager)",
                 "log Z a site: {log_z:.4f} nats in truth, bound {best:.4f}: gap {loss:+.4f}"])


def _fixed_point(beta: float) -> float:
    """The solution m >= 0 of m = tanh(4 beta m) that coordinate ascent ends in."""
    return brentq(lambda m: math.tanh(4 * beta * m) - m, 1e-3, 1) if 4 * beta > 1 else 0.0


def _entropy(m: float) -> float:
    up = 0.5 * (1 + m)
    return -sum(p * math.log(p) for p in (up, 1 - up) if p > 0)


def mixture() -> Explorer:
    """A Bayesian mixture of eight Gaussians on irises, iteration by iteration: components switch off."""
    flowers = iris()
    X = (flowers.X - flowers.X.mean(0)) / flowers.X.std(0)
    priors = {"0.001": 0.001, "0.1": 0.1, "10": 10.0}

    @lru_cache(maxsize=None)
    def fitted(concentration):
        prior = mean_field.MixturePrior.from_data(X, COMPONENTS, concentration=priors[concentration])
        begun, found = None, {}
        for before, after in zip((None, *ITERATIONS), ITERATIONS):
            steps = after - before if before is not None else 1  # the first picture is the start itself
            begun = mean_field.fit_mixture(X, COMPONENTS, prior=prior, num_iterations=max(steps, 1),
                                           tolerance=-math.inf, seed=2,
                                           **({} if begun is None else {"start": begun.responsibilities}))
            found[after] = begun
        return found

    def state(iteration, concentration):
        f = fitted(concentration)[iteration]
        size = f.responsibilities.sum(0)
        on = (size > 1).numpy()
        frame = {"bound": f.log_evidence, "used": int(on.sum())}
        scale, centre = flowers.X.std(0)[2:], flowers.X.mean(0)[2:]
        for k in range(COMPONENTS):
            mean, covariance = f.means[k, 2:] * scale + centre, f.covariances[k, 2:, 2:] * scale.outer(scale)
            frame[f"mean{k}"] = mean if on[k] else np.full(2, np.nan)
            frame[f"covariance{k}"] = covariance if on[k] else np.full((2, 2), np.nan)
        return frame

    def figure():
        fig, ax = figures.subplots(figsize=(6.0, 3.8))
        for group, marker in enumerate("osx"):
            part = flowers.X[flowers.group == group]
            ax.scatter(part[:, 2], part[:, 3], s=12, marker=marker, color=figures.colour("truth"), alpha=0.6,
                       linewidths=0.8)
        ax.set(xlim=(0.5, 7.5), ylim=(-0.1, 2.8), xlabel="petal length (cm)", ylabel="petal width (cm)")
        return fig

    return Explorer(
        [state],
        {"iteration": Slider("iterations", ITERATIONS, 0, play=True),
         "concentration": Choice("concentration of the prior", list(priors), "0.1")},
        figure,
        [Ellipse(mean=f"mean{k}", covariance=f"covariance{k}", radii=(1.0,),
                 label="components in use, 1 standard deviation" if k == 0 else "")
         for k in range(COMPONENTS)] + [Text(x=0.8, y=2.55, text="components in use: {used:d}")],
        title="Explorer: components switch off",
        alt="""Irises by petal length and width, a marker for each of the three species, and the ellipses of a
        mixture's components. At
            first eight ellipses share the flowers; as the iterations run, some shrink away and switch off,
            and with a small concentration few are left, one of them on the small petals of the first
            species.""",
        readout=["Components that hold more than one flower: {used:d} of 8; bound {bound:.1f} nats"])
