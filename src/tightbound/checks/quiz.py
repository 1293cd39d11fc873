"""A quiz that needs no kernel and explains every option."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from tightbound.checks.check import SUMMARY, marked


@dataclass(frozen=True)
class Option:
    """One answer: its text, why it is right or wrong, and which of the two it is."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question with several options, exactly one of them right.

    Raises:
        ValueError: for fewer than two options, none or several right ones, or an option without an explanation.
    """

    text: str
    options: Sequence[Option]

    def __post_init__(self):
        if len(self.options) < 2 or sum(option.right for option in self.options) != 1:
            raise ValueError(f"{self.text!r} needs two or more options, exactly one of them right")
        if not all(option.why.strip() for option in self.options):
            raise ValueError(f"every option of {self.text!r} needs an explanation")


class Quiz:
    """Questions whose options open to say whether they are right, and why. Formulas stand between \\( and \\)."""

    def __init__(self, name: str, questions: Sequence[Question]):
        self.name, self.questions = name, tuple(questions)

    def _repr_html_(self) -> str:
        return f'<div class="tb-quiz tex2jax_process">{"".join(map(self._question, range(len(self.questions))))}</div>'

    def _question(self, i: int) -> str:
        question, group = self.questions[i], html.escape(f"{self.name}-{i + 1}")
        options = "".join(
            f'<details name="{group}">{SUMMARY}{marked(option.text)}</summary><p><strong>'
            f'{"✓ Right." if option.right else "✗ Not so."}</strong> {marked(option.why)}</p></details>'
            for option in question.options)
        return (f'<div role="group" aria-labelledby="{group}"><p id="{group}"><strong>Question {i + 1}.</strong> '
                f"{marked(question.text)}</p>{options}</div>")

    def __repr__(self) -> str:
        return f"Quiz: {self.name}, {len(self.questions)} questions"
