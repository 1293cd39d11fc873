"""Makes slides of every chapter, from the chapter itself.

    python tools/slides.py

The book is built first, if need be; its pages hold what the chapters' notebooks say and what their cells returned.
From each, one rule makes _build/slides/TOPIC.html, and there is no second source to keep up to date:

- a heading begins a slide, a picture, an explorer, a prediction and a question of the quiz have one to themselves;
- formulas, tables, results and short code stand on it; of prose its first sentence, its bold ones, and the one that
  leads to a formula; the whole goes to the speaker's notes;
- the answer to a prediction waits for a key;
- a cell with the tag `no-slide` is left out.

What does not fit one slide goes on the next: the page measures that itself (assets/slides/slides.js).
"""

from __future__ import annotations

import argparse
import copy
import html
import re
import shutil
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import book
from bs4 import BeautifulSoup, Comment, NavigableString, Tag

ROOT = Path(__file__).resolve().parents[1]
REVEAL = ("dist/reset.css", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js", "LICENSE")
STATIC = ("book.css", "pygments.css", "logo.svg", "fonts", "mathjax/tex-chtml.js", "mathjax/output/chtml", "mathjax/input/tex")
CODE_LINES = 12  # longer code is left out
PROSE, START, LINE = 220, 100, 130  # characters: of a paragraph that is not shortened, of what is kept at least, of a line
SENTENCE = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!cf\.)(?<!vs\.)(?<!al\.)(?=\s+\S)")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · slides</title>
<link rel="icon" href="assets/logo.svg">
<link rel="stylesheet" href="assets/reset.css">
<link rel="stylesheet" href="assets/reveal.css">
<link rel="stylesheet" href="assets/pygments.css">
<link rel="stylesheet" href="assets/book.css">
<link rel="stylesheet" href="assets/slides.css">
<script>
const dark = matchMedia("(prefers-color-scheme: dark)");
const paper = /print/.test(location.search);
const dress = () => document.documentElement.setAttribute("data-theme", dark.matches && !paper ? "dark" : "light");
dark.addEventListener("change", dress);
dress();
window.MathJax = {{ startup: {{ typeset: false }}, options: {{ enableMenu: false }} }};
</script>
<script defer src="assets/mathjax/tex-chtml.js"></script>
<script defer src="assets/reveal.js"></script>
<script defer src="assets/notes.js"></script>
<script defer src="assets/slides.js"></script>
</head>
<body>
<div class="reveal"><div class="slides bd-article">
{slides}
</div></div>
<script type="module">{module}
await Promise.all({explorers}.map(boot));
startSlides();</script>
</body>
</html>
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with book.troubles_told():
        print(book.build(ROOT))
        folder = make(ROOT)
    for page in sorted(folder.glob("*.html")):
        print(page.as_uri())
    print("In a browser: S opens the speaker's notes, ?print-pdf after the address prepares for print, ? lists all keys.")


def make(root: Path) -> Path:
    """Makes root/_build/slides from root/_build/html, all at once, and returns it."""
    work, folder, pages = root / "_build/slides.new", root / "_build/slides", root / "_build/html"
    with book.lock(root):
        shutil.rmtree(work, ignore_errors=True)
        (work / "assets").mkdir(parents=True)
        for name in REVEAL:
            shutil.copy(str(files("sphinx_revealjs") / "_static/revealjs" / name), work / "assets")
        for source, name in [*((pages / "_static" / name, name) for name in STATIC),
                             *((path, path.name) for path in (root / "assets/slides").iterdir())]:
            target = work / "assets" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        for notebook in book.notebooks(root):
            if notebook.parent == root / "chapters":
                page = (pages / "chapters" / notebook.name).with_suffix(".html").read_text()
                (work / f"{notebook.stem}.html").write_text(deck(page))
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    return folder


