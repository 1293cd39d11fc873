"""A real Chromium for tests: pages that record what they complain of, and hands for an explorer."""

from __future__ import annotations

import base64
import gzip
import math
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
INSIDE = ("file", "data", "blob", "about")


def executable() -> str:
    """The path of Chromium. Without one the test is skipped; in continuous integration (CI is set) it fails."""
    for name in ("chromium", "/usr/bin/chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    told = "no browser: install Debian's chromium to run this test"
    return pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)


@contextmanager
def launch():
    """A headless Chromium, ended at the end."""
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def weight(book: Path, page: str) -> int:
    """The bytes of a page of the built book, compressed, beyond the theme's and MathJax's own files."""
    own = [book / f"{page}.html", *(book / "_static" / name for name in ("book.css", "logo.svg"))]
    own += book.glob("_static/fonts/*.woff2")
    own += [book / image for image in re.findall(r'src="(?:\.\./)*(_images/[^"]+)"', own[0].read_text())]
    return sum(len(gzip.compress(file.read_bytes())) for file in own)


@dataclass
class Visit:
    """A page, and what was seen of it: errors of its console and scripts, and requests to other machines."""

    page: Page
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page.on("console", lambda message: message.type == "error" and self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(f"{error.message} {error.stack}"))
        self.page.on("request", lambda request: is_outside(request.url) and self.outside.append(request.url))
        self.page.on("websocket", lambda socket: is_outside(socket.url) and self.outside.append(socket.url))

    def assert_clean(self) -> None:
        assert not self.errors, self.errors
        assert not self.console, self.console
        assert not self.outside, self.outside


def is_outside(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in INSIDE and parts.hostname != "127.0.0.1"


@contextmanager
def visit(browser: Browser, url: str = "about:blank", **options):
    """A `Visit` of a page in a context of its own; `options` are those of `Browser.new_context`.

    Nothing plays by itself, unless `reduced_motion` says otherwise.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options})
    try:
        seen = Visit(context.new_page())
        if url != "about:blank":
            seen.page.goto(url)
        yield seen
    finally:
        context.close()


def axe_violations(page: Page, *, contrast: bool = True) -> list[str]:
    """What axe-core calls serious or critical on the page, one line each. Contrast is most of its time."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"preload": False, "resultTypes": ["violations"],  # styles of a file are out of its reach
               "rules": {"color-contrast": {"enabled": contrast}}}
    found = Axe().run(page, options=options).response["violations"]
    return [f"{v['id']} ({v['impact']}): {node['html'][:200]} {node['failureSummary']}"
            for v in found if v["impact"] in ("serious", "critical") for node in v["nodes"]]


# ---- explorers -----------------------------------------------------------------------------------------------------

# Sets the controls to each of the given values in turn (none: leaves them) and tells what then stands there: arrays as
# their shape and bytes, the controls' values, and the words under the picture.
SNAPSHOTS = """async (root, places) => {
  const found = [];
  for (const place of places) {
    root.explorer.ask(place);
    while (root.explorer.busy) await new Promise(done => setTimeout(done, 2));
    const { frame, params } = root.explorer, values = {};
    for (const [name, value] of Object.entries(frame))
      values[name] = !(value instanceof Float64Array) ? value : { shape: [...value.shape],
        data: btoa(Array.from(new Uint8Array(value.buffer), byte => String.fromCharCode(byte)).join("")) };
    found.push({ frame: values, params, readout: [...root.querySelectorAll(".tb-readout p")].map(p => p.textContent) });
  }
  return found;
}"""
IDLE = "async root => { while (root.explorer.busy) await new Promise(done => setTimeout(done, 2)); }"


@dataclass
class Snapshot:
    frame: dict
    params: dict
    readout: list[str]


