"""What moves in a picture. A mark names the arrays that it draws; the page and matplotlib draw the same marks.

Wherever a mark asks for an array it takes a name (of an array that the explorer's functions return) or an array that
never changes. NaN lifts the pen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import matplotlib as mpl
import numpy as np

from tightbound.figures import DASHES, colour

Data = str | Sequence[float] | np.ndarray | float


def fill(template: str, values: Mapping[str, object]) -> str:
    """A template like ``"gap {gap:+.3f} nats"`` with numbers put in, exactly as the page does it.

    Formats: ``{name}`` as it is, ``{name:d}`` an integer, ``{name:.3f}`` and ``{name:+.3f}`` decimals. A number that is
    not finite reads "n/a", and a minus is a minus sign.
    """
    def one(match: re.Match) -> str:
        value = values[match[1]]
        if isinstance(value, str):
            return value
        number = float(np.asarray(value).reshape(-1)[0])
        if not np.isfinite(number):
            return "n/a"
        form = match[2] or ("d" if number == int(number) else ".6g")
        return (f"{round(number):d}" if form == "d" else f"{number:{form}}").replace("-", "−")

    return re.sub(r"\{(\w+)(?::([^}]*))?\}", one, template)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What all marks share: the axes they live in, their colour role, and their words in the legend."""

    axes: int = 0
    role: str = "approximation"
    label: str = ""

    def spec(self) -> dict:
        colour(self.role)
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"type": type(self).__name__.lower(), **{
            key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in own.items()}}

    def arrays(self) -> list[str]:
        """The names of the arrays that this mark draws."""
        return [value for field in fields(self) if field.name in self.DATA
                for value in [getattr(self, field.name)] if isinstance(value, str)]

    DATA = ()


def _get(frame: Mapping, data: Data) -> np.ndarray:
    return np.asarray(frame[data] if isinstance(data, str) else data, dtype=float)


@dataclass(frozen=True, kw_only=True)
class Line(Mark):
    """A line through (x_i, y_i), dashed as its role."""

    x: Data
    y: Data
    width: float = 2.0
    DATA = ("x", "y")

    def draw(self, ax, frame):
        dashes = DASHES.get(self.role, ())
        ax.plot(_get(frame, self.x), _get(frame, self.y), color=colour(self.role), lw=self.width,
                **({"dashes": dashes} if dashes else {}))


@dataclass(frozen=True, kw_only=True)
class Area(Mark):
    """The area between two curves over x."""

    x: Data
    low: Data = 0.0
    high: Data
    alpha: float = 0.25
    DATA = ("x", "low", "high")

    def draw(self, ax, frame):
        x = _get(frame, self.x)
        ax.fill_between(x, np.broadcast_to(_get(frame, self.low).squeeze(), x.shape), _get(frame, self.high),
                        color=colour(self.role), alpha=self.alpha, lw=0)


@dataclass(frozen=True, kw_only=True)
class Points(Mark):
    """Points (x_i, y_i) of radius `size` in pixels (a number, or an array of them); shape: circle, square or cross."""

    x: Data
    y: Data
    size: Data = 4.0
    shape: str = "circle"
    alpha: float = 0.8
    DATA = ("x", "y", "size")

    def draw(self, ax, frame):
        style = {"circle": "o", "square": "s", "cross": "x"}[self.shape]
        ax.scatter(_get(frame, self.x), _get(frame, self.y), s=(1.6 * _get(frame, self.size)) ** 2, c=colour(self.role),
                   marker=style, alpha=self.alpha, **({} if style == "x" else {"linewidths": 0}))


@dataclass(frozen=True, kw_only=True)
class Arrows(Mark):
    """Arrows from (x_i, y_i) to (x_i + dx_i, y_i + dy_i)."""

    x: Data
    y: Data
    dx: Data
    dy: Data
    width: float = 2.0
    DATA = ("x", "y", "dx", "dy")

    def draw(self, ax, frame):
        x, y, dx, dy = (np.atleast_1d(_get(frame, data)) for data in (self.x, self.y, self.dx, self.dy))
        for i in range(len(x)):
            if np.isfinite([x[i], y[i], dx[i], dy[i]]).all():
                ax.annotate("", (x[i] + dx[i], y[i] + dy[i]), (x[i], y[i]),
                            arrowprops={"arrowstyle": "-|>", "color": colour(self.role), "lw": self.width})


@dataclass(frozen=True, kw_only=True)
class Ellipse(Mark):
    """Ellipses of a plane Gaussian: mean (2,), covariance (2, 2), at `radii` standard deviations.

    On a logarithmic axis the Gaussian lives in the logarithm of that coordinate.
    """

    mean: Data
    covariance: Data
    radii: Sequence[float] = (1.0, 2.0)
    width: float = 2.0
    DATA = ("mean", "covariance")

    def draw(self, ax, frame):
        mean, covariance = _get(frame, self.mean), _get(frame, self.covariance).reshape(2, 2)
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            return
        turn = np.linspace(0, 2 * np.pi, 97)
        circle = np.linalg.cholesky(covariance) @ np.stack([np.cos(turn), np.sin(turn)])
        scale_x, scale_y = (np.exp if scale == "log" else np.positive for scale in (ax.get_xscale(), ax.get_yscale()))
        for radius in self.radii:
            x, y = mean[:, None] + radius * circle
            ax.plot(scale_x(x), scale_y(y), color=colour(self.role), lw=self.width,
                    dashes=DASHES.get(self.role) or (1, 0))


@dataclass(frozen=True, kw_only=True)
class HeatMap(Mark):
    """A scalar field z (rows, columns) over extent (x0, x1, y0, y1), row 0 at y0; coloured between `low` and `high`."""

    z: Data
    extent: Sequence[float]
    low: float = 0.0
    high: float = 1.0
    palette: str = "cividis"
    alpha: float = 1.0
    DATA = ("z",)

    def spec(self) -> dict:
        steps = mpl.colormaps[self.palette](np.linspace(0, 1, 33))[:, :3]
        return {**super().spec(), "palette": (255 * steps).round().astype(int).tolist()}

    def draw(self, ax, frame):
        ax.imshow(_get(frame, self.z), extent=self.extent, origin="lower", aspect="auto", cmap=self.palette,
                  vmin=self.low, vmax=self.high, alpha=self.alpha, interpolation="nearest", zorder=0)


@dataclass(frozen=True, kw_only=True)
class Image(Mark):
    """A picture in grey (rows, columns) or colour (rows, columns, 3), values from 0 to 1, row 0 on top."""

    z: Data
    extent: Sequence[float]
    DATA = ("z",)

    def draw(self, ax, frame):
        ax.imshow(_get(frame, self.z).clip(0, 1), extent=self.extent, origin="upper", aspect="auto", cmap="gray",
                  vmin=0, vmax=1, interpolation="nearest", zorder=0)


@dataclass(frozen=True, kw_only=True)
class Text(Mark):
    """A line of text at (x, y), a template as `fill` takes it."""

    x: Data
    y: Data
    text: str
    align: str = "left"
    role: str = "ink"
    DATA = ("x", "y")

    def draw(self, ax, frame):
        at = [float(_get(frame, data).reshape(-1)[0]) for data in (self.x, self.y)]
        if np.isfinite(at).all():
            ax.text(*at, fill(self.text, frame), color=colour(self.role), ha=self.align, va="center")