def deck(page: str) -> str:
    """The slides of a chapter, as a page, from the chapter's page of the book."""
    kept: list[str] = []  # pictures and scripts, which are long, and pass unread
    modules: set[str] = set()

    def keep(match: re.Match) -> str:
        if match[0].startswith('<script type="module">'):
            modules.add(re.sub(r"\nboot\([^\n]*\);</script>$", "", match[0]).removeprefix('<script type="module">'))
            return ""
        kept.append(match[0])
        return f'<i data-kept="{len(kept) - 1}"></i>'

    page = re.sub(r"<(svg|script)\b.*?</\1>", keep, page[page.index("<article"):page.index("</article>")], flags=re.S)
    if len(modules) > 1:
        raise book.Trouble("The explorers of a chapter must share one module.")
    article = BeautifulSoup(page, "html.parser").article
    explorers = [root["id"] for root in article.select(".tb-explorer")]
    tidy(article)
    title = article.h1.get_text(" ", strip=True)
    slides = "\n".join(slide for section in article.find_all("section") for slide in of_section(section))
    slides = re.sub(r'<i data-kept="(\d+)"></i>', lambda match: kept[int(match[1])], slides)
    return PAGE.format(title=html.escape(title), slides=slides, explorers=explorers,
                       module=next(iter(modules), "const boot = () => {};"))


def tidy(article: Tag) -> None:
    """Takes away what serves a page and not a slide: links within the book, names of places, buttons."""
    for node in article.select(".headerlink, .toctree-wrapper, .tag_no-slide"):
        node.decompose()
    for comment in article.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    for cited in article.select(".bibtex-citation"):
        for text in cited.find_all(string=re.compile(r"[\[\]]"), recursive=False):
            text.replace_with(text.replace("[", "(").replace("]", ")"))
    for link in article.select("a.reference"):
        if not link.get("href", "").startswith("https:"):
            link.unwrap()
    for node in article.select("[id]:not(.tb-explorer), [aria-labelledby]"):
        del node["id"], node["aria-labelledby"]


# ---- one section: its slides -------------------------------------------------------------------------------

def of_section(section: Tag) -> list[str]:
    """The slides of a section, without those of the sections inside it."""
    heading = section.find(["h1", "h2", "h3"], recursive=False)
    blocks = [block for block in section.find_all(recursive=False) if block is not heading and block.name != "section"]
    for i in range(1, len(blocks) - 1):  # an answer that stands folded before an explorer comes after it
        if "dropdown" in blocks[i].get("class", []) and blocks[i + 1].select_one(".tb-explorer"):
            blocks[i:i + 2] = blocks[i + 1], blocks[i]
    answer = answers(blocks)
    taken = {id(block) for block in answer.values()}
    slides = [Slide("title")] if heading.name == "h1" else []
    slides.append(Slide())

    def alone(kind: str, *atoms: str) -> None:
        slides.extend([Slide(kind, list(atoms)), Slide()])

    for block, following in zip(blocks, [*blocks[1:], None]):
        classes = block.get("class", [])
        if "cell" in classes:
            for kind, atoms in of_cell(block):
                alone(kind, *atoms) if kind else slides[-1].atoms.extend(atoms)
        elif "tip" in classes:  # a prediction: nothing that follows may give it away
            told = f'<div class="fragment answer">{shown(answer[id(block)])}</div>' if id(block) in answer else ""
            slides[-1].atoms.append(boxed(block) + told)
            slides.append(Slide())
        elif id(block) in taken:
            slides[-1].atoms.append(said(block))
        elif "admonition" in classes:
            slides[-1].atoms.append(boxed(block))
        elif block.name == "p" and section.select_one(":scope > .cell .tb-quiz"):  # how the page's quiz is used
            slides[-1].atoms.append(said(block))
        elif block.name == "p":
            slides[-1].atoms.append(shown(block, lead="math" in (following.get("class", []) if following else [])))
        elif block.name in ("ul", "ol"):
            slides[-1].atoms.append(listed(block))
        elif "pst-scrollable-table-container" in classes:
            slides[-1].atoms.append(str(block.table))
        elif block.get_text(strip=True):
            slides[-1].atoms.append(str(block))
    return [slide.html(heading) for slide in joined(slides)]


