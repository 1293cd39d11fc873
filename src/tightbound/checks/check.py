"""A check that diagnoses."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor

from tightbound.checks.answers import Answer, collect, to_outputs
from tightbound.checks.diary import record

SUMMARY = '<summary style="display: list-item; cursor: pointer">'  # JupyterLab takes the triangle away
FEW_DIGITS = 2e-5  # single precision keeps seven digits, and loses one or two of them in a computation


_student: str | None = None


def personal(student: str | None) -> None:
    """From now on all checks draw their instances from this name, the same ones every time; None makes them fresh again.

    A teacher hands out versions that call this, so that what a check shows differs from student to student.
    """
    global _student
    if student is not None and not (isinstance(student, str) and student.strip()):
        raise ValueError(f"expected a student's name, got {student!r}")
    _student = student


class CheckFailed(AssertionError):
    """The answer is not right yet; the message says why. Shown in a notebook without a traceback."""

    def _render_traceback_(self):
        return [f"✗ {self}"]


@dataclass(frozen=True)
class Wrong:
    """A typical wrong answer, as a function that gives it, and what to tell a student whose answer agrees with it.

    Attributes:
        name: a short name for tests and statistics.
        answer: a function of the same arguments as the exercise; returns the wrong value of `output`, which may be
            of another shape than the right one. Where it is NaN, every answer agrees with it.
        message: what went wrong, in a sentence or two; it does not give the answer away.
        output: which of the exercise's outputs is wrong so.
    """

    name: str
    answer: Callable
    message: str
    output: int = 0


class Check:
    """Holds a student's function against a reference, on fresh random instances.

    Args:
        name: what is asked, as the exercise calls it.
        draw: makes the arguments of one instance, a dictionary, from a `random.Random`.
        reference: the right answer as a function of those arguments: a number or tensor, or a tuple of them.
        outputs: names of the outputs.
        wrongs: the catalogue of typical wrong answers.
        hints: three hints, each giving more away than the one before.
        num_instances: how many instances are drawn.
        tolerance: allowed error, relative to the size of the right answer or one, whichever is larger.
        seconds: how long the student's function may take for all of them.
        when_nan: what to say besides where the answer is NaN.
    """

    probe: Callable | None = None
    """What else to try with a student's function, where its values alone do not show all; see `answers.collect`.

    It runs where the student's code does, so it must not know what is right. A check that has one overrides `judge`.
    """

    def __init__(self, name: str, *, draw: Callable[[random.Random], dict], reference: Callable, outputs: Sequence[str],
                 wrongs: Sequence[Wrong], hints: Sequence[str], num_instances: int = 20, tolerance: float = 1e-6,
                 seconds: float = 20.0, when_nan: str = ""):
        self.name, self.draw, self.reference, self.outputs = name, draw, reference, tuple(outputs)
        self.wrongs, self.hints, self.num_instances = tuple(wrongs), Hints(name, tuple(hints)), num_instances
        self.tolerance, self.seconds, self.when_nan = tolerance, seconds, when_nan

    def __call__(self, function: Callable, *, seed: int | str | None = None) -> None:
        """Prints that `function` is right, or raises.

        Raises:
            CheckFailed: with the diagnosis.
        """
        if seed is None and _student is not None:
            seed = f"{_student}, {self.topic}, {self.name}"
        found = self.diagnose(function, seed=seed)
        record(self.topic, self.name, found[0] if found else "passed")
        if found is not None:
            raise CheckFailed(self.verdict(found))
        print(self.verdict(found))

    @property
    def topic(self) -> str:
        """The chapter: the name of the module that draws its instances."""
        return self.draw.__module__.rpartition(".")[2]

    def diagnose(self, function: Callable, *, seed: int | str | None = None) -> tuple[str, str] | None:
        """None when `function` is right, else the name of what is wrong and the message for the student."""
        instances = self.instances(seed)
        return self.judge(instances, collect(function, instances, self.seconds, self.probe))

    def instances(self, seed: int | str | None = None) -> list[dict]:
        """The arguments of fresh instances."""
        stream = random.Random(seed)
        return [self.draw(stream) for _ in range(self.num_instances)]

    def verdict(self, found: tuple[str, str] | None) -> str:
        """What a student is told of a diagnosis."""
        if found is None:
            kind = "fresh instances" if _student is None else f"instances that belong to {_student}"
            return f"✓ {self.name}: right, on {self.num_instances} {kind}"
        return f"{self.name}: {found[1]}\nStuck? The `hints` of this check open one by one."

    def judge(self, instances: list[dict], answers: Iterable[Answer]) -> tuple[str, str] | None:
        """What `diagnose` returns, of a function that gave these answers to these instances.

        Raises:
            ValueError: for fewer answers than instances where the last of them has no fault.
        """
        right = [to_outputs(self.reference(**arguments)) for arguments in instances]
        got, fault = [], None
        for arguments, expected, answer in zip(instances, right, answers):
            if answer.fault:
                return answer.fault, self._excuse(answer, arguments)
            answer = _joined(answer, expected)
            problem = self._malformed(answer, expected)
            if problem:
                problem = problem[0], f"{problem[1]}\non this instance: {_describe(arguments)}"
                if problem[0] not in ("shape", "NaN"):  # of those two the catalogue may know more
                    return fault or problem
            fault = fault or problem
            got.append(answer.outputs)
        if len(got) < len(instances):
            raise ValueError(f"{len(got)} answers to {len(instances)} instances")
        bad = [k for k in range(len(self.outputs)) if not all(self._close(g[k], r[k]) for g, r in zip(got, right))]
        return self._explain(bad, instances, got, right, fault) if bad else fault

    def _excuse(self, answer: Answer, arguments: dict) -> str:
        undefined = any(sign in answer.kind for sign in ("math domain error", "math range error", "ZeroDivisionError"))
        why = f". {self.when_nan}" if undefined and self.when_nan else ""  # where tensors would give a NaN, `math` raises
        return {
            "not a function": f"expected a function, got {answer.kind}",
            "arguments": f"keep the names of the arguments: your function is called with {', '.join(arguments)}",
            "not written": "not written yet: replace `raise NotImplementedError()` by your answer",
            "too slow": (f"your function had not finished after {self.seconds:g} seconds: "
                         "is there a loop that never ends?"),
            "raised": f"your function raised {answer.kind}{why}\non this instance: {_describe(arguments)}",
        }[answer.fault]

    def _malformed(self, answer: Answer, expected: list[Tensor]) -> tuple[str, str] | None:
        if answer.kind == "NoneType":
            return "returned nothing", "your function returns None: does it end in a `return`?"
        if answer.outputs is None:
            return "not a number", f"expected real numbers or tensors of them, got {answer.kind}"
        if len(answer.outputs) != len(expected):
            names = ", ".join(self.outputs)
            if len(answer.outputs) == 1 and answer.outputs[0].shape[:1] == (len(expected),):
                return "number of outputs", (f"your function returns one tensor with {names} stacked in it: return them side by side, "
                                             "as in `return a, b`")
            return "number of outputs", f"expected {len(expected)} output(s) ({names}), got {len(answer.outputs)}"
        for name, output, wanted in zip(self.outputs, answer.outputs, expected):
            if output.numel() != wanted.numel() or (wanted.ndim and output.squeeze().shape != wanted.squeeze().shape):
                return "shape", f"{name} should have shape {tuple(wanted.shape)}, got {tuple(output.shape)}"
            if bool(torch.isnan(output).any()):
                return "NaN", (f"{name} {_are(name)} NaN: 0/0 or 0 times infinity, a logarithm or a root of a negative "
                               f"number, or an exponential that became infinite? {self.when_nan}").strip()
        if answer.changed:
            return "changed its arguments", (f"your function changes its argument {answer.changed} in place: "
                                             "compute with a new tensor, or with a clone of it")
        return None

    def _explain(self, bad: list[int], instances, got, right, fault) -> tuple[str, str]:
        k = bad[0]
        fine = [name for i, name in enumerate(self.outputs) if i not in bad]
        prefix = (f"{' and '.join(fine)} {_are(*fine)} right, but {self.outputs[k]} {_are(self.outputs[k])} not: "
                  if fine else "")
        if self._permuted(got, right):
            return "order", f"the right answers, in the wrong order: return {', '.join(self.outputs)}"
        for wrong in self.wrongs:
            if wrong.output == k and all(self._agrees(wrong, arguments, answer[k])
                                         for arguments, answer in zip(instances, got)):
                return wrong.name, prefix + wrong.message
        if fault:
            return fault
        if self.tolerance < FEW_DIGITS and all(self._close(g[i], r[i], FEW_DIGITS) for g, r in zip(got, right) for i in bad):
            return "few digits", prefix + (
                "only the first digits are right, about seven, as in single precision. Was a tensor made without "
                "`dtype=torch.float64`, or a number rounded? (If not, a search or a loop may have stopped too early.)")
        worst = max(range(len(got)), key=lambda i: float((got[i][k] - right[i][k]).abs().max()))
        return "other", (f"{prefix}{self.outputs[k]} {_are(self.outputs[k])} off. Expected {_short(right[worst][k], 8)}, "
                         f"got {_short(got[worst][k], 8)}\n"
                         f"on this instance: {_describe(instances[worst])}")

    def _permuted(self, got, right) -> bool:
        places = range(len(self.outputs))
        return any(all(self._close(g[i], r[j]) for g, r in zip(got, right) for i, j in enumerate(order))
                   for order in permutations(places))

    def _agrees(self, wrong: Wrong, arguments: dict, answer: Tensor) -> bool:
        try:
            value = to_outputs(wrong.answer(**arguments))[0]
        except (ArithmeticError, ValueError, RuntimeError):
            return False
        if answer.numel() == value.numel():
            known = ~value.reshape(-1).isnan()
            return self._close(answer.reshape(-1)[known], value.reshape(-1)[known])
        return bool(value.isnan().all())

    def _close(self, a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
        a, b = a.reshape(-1), b.reshape(-1)
        if len(a) != len(b):
            return False
        near = (a - b).abs() <= (self.tolerance if tolerance is None else tolerance) * b.abs().clamp(min=1.0)
        return bool((near & torch.isfinite(b)).all()) or torch.equal(a, b)

    def __repr__(self) -> str:
        return f"Check({self.name!r})"


@dataclass(frozen=True)
class Hints:
    """Hints that open one by one, in a notebook and in a page; `hints[0]` is the first."""

    name: str
    texts: tuple[str, ...]

    def __getitem__(self, i: int) -> str:
        return self.texts[i]

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"{len(self.texts)} hints for {self.name}: read them one at a time with hints[0], hints[1], ..."

    def _repr_html_(self) -> str:
        page = ""
        for i, text in reversed([*enumerate(self.texts)]):  # each lies inside the one before, and cannot be seen until that is open
            page = (f"<details>{SUMMARY}Hint {i + 1} for {html.escape(self.name)}</summary>"
                    f'<p class="tex2jax_process">{marked(text)}</p>{page}</details>')
        return page


def marked(text: str) -> str:
    """Text as HTML, with code where it stands between backticks."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _joined(answer: Answer, expected: list[Tensor]) -> Answer:
    """The answer with a list of numbers (or of rows) as one tensor, where one tensor of one dimension more is expected."""
    parts = answer.outputs
    if len(parts or ()) < 2 or len(expected) > 1 or any(part.shape != parts[0].shape for part in parts):
        return answer
    return replace(answer, outputs=(torch.stack(parts),)) if parts[0].ndim == expected[0].ndim - 1 else answer


def _are(*names: str) -> str:
    plural = len(names) > 1 or (names[0].endswith("s") and not names[0].endswith(("ss", "is")))
    return "are" if plural else "is"


def _short(value: Tensor, digits: int) -> str:
    return str(torch.round(value.squeeze().double(), decimals=digits).tolist())


def _describe(arguments: dict) -> str:
    return ", ".join(f"{name} = {_listed(value)}" for name, value in arguments.items())


def _listed(value) -> str:
    """A tensor as a list of its own shape, in digits enough to compute with."""
    if isinstance(value, Tensor) and value.ndim == 1 and len(value) > 50:  # too many to be read
        return f"[{', '.join(map(_listed, value[:5]))}, ..., {_listed(value[-1])}] ({len(value)} numbers)"
    if isinstance(value, Tensor):
        return _listed(value.tolist())
    if isinstance(value, list):
        return f"[{', '.join(map(_listed, value))}]"
    return repr(float(f"{value:.8g}") if isinstance(value, float) else value)
