"""The explorers of the Laplace chapter."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from tightbound import figures, laplace, problems
from tightbound.explore import Arrows, Area, Choice, Ellipse, Explorer, Line, Point, Points, Slider

FLIPS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 200)


def coin() -> Explorer:
    """The coin, with a flat prior: the exact joint density and Laplace's parabola, in p or in logit p."""
    grids = {"p": np.linspace(0.0, 1.0, 121).clip(1e-9, 1 - 1e-9), "logit": np.linspace(-6.0, 6.0, 121)}

    def grid(coordinate):
        return {"z": grids[coordinate]}

    def densities(flips, share, coordinate):
        return curves(flips, math.floor(share * flips + 0.5), coordinate)

    @lru_cache(maxsize=None)  # many shares of few flips are the same number of heads
    def curves(flips, heads, coordinate):
        problem = problems.coin(heads, flips - heads, a=1.0, b=1.0, coordinate=coordinate)
        z = torch.tensor(grids[coordinate]).unsqueeze(-1)
        joint, evidence = problem.log_joint(z), float(problem.log_evidence)
        try:
            expansion = laplace.expand(problem, _coin_mode(heads, flips, coordinate))
            top, estimate = -expansion.energy, expansion.log_evidence()
            gaussian = torch.exp(-0.5 * expansion.hessian[0, 0] * (z[:, 0] - expansion.at[0]) ** 2)
        except (ValueError, torch.linalg.LinAlgError):  # the mode lies on the edge: there is nothing to expand around
            top, estimate, gaussian = joint.max(), math.nan, np.full(len(z), math.nan)
        return {"heads": heads, "exact": torch.exp(joint - top), "gaussian": gaussian, "log_evidence": evidence,
                "estimate": estimate, "gap": evidence - estimate, "area": math.exp(estimate - evidence)}

    def figure(coordinate):
        fig, ax = figures.subplots(figsize=(6.4, 3.2))
        ax.set(xlim=grids[coordinate][[0, -1]].round(), ylim=(0, 1.12), yticks=[0, 0.5, 1], ylabel="joint density / its maximum",
               xlabel={"p": "p, the probability of heads", "logit": "z = logit p"}[coordinate])
        return fig

    return Explorer(
        [grid, densities],
        {"flips": Slider("flips", FLIPS, 10, play=True), "share": Slider("share of heads", np.linspace(0, 1, 21), 0.7),
         "coordinate": Choice("coordinate", ["p", "logit"], "p")},
        figure,
        [Area(x="z", high="exact", role="truth", label="exact area: the evidence"),
         Area(x="z", high="gaussian", label="Laplace's area"),
         Line(x="z", y="exact", role="truth", label="exact joint density"),
         Line(x="z", y="gaussian", label="Laplace's approximation of it")],
        title="Explorer: the coin",
        alt="""The joint density of a coin's probability of heads, divided by its maximum, and Laplace's bell through its
            peak with the same height and curvature. With few flips, or few heads, the density leans and the bell misses
            one tail and overshoots the other; with many flips the two curves are one. In p, with no heads or no tails, the
            peak lies at the edge and there is no bell; in logit p there always is.""",
        readout=["heads in {heads:d} of {flips:d} flips: log evidence {log_evidence:.4f} nats exactly, {estimate:.4f} by Laplace",
                 "gap {gap:+.4f} nats: Laplace's area is {area:.4f} times the exact one"])


def _coin_mode(heads: int, flips: int, coordinate: str) -> list[float]:
    """Where the coin's joint density is highest under a flat prior: h/n in p, log (h+1)/(t+1) in logit p."""
    return [heads / flips] if coordinate == "p" else [math.log((heads + 1) / (flips - heads + 1))]


