"""Every number in a chapter's prose is one that a cell of the chapter printed.

A paragraph that quotes results ends with ``<!-- from: coin-gap, league-gaps -->``: the names of the cells (metadata
`name`) whose stored output holds its numbers. Such a cell is tagged `nbval-check-output`, so that a run of the notebook
holds it to what is stored. What is no result is marked ``<!-- given -->``: after a number, that number; at the end of a
paragraph, all of it. Looked at are numbers with a decimal point, and whole ones of three or more digits but for years.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))

NUMBER = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|[.,]\d)")
PRINTED = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
COMMENT = re.compile(r"<!--\s*(from|given)\s*(?::\s*(.*?))?\s*-->", re.S)
NO_PROSE = [re.compile(pattern, re.M | re.S) for pattern in (
    r"^(`{3,}).*?^\1`*\s*$",        # code blocks
    r"\$\$.*?\$\$(?: *\(.*?\))?",   # formulas, with their label
    r"\$[^$\n]+(?:\n[^$\n]+)?\$",
    r"\{[\w:.+-]+\}`[^`]*`",        # roles: citations, references, terms
    r"`[^`\n]+`",
    r"\]\([^)]*\)",                 # where links lead
    r"<https?:[^>]*>",
    r"^\([\w-]+\)=$",               # labels
    r"^#+ [^\n]*",                  # headings
    r"^ *:{3,}[^\n]*",              # the opening and closing lines of directives
    r"^ *:[\w-]+:[^\n]*")]          # their options


@dataclass
class Paragraph:
    text: str
    sources: list[str]
    given: bool


def paragraphs(markdown: str) -> list[Paragraph]:
    """The blocks between blank lines, without what is no prose. A comment alone in a block belongs to the one before."""
    for pattern in NO_PROSE:
        markdown = pattern.sub(" ", markdown)
    found: list[Paragraph] = []
    for block in re.split(r"\n\s*\n", markdown):
        # A number that ends in a letter is none: 569given.
        block = re.sub(r"(\d)\s*<!-- given -->(?=\s*\S)", r"\1given", block.strip())
        sources, given = [], False
        for kind, names in COMMENT.findall(block):
            given |= kind == "given"
            sources += [name.strip() for name in names.split(",") if name.strip()]
        text = COMMENT.sub(" ", block).strip()
        if text:
            found.append(Paragraph(text, sources, given))
        elif found:
            found[-1].sources += sources
            found[-1].given |= given
    return found


def quoted(text: str) -> list[str]:
    """The numbers of a text that must come from a cell."""
    return [number for number in NUMBER.findall(text)
            if "." in number or (len(number) >= 3 and not re.fullmatch(r"(1[6-9]|20)\d\d", number))]


def printed(cell) -> list[float]:
    """The absolute values of all numbers in the text output of a cell."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return [float(number.replace(",", "")) for text in texts for number in PRINTED.findall(text)]


def holds(number: str, values: list[float]) -> bool:
    """Whether one of the values, rounded to as many digits, is this number."""
    digits = len(number.partition(".")[2])
    value = float(number.replace(",", ""))
    return any(abs(other - value) <= 0.5 * 10.0**-digits * (1 + 1e-9) for other in values)


def faults(notebook) -> list[str]:
    """What is wrong with the numbers of a notebook's prose, a line each."""
    cells = {cell.metadata["name"]: cell for cell in notebook.cells
             if cell.cell_type == "code" and "name" in cell.metadata}
    found = []
    for paragraph in (p for cell in notebook.cells if cell.cell_type == "markdown" for p in paragraphs(cell.source)):
        start = " ".join(paragraph.text.split())[:60]
        unknown = [name for name in paragraph.sources if name not in cells]
        loose = [name for name in paragraph.sources
                 if name in cells and "nbval-check-output" not in cells[name].metadata.get("tags", [])]
        found += [f"no cell is named {name!r}: {start}" for name in unknown]
        found += [f"the cell {name!r} is not tagged nbval-check-output: {start}" for name in loose]
        if paragraph.given or unknown:
            continue
        values = [value for name in paragraph.sources for value in printed(cells[name])]
        for number in quoted(paragraph.text):
            if not paragraph.sources:
                found.append(f"{number} has no source: {start}")
            elif not holds(number, values):
                found.append(f"{number} is not in the output of {', '.join(paragraph.sources)}: {start}")
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_numbers_of_the_prose_come_from_cells(path):
    assert not faults(nbformat.read(path, as_version=4))


# ---- the test of the test ----------------------------------------------------------------------------------

def notebook(prose: str, tags=("nbval-check-output",)):
    output = new_output("stream", name="stdout", text="gap -0.0034 nats, 1,358 evaluations, 6.94e3 samples\n")
    code = new_code_cell("gap", metadata={"name": "coin-gap", "tags": list(tags)}, outputs=[output])
    return new_notebook(cells=[code, new_markdown_cell(prose)])


@pytest.mark.parametrize("prose", [
    "The gap is −0.0034 nats.\n<!-- from: coin-gap -->",
    "The gap is 0.003 nats, after 1,358 (or 1358) evaluations.\n\n<!-- from: coin-gap -->",
    "- one: +0.0034\n- two: 6,940\n\n<!-- from: coin-gap -->",
    "No number of note: two, 12, 1774, 70 %, version v1.2.",
    "In a formula $0.77$, $$\n0.88 + 1234\n$$ (eq-x)\n and `0.99`, {cite:p}`a2001`, [a link](page-1234).",
    "## 3.14 in a heading\n\n:::{figure} 12345.svg\n:width: 720\n:::",
    "```python\nx = 1.5\n```",
    "569 <!-- given --> patients and 4,422<!-- given -->, too.",
    "Ten flips at 2.5 and 1000.\n<!-- given -->",
])
def test_sound_prose_passes(prose):
    assert not faults(notebook(prose))


@pytest.mark.parametrize("prose, fault", [
    ("The gap is −0.0035 nats.\n<!-- from: coin-gap -->", "0.0035 is not in the output of coin-gap"),
    ("It took 1,359 evaluations.\n\n<!-- from: coin-gap -->", "1,359 is not in"),
    ("The gap is 0.00340 nats.\n\n<!-- from: coin-gap -->\n\nAnd 0.0034 again.", "0.0034 has no source"),
    ("The gap is 0.0034 nats.", "0.0034 has no source"),
    ("The gap is 0.0034 nats.\n<!-- from: coin-gaps -->", "no cell is named 'coin-gaps'"),
    ("569 <!-- given --> patients and 442.", "442 has no source"),
    (":::{admonition} Predict\n:class: tip\nIs it 0.5?\n:::", "0.5 has no source"),
    ("| gap |\n| --- |\n| 0.0033 |\n\n<!-- from: coin-gap -->", "0.0033 is not in"),
    ("A list:\n- 100 and 0.0034\n<!-- from: coin-gap -->", "100 is not in"),
])
def test_unsound_prose_fails(prose, fault):
    found = faults(notebook(prose))
    assert len(found) == 1 and fault in found[0], found


def test_a_quoted_cell_is_held_to_its_output():
    assert "not tagged" in faults(notebook("It is 0.0034.\n<!-- from: coin-gap -->", tags=()))[0]


def test_numbers_go_by_their_rounding():
    assert holds("0.24", [0.2449]) and holds("0.25", [0.2451]) and not holds("0.24", [0.2451])
    assert holds("7", [6.51]) and holds("6,947", [6947.0]) and not holds("6,947", [694.7])
