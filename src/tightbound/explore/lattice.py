"""How a page holds answers without a kernel: arrays on a lattice of stops, or the weights of a small network."""

from __future__ import annotations

import base64
import copy
import gzip
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from tightbound.explore.controls import Control, Drawing, Point, Slider

LIMIT = 4_000_000  # numbers in a lattice: above this a page would weigh megabytes
ACTIVATIONS = {repr(layer): type(layer).__name__.lower() for layer in (  # what a page can run beside nn.Linear
    nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.ELU(), nn.SiLU(), nn.Identity())}


LOGARITHMIC = (math.log(1e3), 131.0)  # in steps of the logarithm: a row spanning so many nats, exact to a thousandth


class Packer:
    """Collects arrays into one buffer, each as rows of 16-bit steps between the row's least and greatest value.

    A row of positive numbers that spans more than a factor of 1000, as on a logarithmic axis, goes in steps of its
    logarithm, unless (beyond 56 decades) that would cost more than a thousandth of a number. Rows of up to 8 numbers,
    whose digits may be read, keep double precision. NaN (and infinity) is kept as NaN.
    """

    def __init__(self):
        self.parts: list[bytes] = []
        self.size = 0

    def add_bytes(self, rows: np.ndarray) -> dict:
        """Rows of finite numbers in 255 steps each: exact for rows that `rounded` has made so."""
        if rows.shape[1] <= 8:
            return self.add(rows)
        low, span, coded = in_steps(rows, 255, np.uint8)
        return {"rows": rows.shape[0], "columns": rows.shape[1],
                "range": self._append(np.stack([low, span, np.zeros_like(low)])), "u1": self._append(coded)}

    def add(self, rows: np.ndarray) -> dict:
        rows = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
        if rows.shape[1] <= 8:
            return {"rows": rows.shape[0], "columns": rows.shape[1], "f8": self._append(rows)}
        blank = np.isnan(rows)
        low, high = np.where(blank, np.inf, rows).min(1), np.where(blank, -np.inf, rows).max(1)
        low, high = np.where(blank.all(1), 0.0, low), np.where(blank.all(1), 0.0, high)
        logarithmic = in_logarithms(low, high)
        rows = np.where(logarithmic[:, None], _log(rows), rows)
        low, high = (np.where(logarithmic, _log(end), end) for end in (low, high))
        span = high - low
        steps = np.where(blank, 0, (rows - low[:, None]) / np.where(span > 0, span, 1)[:, None] * 65534)
        coded = np.where(blank, 65535, np.rint(steps)).astype("<u2")
        return {"rows": rows.shape[0], "columns": rows.shape[1],
                "range": self._append(np.stack([low, span, logarithmic])), "u2": self._append(coded)}

    def _append(self, array: np.ndarray) -> int:
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        data += bytes(-len(data) % 8)
        self.parts.append(data)
        self.size += len(data)
        return self.size - len(data)

    def text(self) -> str:
        """Everything added, compressed, as base64."""
        return base64.b64encode(gzip.compress(b"".join(self.parts), 9, mtime=0)).decode()


