"""What moves in a picture. A mark names the arrays that it draws; the page and matplotlib draw the same marks.

Wherever a mark asks for an array it takes a name (of an array that the explorer's functions return) or an array that
never changes. NaN lifts the pen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_UP, Decimal, localcontext

import matplotlib as mpl
import numpy as np

from tightbound.figures import DASHES, colour

Data = str | Sequence[float] | np.ndarray | float


def fill(template: str, values: Mapping[str, object]) -> str:
    """A template like ``"gap {gap:+.3f} nats"`` with numbers put in, exactly as the page does it.

    Formats: ``{name}`` as it is (to six digits), ``{name:d}`` an integer, ``{name:.3f}`` and ``{name:+.3f}`` decimals,
    halves rounded away from zero. A number that is not finite reads "n/a", and a minus is a minus sign. Of alternatives
    (``"root {x:.2f} || no root"``) it is the first in which no number is missing, else the last.

    Raises:
        ValueError: for a name that has no value, or another format.
    """
    def one(match: re.Match) -> str:
        name, form = match[1], match[2] or ""
        if name not in values:
            raise ValueError(f"{template!r} names {name!r}, but there are only {sorted(values)}")
        if not re.fullmatch(r"d|\+?\.\d+f|", form):
            raise ValueError(f"{template!r} has the format {form!r}: use {{{name}}}, {{{name}:d}}, {{{name}:.3f}} or "
                             f"{{{name}:+.3f}}")
        value = values[name]
        return value if isinstance(value, str) else _digits(float(np.asarray(value).reshape(-1)[0]), form)

    filled = [re.sub(r"\{(\w+)(?::([^}]*))?\}", one, part) for part in template.split(" || ")]
    return next((words for words in filled if "n/a" not in words), filled[-1])


def _digits(number: float, form: str) -> str:
    if not np.isfinite(number):
        return "n/a"
    with localcontext(rounding=ROUND_HALF_UP):  # a browser's rounding; Python's own takes halves to the even digit
        if form == "d" or not form and number == int(number):
            text = f"{int(Decimal(number).to_integral_value()):d}"
        elif form:
            text = f"{Decimal(number + 0.0):{form}}"  # + 0.0 takes the sign off a zero
        else:
            text = f"{float(f'{Decimal(number):.5e}'):.6g}"
    return text.replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What all marks share: the axes they live in, their colour role, and their words in the legend.

    Raises:
        ValueError: for an unknown role.
    """

    axes: int = 0
    role: str = "approximation"
    label: str = ""
    DATA = ()  # which fields hold arrays

    def __post_init__(self):
        colour(self.role)

    def spec(self) -> dict:
        """What the page is told: names of arrays stay names, arrays that never change go along."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"type": type(self).__name__.lower(), **{
            key: _constant(value) if key in self.DATA and not isinstance(value, str) else value
            for key, value in own.items()}}

    def arrays(self) -> list[str]:
        """The names of the arrays that this mark draws."""
        return [data for data in (getattr(self, name) for name in self.DATA) if isinstance(data, str)]

    def check(self, frame: Mapping) -> None:
        """Raises ValueError where the arrays of a frame do not fit this mark."""
        shapes = {name: _get(frame, getattr(self, name)).shape for name in self.DATA}
        if not self._fits(shapes):
            raise ValueError(f"{type(self).__name__} cannot draw arrays of the shapes {shapes}")

    def _fits(self, shapes: Mapping[str, tuple]) -> bool:
        """Arrays of one dimension and one length, beside them single numbers."""
        lengths = {shape for shape in shapes.values() if shape not in ((), (1,))}
        return len(lengths) <= 1 and all(len(shape) == 1 for shape in lengths)


def _constant(data: Data) -> dict:
    array = np.asarray(data, dtype=float)
    return {"shape": array.shape, "data": [v if np.isfinite(v) else None for v in array.reshape(-1).tolist()]}


def _get(frame: Mapping, data: Data) -> np.ndarray:
    return np.asarray(frame[data] if isinstance(data, str) else data, dtype=float)


def _columns(frame: Mapping, *data: Data) -> list[np.ndarray]:
    """Arrays of one length each, single numbers repeated."""
    return np.broadcast_arrays(*(np.atleast_1d(_get(frame, one)) for one in data))


@dataclass(frozen=True, kw_only=True)
class Line(Mark):
    """A line through (x_i, y_i), dashed as its role."""

    x: Data
    y: Data
    width: float = 2.0
    DATA = ("x", "y")

    def draw(self, ax, frame):
        dashes = DASHES.get(self.role, ())
        ax.plot(*_columns(frame, self.x, self.y), color=colour(self.role), lw=self.width,
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
        ax.fill_between(*_columns(frame, self.x, self.low, self.high), color=colour(self.role), alpha=self.alpha, lw=0)


@dataclass(frozen=True, kw_only=True)
class Points(Mark):
    """Points (x_i, y_i) of radius `size` in pixels (a number, or an array of them); shape: circle, square or cross.

    Raises:
        ValueError: for another shape.
    """

    x: Data
    y: Data
    size: Data = 4.0
    shape: str = "circle"
    alpha: float = 0.8
    DATA = ("x", "y", "size")
    SHAPES = {"circle": "o", "square": "s", "cross": "x"}

    def __post_init__(self):
        super().__post_init__()
        if self.shape not in self.SHAPES:
            raise ValueError(f"unknown shape of points {self.shape!r}: choose one of {', '.join(self.SHAPES)}")

    def draw(self, ax, frame):
        style = self.SHAPES[self.shape]
        x, y, size = _columns(frame, self.x, self.y, self.size)
        ax.scatter(x, y, s=(1.6 * size) ** 2, c=colour(self.role), marker=style, alpha=self.alpha,
                   **({} if style == "x" else {"linewidths": 0}))


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
        x, y, dx, dy = _columns(frame, self.x, self.y, self.dx, self.dy)
        for i in range(len(x)):
            ends = np.array([[x[i], y[i]], [x[i] + dx[i], y[i] + dy[i]]])
            if np.isfinite(ends).all() and np.ptp(ax.transData.transform(ends), 0).max() > 1:  # longer than a pixel
                arrow = ax.annotate("", ends[1], ends[0], annotation_clip=False, arrowprops={
                    "arrowstyle": "-|>", "color": colour(self.role), "lw": self.width, "shrinkA": 0, "shrinkB": 0})
                arrow.arrow_patch.set_clip_path(ax.patch)


@dataclass(frozen=True, kw_only=True)
class Ellipse(Mark):
    """Ellipses of a plane Gaussian: mean (2,), covariance (2, 2), at `radii` standard deviations.

    On a logarithmic axis the Gaussian lives in the logarithm of that coordinate. A covariance that is not positive
    definite draws nothing.
    """

    mean: Data
    covariance: Data
    radii: Sequence[float] = (1.0, 2.0)
    width: float = 2.0
    DATA = ("mean", "covariance")

    def _fits(self, shapes):
        return shapes == {"mean": (2,), "covariance": (2, 2)}

    def draw(self, ax, frame):
        mean, covariance = _get(frame, self.mean), _get(frame, self.covariance)
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and np.linalg.eigvalsh(covariance)[0] > 0):
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
    """A scalar field z (rows, columns) over extent (x0, x1, y0, y1), row 0 at y0; coloured between `low` and `high`.

    Raises:
        ValueError: for low not below high, or a palette that matplotlib does not know.
    """

    z: Data
    extent: Sequence[float]
    low: float = 0.0
    high: float = 1.0
    palette: str = "cividis"
    alpha: float = 1.0
    DATA = ("z",)

    def __post_init__(self):
        super().__post_init__()
        if not self.low < self.high:
            raise ValueError(f"a heat map is coloured from low up to high, got low {self.low} and high {self.high}")
        if self.palette not in mpl.colormaps:
            raise ValueError(f"matplotlib knows no palette {self.palette!r}; it has cividis, viridis, magma, RdBu "
                             "and others")

    def _fits(self, shapes):
        return len(shapes["z"]) == 2

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

    def _fits(self, shapes):
        return len(shapes["z"]) == 2 or len(shapes["z"]) == 3 and shapes["z"][2] == 3

    def draw(self, ax, frame):
        ax.imshow(_get(frame, self.z).clip(0, 1), extent=self.extent, origin="upper", aspect="auto", cmap="gray",
                  vmin=0, vmax=1, interpolation="nearest", zorder=0)


@dataclass(frozen=True, kw_only=True)
class Text(Mark):
    """A line of text at (x, y), a template as `fill` takes it; aligned left, center or right."""

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
