"""The Sphinx extension of the book: what its pages need and Jupyter Book does not do."""

from __future__ import annotations

import importlib
import re

from docutils import nodes
from sphinx.errors import ConfigError
from sphinx.util.docutils import SphinxDirective

HIDDEN_TESTS = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS\n.*?^[ \t]*### END HIDDEN TESTS\n?", re.M | re.S)
MARKERS = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[ \t]*\n?", re.M)


def setup(app):
    app.add_config_value("comments_config", None, "")  # Jupyter Book sets it, for an extension that we leave out
    app.add_directive("misconceptions", Misconceptions)
    app.connect("config-inited", launch_buttons)
    app.connect("doctree-read", plain_code)
    app.connect("html-page-context", accessible, priority=900)  # after the theme
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def launch_buttons(app, config):
    """`repository: url` of _config.yml brings the launch buttons and links to the repository; empty, it hides them."""
    options = config.html_theme_options
    url = (options.get("repository_url") or "").strip().rstrip("/").removesuffix(".git")
    if url and not re.fullmatch(r"https://[\w.-]+/[\w./-]*[\w-]+/[\w.-]+", url):
        raise ConfigError("repository: url in _config.yml must look like https://github.com/NAME/REPO, "
                          f"not {url!r}")
    options["repository_url"] = url
    options["use_repository_button"] = options["use_issues_button"] = bool(url)
    if not url:
        options["launch_buttons"] = {}


def plain_code(app, doctree):
    """Takes nbgrader's marker lines and hidden tests out of the code that is shown."""
    for block in list(doctree.findall(nodes.literal_block)):
        text = MARKERS.sub("", HIDDEN_TESTS.sub("", block.astext()))
        if text != block.astext():
            block.rawsource = text = text.strip("\n")
            block.children = [nodes.Text(text)]


def accessible(app, pagename, templatename, context, doctree):
    """Mends what the theme and docutils leave for assistive technology: roles that it no longer knows, tables that no
    key scrolls, and a button of the contents without a name."""
    if "body" in context:
        body = context["body"].replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        body = body.replace('<div class="pst-scrollable-table-container">',
                            '<div class="pst-scrollable-table-container" tabindex="0" role="group" aria-label="Table">')
        context["body"] = body.replace(' role="doc-biblioentry"', "")
    contents = context["generate_toctree_html"]
    context["generate_toctree_html"] = lambda *args, **options: str(contents(*args, **options)).replace(
        "<summary>", '<summary aria-label="More pages of this chapter">')


class Misconceptions(SphinxDirective):
    """``{misconceptions} topic``: the wrong answers that the topic's checks know, exercise by exercise, in the words
    that a student reads."""

    required_arguments = 1

    def run(self):
        topic, = self.arguments
        module = importlib.import_module(f"tightbound.checks.{topic}")
        self.env.note_dependency(module.__file__)
        return [exercise(check) for check in catalogue(module)]


def catalogue(module) -> list:
    """The checks of a module that know wrong answers, in the order of the exercises."""
    from tightbound.checks import Check

    return [value for value in vars(module).values() if isinstance(value, Check) and value.wrongs]


def exercise(check) -> nodes.admonition:
    """A folded box with the check's wrong answers: each one's name and message."""
    title = nodes.title("", f"{check.name[0].upper()}{check.name[1:]}: {len(check.wrongs)} wrong answers")
    listed = nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph(
        "", "", nodes.strong("", wrong.name), nodes.Text(": "), *words(wrong.message))) for wrong in check.wrongs))
    return nodes.admonition("", title, listed, classes=["dropdown", "misconceptions"])


def words(message: str) -> list:
    """Text, with `code` where it stands between backticks."""
    return [nodes.literal("", part) if i % 2 else nodes.Text(part) for i, part in enumerate(message.split("`"))]
