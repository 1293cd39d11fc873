"""Explorers alive on a kernel, in a real JupyterLab that a browser drives; and a chapter as its reader runs it."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
from browser import Hand, Snapshot, assert_agrees, half_a_step, is_near, visit
from gallery import chapters_explorers, gallery, trouble
from lab import Notebook, open_notebook, serve, write_notebook

from tightbound.explore import Explorer
from tightbound.explore.laplace import coin, eight_schools

pytestmark = pytest.mark.lab
CHAPTER = Path(__file__).parents[1] / "chapters" / "laplace.ipynb"
OTHERS = {name: make for name, make in chapters_explorers().items() if not name.startswith("laplace.")}
MAKERS = {"the coin": coin, "eight schools": eight_schools, "Gallery": gallery, "Trouble": trouble}
CELLS = [f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})",
         "import gallery\nfrom tightbound.explore import laplace",
         "coin = laplace.coin()\ncoin",
         "schools = laplace.eight_schools()\nschools",
         "shown = gallery.gallery()\nshown",
         "trouble = gallery.trouble()\ntrouble"]


@cache
def made(title: str) -> Explorer:
    return MAKERS[title]()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root, home = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("home")
    write_notebook(root / "own.ipynb", *CELLS)
    modules, makers = zip(*(name.split(".") for name in OTHERS))
    write_notebook(root / "collection.ipynb", f"from tightbound.explore import {', '.join(sorted(set(modules)))}",
                   *(f"{module}.{maker}()" for module, maker in zip(modules, makers)))
    shutil.copy(CHAPTER, root)
    with serve(root, home) as address:
        yield address


@pytest.fixture(scope="module")
def notebook(chromium, address):
    """The notebook with all explorers, run from top to bottom."""
    with open_notebook(chromium, address, "own.ipynb") as notebook:
        assert errors(notebook.run_all()) == []
        yield notebook
        assert_quiet(notebook)


def errors(outputs: list[list[dict]]) -> list[dict]:
    return [output for cell in outputs for output in cell if output["output_type"] == "error"]


def assert_quiet(notebook: Notebook) -> None:
    """No request to another machine, and no error but JupyterLab's own: an explorer's module comes from a blob."""
    assert notebook.seen.outside == []
    assert [text for text in notebook.seen.errors + notebook.seen.console if "blob:" in text or "widget" in text] == []


def move_through_all(hand: Hand, explorer: Explorer) -> list[Snapshot]:
    """Every control through its full range by the hand; at each stop the frame is Python's, and the picture follows."""
    seen = []
    for name in explorer.controls:
        pictures = set()
        for drawn in hand.sweep(name):
            assert_agrees(drawn, explorer, live=True)
            seen.append(drawn)
            if len(pictures) < 2:
                pictures.add(hand.picture())
        assert len(pictures) == 2 or name == "grid"  # which moves the background
        hand.reset()
    assert hand.snapshot().params == explorer.start
    return seen


@pytest.mark.parametrize("title", ["the coin", "eight schools", "Gallery"])
def test_kernel_and_page_say_the_same_over_every_control(title, notebook, chromium, tmp_path):
    explorer, hand = made(title), notebook.hand(title)
    live = move_through_all(hand, explorer)
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{explorer.html()}")
    with visit(chromium, (tmp_path / "page.html").as_uri()) as seen:
        static = Hand(seen.page.locator(".tb-explorer")).ask(*(drawn.params for drawn in live))
        seen.assert_clean()
    for one, other in zip(live, static, strict=True):
        assert one.params == other.params and one.readout == other.readout
        for name in set(one.frame) - set(explorer.controls):
            assert is_near(other.frame[name], one.frame[name], half_a_step(one.frame[name])), name


def test_jupyterlab_leaves_the_keys_to_the_controls(notebook):
    hand = notebook.hand("the coin")
    state = """() => { const book = window.jupyterapp.shell.currentWidget.content;
                       return [book.activeCellIndex, book.widgets.length]; }"""
    hand.control("flips")[0].press("Home")
    before = notebook.page.evaluate(state)
    for key in ("ArrowDown", "ArrowUp", "ArrowRight", "a", "b", "d", "d", "x", "m"):  # in JupyterLab: move, insert, delete
        notebook.page.keyboard.press(key)
    assert hand.snapshot().params["flips"] == 3
    assert notebook.page.evaluate(state) == before
    hand.reset()


def test_the_mouse_drags_the_point(notebook):
    explorer, hand = made("eight schools"), notebook.hand("eight schools")
    before = hand.picture()
    with hand.dragging() as move:
        move(120, -70)
    drawn = hand.snapshot()
    mu, tau = drawn.params["point"]
    assert mu > explorer.start["point"][0] + 2 and tau > explorer.start["point"][1] * 1.3
    assert_agrees(drawn, explorer, live=True)
    assert hand.picture() != before
    hand.reset()


