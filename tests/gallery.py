"""Explorers for the tests: all of the chapters'; every control and every mark; every activation of a network; one that
raises."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing

import numpy as np
import torch
from torch import nn

import tightbound.explore
from tightbound import figures
from tightbound.explore import (Area, Arrows, Choice, Drawing, Ellipse, Explorer, Formula, HeatMap, Image, Line, Network,
                                Point, Points, Slider, Text, Toggle)

MACHINERY = {"controls", "marks", "lattice", "explorer", "live"}


def chapters_explorers() -> dict:
    """Every explorer that a chapter's module in `tightbound.explore` offers: name -> the function that makes it."""
    found = {}
    for module_info in pkgutil.iter_modules(tightbound.explore.__path__):
        if module_info.name in MACHINERY:
            continue
        module = importlib.import_module(f"tightbound.explore.{module_info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and typing.get_type_hints(function).get("return") is Explorer:
                found[f"{module_info.name}.{name}"] = function
    return found


COUNTS, ANGLES = (1, 2, 3, 5, 8, 13), np.linspace(-1, 1, 9)
X = np.linspace(0.0, 4.0, 41)


def gallery() -> Explorer:
    """Every control and every mark; two axes, one logarithmic; NaNs; a background for each drop-down and toggle."""
    rows, columns = np.mgrid[0:12, 0:16]

    def curves(count, angle, kind):
        y = {"sine": np.sin(count * X + angle), "root": np.sqrt(X / 4) * np.cos(angle)}[kind]
        y = np.where(np.abs(X - 2) < 0.3, np.nan, y)  # a gap in the middle
        return {"y": y, "low": y - 0.2, "sum": np.nansum(y), "nothing": np.nan}

    def fields(angle):
        heat = np.sin(rows / 3 + angle) * np.cos(columns / 4)
        heat[0, 0] = np.nan
        return {"heat": torch.tensor(heat), "grey": (rows + columns) / 26 * (1 + angle) / 2,
                "colours": np.stack([rows / 11, columns / 15, np.full(rows.shape, (1 + angle) / 2)], -1)}

    def dots(count):
        there = np.arange(13) < count
        return {"dot_x": np.where(there, np.linspace(0.2, 3.8, 13), np.nan), "dot_size": np.linspace(2, 8, 13)}

    def gaussian(spot, angle):
        a, b = spot
        return {"spot_x": [a], "spot_y": [b],
                "mean": [a, np.log(b)], "covariance": [[0.3, 0.2 * angle], [0.2 * angle, 0.4]],
                "arrow_x": [a, a], "arrow_y": [b, b], "arrow_dx": [0.7, 0.0], "arrow_dy": [b, 2 * b],
                "power": b ** X}

    def figure(kind, grid):
        fig, (left, right) = figures.subplots(1, 2, figsize=(7.2, 3.4))
        left.set(xlim=(0, 4), ylim=(-2, 2), title=kind, xlabel="x")
        left.grid(grid)
        right.set(xlim=(0, 4), ylim=(0.01, 100), yscale="log", xlabel="a")
        return fig

    controls = {"count": Slider("count", COUNTS, 3, play=True), "angle": Slider("angle", ANGLES, 0.25),
                "kind": Choice("kind", ["sine", "root"], "sine"), "grid": Toggle("grid", True),
                "spot": Point("spot", np.linspace(0.5, 3.5, 7), np.geomspace(0.125, 8, 7), (2, 1), axes=1,
                              names=("a", "b"))}
    marks = [
        HeatMap(z="heat", extent=(0, 2, -2, -1), low=-1, high=1, alpha=0.8),
        Image(z="grey", extent=(2, 3, -2, -1)), Image(z="colours", extent=(3, 4, -2, -1)),
        HeatMap(z=[[0.0, 0.5], [np.nan, 1.0]], extent=(0.1, 0.6, 1.4, 1.9), palette="viridis"),
        Area(x=X, low="low", high="y", label="a band"), Line(x=X, y="y", label="a line"),
        Line(x=[0, 4], y=[-1, -1], role="prior", width=1, label="the floor"),
        Points(x="dot_x", y=1.2, size="dot_size", role="accent", label="dots"),
        Points(x="dot_x", y=np.full(13, 1.5), shape="square", role="bound"),
        Points(x="dot_x", y=np.full(13, 1.8), shape="cross", role="truth"),
        Text(x=0.1, y=-0.7, text="{count} of {kind}: {sum:+.2f}"),
        Area(axes=1, x=X, low=0, high="power", alpha=0.15, role="bound"),
        Line(axes=1, x=X, y="power", role="bound"),
        Ellipse(axes=1, mean="mean", covariance="covariance", label="a Gaussian"),
        Ellipse(axes=1, mean=[3.0, 3.0], covariance=[[0.05, 0], [0, 0.05]], radii=(1,), role="prior", width=1),
        Arrows(axes=1, x="arrow_x", y="arrow_y", dx="arrow_dx", dy="arrow_dy", role="accent", label="arrows"),
        Text(axes=1, x="spot_x", y="spot_y", text="here", align="center"),
    ]
    return Explorer([curves, fields, dots, gaussian], controls, figure, marks,
                    title='Gallery: <all> & "more"</script>',
                    alt='Every mark: <lines>, areas, points, arrows, "ellipses", heat maps, images & text.',
                    readout=["{count} waves, sum {sum:.4f}, {nothing} and {angle}",
                             "a = {spot_x:.2f}, {grid} <b>{kind}</b>"])


ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "elu": nn.ELU,
               "silu": nn.SiLU, "identity": nn.Identity}


