"""The Sphinx extension of the book: what its pages need and Jupyter Book does not do."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.errors import ConfigError

HIDDEN_TESTS = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS\n.*?^[ \t]*### END HIDDEN TESTS\n?", re.M | re.S)
MARKERS = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[ \t]*\n?", re.M)


def setup(app):
    app.add_config_value("comments_config", None, "")  # Jupyter Book sets it, for an extension that we leave out
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