def test_what_a_cell_sets_is_drawn_and_what_a_hand_sets_is_read(notebook):
    explorer, hand = made("the coin"), notebook.hand("the coin")
    before = hand.picture()
    assert errors([notebook.run("coin.widget.params = {'flips': 50, 'coordinate': 'logit'}")]) == []
    hand.page.wait_for_function("root => root.explorer.params.flips === 50", arg=hand.root.element_handle())
    drawn = hand.snapshot()
    assert drawn.params == {**explorer.start, "flips": 50, "coordinate": "logit"}
    assert_agrees(drawn, explorer, live=True)
    assert hand.picture() != before and hand.control("coordinate")[0].input_value() == "logit"
    hand.control("flips")[0].press("End")
    hand.snapshot()
    (output,) = notebook.run("print(coin.widget.params['flips'])")
    assert output["text"].strip() == "200"
    (output,) = notebook.run("coin.widget.params = {'flip': 50}")
    assert output["output_type"] == "error" and "no control is called ['flip']" in output["evalue"]
    hand.reset()
    assert_agrees(hand.snapshot(), explorer, live=True)


def test_the_newest_request_wins(notebook):
    """Fifty quick inputs: what stands there at the end is the last, and not every one was computed on the way."""
    explorer, hand = made("the coin"), notebook.hand("the coin")
    drawn = hand.control("flips")[0].evaluate("""async slider => {
        const root = slider.closest(".tb-explorer");
        let drawn = 0;
        root.addEventListener("tb-drawn", () => drawn++);
        for (let i = 0; i < 50; i++) {
            slider.value = i === 49 ? 12 : (5 * i) % 12;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
        }
        while (root.explorer.busy) await new Promise(done => setTimeout(done, 2));
        return drawn; }""")
    assert 1 <= drawn <= 10
    last = hand.snapshot()
    assert last.params["flips"] == explorer.controls["flips"].stops[12]
    assert_agrees(last, explorer, live=True)
    (output,) = notebook.run("print(coin.widget.params['flips'])")
    assert int(output["text"]) == last.params["flips"]
    hand.reset()


def test_a_function_that_raises_says_so_and_lives_on(notebook):
    explorer, hand = made("Trouble"), notebook.hand("Trouble")
    said, ink = zip(*((drawn.readout, hand.ink()) for drawn in hand.sweep("n")))
    assert [n for n in range(9) if ink[n] == 0] == [2]
    assert said[2] == ["ZeroDivisionError: two is <b>not</b> allowed"]
    for n, words in enumerate(said):
        assert n == 2 or words == [f"n = {n}, level {n // 4:.1f}"]  # also where nothing but n has changed
    hand.control("n")[0].press("Home")
    assert_agrees(hand.snapshot(), explorer, live=True)
    assert hand.ink() > 0


def test_two_views_of_one_explorer_move_together(notebook):
    hand = notebook.hand("the coin")
    notebook.run("from ipywidgets import VBox\nVBox([coin.widget])")
    views = notebook.explorers().filter(has_text="the coin")
    views.nth(1).wait_for()
    other = Hand(views.nth(1))
    hand.control("share")[0].press("End")
    hand.snapshot()
    assert other.snapshot().params["share"] == 1
    assert_agrees(other.snapshot(), made("the coin"), live=True)
    assert other.control("share")[0].input_value() == "20"
    other.reset()
    assert hand.snapshot().params == made("the coin").start


def test_it_follows_jupyterlabs_theme(notebook):
    hand = notebook.hand("the coin")
    change, colour = "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", {}
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        notebook.page.evaluate(change, theme)
        notebook.page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")
        notebook.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        colour[theme] = hand.root.evaluate("root => getComputedStyle(root).color"), hand.picture()
    (dark, night), (light, day) = colour.values()
    assert (dark, light) == ("rgb(230, 230, 230)", "rgb(31, 35, 40)") and night != day


def test_a_chapter_runs_as_its_reader_runs_it(chromium, address):
    with open_notebook(chromium, address, CHAPTER.name) as notebook:
        assert errors(notebook.run_all()) == []
        titles = notebook.explorers().locator(".tb-title").all_text_contents()
        assert [title.removeprefix("Explorer: ") for title in titles] == ["the coin", "eight schools"]
        for title in ("the coin", "eight schools"):
            hand = notebook.hand(title)
            for drawn in hand.touch(next(iter(made(title).controls))):
                assert_agrees(drawn, made(title), live=True)
        assert_quiet(notebook)


@pytest.fixture(scope="module")
def collection(chromium, address):
    """A notebook with every other chapter's explorers, one a cell, run from top to bottom."""
    with open_notebook(chromium, address, "collection.ipynb") as notebook:
        assert errors(notebook.run_all(seconds=300)) == []
        yield notebook
        assert_quiet(notebook)


@pytest.mark.parametrize("name", OTHERS)
def test_every_chapters_explorers_live_on_a_kernel(name, collection):
    explorer, hand = OTHERS[name](), collection.hand([*OTHERS].index(name))
    assert hand.spec["title"] == explorer.title and hand.spec["alt"] == explorer.alt
    assert_agrees(hand.snapshot(), explorer, live=True)
    for drawn in hand.touch(next(iter(explorer.controls))):
        assert_agrees(drawn, explorer, live=True)
