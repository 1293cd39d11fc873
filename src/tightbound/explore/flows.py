"""The explorers of the chapter on flows."""

from __future__ import annotations

import copy
import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from tightbound import figures
from tightbound.explore import Choice, Explorer, HeatMap, Line, Slider
from tightbound.flows import Chain, Coupling, Flow, Planar
from tightbound.flows.shipped import load

LEVELS = 31  # of a heat map: steps that an eye cannot tell apart cost nothing in a page


def _levels(density: Tensor, high: float) -> np.ndarray:
    """A density (rows, columns) in steps of its palette, 0 to 1."""
    return np.round(LEVELS * (density / high).clamp(0, 1).sqrt().numpy()) / LEVELS


def _lattice(low: float, high: float, num: int) -> Tensor:
    """The centres of num x num cells, row by row: (num^2, 2)."""
    side = low + (torch.arange(num, dtype=torch.float64) + 0.5) * (high - low) / num
    return torch.cartesian_prod(side, side).flip(-1)


def _grid_lines(reach: float, lines: int, points: int) -> Tensor:
    """Lines of a square grid, (n, 2), NaN between them."""
    across, along = torch.linspace(-reach, reach, lines, dtype=torch.float64), torch.linspace(-reach, reach, points, dtype=torch.float64)
    pieces = []
    for c in across:
        for order in ((0, 1), (1, 0)):
            line = torch.stack([along, torch.full_like(along, c)], -1)[:, order]
            pieces += [line, torch.full((1, 2), math.nan, dtype=torch.float64)]
    return torch.cat(pieces)


def _mapped(f, x: Tensor) -> np.ndarray:
    """f at the points between the gaps, to two digits."""
    found, here = torch.full_like(x, math.nan), ~x[:, 0].isnan()
    found[here] = f(x[here])
    return np.round(found.numpy(), 2)


def _thinned(f, fine: Tensor, reach: float, num: int) -> np.ndarray:
    """Lines (lines, many, 2) under f, each drawn by `num` of its points, which lie where it bends; NaN between lines, to two digits."""
    y = f(fine)
    step = y.diff(dim=1)
    length = step.norm(dim=-1).clamp(min=1e-12)
    turn = torch.linalg.cross(*(torch.nn.functional.pad(t, (0, 1)) for t in (step[:, :-1], step[:, 1:])))[..., 2].abs()
    turn = torch.nn.functional.pad(turn / (length[:, 1:] * length[:, :-1]), (0, 1))
    seen = (y[:, 1:].abs().amax(-1) < 1.1 * reach).double()
    weight = seen * ((turn * length).sqrt() + 0.03 * length) + 1e-6  # a chord misses a curve by length times turn
    done = torch.nn.functional.pad(weight.cumsum(-1), (1, 0))
    at = torch.searchsorted(done, done[:, -1:] * torch.linspace(0, 1, num, dtype=done.dtype)).clamp(max=fine.shape[1] - 1)
    chosen = y.gather(1, at.unsqueeze(-1).expand(-1, -1, 2))
    gap = torch.full_like(chosen[:, :1], math.nan)
    return np.round(torch.cat([chosen, gap], 1).reshape(-1, 2).numpy(), 2)


def planar() -> Explorer:
    """One planar layer, its w, u and b in the hand: the round base density and a grid before and after it."""
    x, lattice = _grid_lines(2.4, 7, 13), _lattice(-4.0, 4.0, 24)
    high = 0.32

    @lru_cache(maxsize=None)
    def layer(steepness, along, across, offset):
        f = Planar(2, 1)
        with torch.no_grad():
            f.w.copy_(torch.tensor([[steepness, 0.0]]))
            f.u.copy_(torch.tensor([[along, across]]))
            f.b.fill_(offset)
            grid = _mapped(lambda z: f.call_and_ladj(z)[0], x)
            q = Flow(f)().log_prob(lattice).exp().reshape(24, 24)
            _, u, _, s = f._parts(None)
        middle = math.exp(-0.5 * (offset / steepness) ** 2) / (2 * math.pi * float(s[0]))  # the crease falls between cells
        return grid, _levels(q, high), float(u[0, 0]), float(s[0]), middle

    def after(steepness, along, across, offset):
        grid, density, moved, s, middle = layer(steepness, along, across, offset)
        return {"x_after": grid[:, 0], "y_after": grid[:, 1], "density": density, "u_hat": moved, "wu": steepness * along, "least": s,
                "done": s - 1, "middle": middle}

    def plane(steepness, offset):
        at = -offset / steepness
        return {"plane": [at, at], "at": at}

    def figure():
        fig, (left, right) = figures.subplots(1, 2, figsize=(8.0, 4.1))
        for ax, title, letter in ((left, "before: N(0, I), a square grid", "x"), (right, "after the layer", "z")):
            ax.set(xlim=(-4, 4), ylim=(-4, 4), xlabel=f"{letter}1", title=title)
        left.set_ylabel("x2")
        return fig

    base = _levels(torch.exp(-0.5 * lattice.square().sum(-1)).reshape(24, 24) / (2 * math.pi), high)
    extent = (-4.0, 4.0, -4.0, 4.0)
    return Explorer(
        [after, plane],
        {"along": Slider("u along w", (-2, -1, -0.5, 0, 0.5, 1, 2, 4), 2, play=True), "across": Slider("u across w", (0, 1, 2), 0),
         "steepness": Slider("length of w", (0.5, 1, 3), 1), "offset": Slider("offset b", (-1.5, 0, 1.5), 0)},
        figure,
        [HeatMap(z=base, extent=extent, palette="Blues", alpha=0.45),
         Line(x=x[:, 0].numpy(), y=x[:, 1].numpy(), role="ink", width=0.8),
         Line(x="plane", y=np.array([-4.0, 4.0]), role="bound", label="the plane w'x + b = 0"),
         HeatMap(axes=1, z="density", extent=extent, palette="Blues", alpha=0.45),
         Line(axes=1, x="x_after", y="y_after", role="ink", width=0.8)],
        title="Explorer: one planar layer by hand",
        alt="""Left: a round Gaussian density in the plane with a square grid over it, and a vertical line, the plane of the layer. Right:
            the same density and grid after one planar layer. With u along w positive the grid is pulled apart at the plane, leaving a
            valley of low density with a ridge on either side; with u negative it is squeezed together into a narrow ridge, but never
            folded. With u across w the two sides slide past each other. A longer w makes the change sharper.""",
        readout=["w'u = {wu:.2f} asks; w'û = softplus({wu:.2f}) − 1 = {done:.3f} is what the layer does: û along w is {u_hat:+.3f}",
                 "at the plane, at x1 = {at:.2f}, volumes are multiplied by {least:.4f}, far from it by 1; the density at its middle "
                 "becomes {middle:.3f} (colours are clipped at 0.32)"])


