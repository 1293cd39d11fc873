"""A number in nats that says what it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = ("exact", "lower bound", "upper bound", "consistent estimate", "approximation")


@dataclass(frozen=True)
class Estimate:
    """A value in nats, with its kind and, where it has one, its Monte Carlo standard error.

    Args:
        value: the number, in nats.
        kind: ``"exact"``; ``"lower bound"`` or ``"upper bound"`` (in expectation, where it is random);
            ``"consistent estimate"`` (tends to the truth with the number of samples); or ``"approximation"``
            (none of these: it is close when its assumptions hold, and no amount of work brings it closer).
        standard_error: Monte Carlo standard error in nats, or None for a number without randomness.
        source: how the number is known ("Beta function", "quadrature", ...).

    Raises:
        ValueError: for an unknown kind, or a value that is NaN.
    """

    value: float
    kind: str = "exact"
    standard_error: float | None = None
    source: str = ""

    def __post_init__(self):
        object.__setattr__(self, "value", float(self.value))
        if self.standard_error is not None:
            object.__setattr__(self, "standard_error", float(self.standard_error))
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of estimate {self.kind!r}: choose one of {', '.join(KINDS)}")
        if math.isnan(self.value):
            raise ValueError("an estimate cannot be NaN: look at the log joint that it came from")

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        source = f" by {self.source}" if self.source else ""
        return f"{self.value:.4f}{error} nats ({self.kind}{source})"