def in_steps(rows: np.ndarray, steps: int, kind: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row (n, m) as its least number (n,), its span (n,), and whole steps (n, m) of so many equal ones between."""
    low, span = rows.min(1), np.ptp(rows, 1)
    coded = np.rint((rows - low[:, None]) / np.where(span > 0, span, 1)[:, None] * steps)
    return low, span, coded.astype(kind)


def rounded(rows: np.ndarray, steps: int = 255) -> np.ndarray:
    """Rows (n, m) in so many equal steps each; rows of up to 8 numbers as they are.

    `Packer.add_bytes` stores them exactly where the number of steps divides 255, in less space where they are few.
    """
    if rows.shape[1] <= 8:
        return rows
    low, span, coded = in_steps(rows, steps, np.uint8)
    return low[:, None] + span[:, None] / steps * coded


def in_logarithms(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether rows with these ends are packed in steps of their logarithm."""
    span = np.where(low > 0, _log(high) - _log(low), 0.0)
    return (LOGARITHMIC[0] < span) & (span < LOGARITHMIC[1])


def _log(values: np.ndarray) -> np.ndarray:
    """The logarithm of what is positive; the rest, which no one asks for, is 0."""
    return np.log(np.where(values > 0, values, 1.0))


class Function:
    """A function of some of the controls, by the names of its parameters, that returns named arrays."""

    def __init__(self, compute: Callable[..., Mapping[str, object]]):
        self.compute, self.name = compute, getattr(compute, "__name__", repr(compute))
        self.inputs = list(inspect.signature(compute).parameters)
        self._last: tuple[tuple, dict[str, np.ndarray]] | None = None

    def check(self, controls: Mapping[str, Control], earlier: Mapping[str, np.ndarray] = {}) -> None:
        """Raises ValueError where the function asks for controls that there are not.

        Args:
            controls: the controls by name.
            earlier: what the functions before this one return, where they stand at the start.
        """
        unknown = [name for name in self.inputs if name not in controls]
        if unknown:
            raise ValueError(f"{self.name!r} asks for {unknown}, but the controls are {list(controls)}: name its "
                             "parameters after controls")
        if drawings := [name for name in self.inputs if isinstance(controls[name], Drawing)]:
            raise ValueError(f"{self.name!r} asks for the drawing {drawings[0]!r}: a page cannot hold the answers to every "
                             "drawing, it needs a Network or a Formula")

    def __call__(self, values: Mapping[str, object]) -> dict[str, np.ndarray]:
        """The arrays at these values; those of the last call where no value has changed since."""
        at = tuple(values[name] for name in self.inputs)
        if self._last is None or not all(map(_same, self._last[0], at)):
            self._last = at, self._arrays(*at)
        return self._last[1]

    def _arrays(self, *at) -> dict[str, np.ndarray]:
        found = self.compute(*at)
        if not isinstance(found, Mapping):
            raise TypeError(f"{self.name!r} must return a dictionary of named arrays, got {type(found).__name__}")
        return {name: np.asarray(array.detach().cpu() if isinstance(array, torch.Tensor) else array, dtype=float)
                for name, array in found.items()}

    def pack(self, controls: Mapping[str, Control], packer: Packer) -> dict:
        """The answers at every stop.

        Raises:
            ValueError: when an array changes its shape from stop to stop, or the lattice is too large for a page.
        """
        stops = [controls[name].values for name in self.inputs]
        total = math.prod(len(values) for values in stops)
        first = self._arrays(*(values[0] for values in stops))
        for name, array in first.items():
            if total * array.size > LIMIT:
                raise ValueError(f"{name!r} on {total:,} stops makes {total * array.size:,} numbers, too many for a "
                                 "page: use fewer stops or shorter arrays, or a Network")
        answers = [self._arrays(*at) for at in itertools.product(*stops)]
        for name, array in first.items():
            if any(set(answer) != set(first) or answer[name].shape != array.shape for answer in answers):
                raise ValueError(f"the array {name!r} of {self.name!r} has not the same shape at every stop; "
                                 "pad it with NaN")
        return {"type": "lattice", "inputs": self.inputs, "outputs": {
            name: {"shape": array.shape, **packer.add(np.stack([answer[name].reshape(-1) for answer in answers]))}
            for name, array in first.items()}}


def _same(one, other) -> bool:
    """Whether an input has not changed; an array of an earlier function is the same object until it is made anew."""
    return one is other or not isinstance(one, np.ndarray) and one == other


def _vector(values: Sequence) -> np.ndarray:
    """Numbers, points, drawings and arrays, laid end to end."""
    return np.concatenate([np.asarray(value, dtype=float).reshape(-1) for value in values])


class Chained(Function):
    """A function that a page can run, so that it may take what earlier functions return as well as controls."""

    def check(self, controls, earlier={}):
        unknown = [name for name in self.inputs if name not in {**controls, **earlier}]
        if unknown:
            raise ValueError(f"{self.name!r} asks for {unknown}, but the controls are {list(controls)}, and the arrays of the "
                             f"functions before it {list(earlier)}")
        sizes = {Slider: 1, Point: 2}
        counts = [earlier[name].size if name in earlier else
                  getattr(controls[name], "size", None) or sizes.get(type(controls[name])) for name in self.inputs]
        if None in counts or not self._fits(counts):
            raise ValueError(f"{self.name!r} takes {self.wants}, but its inputs are {self.inputs}")


class Network(Chained):
    """A small network as a function of controls: a page holds its weights, and runs it.

    Args:
        module: `nn.Sequential` of `nn.Linear` and elementwise activations (as they come, without options).
        inputs: what makes its input vector, in order: sliders (one number each), points (two) and drawings among the controls,
            and arrays that functions before it return.
        output: the name of the array that it returns.
        shape: the shape of that array.
        small: whether each weight takes one byte of the page, not two. The rows of the weights (a copy of them) are then
            rounded to 255 steps, for kernel and page alike, so that both run the same network.

    Raises:
        ValueError: for other layers, or sizes that do not fit.
    """

    def __init__(self, module: nn.Sequential, inputs: Sequence[str], output: str, shape: Sequence[int], *, small: bool = False):
        self.module, self.inputs, self.output, self.shape = module, list(inputs), output, tuple(shape)
        self.name, self._last, self.small = f"Network {output}", None, small
        for layer in module:
            if type(layer) is not nn.Linear and repr(layer) not in ACTIVATIONS:
                raise ValueError(f"a page can run Linear layers and {', '.join(ACTIVATIONS)}, not {layer!r}")
        linear = [layer for layer in module if type(layer) is nn.Linear]
        if not linear or linear[-1].out_features != math.prod(self.shape):
            raise ValueError(f"the network must end in {math.prod(self.shape)} outputs to fill the shape {self.shape}")
        for one, next_one in itertools.pairwise(linear):
            if one.out_features != next_one.in_features:
                raise ValueError(f"{next_one} does not take what {one} gives")
        self.width = linear[0].in_features

        if small:
            self.module = copy.deepcopy(module)
            for layer in self.module:
                if type(layer) is nn.Linear:
                    rows = torch.as_tensor(rounded(layer.weight.detach().double().cpu().numpy()))
                    layer.weight.data = rows.to(layer.weight)

    wants = property(lambda self: f"{self.width} numbers: one from each slider and two from each point")

    def _fits(self, counts: Sequence[int]) -> bool:
        return sum(counts) == self.width

    def _arrays(self, *at):
        weight = next(self.module.parameters())
        x = torch.as_tensor(_vector(at), dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            return {self.output: self.module(x).double().cpu().numpy().reshape(self.shape)}

    def pack(self, controls, packer):
        layers, add = [], packer.add_bytes if self.small else packer.add
        for layer in self.module:
            if type(layer) is nn.Linear:
                bias = layer.bias if layer.bias is not None else torch.zeros(layer.out_features)
                layers.append({"weight": add(layer.weight.detach().double().cpu().numpy()),
                               "bias": packer.add(bias.detach().double().cpu().numpy()[:, None])})
            else:
                layers.append({"activation": ACTIVATIONS[repr(layer)]})
        return {"type": "network", "inputs": self.inputs, "output": self.output, "shape": self.shape, "layers": layers}


def _rate(code: np.ndarray) -> np.ndarray:
    mean, log_scale = np.split(code, 2)
    return 0.5 * (mean**2 + np.exp(2 * log_scale) - 1 - 2 * log_scale).sum()


# What a page can compute without weights: name -> how many inputs it takes, and the function.
FORMULAS: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "paper": (1, lambda v: 1 - v),
    "binary": (1, lambda v: (v >= 0.5).astype(float)),
    "sigmoid": (1, lambda v: 1 / (1 + np.exp(-v))),
    "mean": (1, lambda code: np.split(code, 2)[0]),
    "covariance": (1, lambda code: np.diag(np.exp(2 * np.split(code, 2)[1]))),
    "rate": (1, _rate),
    "bernoulli": (2, lambda x, logits: (x * logits - np.logaddexp(0, logits)).sum()),
    "difference": (2, lambda a, b: a - b),
}


class Formula(Chained):
    """One of a few formulas that a page knows as well, to stand beside a `Network`::

        paper(v) = 1 - v   binary(v) = [v >= 1/2]
        sigmoid(v) = 1 / (1 + e^-v)        difference(a, b) = a - b

        mean(code), covariance(code), rate(code): of the diagonal Gaussian q with code = (mean, log scale), two halves; its
            mean (d,), its covariance (d, d), and KL(q || N(0, I)) = 1/2 sum (mean^2 + scale^2 - 1 - log scale^2), in nats

        bernoulli(x, logits) = sum_i x_i logit_i - log(1 + e^logit_i), in nats

    Args:
        formula: its name.
        inputs: controls, or arrays of functions before it.
        output: the name of the array that it returns.
        shape: the shape of that array.

    Raises:
        ValueError: for another name, inputs of another number, or a result that does not fill the shape.
    """

    def __init__(self, formula: str, inputs: Sequence[str], output: str, shape: Sequence[int] = ()):
        if formula not in FORMULAS:
            raise ValueError(f"unknown formula {formula!r}: choose one of {', '.join(FORMULAS)}")
        self.formula, self.inputs, self.output, self.shape = formula, list(inputs), output, tuple(shape)
        self.name, self._last = f"Formula {output}", None
        count = FORMULAS[formula][0]
        if len(self.inputs) != count:
            raise ValueError(f"{self.name!r} takes {count} input{'s' * (count > 1)}, got {self.inputs}")

    wants = property(lambda self: {"mean": "a code: an even number of numbers", "covariance": "a code: an even number of numbers",
                                   "rate": "a code: an even number of numbers"}.get(self.formula, "inputs of one size"))

    def _fits(self, counts):
        return counts[0] % 2 == 0 if self.formula in ("mean", "covariance", "rate") else len({*counts}) == 1

    def _arrays(self, *at):
        found = np.asarray(FORMULAS[self.formula][1](*(_vector([value]) for value in at)))
        if found.size != math.prod(self.shape):
            raise ValueError(f"{self.name!r} gives {found.size} numbers, which do not fill the shape {self.shape}")
        return {self.output: found.reshape(self.shape)}

    def pack(self, controls, packer):
        return {"type": "formula", "formula": self.formula, "inputs": self.inputs, "output": self.output, "shape": self.shape}
