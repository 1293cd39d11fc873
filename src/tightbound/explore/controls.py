"""What a hand can move. Every control has finitely many stops, so that a page can hold the answer at each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np


def _stops(stops: Sequence[float], label: str) -> tuple[float, ...]:
    try:
        values = np.asarray(stops, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all() or not (np.diff(values) > 0).all():
        raise ValueError(f"the stops of {label!r} must be two or more finite, increasing numbers, got {stops!r}")
    return tuple(int(v) if v == int(v) else v for v in values.tolist())


def _labelled(label: str) -> None:
    if not isinstance(label, str) or not label.strip():
        raise ValueError("a control needs a label: it is what a screen reader says")


@dataclass(frozen=True)
class Slider:
    """A number, at one of its stops. `play` adds a button that walks through them; "auto" starts by itself
    (unless the reader asked their system for less motion).

    Raises:
        ValueError: for stops that do not increase, a value that is not one of them, or no label.
    """

    label: str
    stops: Sequence[float]
    value: float
    play: bool | str = False

    def __post_init__(self):
        _labelled(self.label)
        object.__setattr__(self, "stops", _stops(self.stops, self.label))
        if self.play not in (False, True, "auto"):
            raise ValueError(f'play of {self.label!r} must be False, True or "auto", got {self.play!r}')
        if not isinstance(self.value, Real):
            raise ValueError(f"the value of {self.label!r} must be a number, got {self.value!r}")
        nearest = min(self.stops, key=lambda stop: abs(stop - self.value))
        if not abs(nearest - self.value) <= 1e-9 * (self.stops[-1] - self.stops[0]):  # a NaN is close to none
            raise ValueError(f"the value {self.value!r} of {self.label!r} is none of its stops; "
                             f"the nearest is {nearest!r}")
        object.__setattr__(self, "value", nearest)

    grid = property(lambda self: (self.stops,))
    values = property(lambda self: list(self.stops))

    def spec(self) -> dict:
        return {"type": "slider", "label": self.label, "stops": self.stops, "value": self.value, "play": self.play}


@dataclass(frozen=True)
class Choice:
    """One of several words, from a drop-down list.

    Raises:
        ValueError: for fewer than two options, repeated ones, others than words, or a value that is none of them.
    """

    label: str
    options: Sequence[str]
    value: str

    def __post_init__(self):
        _labelled(self.label)
        object.__setattr__(self, "options", tuple(self.options))
        if (len(self.options) < 2 or len(set(self.options)) < len(self.options) or self.value not in self.options
                or not all(isinstance(option, str) for option in self.options)):
            raise ValueError(f"{self.label!r} needs two or more different words as options with its value among them, "
                             f"got {self.options} and {self.value!r}")

    grid = property(lambda self: (self.options,))
    values = property(lambda self: list(self.options))

    def spec(self) -> dict:
        return {"type": "choice", "label": self.label, "stops": self.options, "value": self.value}


@dataclass(frozen=True)
class Toggle:
    """Yes or no.

    Raises:
        ValueError: for a value that is neither, or no label.
    """

    label: str
    value: bool = False

    def __post_init__(self):
        _labelled(self.label)
        if not isinstance(self.value, bool):
            raise ValueError(f"the value of {self.label!r} must be True or False, got {self.value!r}")

    grid = property(lambda self: ((False, True),))
    values = property(lambda self: [False, True])

    def spec(self) -> dict:
        return {"type": "toggle", "label": self.label, "stops": (False, True), "value": self.value}


@dataclass(frozen=True)
class Point:
    """A point of the picture that can be dragged, or moved by two sliders; its value is (x, y).

    Between its stops a page interpolates bilinearly, so a drag is smooth; let go, the point settles at the
    nearest stop, where every number is exact. `axes` says in which axes it lives.

    Raises:
        ValueError: as for `Slider`, in x and in y.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    value: tuple[float, float]
    axes: int = 0
    names: tuple[str, str] = ("x", "y")

    def __post_init__(self):
        _labelled(self.label)
        if np.shape(self.value) != (2,) or len(self.names) != 2:
            raise ValueError(f"the point {self.label!r} needs a value (x, y) and two names, "
                             f"got {self.value!r} and {self.names!r}")
        sliders = [Slider(f"{self.label}, {name}", stops, at)
                   for name, stops, at in zip(self.names, (self.x, self.y), self.value)]
        object.__setattr__(self, "x", sliders[0].stops)
        object.__setattr__(self, "y", sliders[1].stops)
        object.__setattr__(self, "value", (sliders[0].value, sliders[1].value))

    grid = property(lambda self: (self.x, self.y))
    values = property(lambda self: [(x, y) for x in self.x for y in self.y])

    def spec(self) -> dict:
        return {"type": "point", "label": self.label, "x": self.x, "y": self.y, "value": self.value, "axes": self.axes,
                "names": self.names}


@dataclass(frozen=True)
class Drawing:
    """A small picture that a hand draws, with a mouse, a finger or the keys; its value is its pixels, row by row from the
    top, from 0 (paper) to 1 (ink).

    A page computes what follows from it by `Network` and `Formula` alone. Its stops are pictures to start from.

    Args:
        label: what a screen reader says.
        shape: (rows, columns).
        pictures: name -> pixels, (rows, columns) or in one row; two or more. They are rounded to hundredths.
        start: the name of the one to begin with.
        axes, extent: where it lies in the figure: which axes, and (x0, x1, y0, y1) in them.

    Raises:
        ValueError: for pictures of another size or outside [0, 1], fewer than two, or a start that is none of them.
    """

    label: str
    shape: tuple[int, int]
    pictures: Mapping[str, Sequence[float]]
    start: str
    extent: Sequence[float]
    axes: int = 0

    def __post_init__(self):
        _labelled(self.label)
        if len(self.pictures) < 2 or self.start not in self.pictures:
            raise ValueError(f"{self.label!r} needs two or more pictures, its start among them, got {list(self.pictures)} and "
                             f"{self.start!r}")
        found = {}
        for name, picture in self.pictures.items():
            pixels = np.asarray(picture, dtype=float).reshape(-1).round(2)
            if len(pixels) != self.size or not ((0 <= pixels) & (pixels <= 1)).all():
                raise ValueError(f"the picture {name!r} of {self.label!r} must hold {self.shape[0]} x {self.shape[1]} pixels "
                                 "between 0 and 1")
            found[name] = tuple(int(v) if v == int(v) else v for v in pixels.tolist())
        object.__setattr__(self, "pictures", found)

    size = property(lambda self: self.shape[0] * self.shape[1])
    value = property(lambda self: self.pictures[self.start])
    values = property(lambda self: list(self.pictures.values()))

    def spec(self) -> dict:
        return {"type": "drawing", "label": self.label, "shape": self.shape, "stops": list(self.pictures),
                "pictures": self.pictures, "value": self.value, "extent": self.extent, "axes": self.axes}


Control = Slider | Choice | Toggle | Point | Drawing
