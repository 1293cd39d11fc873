"""The built pages, as a reader meets them: in a browser, from a file and over http, in light and dark, on a phone, on
paper, and without JavaScript."""

from __future__ import annotations

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import Hand, axe_violations, weight
from bs4 import BeautifulSoup
from sphinx_external_toc.parsing import parse_toc_yaml

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*parse_toc_yaml(ROOT / "_toc.yml"), "search"]
EXERCISES = [page for page in PAGES if page.startswith("chapters/exercises/")]
WITH_EXPLORERS = ["index", *(page for page in PAGES if page.startswith("chapters/") and page not in EXERCISES)]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def server(book):
    """The book over http on the loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=book)) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture
def visit(book, open_page):
    """Opens a page of the book from its file, and waits until formulas, fonts and explorers are drawn."""

    def go(page: str, **options):
        return settled(open_page((book / f"{page}.html").as_uri(), **options).page)

    return go


def settled(page):
    page.evaluate("""async () => {
        await window.MathJax?.startup?.promise;
        await document.fonts.ready;
        const waiting = () => [...document.querySelectorAll('.tb-explorer')].some(root => !root.explorer);
        while (waiting()) await new Promise(done => setTimeout(done, 10));
    }""")
    return page


def assert_formulas_are_drawn(page):
    drawn = page.evaluate("""() => ({
        missing: [...document.querySelectorAll('.math.notranslate')].filter(m => !m.querySelector('mjx-container'))
                 .map(m => m.textContent),
        wrong: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(m => m.textContent),
        raw: [...document.querySelectorAll('.tex2jax_process')].filter(m => m.innerText.includes('\\\\(')).length })""")
    assert drawn == {"missing": [], "wrong": [], "raw": 0}


# ---- every page --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_page_is_drawn_and_accessible(page, scheme, visit):
    """No console error and no request to the network either: `open_page` sees to it."""
    tab = visit(page, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme
    assert_formulas_are_drawn(tab)
    assert tab.evaluate("document.fonts.check('16px \"Source Serif 4\"')")
    assert not tab.locator("img:not([alt])").count()
    assert not tab.locator("[role=img]:not([aria-hidden=true]):is([aria-label=''], :not([aria-label]))").count()
    assert not axe_violations(tab)
    if scheme == "light":
        tab.set_viewport_size(PHONE)
        settled(tab.reload() and tab)
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{wide} pixels wider than a phone"
        assert not axe_violations(tab, contrast=page == "index")  # only the bar at the top has other colours there


@pytest.mark.parametrize("page", ["index", *WITH_EXPLORERS[1:2], *EXERCISES[:1], "pages/api"])
def test_page_over_http(page, server, open_page):
    tab = settled(open_page(f"{server}/{page}.html").page)
    assert_formulas_are_drawn(tab)
    assert tab.locator(".bd-article h1, .bd-search-container h1").first.is_visible()


def test_links_lead_somewhere(book):
    """Every file and every anchor that a page of the book refers to is there; outside links lead to https."""
    pages = {path: BeautifulSoup(path.read_text(), "html.parser")
             for path in book.rglob("*.html") if "_static" not in path.parts}
    assert {path.relative_to(book).with_suffix("").as_posix() for path in pages} == set(PAGES)
    ids = {path: [tag["id"] for tag in soup.find_all(id=True)] for path, soup in pages.items()}
    dead = []
    for path, soup in pages.items():
        repeated = sorted({name for name in ids[path] if ids[path].count(name) > 1})
        dead += [f"{path.name}: id {name} is there twice" for name in repeated if name != "search-input"]  # the theme's
        for tag, key in [(t, k) for k in ("href", "src") for t in soup.find_all(**{k: True}) if t.name != "use"]:
            target = urlsplit(tag[key])
            if target.scheme in ("http", "https", "data", "mailto"):
                if tag.name != "a" or target.scheme == "http":
                    dead.append(f"{path.name}: {tag[key]}")
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            file = file / "index.html" if file.is_dir() else file
            known = ids.get(file)
            if not file.exists() or (target.fragment and known is not None and unquote(target.fragment) not in known):
                dead.append(f"{path.name}: {tag[key]}")
    assert not dead


@pytest.mark.parametrize("page", PAGES)
def test_page_is_light(page, book):
    """At most 500 kB compressed, beyond the theme's and MathJax's own files."""
    assert weight(book, page) <= 500_000


# ---- explorers, exercises, quiz ----------------------------------------------------------------------------

@pytest.mark.parametrize("page", WITH_EXPLORERS)
def test_explorers_answer_to_every_control(page, visit):
    tab = visit(page)
    roots = tab.locator(".tb-explorer").all()
    assert roots
    for root in roots:
        hand = Hand(root)
        for name, spec in hand.spec["controls"].items():
            for part in hand.control(name):
                before = hand.picture()
                if spec["type"] == "choice":
                    part.select_option(next(option for option in spec["stops"] if option != spec["value"]))
                elif spec["type"] == "toggle":
                    part.click()
                else:
                    part.press("Home")
                    if hand.picture() == before:
                        part.press("End")
                assert hand.picture() != before, f"{spec['label']} moves nothing"
                hand.reset()
                assert hand.picture() == before


@pytest.mark.parametrize("page", WITH_EXPLORERS)
def test_pictures_without_javascript(page, book, open_page):
    tab = open_page((book / f"{page}.html").as_uri(), java_script_enabled=False, color_scheme="dark").page
    stills = tab.locator(".tb-still svg, .tb-picture svg").all()
    assert stills
    for still in stills:
        box = still.bounding_box()
        assert box["width"] > 200 and box["height"] > 60
    assert tab.locator(".bd-article h1, .bd-search-container h1").is_visible()


@pytest.mark.parametrize("page", EXERCISES)
def test_solutions_are_folded(page, visit):
    tab = visit(page)
    assert "### " not in tab.content() and "BEGIN SOLUTION" not in tab.content()
    folded = tab.locator("details.hide", has=tab.get_by_text("Show the solution"))
    assert folded.count() >= 4
    for solution in folded.all():
        code = solution.locator("pre").first
        assert not code.is_visible()
        solution.locator("summary").click()
        assert code.is_visible() and "return" in code.inner_text()


@pytest.mark.parametrize("page", WITH_EXPLORERS[1:])
def test_quiz_explains_every_option(page, visit):
    tab = visit(page)
    options = tab.locator(".tb-quiz details").all()
    assert len(options) >= 5
    for option in options:
        words = option.locator("p")
        assert not words.is_visible()
        option.locator("summary").click()
        assert words.is_visible() and re.match(r"[✓✗]", words.inner_text())


# ---- the book as a whole -----------------------------------------------------------------------------------

def test_search_finds_offline(visit):
    tab = visit("search")
    tab.goto(f"{tab.url}?q=Hessian")
    found = tab.locator("#search-results li a")
    found.first.wait_for()
    assert any("laplace.html" in link.get_attribute("href") for link in found.all())


def test_theme_is_chosen_and_kept(visit):
    tab = visit("index", color_scheme="light")
    theme = partial(tab.evaluate, "document.documentElement.dataset.theme")
    button = tab.locator("button.theme-switch-button").first
    for _ in range(3):  # light, dark, as the system
        if theme() == "dark":
            break
        button.click()
    assert theme() == tab.evaluate("localStorage.mode") == "dark"
    tab.add_init_script("localStorage.mode = 'dark'")  # what the next page finds
    tab.reload()
    assert theme() == "dark"


def test_contents_open_on_a_phone(visit):
    tab = visit("index", viewport=PHONE)
    contents = tab.locator("nav.bd-links")
    assert not contents.is_visible()
    tab.locator("button.primary-toggle").click()
    contents.get_by_role("link", name="Notation").click()
    assert tab.url.endswith("pages/notation.html")


@pytest.mark.parametrize("page", WITH_EXPLORERS)
def test_page_prints(page, visit):
    """On paper: no frame and no controls, dark on white, and every picture."""
    tab = visit(page, color_scheme="dark")
    tab.emulate_media(media="print")
    for gone in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".prev-next-footer",
                 ".tb-controls"):
        assert not any(part.is_visible() for part in tab.locator(gone).all()), gone
    assert tab.locator(".bd-article h1").is_visible() and tab.locator(".tb-stage canvas").first.is_visible()
    ground, ink = tab.evaluate("""() => [getComputedStyle(document.body).backgroundColor,
                                         getComputedStyle(document.querySelector('.bd-article p')).color]""")
    assert (ground, ink) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    assert tab.pdf(format="A4").startswith(b"%PDF")
