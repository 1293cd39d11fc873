"""The data that the models of this folder are fitted to, looked over."""

from __future__ import annotations

import torch
from torch import Tensor


def finite(name: str, x: Tensor) -> Tensor:
    x = torch.as_tensor(x, dtype=torch.float64)
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must hold finite numbers")
    return x


def rows(x: Tensor) -> Tensor:
    x = finite("x", x)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1:
        raise ValueError(f"x must be data of shape (N, d) with at least two rows, got {tuple(x.shape)}")
    return x
