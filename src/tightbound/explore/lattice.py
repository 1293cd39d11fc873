"""How a page holds answers without a kernel: arrays on a lattice of stops, or the weights of a small network."""

from __future__ import annotations

import base64
import gzip
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from tightbound.explore.controls import Control, Point, Slider

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

    def check(self, controls: Mapping[str, Control]) -> None:
        """Raises ValueError where the function asks for controls that there are not."""
        unknown = [name for name in self.inputs if name not in controls]
        if unknown:
            raise ValueError(f"{self.name!r} asks for {unknown}, but the controls are {list(controls)}: name its "
                             "parameters after controls")

    def __call__(self, values: Mapping[str, object]) -> dict[str, np.ndarray]:
        """The arrays at these values; those of the last call where no value has changed since."""
        at = tuple(values[name] for name in self.inputs)
        if self._last is None or self._last[0] != at:
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


class Network(Function):
    """A small network as a function of controls: a page holds its weights, and runs it.

    Args:
        module: `nn.Sequential` of `nn.Linear` and elementwise activations (as they come, without options).
        inputs: the controls, sliders (one number each) and points (two), that make its input vector, in order.
        output: the name of the array that it returns.
        shape: the shape of that array.

    Raises:
        ValueError: for other layers, or sizes that do not fit.
    """

    def __init__(self, module: nn.Sequential, inputs: Sequence[str], output: str, shape: Sequence[int]):
        self.module, self.inputs, self.output, self.shape = module, list(inputs), output, tuple(shape)
        self.name, self._last = f"Network {output}", None
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

    def check(self, controls):
        super().check(controls)
        sizes = {Slider: 1, Point: 2}
        if sum(sizes.get(type(controls[name]), self.width + 1) for name in self.inputs) != self.width:
            raise ValueError(f"{self.name!r} takes {self.width} numbers: one from each slider and two from each point, "
                             f"but its inputs are {self.inputs}")

    def _arrays(self, *at):
        weight = next(self.module.parameters())
        x = np.concatenate([np.atleast_1d(value) for value in at])
        x = torch.as_tensor(x, dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            return {self.output: self.module(x).double().cpu().numpy().reshape(self.shape)}

    def pack(self, controls, packer):
        layers = []
        for layer in self.module:
            if type(layer) is nn.Linear:
                bias = layer.bias if layer.bias is not None else torch.zeros(layer.out_features)
                layers.append({"weight": packer.add(layer.weight.detach().double().cpu().numpy()),
                               "bias": packer.add(bias.detach().double().cpu().numpy()[:, None])})
            else:
                layers.append({"activation": ACTIVATIONS[repr(layer)]})
        return {"type": "network", "inputs": self.inputs, "output": self.output, "shape": self.shape, "layers": layers}