TRAINED = {"moons, 8 couplings": ("moons, 8 couplings", 3.0, 0.35), "U1, 8 planar layers": ("U1, 8 planar layers", 4.0, 0.35)}


def _prefix(flow: Flow, k: int) -> Chain:
    """The first k layers of a trained flow, and what sets its place and scale (which stays, so that pictures can be compared)."""
    first, *rest = flow.bijection.layers
    if isinstance(first, Coupling):
        part = copy.copy(first)
        part._modules = {**first._modules, "networks": nn.ModuleList(first.networks[:k])}
        part.num_layers = k
    else:
        part = Planar(2, max(k, 1))
        part.w, part.u, part.b = (nn.Parameter(p[:k].detach()) for p in (first.w, first.u, first.b))
        part.num_layers = k
    return Chain([part, *rest] if k else rest)


def layers() -> Explorer:
    """A trained flow, layer by layer: its density and a grid of its base."""
    x = _grid_lines(2.2, 7, 4001)
    fine = x[~x[:, 0].isnan()].reshape(14, 4001, 2)

    @lru_cache(maxsize=None)
    def after(trained, layers):
        name, reach, high = TRAINED[trained]
        flow, k = load(name), int(layers)
        part, lattice = _prefix(flow, k), _lattice(-reach, reach, 40)
        with torch.no_grad():
            grid = _thinned(lambda z: part.call_and_ladj(z)[0], fine, reach, 80).clip(-9, 9)
            q = Flow(part)().log_prob(lattice).exp().reshape(40, 40)
            z, ladj = part.call_and_ladj(torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        return {"x": grid[:, 0] / reach, "y": grid[:, 1] / reach, "density": _levels(q, high), "largest": float(q.max()),
                "stretch": float(ladj.exp().quantile(0.95)), "squeeze": float(ladj.exp().quantile(0.05))}

    def figure(trained):
        reach = TRAINED[trained][1]
        fig, ax = figures.subplots(figsize=(5.0, 4.7))
        ticks = [t for t in (-4, -2, 0, 2, 4) if abs(t) <= reach]
        ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[t / reach for t in ticks], yticks=[t / reach for t in ticks], xticklabels=ticks,
               yticklabels=ticks, xlabel="z1", ylabel="z2")
        return fig

    return Explorer(
        [after],
        {"layers": Slider("layers so far", range(9), 8, play=True), "trained": Choice("flow", list(TRAINED), "moons, 8 couplings")},
        figure,
        [HeatMap(z="density", extent=(-1.0, 1.0, -1.0, 1.0), palette="Blues", alpha=0.45), Line(x="x", y="y", role="ink", width=0.6)],
        title="Explorer: a trained flow, layer by layer",
        alt="""The density of a trained flow after 0 to 8 of its layers, with a square grid of its base carried along. After none it is a
            Gaussian. Couplings bend it along one axis at a time until two interleaved half moons stand there, joined by a thin bridge;
            planar layers cut and pull the Gaussian apart into two opposite arcs of a ring. Between the moons, and between the arcs, the
            grid is stretched over a near-empty space.""",
        readout=["after {layers:d} of 8 layers: highest density {largest:.2f}",
                 "areas of the base are multiplied by {squeeze:.2f} to {stretch:.2f} (5th to 95th percentile over samples)"])
