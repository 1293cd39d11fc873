"""What the commands of this folder share: rows of results that are kept, the best of them, and their place on the page."""

from __future__ import annotations

import json
from pathlib import Path

ORDER = ("small", "1h-cpu", "1h-gpu", "full")
PAGE = Path(__file__).parents[2] / "pages" / "results.md"


def keep(path: Path, row: dict) -> None:
    """Adds a row to a file of results, in place of the one of the same name and budget."""
    kept = json.loads(path.read_text()) if path.exists() else []
    kept = [other for other in kept if (other["name"], other["budget"]) != (row["name"], row["budget"])]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps([*kept, row], indent=1) + "\n")
    fresh.replace(path)


def shown(results: list[dict]) -> dict[str, dict]:
    """Of each row the run of the largest budget."""
    return {row["name"]: row for row in sorted(results, key=lambda row: ORDER.index(row["budget"]))}


def write(page: Path, begin: str, end: str, text: str) -> None:
    """Puts the text between two marks of the page."""
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")
