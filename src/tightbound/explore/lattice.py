"""How a page holds answers without a kernel: arrays on a lattice of stops, or the weights of a small network."""

from __future__ import annotations

import base64
import gzip
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from tightbound.explore.controls import Control

LIMIT = 4_000_000  # numbers in a lattice: above this a page would weigh megabytes
ACTIVATIONS = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.Softplus: "softplus", nn.ELU: "elu",
               nn.SiLU: "silu", nn.Identity: "identity"}


class Packer:
    """Collects arrays into one buffer, each as rows of 16-bit steps between the row's least and greatest value.

    Rows of up to 8 numbers, whose digits may be read, keep single precision. NaN (and infinity) is kept as NaN.
    """

    def __init__(self):
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, rows: np.ndarray) -> dict:
        rows = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
        if rows.shape[1] <= 8:
            return {"rows": rows.shape[0], "columns": rows.shape[1], "f4": self._append(rows.astype(np.float32))}
        blank = np.isnan(rows)
        low = np.where(blank, np.inf, rows).min(1)
        span = np.where(blank, -np.inf, rows).max(1) - low
        low, span = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(span), span, 0.0)
        steps = np.where(blank, 0, (rows - low[:, None]) / np.where(span > 0, span, 1)[:, None] * 65534)
        coded = np.where(blank, 65535, np.rint(steps)).astype("<u2")
        return {"rows": rows.shape[0], "columns": rows.shape[1], "range": self._append(np.stack([low, span]).astype(np.float32)),
                "u2": self._append(coded)}

    def _append(self, array: np.ndarray) -> int:
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        data += bytes(-len(data) % 8)
        self.parts.append(data)
        self.size += len(data)
        return self.size - len(data)

    def text(self) -> str:
        """Everything added, compressed, as base64."""
        return base64.b64encode(gzip.compress(b"".join(self.parts), 9, mtime=0)).decode()


class Function:
    """A function of some of the controls, by the names of its parameters, that returns named arrays."""

    def __init__(self, compute: Callable[..., Mapping[str, object]], controls: Mapping[str, Control]):
        self.compute = compute
        self.inputs = list(inspect.signature(compute).parameters)
        unknown = [name for name in self.inputs if name not in controls]
        if unknown:
            raise ValueError(f"{getattr(compute, '__name__', compute)!r} asks for {unknown}, but the controls are "
                             f"{list(controls)}: name its parameters after controls")

    def __call__(self, values: Mapping[str, object]) -> dict[str, np.ndarray]:
        found = self.compute(**{name: values[name] for name in self.inputs})
        return {name: np.asarray(array.detach().cpu() if isinstance(array, torch.Tensor) else array, dtype=float)
                for name, array in found.items()}

    def pack(self, controls: Mapping[str, Control], packer: Packer) -> dict:
        """The answers at every stop.

        Raises:
            ValueError: when an array changes its shape from stop to stop, or the lattice is too large for a page.
        """
        stops = [controls[name].values for name in self.inputs]
        answers = [self(dict(zip(self.inputs, at))) for at in itertools.product(*stops)]
        outputs = {}
        for name, first in answers[0].items():
            if any(answer[name].shape != first.shape for answer in answers):
                raise ValueError(f"the array {name!r} has not the same shape at every stop; pad it with NaN")
            if len(answers) * first.size > LIMIT:
                raise ValueError(f"{name!r} on {len(answers):,} stops makes {len(answers) * first.size:,} numbers, too many "
                                 "for a page: use fewer stops or shorter arrays, or a Network")
            rows = np.stack([answer[name].reshape(-1) for answer in answers])
            outputs[name] = {"shape": first.shape, **packer.add(rows)}
        return {"type": "lattice", "inputs": self.inputs, "outputs": outputs}


class Network(Function):
    """A small network as a function of controls: a page holds its weights, and runs it.

    Args:
        module: `nn.Sequential` of `nn.Linear` and elementwise activations.
        inputs: the controls, sliders (one number each) and points (two), that make its input vector, in order.
        output: the name of the array that it returns.
        shape: the shape of that array.

    Raises:
        ValueError: for other layers, or sizes that do not fit.
    """

    def __init__(self, module: nn.Sequential, inputs: Sequence[str], output: str, shape: Sequence[int]):
        self.module, self.inputs, self.output, self.shape = module, list(inputs), output, tuple(shape)
        for layer in module:
            if not isinstance(layer, (nn.Linear, *ACTIVATIONS)):
                raise ValueError(f"a page can run Linear layers and {', '.join(t.__name__ for t in ACTIVATIONS)}, "
                                 f"not {type(layer).__name__}")
        linear = [layer for layer in module if isinstance(layer, nn.Linear)]
        if not linear or linear[-1].out_features != int(np.prod(self.shape)):
            raise ValueError(f"the network must end in {int(np.prod(self.shape))} outputs to fill the shape {self.shape}")

    def __call__(self, values):
        parts = [np.atleast_1d(np.asarray(values[name], dtype=float)) for name in self.inputs]
        weight = next(self.module.parameters())
        with torch.no_grad():
            out = self.module(torch.as_tensor(np.concatenate(parts), dtype=weight.dtype, device=weight.device))
        return {self.output: out.double().cpu().numpy().reshape(self.shape)}

    def pack(self, controls, packer):
        layers = []
        for layer in self.module:
            if isinstance(layer, nn.Linear):
                bias = layer.bias if layer.bias is not None else torch.zeros(layer.out_features)
                layers.append({"weight": packer.add(layer.weight.detach().double().cpu().numpy()),
                               "bias": packer.add(bias.detach().double().cpu().numpy()[:, None])})
            else:
                layers.append({"activation": ACTIVATIONS[type(layer)]})
        return {"type": "network", "inputs": self.inputs, "output": self.output, "shape": self.shape, "layers": layers}
