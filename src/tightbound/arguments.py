"""Checks of what a builder was given; each error names the argument, what it must be, and what came."""

from __future__ import annotations

import math
from numbers import Integral, Real


def real(name: str, value: float) -> float:
    """`value` as a float; ValueError unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def positive(name: str, value: float) -> float:
    """`value` as a float; ValueError unless it is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above zero, got {value!r}")
    return float(value)


def count(name: str, value: int, least: int = 0, most: int | None = None) -> int:
    """`value` as an int; ValueError unless it is an integer from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least or most is not None and most < value:
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer, {limit}, got {value!r}")
    return int(value)


def one_of(name: str, value: str, options: tuple[str, ...]) -> str:
    """`value` itself; ValueError unless it is one of `options`."""
    if value not in options:
        raise ValueError(f"unknown {name} {value!r}: choose {' or '.join(map(repr, options))}")
    return value
