"""The pages of feedback, made to work without a network."""

from __future__ import annotations

import html
import importlib.util
import os
import re
from pathlib import Path

from jinja2 import pass_context
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from classroom.files import replace

HEAD = """\
<style>pre { white-space: pre-wrap; } summary { display: list-item; }</style>
<script>MathJax = {tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]]}}</script>
<script defer src="mathjax.js"></script>"""


class Exporter(HTMLExporter):
    """Draws a page of feedback, without the cell that installs the package; HTML that a student wrote into a text is shown as it
    was written, and runs no script."""

    @property
    def default_config(self) -> Config:
        config = super().default_config
        config.TagRemovePreprocessor.remove_cell_tags = ["remove-cell"]
        return config

    @pass_context
    def markdown2html(self, context, source):
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = IPythonRenderer(escape=True, allow_harmful_protocols=False, attachments=attachments)
        return MarkdownWithMath(renderer=renderer).render(source)


def offline(page: str, student: str, topic: str) -> str:
    """The page of feedback without what it would fetch from the network; it says whose it is, and tests get their exercises'
    names."""
    page = re.sub(r"<!-- Load(?:ing)? mathjax.*?<!-- End of mathjax configuration -->", lambda _: HEAD, page,
                  count=1, flags=re.S)
    page = re.sub(r"<script[^>]*\bsrc=\"https?:[^>]*>\s*</script>", "", page)
    page = re.sub(r'(<a href="#(\w[\w-]*?)(?:-test)?">)Test cell<', r"\1\2<", page)
    whose = f"{html.escape(student)}, {html.escape(topic)}"
    page = re.sub(r"<title>.*?</title>", lambda _: f"<title>{whose}</title>", page, count=1, flags=re.S)
    page = re.sub(rf"<h4>\s*{re.escape(topic)}(?= \(Score)", lambda _: f"<h4>{whose}", page, count=1)
    return page.replace("<html>", '<html lang="en">', 1)


def lay_mathjax_beside(page: Path, course: Path) -> None:
    """The MathJax of the book draws the formulas: one file on disk, where links can be, for all students."""
    ours, place = course / "mathjax.js", page.with_name("mathjax.js")
    if not ours.exists():
        installed = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
        replace(ours, (installed / "static" / "mathjax" / "tex-svg.js").read_bytes())
    if not place.exists():
        try:
            os.link(ours, place)
        except OSError:
            replace(place, ours.read_bytes())
