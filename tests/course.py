"""A teacher's command line, and notebooks as students hand them in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "chapters" / "exercises"
TOOL = ROOT / "tools" / "classroom"

sys.path.insert(0, str(TOOL.parent))  # for `from classroom import ...`


def command(*arguments) -> list[str]:
    return [sys.executable, str(TOOL), *map(str, arguments)]


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    """Runs the command, which must succeed."""
    done = subprocess.run(command(*arguments), capture_output=True, encoding="utf-8",
                          env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def cell(notebook, name: str):
    """The cell of that name in nbgrader."""
    return next(c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == name)


def extra(source: str, kind: str = "code") -> dict:
    """A cell that a student added."""
    made = {"cell_type": kind, "id": uuid4().hex[:8], "metadata": {}, "source": source}
    return {**made, "outputs": [], "execution_count": None} if kind == "code" else made
