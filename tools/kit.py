"""Builds the teacher's kit: the book's pages for teachers, and the solutions of their exam questions.

    python tools/kit.py [--no-open]

The solutions, teaching/solutions/<topic>.md, are on no list of contents of the book, so its pages hold nothing of them.
Here each stands below the page that asks its questions. The kit lies in _build/kit and works offline; its links lead
into the book beside it, _build/html, which is built first if it is missing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import book
import yaml

ROOT = book.ROOT
FIRST = "teaching/index"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Builds the teacher's kit, and opens it.")
    parser.add_argument("--no-open", action="store_true", help="do not open the kit in a browser")
    options = parser.parse_args(arguments)
    with book.troubles_told():
        print(build(ROOT))
    book.show(ROOT / f"_build/kit/{FIRST}.html", open_it=not options.no_open)


def build(root: Path) -> str:
    """Makes root/_build/kit, and returns what was done, in a line."""
    if not (root / "_build/html/objects.inv").exists():  # what the links into the book are looked up in
        print("The kit's links lead into the book, which is built first: a few minutes.", flush=True)
        book.build(root)
    began = time.perf_counter()
    with book.lock(root):
        toc = root / "_build/kit.yml"
        toc.write_text(yaml.safe_dump(contents(yaml.safe_load((root / "_toc.yml").read_text()), root), sort_keys=False))
        book.make_pages(root, root / "_build/kit", "", "_build/kit.yml", **settings(root))
    pages = sum(1 for _ in (root / "_build/kit/teaching").rglob("*.html"))
    return (f"The teacher's kit: {pages} pages in {time.perf_counter() - began:.0f} s. It holds the solutions of the "
            "exam questions: keep it from the students.")


def contents(book_contents: dict, root: Path) -> dict:
    """The part of the book's contents that is for teachers, each page followed by its solutions where it has some."""
    pages = next(chapter for part in book_contents["parts"] for chapter in part["chapters"] if chapter["file"] == FIRST)
    sections = []
    for page in pages["sections"]:
        solutions = page["file"].replace("teaching/", "teaching/solutions/")
        known = (root / f"{solutions}.md").exists()
        sections.append(page | ({"sections": [{"file": solutions}]} if known else {}))
    return {"format": "jb-book", "root": FIRST, "chapters": [*sections, {"file": "pages/bibliography"}]}


def settings(root: Path) -> dict:
    """What differs from the book's own configuration: links into it, nothing executed, and a title that warns."""
    config = yaml.safe_load((root / "_config.yml").read_text())["sphinx"]["config"]
    theme = config["html_theme_options"] | {"logo": {"text": "Teacher's kit", "alt_text": ""}}
    return {"extensions": [*config["extensions"], "sphinx.ext.intersphinx"],
            "intersphinx_mapping": {"book": ("../html", str(root / "_build/html/objects.inv"))},
            "nb_execution_mode": "off", "html_title": "Teacher's kit", "html_theme_options": theme}


if __name__ == "__main__":
    main()