class Hand:
    """Moves an explorer of a page as a reader would, and reads what stands there."""

    def __init__(self, root: Locator):
        self.root, self.page = root, root.page
        root.locator(".tb-stage canvas").wait_for()
        self.spec = root.evaluate("root => root.explorer.spec")

    def snapshot(self) -> Snapshot:
        """The frame, arrays as NumPy, once no answer is under way."""
        return self.ask({})[0]

    def ask(self, *places: dict) -> list[Snapshot]:
        """Sets controls by the explorer's own door, for what no single movement of a hand reaches; what then stands
        there, at one place after the other."""
        return [Snapshot({name: _array(value) for name, value in found["frame"].items()},
                         {name: _tuple(value) for name, value in found["params"].items()}, found["readout"])
                for found in self.root.evaluate(SNAPSHOTS, list(places))]

    def control(self, name: str) -> list[Locator]:
        """The input of a control; of a point, its two sliders."""
        spec = self.spec["controls"][name]
        labels = [f"{spec['label']}, {part}" for part in spec["names"]] if spec["type"] == "point" else [spec["label"]]
        return [self.root.get_by_label(label, exact=True) for label in labels]

    def sweep(self, name: str):
        """Moves the control through all its stops by true key presses (a drop-down: by selecting), yielding a snapshot
        at each; a point's x first, then its y."""
        spec, inputs = self.spec["controls"][name], self.control(name)
        if spec["type"] in ("slider", "point"):
            for part, slider in zip(("x", "y") if spec["type"] == "point" else ("stops",), inputs):
                slider.press("Home")
                yield self.snapshot()
                for _ in spec[part][1:]:
                    self.page.keyboard.press("ArrowRight")
                    yield self.snapshot()
        elif spec["type"] in ("choice", "drawing"):
            for option in spec["stops"]:
                inputs[0].select_option(option)
                yield self.snapshot()
        else:
            for _ in range(2):
                inputs[0].click()
                yield self.snapshot()

    def touch(self, name: str):
        """Moves the control to its ends and one back, by true key presses (a drop-down, a toggle: as `sweep`),
        yielding a snapshot at each."""
        if self.spec["controls"][name]["type"] not in ("slider", "point"):
            yield from self.sweep(name)
            return
        for key in ("Home", "End", "ArrowLeft"):
            self.control(name)[0].press(key)
            yield self.snapshot()

    def reset(self) -> None:
        self.root.get_by_role("button", name="Reset").click()
        self.root.evaluate(IDLE)

    def picture(self) -> str:
        """The canvas as a data URL: equal pictures, equal text."""
        self.root.evaluate(IDLE)
        return self.root.evaluate("root => root.querySelector('canvas').toDataURL()")

    def ink(self) -> int:
        """How many pixels of the canvas are drawn on."""
        return self.root.evaluate("""root => { const c = root.querySelector('canvas');
            const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
            let n = 0; for (let i = 3; i < data.length; i += 4) n += data[i] > 0; return n; }""")

    @contextmanager
    def dragging(self):
        """Takes the point by its handle, and lets it go at the end. Gives a function that moves it to so many pixels
        from where it was, and returns where that is: fractions of the stage from its left and from below."""
        self.root.scroll_into_view_if_needed()
        box, stage = self.root.locator(".tb-handle").bounding_box(), self.root.locator(".tb-stage").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def move(dx: float, dy: float) -> tuple[float, float]:
            self.page.mouse.move(x + dx, y + dy, steps=8)
            self.root.evaluate(IDLE)
            return (x + dx - stage["x"]) / stage["width"], 1 - (y + dy - stage["y"]) / stage["height"]

        self.page.mouse.move(x, y)
        self.page.mouse.down()
        yield move
        self.page.mouse.up()
        self.root.evaluate(IDLE)


def _array(value):
    if not isinstance(value, dict):
        return _tuple(value)
    return np.frombuffer(base64.b64decode(value["data"]), "<f8").reshape(value["shape"])


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


def assert_agrees(drawn: Snapshot, explorer, *, live: bool = False, bounds: dict | None = None) -> None:
    """What stands in the browser is what Python says at the same controls' values.

    A kernel sends doubles. A page holds doubles in rows of up to 8 numbers, and else 16-bit steps of the row's range
    (or its logarithm's), so that it may be wrong by half a step. What it computes from weights in bytes is the same but
    for the order of its sums; `bounds` says how far the outputs of other networks may be off.
    """
    from tightbound.explore.lattice import Chained
    from tightbound.explore.marks import fill

    computed = {function.output for function in explorer.functions if isinstance(function, Chained)}
    expected = explorer.frame(**drawn.params)
    assert set(drawn.frame) == set(expected)
    for name, value in expected.items():
        found = drawn.frame[name]
        if name in explorer.controls:
            assert found == value
            continue
        assert found.shape == value.shape, name
        if live:
            np.testing.assert_array_equal(found, value, err_msg=name)
            continue
        value = np.where(np.isfinite(value), value, np.nan)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(value), err_msg=name)
        usual = 1e-11 * (1 + np.abs(value)) if name in computed else half_a_step(value)
        bound = (bounds or {}).get(name, usual)
        assert is_near(found, value, bound), f"{name} at {drawn.params}"
    assert drawn.readout == [fill(template, expected) for template in explorer.readout]


def half_a_step(values: np.ndarray) -> np.ndarray:
    """How far a page's copy of each number of a row may be off."""
    if values.size <= 8 or np.isnan(values).all():
        return np.zeros(values.shape)
    low, high = np.nanmin(values), np.nanmax(values)
    if low > 0 and math.log(1e3) < (span := math.log(high) - math.log(low)) < 131:
        return values * (math.expm1(0.5 * span / 65534) * (1 + 1e-6) + 1e-12)
    return np.full(values.shape, 0.5 * (high - low) / 65534 * (1 + 1e-6) + 4e-16 * np.nanmax(np.abs(values)))


def is_near(found: np.ndarray, values: np.ndarray, bound: np.ndarray) -> bool:
    """No number is off by more than its bound, and NaN stands where NaN stood."""
    return bool(np.all(np.where(np.isnan(values), np.isnan(found), np.abs(found - values) <= bound)))