@dataclass
class Slide:
    """What stands on a slide below its heading; the kind of one that holds a single thing."""

    kind: str = ""
    atoms: list[str] = field(default_factory=list)

    def html(self, heading: Tag) -> str:
        level = "h1" if self.kind == "title" else "h2"
        body = "".join(f'<div class="atom">{atom}</div>' for atom in self.atoms)
        return (f'<section class="{self.kind}"><{level}>{heading.decode_contents()}</{level}>'
                f'<div class="atoms">{body}</div></section>')

    @property
    def is_silent(self) -> bool:
        return all(atom.startswith("<template") for atom in self.atoms)


def joined(slides: list[Slide]) -> list[Slide]:
    """Without slides that show nothing: what they have to say goes to the slide before; and a short line that stood
    alone before a picture goes above it."""
    kept: list[Slide] = []
    for slide in slides:
        if kept and not slide.kind and slide.is_silent:
            kept[-1].atoms += slide.atoms
        elif kept and slide.kind == "picture" and not kept[-1].kind and is_line(kept[-1].atoms):
            kept[-1] = Slide("picture", kept[-1].atoms + slide.atoms)
        elif slide.atoms or slide.kind:
            kept.append(slide)
    return kept


def is_line(atoms: list[str]) -> bool:
    return len(atoms) == 1 and atoms[0].startswith("<p") and len(BeautifulSoup(atoms[0], "html.parser").p.text) <= LINE


def answers(blocks: list[Tag]) -> dict[int, Tag]:
    """By the id of each prediction of a section what answers it: the folded box or the prose after the cells that follow
    it. What is asked before an explorer is answered by the hand that moves it."""
    found = {}
    for i, block in enumerate(blocks):
        after_cell = False
        for later in blocks[i + 1:] if "tip" in block.get("class", []) else ():
            if "cell" in later.get("class", []) and not later.select_one(".tb-explorer"):
                after_cell = True
            else:
                if after_cell and later.name == "p" or "dropdown" in later.get("class", []):
                    found[id(block)] = later
                break
    return found


def of_cell(cell: Tag):
    """The kind of slide that each output of a cell asks for, none where it may share one, and the atoms."""
    outputs = cell.select(".cell_output > .output")
    pictures = [output for output in outputs if "text_html" in output["class"]]
    code = cell.select_one(":scope > .cell_input pre")
    shared = []
    if code and not pictures and is_worth_showing(code.get_text()):
        shared.append(str(cell.select_one(":scope > .cell_input")))
    for output in outputs:
        if output in pictures:
            if shared:
                yield "", shared
                shared = []
            yield from of_html(output)
        else:
            shared.append(f'<div class="cell"><div class="cell_output">{output}</div></div>')
    if shared:
        yield "", shared


def of_html(output: Tag):
    if output.select_one(".tb-explorer"):
        yield "explorer", [str(output)]
    elif quiz := output.select_one(".tb-quiz"):
        for question in quiz.find_all("div", recursive=False):
            yield "question", [asked(question)]
    elif picture := output.select_one(".tb-picture"):
        words = f'<p>{html.escape(picture.figure["aria-label"])}</p>'
        yield "picture", [f'{picture}<template class="said">{words}</template>']
    else:
        yield "", [str(output)]


def is_worth_showing(code: str) -> bool:
    lines = [line for line in code.splitlines() if line.strip()]
    return len(lines) <= CODE_LINES and not all(re.match(r"import |from |#|print\(inspect\.getsource|plain\(", line) for line in lines)


def said(block: Tag) -> str:
    """What is for the speaker alone."""
    return f'<template class="said">{block}</template>'


# ---- prose -------------------------------------------------------------------------------------------------