def eight_schools() -> Explorer:
    """Eight schools in the plane: Laplace's Gaussian around a point that can be dragged, in log tau or in tau."""
    targets = {name: problems.eight_schools(coordinate=name) for name in ("log tau", "tau")}
    mode = laplace.approximate(targets["log tau"]).diagnostics["expansion"].at
    start = (round(float(mode[0]), 6), round(math.exp(float(mode[1])), 6))
    mu = np.unique([*np.linspace(-6, 15, 22), start[0]])
    tau = np.unique([*np.geomspace(0.5, 20, 22).round(3), start[1]])

    @lru_cache(maxsize=None)
    def at_stops(coordinate):
        """The expansions at all stops in one batch, which takes little longer than a single one."""
        points = [(x, y) for x in controls["point"].x for y in controls["point"].y]
        z = torch.tensor([latents(point, coordinate) for point in points], dtype=torch.float64)
        value, gradient = targets[coordinate].value_and_gradient(z)
        hessian = targets[coordinate].hessian(z)
        return {point: laplace.Expansion(z[i], -value[i], -gradient[i], -0.5 * (hessian[i] + hessian[i].mT))
                for i, point in enumerate(points)}

    def latents(point, coordinate):
        return [point[0], math.log(point[1]) if coordinate == "log tau" else point[1]]

    def expansion(point, coordinate):
        problem = targets[coordinate]
        around = at_stops(coordinate).get(tuple(point)) or laplace.expand(problem, latents(point, coordinate))
        found = {"x": [point[0]], "y": [point[1]], "gradient": float(around.gradient.norm()),
                 "curvature": around.smallest_curvature()[0], "log_evidence": float(problem.log_evidence)}
        try:
            q, estimate, promise = around.gaussian(), around.log_evidence(), around.decrement()
            mean, covariance = q.loc.numpy(), q.covariance_matrix.numpy()
        except torch.linalg.LinAlgError:  # no Gaussian fits where the energy does not curve upwards
            mean, covariance, estimate, promise = np.full(2, np.nan), np.full((2, 2), np.nan), math.nan, math.nan
        tip = math.exp(min(mean[1], 5.0)) if coordinate == "log tau" else mean[1]
        return found | {"mean": mean, "covariance": covariance, "estimate": estimate, "promise": promise,
                        "gap": found["log_evidence"] - estimate, "dx": [mean[0] - point[0]], "dy": [tip - point[1]]}

    def figure(coordinate):
        fig, ax = figures.subplots(figsize=(6.4, 4.0))
        x, y = np.linspace(-8, 17, 121), np.geomspace(0.3, 30, 121) if coordinate == "log tau" else np.linspace(0, 20, 121)
        z = np.stack(np.meshgrid(x, np.log(y) if coordinate == "log tau" else y), -1)
        log_joint = targets[coordinate].log_joint(torch.tensor(z)).numpy()
        levels = log_joint.max() - 0.5 * np.array([4.0, 3.0, 2.0, 1.0, 0.3]) ** 2
        ax.contour(x, y, log_joint, levels=levels, colors=figures.colour("truth"), linewidths=1.2, linestyles="solid")
        ax.set(xlabel="mu, the mean effect", ylabel=f"tau, the spread between schools ({'log' if coordinate == 'log tau' else 'linear'} scale)",
               xlim=(-8, 17), ylim=(0.3, 30) if coordinate == "log tau" else (0, 20))
        if coordinate == "log tau":
            ax.set_yscale("log")
            ax.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
            ax.minorticks_off()
        return fig

    controls = {"point": Point("expansion point", mu, tau, start, names=("mu", "tau")),
                "coordinate": Choice("coordinate", ["log tau", "tau"], "log tau")}
    return Explorer(
        [expansion], controls, figure,
        [Ellipse(mean="mean", covariance="covariance", radii=(1.0, 2.0), label="Laplace's Gaussian, 1 and 2 standard deviations"),
         Arrows(x="x", y="y", dx="dx", dy="dy", role="bound", label="one Newton step, from the expansion point to its mean"),
         Points(x="x", y="y", role="bound", size=4.0)],
        title="Explorer: eight schools",
        alt="""Contours of the eight-schools posterior over mu and tau, with the one- and two-sigma ellipses of the Gaussian
            that the second-order expansion gives around a draggable point. In log tau the contours are a drop that
            narrows downwards into a neck; around the mode the ellipse covers the drop but not the neck. Away from the mode
            an arrow leads from the point to the Gaussian's mean; from down in the neck it shoots past the top. Far to the
            left, where the curvature is not positive, no ellipse is drawn. In tau the contours press against the axis tau = 0, and half of the ellipse around that edge lies below it.""",
        readout=["at mu {x:.2f}, tau {y:.2f}: |J| = {gradient:.3f}, smallest curvature {curvature:+.3f}, a Newton step promises {promise:.3f} nats",
                 "log evidence {log_evidence:.4f} nats exactly, {estimate:.4f} by the expansion: gap {gap:+.4f} nats"])
