"""How long from the hand to the picture? Explorers in a page and on a kernel, beside `ipywidgets.interact`.

    python benchmarks/hand_to_picture.py

A real browser gets real key presses and mouse movements. The clock runs from the event's own time stamp to the first
task after the browser has painted the frame that holds the new picture: once the picture is drawn (for `interact`,
which redraws it with matplotlib: once its new image is decoded) a requestAnimationFrame callback posts a message, which
is handled after that frame's paint. The table gives medians of walks along a slider, in milliseconds; a screen at 60 frames a
second makes a hand wait 8 of them on average.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

import race

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import Hand, launch, visit  # noqa: E402
from lab import open_notebook, serve, write_notebook  # noqa: E402

from tightbound.explore.laplace import coin, eight_schools  # noqa: E402

FLIPS, ROWS = (200, 100, 50, 30), (8, 12, 16, 20)  # walks of 20 and of 22 moves; every move asks for something new
BUSY = "Others used the machine too, and the wall's clock counts them: see the load."
GOALS = {"page": (16, 10), "kernel": (50, 4)}  # milliseconds at most; times faster than interact, at least

# The same pictures as a notebook usually makes them: a function that draws with matplotlib, and sliders.
INTERACT = """
import matplotlib.pyplot as plt
import ipywidgets
import numpy as np
import torch
from tightbound import figures, problems

def sliders(**stops):
    return {name: ipywidgets.SelectionSlider(options=values, value=values[0]) for name, values in stops.items()}

def draw_coin(flips, share):
    frame = coin.frame(flips=flips, share=share)
    with figures.style():
        fig, ax = plt.subplots(figsize=(6.4, 3.2))
        ax.set(xlim=(0, 1), ylim=(0, 1.12), yticks=[0, 0.5, 1], xlabel="p, the probability of heads",
               ylabel="joint density / its maximum")
        for mark in coin.marks:
            mark.draw(ax, frame)
        plt.show()

problem = problems.eight_schools()
x, t = np.linspace(-8, 17, 121), np.linspace(np.log(0.3), np.log(30), 121)
log_joint = problem.log_joint(torch.tensor(np.stack(np.meshgrid(x, t), -1))).numpy()
levels = log_joint.max() - 0.5 * np.array([4.0, 3.0, 2.0, 1.0, 0.3]) ** 2

def draw_schools(tau, mu):
    frame = schools.frame(point=(mu, tau))
    with figures.style():
        fig, ax = plt.subplots(figsize=(6.4, 4.0))
        ax.contour(x, np.exp(t), log_joint, levels=levels, colors=figures.colour("truth"), linestyles="solid")
        ax.set(xlim=(-8, 17), ylim=(0.3, 30), yscale="log", xlabel="mu, the mean effect", ylabel="tau")
        for mark in schools.marks:
            mark.draw(ax, frame)
        plt.show()

