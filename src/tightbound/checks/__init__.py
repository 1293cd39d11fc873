"""Feedback on exercises: a check draws fresh instances, compares with the exact answer, and says what went wrong.

One module a topic holds its checks and its quiz: `from tightbound.checks import laplace`.
"""

from tightbound.checks.check import Check, CheckFailed, Wrong, personal
from tightbound.checks.diary import Progress, progress
from tightbound.checks.quiz import Option, Question, Quiz

__all__ = ["Check", "CheckFailed", "Option", "Progress", "Question", "Quiz", "Wrong", "personal", "progress"]