def networks() -> dict[str, nn.Sequential]:
    """A network for each activation: three numbers in, a picture of 5 by 6 out; rows of weights short and long."""
    found = {}
    for i, (name, activation) in enumerate(ACTIVATIONS.items()):
        torch.manual_seed(i)
        found[name] = nn.Sequential(nn.Linear(3, 24), activation(), nn.Linear(24, 6), activation(),
                                    nn.Linear(6, 30, bias=i % 2 == 0), nn.Sigmoid()).double()
    return found


def network() -> Explorer:
    """One picture a network."""
    def figure():
        fig, ax = figures.subplots(figsize=(7, 1.4))
        ax.set(xlim=(0, len(ACTIVATIONS)), ylim=(0, 1), xticks=[], yticks=[])
        return fig

    controls = {"t": Slider("t", np.linspace(-2, 2, 9), 0),
                "z": Point("z", np.linspace(0.5, 6.5, 5), np.linspace(0, 1, 5), (3.5, 0.5))}
    return Explorer([Network(module, ["t", "z"], name, (5, 6)) for name, module in networks().items()],
                    controls, figure, [Image(z=name, extent=(i, i + 0.95, 0, 1)) for i, name in enumerate(ACTIVATIONS)],
                    alt="One small picture for each activation.", readout=["t = {t:.2f}"])


def sketch() -> Explorer:
    """A drawing, read by small networks in a chain, and every formula."""
    torch.manual_seed(0)
    reader = nn.Sequential(nn.Linear(30, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    writer = nn.Sequential(nn.Linear(2, 12), nn.SiLU(), nn.Linear(12, 30)).double()
    cross, corner = np.zeros((5, 6)), np.linspace(0, 1, 30)
    cross[2] = cross[:, 3] = 1

    def figure():
        fig, (left, middle, right) = figures.subplots(1, 3, figsize=(7, 2.4))
        for ax in (left, right):
            ax.set(xlim=(0, 6), ylim=(0, 5), xticks=[], yticks=[])
        middle.set(xlim=(-3, 3), ylim=(-3, 3))
        return fig

    return Explorer(
        [Network(reader, ["ink"], "code", (4,), small=True), Formula("mean", ["code"], "mean", (2,)),
         Formula("covariance", ["code"], "covariance", (2, 2)), Formula("rate", ["code"], "rate"),
         Network(writer, ["mean"], "logits", (5, 6), small=True), Formula("sigmoid", ["logits"], "again", (5, 6)),
         Formula("bernoulli", ["ink", "logits"], "fit"), Formula("difference", ["fit", "rate"], "bound"),
         Formula("paper", ["ink"], "paper", (5, 6)), Formula("binary", ["ink"], "black", (5, 6))],
        {"ink": Drawing("your drawing", (5, 6), {"a cross": cross, "a corner": corner, "nothing": np.zeros(30)}, "a cross",
                        extent=(0.5, 5.5, 0.5, 4.5))},
        figure, [Image(z="paper", extent=(0.5, 5.5, 0.5, 4.5)), Image(axes=2, z="again", extent=(0, 6, 0, 5)),
                 Ellipse(axes=1, mean="mean", covariance="covariance")],
        title="Sketch", alt="A drawing, an ellipse, and another picture.",
        readout=["rate {rate:.3f}, fit {fit:.2f}, bound {bound:.2f}"])


def trouble() -> Explorer:
    """Raises at one stop, and answers alike at two others."""
    def halves(n):
        if n == 2:
            raise ZeroDivisionError("two is <b>not</b> allowed")
        return {"y": np.full(3, n // 4)}

    def figure():
        fig, ax = figures.subplots(figsize=(5, 2))
        ax.set(xlim=(0, 1), ylim=(-1, 3))
        return fig

    return Explorer([halves], {"n": Slider("n", range(9), 0)}, figure, [Line(x=[0, 0.5, 1], y="y")], title="Trouble",
                    alt="A level line, at a quarter of n rounded down; at 2 there is none.",
                    readout=["n = {n:d}, level {y:.1f}"])
