"""What a student's function answers, instance by instance: collected, and written as plain data.

Nothing here knows what is right. So this file may go where a student's code runs while the checks stay outside.
"""

from __future__ import annotations

import base64
import copy
import inspect
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tightbound.estimate import Estimate

FAULTS = ("", "not a function", "arguments", "not written", "too slow", "raised")


@dataclass(frozen=True)
class Answer:
    """What a function did with one instance.

    Attributes:
        fault: one of `FAULTS`: why there is no value, or nothing.
        kind: in words, the type of the value, or what the function raised.
        outputs: the value as tensors of doubles; None where it is no real numbers.
        changed: the name of an argument that the function changed in place, or nothing.
    """

    fault: str = ""
    kind: str = ""
    outputs: tuple[Tensor, ...] | None = None
    changed: str = ""


def collect(function: Callable, instances: Sequence[dict], seconds: float,
            probe: Callable | None = None) -> Iterator[Answer]:
    """The function's answers, within so many seconds together; one that has a fault is the last.

    A `probe` adds one more: what `probe(function, **arguments)` makes of the function on the first instance.
    """
    end = time.monotonic() + seconds
    for arguments in instances:
        answer = ask(function, arguments, end - time.monotonic())
        yield answer
        if answer.fault:
            return
    if probe is not None:
        yield ask(partial(probe, function), instances[0], end - time.monotonic())


def ask(function: Callable, arguments: dict, seconds: float) -> Answer:
    """What `function(**arguments)` does within so many seconds; it is given copies."""
    if not callable(function):
        return Answer("not a function", type(function).__name__)
    given = copy.deepcopy(arguments)
    if not _accepts(function, given):
        return Answer("arguments")
    try:
        with _time_limit(seconds):
            value = function(**given)
    except NotImplementedError:
        return Answer("not written")
    except _OutOfTime:
        return Answer("too slow")
    except (Exception, SystemExit) as error:
        return Answer("raised", f"{type(error).__name__}: {error}")
    try:
        outputs = tuple(to_outputs(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        outputs = None
    return Answer(kind=_kind(value), outputs=outputs, changed=_changed(arguments, given))


def to_outputs(value) -> list[Tensor]:
    """A number, a tensor, or a tuple of them, as tensors of doubles.

    Raises:
        TypeError, ValueError, RuntimeError, OverflowError: for what is no real numbers.
    """
    values = value if isinstance(value, (tuple, list)) else [value]
    values = [float(v) if isinstance(v, Estimate) else v for v in values]
    if any(torch.as_tensor(v).is_complex() for v in values):
        raise TypeError("complex numbers")
    return [torch.as_tensor(v, dtype=torch.float64, device="cpu").detach() for v in values]


def _accepts(function: Callable, arguments: dict) -> bool:
    """Whether `function` can be called with arguments of these names."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return True
    try:
        signature.bind(**arguments)
    except TypeError:
        return False
    return True


def _kind(value) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(v).__name__ for v in value)}"
    return type(value).__name__


def _changed(before: dict, after: dict) -> str:
    """The name of a tensor that the function was given and changed, which would surprise whoever calls it."""
    return next((name for name, value in before.items()
                 if isinstance(value, Tensor) and not torch.equal(value, after[name])), "")


class _OutOfTime(BaseException):
    """No `Exception`, so that a student's `except Exception` does not catch it."""


@contextmanager
def _time_limit(seconds: float):
    """Interrupts what runs inside after `seconds`, where the system can (a main thread, with signals)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))  # 0 would mean no limit
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# As plain data --------------------------------------------------------------------------------------------------------

def encode(answers: Iterable[Answer]) -> bytes:
    """The answers as JSON; the doubles in it are exact, those that are infinite or NaN too."""
    return json.dumps([[answer.fault, answer.kind[:2000], answer.changed, answer.outputs and
                        [_from_tensor(output) for output in answer.outputs]] for answer in answers]).encode()


def decode(data: bytes) -> list[Answer]:
    """What `encode` was given.

    Raises:
        ValueError: for anything that `encode` would not write. The data may come from a stranger.
    """
    try:
        return [_to_answer(*fields) for fields in json.loads(data)]
    except (TypeError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no answers: {error}") from None


def _to_answer(fault, kind, changed, outputs) -> Answer:
    if fault not in FAULTS or not all(isinstance(text, str) for text in (fault, kind, changed)):
        raise ValueError("not the fields of an answer")
    return Answer(fault, kind[:2000], None if outputs is None else tuple(_to_tensor(*output) for output in outputs),
                  changed[:200])


def _from_tensor(tensor: Tensor) -> list:
    return [list(tensor.shape), base64.b64encode(tensor.contiguous().numpy().tobytes()).decode()]


def _to_tensor(shape, data) -> Tensor:
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("not a shape")
    numbers = base64.b64decode(data, validate=True)
    if len(numbers) != 8 * math.prod(shape):
        raise ValueError("a shape with too many numbers or too few")
    return (torch.frombuffer(bytearray(numbers), dtype=torch.float64) if numbers
            else torch.empty(0, dtype=torch.float64)).reshape(shape)
