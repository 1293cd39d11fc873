"""The slides, in a browser: what a lecturer and the back row see of every chapter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Hand
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import slides  # noqa: E402

CHAPTERS = sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))
HALL, LARGE = {"width": 1280, "height": 720}, {"width": 1920, "height": 1080}
RAW = re.compile(r".{20}(?:\{(?:term|cite|doc|ref|eq|numref|math)\b|:::|```|\\[()\[\]]|\$\$|\]\(|\*\*|<!--|###|\[@).{20}")

# What of every slide reaches beyond it, what text is small, which formulas are not drawn, and all words outside code.
SEEN = """() => {
  const found = { beyond: [], small: [], undrawn: [], words: "", slides: 0, zoom: 1 };
  const size = (node) => { let zoom = 1; for (let n = node; n; n = n.parentElement) zoom *= +getComputedStyle(n).zoom || 1;
    return parseFloat(getComputedStyle(node).fontSize) * zoom; };
  document.querySelectorAll(".slides > section").forEach((slide, i) => {
    found.slides += 1;
    const edge = slide.getBoundingClientRect();
    for (const node of slide.querySelectorAll(":scope *:not(.notes, .notes *, svg *, mjx-container *)")) {
      const box = node.getBoundingClientRect();
      if (box.width && (box.left < edge.left - 1 || box.right > edge.right + 1
          || box.top < edge.top - 1 || box.bottom > edge.bottom + 1))
        found.beyond.push([i + 1, node.outerHTML.slice(0, 80)]);
      const text = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
      if (box.width && text && size(node) < 15) found.small.push([i + 1, size(node), node.outerHTML.slice(0, 80)]);
    }
    for (const math of slide.querySelectorAll(".math"))
      if (!math.querySelector("mjx-container, math")) found.undrawn.push([i + 1, math.textContent]);
    for (const wrong of slide.querySelectorAll("mjx-merror, [data-mjx-error], merror"))
      found.undrawn.push([i + 1, wrong.outerHTML]);
    const plain = slide.cloneNode(true);
    plain.querySelectorAll("pre, code, script, style, svg, mjx-container, math").forEach((node) => node.remove());
    found.words += plain.textContent + "\\n";
  });
  return found;
}"""


@pytest.fixture(scope="module")
def decks(book):
    made = subprocess.run([sys.executable, ROOT / "tools/slides.py"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return ROOT / "_build/slides"


@pytest.fixture
def show(decks, open_page):
    """Opens the slides of a chapter, and waits until they are laid out."""

    def go(topic: str, query: str = "", **options):
        page = open_page((decks / f"{topic}.html").as_uri() + query, **{"viewport": HALL, **options}).page
        page.wait_for_function("window.Reveal?.isReady?.()")
        return page

    return go


def at(page) -> int:
    return page.evaluate("Reveal.getIndices().h")


def turn_to(page, selector: str):
    """The first slide that holds such a thing."""
    page.evaluate("""selector => { const all = [...document.querySelectorAll(".slides > section")];
        Reveal.slide(all.findIndex(slide => slide.querySelector(selector))); }""", selector)
    return page.locator(f".slides > section.present {selector}").first


# ---- every chapter -----------------------------------------------------------------------------------------

@pytest.mark.browser
@pytest.mark.parametrize("topic", CHAPTERS)
def test_slides_show_all_and_nothing_raw(topic, show):
    page = show(topic)
    page.evaluate("Reveal.configure({ viewDistance: 1000 })")  # so that all of them can be measured
    seen = page.evaluate(SEEN)
    assert seen["slides"] >= 40
    assert not seen["beyond"] and not seen["small"] and not seen["undrawn"]
    assert not RAW.findall(seen["words"])
    explorers = page.locator(".tb-explorer").all()
    assert explorers
    for root in explorers:
        assert Hand(root).ink() > 0
        assert root.locator(".tb-stage").bounding_box()["height"] >= 270


@pytest.mark.browser
def test_every_screen_shows_the_same_slides(show):
    small, large = show("em"), show("em", viewport=LARGE, color_scheme="dark")
    assert large.evaluate("document.documentElement.dataset.theme") == "dark"
    count = "Reveal.getTotalSlides()"
    assert small.evaluate(count) == large.evaluate(count)
    large.evaluate("Reveal.configure({ viewDistance: 1000 })")
    seen = large.evaluate(SEEN)
    assert not seen["beyond"] and not seen["small"]


# ---- a lecture ---------------------------------------------------------------------------------------------

@pytest.mark.browser
@pytest.mark.parametrize("topic", ["laplace", "importance"])
def test_an_explorer_is_moved_on_its_slide(topic, show):
    page = show(topic)
    hand = Hand(turn_to(page, ".tb-explorer"))
    here, before = at(page), hand.picture()
    hand.root.locator("input[type=range]").first.press("ArrowLeft")
    assert hand.picture() != before
    assert at(page) == here, "an arrow key turned the slide, although a control had the focus"
    page.keyboard.press("PageDown")  # as a presenter's remote does
    assert at(page) == here + 1
    page.keyboard.press("ArrowLeft")
    assert at(page) == here
    hand.root.locator("input[type=range]").first.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    assert at(page) == here + 1


@pytest.mark.browser
def test_a_point_stays_under_the_pointer(show):
    page = show("laplace", viewport=LARGE)
    hand = Hand(turn_to(page, ".tb-explorer:has(.tb-handle)"))
    handle, stage = hand.root.locator(".tb-handle"), hand.root.locator(".tb-stage")
    with hand.dragging() as move:
        x, y = move(90, -60)
        box, around = handle.bounding_box(), stage.bounding_box()
        assert (box["x"] + box["width"] / 2 - around["x"]) / around["width"] == pytest.approx(x, abs=0.01)
        assert 1 - (box["y"] + box["height"] / 2 - around["y"]) / around["height"] == pytest.approx(y, abs=0.01)


@pytest.mark.browser
def test_an_answer_waits_for_a_key(show):
    page = show("laplace")
    answer = turn_to(page, ".tip + .answer")
    here = at(page)
    visible = "node => getComputedStyle(node).visibility === 'visible' && +getComputedStyle(node).opacity > 0"
    assert not answer.evaluate(visible)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("Reveal.getCurrentSlide().querySelector('.answer.visible')")
    assert at(page) == here
    page.keyboard.press("ArrowRight")
    assert at(page) == here + 1


@pytest.mark.browser
def test_the_speaker_has_notes(show):
    page = show("laplace")
    turn_to(page, ".notes")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    with page.context.expect_page() as opened:
        page.keyboard.press("s")
    view = opened.value
    notes = view.locator(".speaker-controls-notes .value")
    view.wait_for_function("document.querySelector('.speaker-controls-notes .value')?.textContent.trim()")
    said = " ".join(page.evaluate("document.querySelector('section.present .notes').textContent").split())
    assert said and " ".join(notes.text_content().split()) == said
    view.close()


@pytest.mark.browser
def test_slides_print_one_a_page(show):
    page = show("laplace", "?print-pdf", color_scheme="dark")  # paper is white all the same
    page.wait_for_function("document.querySelectorAll('.pdf-page').length")
    page.emulate_media(media="print")
    seen = page.evaluate("""() => [...document.querySelectorAll(".pdf-page")].map(page => {
        const edge = page.getBoundingClientRect(), heading = page.querySelector("h1, h2").getBoundingClientRect();
        const low = Math.max(...[...page.querySelectorAll(".atom")].map(a => a.getBoundingClientRect().bottom - edge.top), 0);
        return [heading.left - edge.left > 40, low < 720, getComputedStyle(page).backgroundColor]; })""")
    assert {tuple(page) for page in seen} == {(True, True, "rgb(255, 254, 251)")}
    printed = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == page.locator(".slides section").count()


# ---- the rule ----------------------------------------------------------------------------------------------

def paragraph(text: str):
    return BeautifulSoup(f"<p>{text}</p>", "html.parser").p


def test_prose_is_shortened_by_whole_sentences():
    text = paragraph("A first sentence that says what it is about, at a length that is enough, i.e. by itself, for a slide to "
                     "stand on. A second one (with brackets. And a stop) goes. <strong>A bold one stays.</strong> "
                     "(So much for brackets.) A long way to go is left for the speaker, who has it all in view. It leads on:")
    assert slides.shortened(text) == (
        "A first sentence that says what it is about, at a length that is enough, i.e. by itself, for a slide to stand on. "
        "<strong>A bold one stays.</strong> It leads on:")
    whole = paragraph("Short enough. It stays as it is.")
    assert slides.shortened(whole) == whole.decode_contents()


def test_a_cell_may_be_left_out():
    page = """<article class="bd-article"><section><h1>T</h1><p>Words.</p>
        <div class="cell tag_no-slide"><div class="cell_output"><div class="output stream"><pre>gone</pre></div></div></div>
        </section></article>"""
    deck = slides.deck(page)
    assert "Words." in deck and "gone" not in deck