def shown(paragraph: Tag, lead: bool = False) -> str:
    """A paragraph as a slide has it, and, where that is less than all, the whole for the speaker."""
    if paragraph.name != "p":
        return boxed(paragraph) if "admonition" in paragraph.get("class", []) else str(paragraph)
    short = shortened(paragraph, lead)
    whole = "" if short == paragraph.decode_contents() else said(paragraph)
    return f'<p{" data-leads" if leads(paragraph, lead) else ""}>{short}</p>{whole}'


def leads(paragraph: Tag, lead: bool) -> bool:
    return lead or paragraph.get_text().rstrip().endswith(":")


def shortened(paragraph: Tag, lead: bool = False) -> str:
    """The sentences of a paragraph that a slide keeps: the first ones, those in bold, and one that leads on."""
    found = sentences(paragraph)
    if len(words(found)) <= PROSE:
        return paragraph.decode_contents()
    found = [sentence for sentence in found if not words([sentence]).lstrip().startswith("(")]
    first = next((n for n in range(1, len(found)) if len(words(found[:n])) >= START), len(found))
    kept = [sentence for i, sentence in enumerate(found)
            if i < first or any(isinstance(node, Tag) and node.name == "strong" for node in sentence)
            or (i == len(found) - 1 and leads(paragraph, lead))]
    if len(kept) > 1 and len(words(kept[-1:])) < 25 and not leads(paragraph, lead):  # "Here is why."
        kept.pop()
    return " ".join("".join(str(node) if isinstance(node, Tag) else html.escape(node) for node in sentence).strip()
                    for sentence in kept)


def sentences(paragraph: Tag) -> list[list]:
    """The sentences of a paragraph, each a list of nodes; none ends inside brackets or markup."""
    found, current, depth = [], [], 0

    def close():
        if words([current]).strip():
            found.append(current.copy())
        current.clear()

    for node in paragraph.children:
        for i, part in enumerate(SENTENCE.split(str(node)) if isinstance(node, NavigableString) else [node]):
            said = words([current])
            ended = said.rstrip().endswith((".", "!", "?")) and (said + words([[part]]))[len(said.rstrip())].isspace()
            if depth <= 0 and (i or ended):
                close()
            current.append(part if isinstance(part, Tag) else NavigableString(part))
            if not isinstance(part, Tag):
                depth += part.count("(") - part.count(")")
    close()
    return found


def words(found: list[list]) -> str:
    return "".join(node.get_text() if isinstance(node, Tag) else str(node) for sentence in found for node in sentence)


def listed(items: Tag) -> str:
    """A list with its items shortened as paragraphs are."""
    short, whole = copy.copy(items), ""
    for paragraph in short.select("li > p"):
        text = shortened(paragraph)
        if text != paragraph.decode_contents():
            whole = said(items)
            paragraph.clear()
            paragraph.append(BeautifulSoup(text, "html.parser"))
    return f"{short}{whole}"


def boxed(box: Tag) -> str:
    """An admonition; what it holds besides lists is shortened, except where it asks or answers."""
    whole = {"tip", "dropdown"} & set(box["class"])
    inside = "".join(
        str(node) if whole or "admonition-title" in node.get("class", []) else
        listed(node) if node.name in ("ul", "ol") else shown(node)
        for node in box.find_all(recursive=False))
    return f'<div class="{" ".join(box["class"])}">{inside}</div>'


def asked(question: Tag) -> str:
    """A question of the quiz: its options as a list, the right one marked at a key, the explanations for the speaker."""
    options, reasons = [], ""
    for option in question.select("details"):
        right = "✓" in option.p.get_text()
        mark = '<span class="fragment right"> ✓</span>' if right else ""
        options.append(f"<li>{option.summary.decode_contents()}{mark}</li>")
        reasons += f"<p>{option.summary.get_text()} {option.p.decode_contents()}</p>"
    return (f'<div class="tb-quiz">{question.p}<ol type="a">{"".join(options)}</ol></div>'
            f'<template class="said">{reasons}</template>')


if __name__ == "__main__":
    main()
