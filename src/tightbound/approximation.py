"""What a method returns, and the table in which methods meet."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor
from torch.distributions import Distribution

from tightbound.device import generator
from tightbound.distributions import draw
from tightbound.estimate import Estimate
from tightbound.problem import Problem


@dataclass(frozen=True)
class Approximation:
    """A method's answer to a `Problem`.

    Attributes:
        method: the method's name.
        q: a distribution over z, standing in for the posterior p(z | x).
        log_evidence: its estimate of log p(x) in nats, which says what kind of estimate it is.
        history: the objective in nats, a value an iteration.
        evaluations: the log-joint evaluations it took.
        seconds: the wall-clock time it took.
        diagnostics: what else the method has to say about itself.
    """

    method: str
    q: Distribution
    log_evidence: Estimate
    history: Tensor
    evaluations: int
    seconds: float
    diagnostics: dict = field(default_factory=dict)

    def gap(self, problem: Problem) -> float:
        """Exact minus estimated log evidence in nats; negative where the estimate is too high.

        Raises:
            ValueError: when the exact log evidence of `problem` is unknown.
        """
        if problem.log_evidence is None:
            raise ValueError(f"the exact log evidence of {problem.name!r} is unknown, so there is no gap to it: "
                             "in up to three dimensions tightbound.exact.quadrature finds it")
        return float(problem.log_evidence) - float(self.log_evidence)

    def log_weights(self, problem: Problem, num_samples: int = 10_000, *, seed: int | torch.Generator = 0) -> Tensor:
        """Log importance weights log p(x, z_s) - log q(z_s) in nats for z_s ~ q, shape (num_samples,).

        Their mean estimates the evidence lower bound of q; their log-mean-exp estimates log p(x).
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        with torch.no_grad():
            z, log_q = draw(self.q, (num_samples,), generator=generator(seed, problem.device))
            return problem.log_joint(z) - log_q


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """How many independent draws from p(z | x) weighted draws from q are worth: (..., S) -> (...)::

        ESS = (sum_s w_s)^2 / sum_s w_s^2,    between 1 and S

    Source: Kong, Liu & Wong (1994).

    Raises:
        ValueError: when a log weight is NaN or +inf, or every one is -inf.
    """
    if not bool(torch.isfinite(log_weights.amax(-1)).all()):  # amax passes NaN on
        raise ValueError("log weights must not be NaN or +inf, nor all be -inf: does q cover the support of the log joint?")
    return torch.exp(2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1))


@dataclass(frozen=True)
class Row:
    """One line of the league: a method on a problem. `error` says why, where the method refused."""

    problem: str
    method: str
    log_evidence: Estimate | None = None
    gap: float | None = None
    evaluations: int | None = None
    seconds: float | None = None
    error: str = ""

    HEAD = ("problem", "method", "log evidence", "kind", "gap", "± s.e.", "evaluations", "seconds")

    def cells(self) -> tuple[str, ...]:
        if self.log_evidence is None:
            return (self.problem, self.method, "–", "refused", "–", "–", "–", "–")
        error = self.log_evidence.standard_error
        return (self.problem, self.method, f"{self.log_evidence.value:.4f}", self.log_evidence.kind,
                "unknown" if self.gap is None else f"{round(self.gap, 4) + 0.0:+.4f}",
                "–" if error is None else f"{error:.4f}",
                f"{self.evaluations:,}", f"{self.seconds:.2g}")


@dataclass(frozen=True)
class League:
    """The book's table: estimates of log p(x) beside the truth. Prints as text, and shows as HTML in a notebook."""

    rows: tuple[Row, ...]

    CAPTION = ("Log evidence and gap (exact minus estimate) in nats; s.e. is the Monte Carlo standard error; the cost is "
               "in evaluations of the log joint and in seconds.")

    def __str__(self) -> str:
        table = [Row.HEAD, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(Row.HEAD))]
        left = (0, 1, 3)
        lines = ["  ".join(cell.ljust(width) if i in left else cell.rjust(width)
                           for i, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in table]
        return "\n".join(lines + self._refusals())

    __repr__ = __str__

    def _refusals(self) -> list[str]:
        return [f"{row.method} refused {row.problem}: {row.error}" for row in self.rows if row.error]

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in Row.HEAD)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells()) + "</tr>"
                       for row in self.rows)
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in self._refusals())
        return (f'<div style="overflow-x:auto" tabindex="0" role="region" aria-label="League table">'
                f'<table class="tightbound-league"><caption>{self.CAPTION}</caption>'
                f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}</div>")


Method = ModuleType | Callable[[Problem], Approximation]


def league(problems: Problem | Iterable[Problem], methods: Iterable[Method] | Mapping[str, Method]) -> League:
    """Runs every method on every problem and makes the book's table.

    Args:
        problems: one `Problem` or several.
        methods: modules with a verb ``approximate(problem)``, or functions of that kind; a mapping gives them names.

    A method that refuses a problem (a `RuntimeError`) gets a line, and its reason stands below; bad arguments are errors as ever.

    Raises:
        TypeError: for a method that is neither a module with `approximate` nor a function.
    """
    named = methods.items() if isinstance(methods, Mapping) else [(None, method) for method in methods]
    runs = [(name, _verb(method)) for name, method in named]
    rows = []
    for problem in [problems] if isinstance(problems, Problem) else problems:
        for name, run in runs:
            start = time.perf_counter()
            try:
                found = run(problem)
            except RuntimeError as refusal:
                label = name or getattr(run, "__module__", "method").rsplit(".", 1)[-1]
                rows.append(Row(problem.name, label, error=f"{type(refusal).__name__}: {refusal}",
                                seconds=time.perf_counter() - start))
                continue
            gap = None if problem.log_evidence is None else found.gap(problem)
            rows.append(Row(problem.name, name or found.method, found.log_evidence, gap, found.evaluations, found.seconds))
    return League(tuple(rows))


def _verb(method: Method) -> Callable[[Problem], Approximation]:
    run = getattr(method, "approximate", method)
    if not callable(run):
        raise TypeError(f"a method is a module with `approximate(problem)` or a function of that kind, got {method!r}")
    return run


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log (1/S) sum_s exp(log w_s), computed without overflow: (..., S) -> (...), in nats."""
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])
