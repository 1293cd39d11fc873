"""Where tensors live, and where randomness comes from."""

from __future__ import annotations

import os
from contextlib import contextmanager

import torch

VARIABLE = "TIGHTBOUND_DEVICE"


def choose(device: str | torch.device | None = None, *, dtype: torch.dtype = torch.float32) -> torch.device:
    """The device to work on: the argument, else the environment variable ``TIGHTBOUND_DEVICE``, else the best.

    "best" is CUDA, then Apple's MPS (which knows no double precision, so it is passed over for float64), then CPU.

    Raises:
        ValueError: for a name that torch does not know.
        RuntimeError: for a device that this machine lacks, or MPS with double precision; says what to do instead.
    """
    asked = device if device is not None else os.environ.get(VARIABLE) or "best"
    if asked == "best":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available() and dtype != torch.float64:
            return torch.device("mps")
        return torch.device("cpu")
    try:
        found = torch.device(asked)
    except RuntimeError:
        raise ValueError(f"unknown device {asked!r}: use 'cpu', 'cuda', 'cuda:1' or 'mps'") from None
    remedy = f"set {VARIABLE}=cpu, or leave it empty to take the best device there is"
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise RuntimeError(f"device {str(found)!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA "
                           f"device(s) on this machine: {remedy}")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError(f"device 'mps' was asked for, but this machine has no Apple GPU that torch can use: {remedy}")
    if found.type == "mps" and dtype == torch.float64:
        raise RuntimeError(f"device 'mps' has no double precision, which this computation needs: {remedy}")
    if found.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {str(found)!r} is not supported: use 'cpu', 'cuda', 'cuda:1' or 'mps'")
    return found


def generator(seed: int | torch.Generator = 0, device: str | torch.device = "cpu") -> torch.Generator:
    """A stream of random numbers on `device`: the generator itself if one is given, else a new one from an integer seed.

    Raises:
        TypeError: for a seed that is neither an integer nor a generator.
    """
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"a seed is an integer or a torch.Generator, got {seed!r}")
    return torch.Generator(device=device).manual_seed(seed)


def meet(x: torch.Tensor, other, *, what: str = "x", whose: str = "the model") -> None:
    """Nothing, where a tensor lives on the device of a module's parameters (or on the device given); else tells how to move it.

    Raises:
        ValueError: when they are on two devices: deep inside a computation torch would only say that they are.
    """
    if not isinstance(other, torch.device):
        first = next(iter(other.parameters()), None) if hasattr(other, "parameters") else None
        if first is None:
            return
        other = first.device
    if x.device.type != other.type or (x.device != other and None not in (x.device.index, other.index)):
        raise ValueError(f"{what} is on {x.device}, but {whose} on {other}: move one of them to the other's device, by "
                         f".to({str(other)!r}) or .to({str(x.device)!r})")


@contextmanager
def seeded(seed: int):
    """Inside, torch's global stream starts at `seed`, for layers draw their first weights from it; outside it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