coin_sliders = sliders(flips=coin.controls["flips"].stops, share=coin.controls["share"].stops)
schools_sliders = sliders(tau=schools.controls["point"].y, mu=schools.controls["point"].x)
"""

# Starts the clock at the next event of a kind; `drawn` resolves when the picture is there, then one frame is painted.
CLOCK = """(root, kind, drawn) => {
  const began = new Promise(done =>
    window.addEventListener(kind, event => done(event.timeStamp), { capture: true, once: true }));
  const painted = () => new Promise(done => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done(performance.now());
    channel.port2.postMessage(0);
  }));
  window.measured = drawn(root).then(painted).then(async end => end - await began);
}"""
EXPLORER = "root => new Promise(done => root.addEventListener('tb-drawn', done, { once: true }))"
IMAGE = """root => new Promise(done => {
  const before = root.querySelector("img")?.src;
  const look = () => { const image = root.querySelector("img");
    if (image && image.src !== before) { watch.disconnect(); image.decode().then(done); } };
  const watch = new MutationObserver(look);
  watch.observe(root, { childList: true, subtree: true, attributes: true });
})"""


def measure(root, kind: str, drawn: str, move) -> float:
    """Milliseconds from an event of a kind, which `move` brings about, to its picture."""
    root.evaluate(f"(root, kind) => ({CLOCK})(root, kind, {drawn})", kind)
    move()
    elapsed = root.evaluate("() => window.measured")
    root.page.wait_for_timeout(15)
    return elapsed


def press_keys(hand: Hand, name: str, part: int, places: list[dict]) -> list[list[float]]:
    """Walks a slider from its first stop to its last, once for each place of the other controls: milliseconds of each walk."""
    times = []
    for place in places:
        hand.ask(place)
        slider = hand.control(name)[part]
        slider.press("Home")
        hand.ask({})
        times.append([measure(hand.root, "keydown", EXPLORER, lambda: hand.page.keyboard.press("ArrowRight"))
                      for _ in range(int(slider.get_attribute("max")))])
    return times


def drag(hand: Hand, moves: int = 64) -> list[list[float]]:
    """Drags the point on a zigzag, always between its stops, in four walks."""
    hand.reset()
    hand.root.scroll_into_view_if_needed()
    box = hand.root.locator(".tb-handle").bounding_box()
    x, y, mouse = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, hand.page.mouse
    mouse.move(x, y)
    mouse.down()
    path = [(x + 2 * (i % 32) + 1, y - 1.5 * (i % 32) + i // 32) for i in range(moves)]
    times = [measure(hand.root, "pointermove", EXPLORER, lambda at=at: mouse.move(*at)) for at in path]
    mouse.up()
    return [times[i : i + moves // 4] for i in range(0, moves, moves // 4)]


def explorers(coin_hand: Hand, schools_hand: Hand, walks: int) -> dict[str, list[list[float]]]:
    xs, ys = (schools_hand.spec["controls"]["point"][key] for key in "xy")
    return {"coin": press_keys(coin_hand, "share", 0, [{"flips": flips, "share": 0} for flips in FLIPS[:walks]]),
            "eight schools": press_keys(schools_hand, "point", 0, [{"point": [xs[0], ys[i]]} for i in ROWS[:walks]]),
            "eight schools, dragged": drag(schools_hand)}


def interact(notebook, index: int, sliders: str, other: str, name: str, values: list) -> list[list[float]]:
    """Walks the second slider of a panel made by `interact` from its first stop to its last, for values of the first."""
    root = notebook.page.locator(".jp-OutputArea-child", has=notebook.page.locator(".widget-interact")).nth(index)
    root.scroll_into_view_if_needed()
    handle, times = root.locator(".noUi-handle").nth(1), []
    for value in values:
        options = f"{sliders}['{name}'].options"
        (output,) = notebook.run(f"{sliders}['{name}'].value = {options}[0]; {sliders}['{other}'].value = {value}; "
                                 f"print(len({options}))")
        handle.focus()
        notebook.page.wait_for_timeout(500)
        times.append([measure(root, "keydown", IMAGE, lambda: notebook.page.keyboard.press("ArrowRight"))
                      for _ in range(int(output["text"]) - 1)])
    return times


def lives(walks: int = 4) -> dict[str, dict[str, list[list[float]]]]:
    """Of a page, a kernel and `interact`, the milliseconds of each walk."""
    with tempfile.TemporaryDirectory() as folder, launch() as chromium:
        root, home = Path(folder, "root"), Path(folder, "home")
        root.mkdir()
        home.mkdir()
        schools = eight_schools()
        for name, explorer in (("coin", coin()), ("eight_schools", schools)):
            (root / f"{name}.html").write_text(f"<!doctype html><meta charset=utf-8>{explorer.html()}")
        write_notebook(root / "race.ipynb", "from tightbound.explore import laplace", "coin = laplace.coin()\ncoin",
                       "schools = laplace.eight_schools()\nschools", INTERACT,
                       "_ = ipywidgets.interact(draw_coin, **coin_sliders)",
                       "_ = ipywidgets.interact(draw_schools, **schools_sliders)")
        pages = [(root / f"{name}.html").as_uri() for name in ("coin", "eight_schools")]
        with visit(chromium, pages[0]) as one, visit(chromium, pages[1]) as other:
            page = explorers(*(Hand(seen.page.locator(".tb-explorer")) for seen in (one, other)), walks)
        with serve(root, home) as address, open_notebook(chromium, address, "race.ipynb") as notebook:
            notebook.run_all()
            taus = schools.controls["point"].y
            peers = {"coin": interact(notebook, 0, "coin_sliders", "flips", "share", FLIPS[:walks]),
                     "eight schools": interact(notebook, 1, "schools_sliders", "tau", "mu", [taus[i] for i in ROWS[:walks]])}
            return {"page": page, "interact": peers,
                    "kernel": explorers(notebook.hand("the coin"), notebook.hand("eight schools"), walks)}


def main() -> None:
    options = race.arguments(__doc__, rounds=4).parse_args()
    with race.running(race.Race(
            "hand_to_picture", "From the hand to the picture",
            "How long does a moving picture take to answer, in a page and on a kernel, beside `ipywidgets.interact`?",
            "the same pictures, frames from the same function, the same walks along the same stops; `interact` redraws with "
            "matplotlib, as a notebook usually does.",
            clock="wall", trial=options.trial, packages=("ipywidgets", "jupyterlab", "matplotlib", "playwright"))) as here:
        times = lives(1 if options.trial else options.rounds)
        for picture in ("coin", "eight schools"):
            for life in ("page", "kernel", "interact"):
                for how in (("keys", "dragged") if f"{picture}, dragged" in times[life] else ("keys",)):
                    walks = times[life][picture if how == "keys" else f"{picture}, dragged"]
                    late = statistics.quantiles([ms for walk in walks for ms in walk], n=20)[-1]
                    here.add(race.Row(picture, life if life == "interact" else f"{life}, {how}", "ms",
                                      [statistics.median(walk) for walk in walks], note=f"95% below {late:.0f}"))
            for row in [row for row in here.rows if row.heat == picture and row.contender != "interact"]:
                most, least = GOALS[row.contender.split(",")[0]]
                here.level(picture, row.contender, goal=most, reason=BUSY if os.getloadavg()[0] > os.cpu_count() else "")
                here.ratio(picture, row.contender, "interact", goal=least)


if __name__ == "__main__":
    main()
