"""Explorers: their numbers in Python, and the static page in a real browser with no kernel."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import math
import os
import random
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from browser import Hand, assert_agrees, axe_violations, half_a_step, is_near
from gallery import chapters_explorers, gallery, network, networks, sketch, trouble
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.special import betaln
from torch import nn

from tightbound import figures, laplace, problems
from tightbound.explore import (Area, Arrows, Choice, Drawing, Ellipse, Explorer, Formula, HeatMap, Image, Line, Network,
                                Point, Points, Slider, Text, Toggle)
from tightbound.explore.explorer import SOURCE, STATIC
from tightbound.explore.lattice import Packer
from tightbound.explore.marks import fill

CHAPTERS = chapters_explorers()
ALL = {**CHAPTERS, "gallery": gallery, "network": network, "sketch": sketch}


@cache
def made(name: str) -> Explorer:
    """The explorer, made once in this process."""
    return ALL[name]()


@cache
def page_of(name: str) -> str:
    return made(name).html()


def stops(explorer: Explorer, seed: int = 0, sample: int = 60):
    """Every control through its full range, the others at their start; then a random sample of combinations."""
    for name, control in explorer.controls.items():
        for value in control.values:
            yield {**explorer.start, name: value}
    draw = random.Random(seed)
    for _ in range(sample):
        yield {name: draw.choice(control.values) for name, control in explorer.controls.items()}


def test_the_chapters_explorers_are_found():
    assert {"laplace.coin", "laplace.eight_schools"} <= set(CHAPTERS)


# ---- the numbers, in Python ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_stop_gives_arrays_of_one_shape_and_words(name):
    explorer = made(name)
    shapes = {key: np.shape(value) for key, value in explorer.frame().items()}
    for at in stops(explorer):
        frame = explorer.frame(**at)
        assert {key: np.shape(value) for key, value in frame.items()} == shapes
        for key in set(frame) - set(explorer.controls):
            assert frame[key].dtype == float and not np.isinf(frame[key]).any(), (key, at)
        for template in explorer.readout:
            words = fill(template, frame)
            assert words and "{" not in words and "nan" not in words and "inf" not in words


@pytest.mark.parametrize("coordinate", ["p", "logit"])
def test_the_coin_agrees_with_the_beta_function_and_the_closed_form(coordinate):
    explorer = made("laplace.coin")
    for flips in explorer.controls["flips"].stops:
        for share in explorer.controls["share"].stops:
            frame = explorer.frame(flips=flips, share=share, coordinate=coordinate)
            h, t = int(frame["heads"]), flips - int(frame["heads"])
            assert abs(h - share * flips) <= 0.5 + 1e-9
            assert frame["log_evidence"] == pytest.approx(betaln(h + 1, t + 1), abs=1e-10)
            p = frame["z"] if coordinate == "p" else 1 / (1 + np.exp(-frame["z"]))
            jacobian = 0 if coordinate == "p" else 1
            a, b = h + jacobian, t + jacobian  # the log joint is a log p + b log (1 - p)
            mode = a / (a + b)
            top = (a * math.log(mode) if a else 0) + (b * math.log(1 - mode) if b else 0)
            np.testing.assert_allclose(frame["exact"], np.exp(a * np.log(p) + b * np.log1p(-p) - top), atol=1e-6)
            if 0 in (a, b):  # the mode lies at the edge
                assert np.isnan(frame["gaussian"]).all() and np.isnan(frame["gap"])
                continue
            variance = mode * (1 - mode) / (a + b) if coordinate == "p" else 1 / ((a + b) * mode * (1 - mode))
            assert frame["estimate"] == pytest.approx(top + 0.5 * math.log(2 * math.pi * variance), abs=1e-9)
            assert frame["gap"] == pytest.approx(frame["log_evidence"] - frame["estimate"], abs=1e-12)
            assert frame["area"] == pytest.approx(math.exp(-frame["gap"]), rel=1e-12)
            centre = mode if coordinate == "p" else math.log(mode / (1 - mode))
            bell = np.exp(-0.5 * (frame["z"] - centre) ** 2 / variance)
            np.testing.assert_allclose(frame["gaussian"], bell, atol=1e-9)


@pytest.mark.parametrize("coordinate", ["p", "logit"])
def test_the_coin_agrees_with_the_method_itself(coordinate):
    explorer, draw = made("laplace.coin"), random.Random(1)
    compared = 0
    for _ in range(16):
        flips, share = draw.choice(explorer.controls["flips"].stops), draw.choice(explorer.controls["share"].stops)
        frame = explorer.frame(flips=flips, share=share, coordinate=coordinate)
        h = int(frame["heads"])
        if coordinate == "p" and h in (0, flips):
            with pytest.raises((laplace.LaplaceError, ValueError)):
                laplace.approximate(problems.coin(h, flips - h, 1, 1, coordinate), num_starts=2)
            continue
        found = laplace.approximate(problems.coin(h, flips - h, 1, 1, coordinate), num_starts=2)
        assert frame["estimate"] == pytest.approx(float(found.log_evidence), abs=1e-7)
        compared += 1
    assert compared >= 8


def energy_of_eight_schools(z: np.ndarray, coordinate: str) -> np.ndarray:
    """-log p(y, z), written anew in NumPy: (n, 2) -> (n,)."""
    mu, tau = z[:, 0], np.exp(z[:, 1]) if coordinate == "log tau" else z[:, 1]
    y, sigma = np.array(problems.EIGHT_SCHOOLS_Y), np.array(problems.EIGHT_SCHOOLS_SIGMA)
    variance = sigma**2 + tau[:, None] ** 2
    fit = -0.5 * ((y - mu[:, None]) ** 2 / variance + np.log(2 * np.pi * variance)).sum(1)
    prior = -0.5 * (mu**2 / 25 + np.log(2 * np.pi * 25)) + np.log(2 / (5 * np.pi * (1 + (tau / 5) ** 2)))
    return -(fit + prior + (z[:, 1] if coordinate == "log tau" else 0))


def expansion_by_differences(at: np.ndarray, coordinate: str) -> tuple[np.ndarray, np.ndarray]:
    """J and H by central differences of the fourth order: a polynomial through the 25 points around `at`."""
    h = 1e-2
    offsets = np.arange(-2, 3)
    grid = at + h * np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2)
    u = energy_of_eight_schools(grid, coordinate).reshape(5, 5)
    first, second = np.array([1, -8, 0, 8, -1]) / (12 * h), np.array([-1, 16, -30, 16, -1]) / (12 * h**2)
    mixed = first @ u @ first
    return np.array([first @ u[:, 2], u[2] @ first]), np.array([[second @ u[:, 2], mixed], [mixed, u[2] @ second]])


@pytest.mark.parametrize("coordinate", ["log tau", "tau"])
def test_eight_schools_agrees_with_differences(coordinate):
    explorer, draw, exact = made("laplace.eight_schools"), random.Random(2), float(problems.eight_schools().log_evidence)
    curved = 0
    between = [(1.2345, 3.21), (-5.5, 17.3)]
    for point in draw.sample(explorer.controls["point"].values, 120) + between:
        frame = explorer.frame(point=point, coordinate=coordinate)
        at = np.array([point[0], math.log(point[1]) if coordinate == "log tau" else point[1]])
        J, H = expansion_by_differences(at, coordinate)
        assert frame["gradient"] == pytest.approx(np.linalg.norm(J), rel=1e-5, abs=1e-7)
        scale = 1 / np.sqrt(np.abs(np.diag(H)))
        least = np.linalg.eigvalsh(scale[:, None] * H * scale)[0]
        assert frame["curvature"] == pytest.approx(least, rel=1e-4, abs=1e-4)
        if abs(least) < 1e-3:
            continue  # differences cannot tell the sign
        assert np.isfinite(frame["gap"]) == (least > 0)
        if least < 0:
            assert np.isnan(frame["mean"]).all() and np.isnan(frame["covariance"]).all() and np.isnan(frame["dx"]).all()
            continue
        curved += 1
        step, covariance = -np.linalg.solve(H, J), np.linalg.inv(H)
        condition = np.linalg.cond(H) * 1e-6
        np.testing.assert_allclose(frame["mean"], at + step, rtol=condition, atol=1e-5)
        np.testing.assert_allclose(frame["covariance"], covariance, rtol=condition, atol=1e-5 * np.linalg.norm(covariance))
        estimate = (-energy_of_eight_schools(at[None], coordinate)[0] - 0.5 * J @ step + math.log(2 * math.pi)
                    - 0.5 * np.linalg.slogdet(H)[1])
        assert frame["estimate"] == pytest.approx(estimate, rel=1e-5, abs=1e-5)
        assert frame["promise"] == pytest.approx(-0.5 * J @ step, rel=1e-4, abs=1e-6)
        assert frame["gap"] == pytest.approx(exact - frame["estimate"], abs=1e-12)
        tip = math.exp(frame["mean"][1]) if coordinate == "log tau" else frame["mean"][1]
        assert frame["x"] + frame["dx"] == pytest.approx(frame["mean"][0])
        if frame["mean"][1] < 5:
            assert frame["y"] + frame["dy"] == pytest.approx(tip)
    assert curved >= 30


def test_eight_schools_starts_at_the_mode():
    frame = made("laplace.eight_schools").frame()
    found = laplace.approximate(problems.eight_schools())
    assert frame["gradient"] < 1e-3
    assert frame["estimate"] == pytest.approx(float(found.log_evidence), abs=1e-6)
    assert frame["gap"] == pytest.approx(found.gap(problems.eight_schools()), abs=1e-6)


def test_a_function_is_called_again_only_when_its_own_controls_move():
    calls = []
    explorer = Explorer([lambda a: calls.append("a") or {"x": a}, lambda b: calls.append("b") or {"y": b}],
                        {"a": Slider("a", (0, 1), 0), "b": Slider("b", (0, 1), 0)}, figure, [], alt="nothing")
    calls.clear()
    explorer.frame(b=1)
    explorer.frame(a=1, b=1)
    assert calls == ["b", "a"]


# ---- what a page weighs, and that it is the same each time ---------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_page_is_small(name):
    assert len(gzip.compress(page_of(name).encode())) <= 250_000


def test_pages_are_the_same_each_time_and_from_a_new_process():
    code = (f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import json, test_explore as t; "
            "print(json.dumps({name: t.page_of(name) for name in t.ALL}))")
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True,
                           env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}).stdout
    for name, page in json.loads(again).items():
        assert page == page_of(name) == made(name).html(), name


def test_no_text_ends_the_script_that_holds_it():
    page = page_of("gallery")
    assert page.count("<script") == page.count("</script>") == 2
    assert "Gallery: &lt;all&gt;" in page


# ---- words, palette ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template, value, words", [
    ("{v}", 3.0, "3"), ("{v}", 0.1 + 0.2, "0.3"), ("{v}", True, "1"), ("{v}", np.array([[1.5]]), "1.5"),
    ("{v}", 1234567.5, "1.23457e+06"), ("{v}", 1e-7, "1e−07"), ("{v:d}", 2.5, "3"), ("{v:d}", -2.5, "−3"),
    ("{v:.1f}", 0.25, "0.3"), ("{v:.1f}", -0.0, "0.0"), ("{v:+.2f}", 1, "+1.00"), ("{v:+.2f}", -1, "−1.00"),
    ("{v:.2f}", math.nan, "n/a"), ("{v:d}", math.inf, "n/a"), ("a {v} b {v}", "word", "a word b word"),
    ("{v:d} || none", 2, "2"), ("{v:d} || none", math.nan, "none"), ("{v:d} || {v:.1f}", math.inf, "n/a"),
    ("no value", 1, "no value")])
def test_fill(template, value, words):
    assert fill(template, {"v": value}) == words


@pytest.mark.parametrize("template", ["{v:.2e}", "{v:5.1f}", "{v:x}", "{v: }"])
def test_fill_refuses_other_formats(template):
    with pytest.raises(ValueError, match=r"use \{v\}"):
        fill(template, {"v": 1.0})


def test_fill_names_what_is_missing():
    with pytest.raises(ValueError, match=r"names 'w', but there are only \['v'\]"):
        fill("{w}", {"v": 1})


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours by WCAG 2."""
    def luminance(hexadecimal):
        parts = [int(hexadecimal[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_palette_stands_out_from_its_ground():
    for role, (light, dark) in figures.PALETTE.items():
        least = 4.5 if role in ("ink", "approximation") else 3.0  # these two are the colours of text
        if role != "faint":
            assert contrast(light, "#ffffff") >= least, role
            assert min(contrast(dark, ground) for ground in ("#121212", "#212121")) >= least, role


# ---- bad input -----------------------------------------------------------------------------------------------------


def figure():
    return figures.subplots(figsize=(4, 2))[0]


def line(**options):
    return Line(**{"x": [0, 1], "y": "y", **options})


def constant(n):
    return {"y": [n, n]}


N = {"n": Slider("n", (0, 1, 2), 1)}

def drawing(**options):
    return Drawing(**{"label": "d", "shape": (1, 2), "pictures": {"a": [0, 0], "b": [0, 1]}, "start": "a", "extent": (0, 1, 0, 1),
                      **options})


BAD_CONTROLS = {
    "stops fall": (lambda: Slider("n", (2, 1), 1), "increasing"),
    "stops repeat": (lambda: Slider("n", (1, 1, 2), 1), "increasing"),
    "one stop": (lambda: Slider("n", (1,), 1), "two or more"),
    "stops in a table": (lambda: Slider("n", [[1, 2], [3, 4]], 1), "two or more"),
    "stops are words": (lambda: Slider("n", ["a", "b"], 1), "two or more finite"),
    "an infinite stop": (lambda: Slider("n", (0, math.inf), 0), "finite"),
    "a stop is NaN": (lambda: Slider("n", (0, math.nan), 0), "finite"),
    "value is no stop": (lambda: Slider("n", (1, 2, 3), 2.4), "the nearest is 2"),
    "value is NaN": (lambda: Slider("n", (1, 2), math.nan), "none of its stops"),
    "value is a word": (lambda: Slider("n", (1, 2), "1"), "must be a number"),
    "unknown play": (lambda: Slider("n", (1, 2), 1, play="always"), 'True or "auto"'),
    "no label": (lambda: Slider(" ", (1, 2), 1), "label"),
    "one option": (lambda: Choice("c", ["a"], "a"), "two or more"),
    "options repeat": (lambda: Choice("c", ["a", "a"], "a"), "different"),
    "value is no option": (lambda: Choice("c", ["a", "b"], "x"), "its value among them"),
    "options are numbers": (lambda: Choice("c", [1, 2], 1), "words"),
    "a choice without label": (lambda: Choice("", ["a", "b"], "a"), "label"),
    "neither yes nor no": (lambda: Toggle("t", 1), "True or False"),
    "a toggle without label": (lambda: Toggle("", True), "label"),
    "point off its stops": (lambda: Point("p", (0, 1), (0, 1), (0, 0.5)), "'p, y' is none of its stops"),
    "point of one number": (lambda: Point("p", (0, 1), (0, 1), (0,)), r"\(x, y\)"),
    "point with one name": (lambda: Point("p", (0, 1), (0, 1), (0, 0), names=("x",)), "two names"),
    "point without label": (lambda: Point("", (0, 1), (0, 1), (0, 0)), "label"),
    "drawing without label": (lambda: drawing(label=" "), "label"),
    "one picture": (lambda: drawing(pictures={"a": [0, 0]}), "two or more pictures"),
    "start is no picture": (lambda: drawing(start="c"), "its start among them"),
    "picture of another size": (lambda: drawing(pictures={"a": [0, 0], "b": [0]}), "'b'.*1 x 2 pixels between 0 and 1"),
    "picture too dark": (lambda: drawing(pictures={"a": [0, 0], "b": [0, 1.5]}), "between 0 and 1"),
    "a pixel is NaN": (lambda: drawing(pictures={"a": [0, 0], "b": [0, math.nan]}), "between 0 and 1"),
}
BAD_MARKS = {
    "role": (lambda: line(role="truht"), "unknown colour role 'truht': choose one of ink, truth"),
    "shape": (lambda: Points(x=[0], y=[0], shape="star"), "circle, square, cross"),
    "heat upside down": (lambda: HeatMap(z="z", extent=(0, 1, 0, 1), low=1, high=1), "low"),
    "palette": (lambda: HeatMap(z="z", extent=(0, 1, 0, 1), palette="sunset"), "no palette 'sunset'"),
}


def explorer_of(functions=(constant,), controls=N, figure=figure, marks=None, **options):
    marks = [line()] if marks is None else marks
    return Explorer(list(functions), controls, figure, marks, **{"alt": "a line", **options})


def mark_of(mark, **arrays):
    return explorer_of([lambda n: arrays], marks=[mark])


BAD_EXPLORERS = {
    "no alt text": (lambda: explorer_of(alt=" \n "), "alt text"),
    "unknown array": (lambda: explorer_of(marks=[line(y="yy")]),
                      r"marks draw \['yy'\], but the functions return \['y'\]"),
    "a control is no array": (lambda: explorer_of(marks=[line(y="n")]), r"marks draw \['n'\]"),
    "unknown control": (lambda: explorer_of([lambda m: {"y": [m, m]}]),
                        r"asks for \['m'\], but the controls are \['n'\]"),
    "figure of a slider": (lambda: explorer_of(figure=lambda n: figure()), "'n' is neither"),
    "figure of an unknown control": (lambda: explorer_of(figure=lambda c: figure()), r"asks for \['c'\]"),
    "array named as a control": (lambda: explorer_of([constant, lambda n: {"n": n}]), r"\['n'\] name more than one"),
    "array returned twice": (lambda: explorer_of([constant, constant]), r"\['y'\] name more than one"),
    "readout of an unknown name": (lambda: explorer_of(readout=["{gap:.2f}"]), "names 'gap'"),
    "readout in an unknown format": (lambda: explorer_of(readout=["{n:.2e}"]), "format '.2e'"),
    "text of an unknown name": (lambda: explorer_of(marks=[Text(x=0, y=0, text="{gap}")]), "names 'gap'"),
    "lines of two lengths": (lambda: mark_of(line(x=[0, 1, 2]), y=[0, 1]), "Line cannot draw arrays of the shapes"),
    "area of a table": (lambda: mark_of(Area(x=[0, 1], high="y"), y=[[0, 1], [1, 2]]), "Area cannot draw"),
    "arrows of two lengths": (lambda: mark_of(Arrows(x=[0, 1], y="y", dx=[1, 1], dy=[0, 1, 2]), y=[0, 1]),
                              "Arrows cannot"),
    "covariance in a row": (lambda: mark_of(Ellipse(mean="m", covariance="c"), m=[0, 0], c=[1, 0, 0, 1]),
                            "Ellipse cannot"),
    "heat map of a row": (lambda: mark_of(HeatMap(z="z", extent=(0, 1, 0, 1)), z=[0, 1]), "HeatMap cannot"),
    "image of four colours": (lambda: mark_of(Image(z="z", extent=(0, 1, 0, 1)), z=np.zeros((2, 2, 4))),
                              "Image cannot"),
    "mark in axes that are not": (lambda: explorer_of(marks=[line(axes=1, label="it")]).html(), "'it' lives in axes 1"),
    "point in axes that are not": (
        lambda: explorer_of(controls={**N, "p": Point("p", (0, 1), (0, 1), (0, 0), axes=-1)}).html(),
        "'p' lives in axes -1"),
    "unknown control in a frame": (lambda: explorer_of().frame(m=1),
                                   r"no control is called \['m'\]: there are \['n'\]"),
    "shape changes": (lambda: explorer_of([lambda n: {"y": np.zeros(2 if n else 1)}], marks=[]).html(),
                      "same shape at every stop; pad it with NaN"),
    "an array comes and goes": (lambda: explorer_of([lambda n: {"y": [0, 0]} | ({"e": 1} if n else {})]).html(),
                                "same shape"),
    "lattice too large": (lambda: explorer_of(
        [lambda n, m, k: {"y": np.zeros(1001)}], {name: Slider(name, range(16), 0) for name in "nmk"},
        marks=[line(x=np.arange(1001))]).html(), "4,096 stops makes 4,100,096 numbers, too many for a page"),
}


def net(*layers, inputs=("n",), shape=(2,)):
    return Network(nn.Sequential(*layers), inputs, "y", shape)


BAD_NETWORKS = {
    "another layer": (lambda: net(nn.Linear(1, 2), nn.Dropout()), "not Dropout"),
    "an activation with options": (lambda: net(nn.Linear(1, 2), nn.Softplus(beta=2)), "not Softplus"),
    "no layer": (lambda: net(nn.ReLU()), "must end in 2 outputs"),
    "outputs do not fill the shape": (lambda: net(nn.Linear(1, 3)), "must end in 2 outputs"),
    "layers do not fit": (lambda: net(nn.Linear(1, 3), nn.Linear(4, 2)), "does not take"),
    "unknown input": (lambda: explorer_of([net(nn.Linear(1, 2), inputs=["m"])]), r"asks for \['m'\]"),
    "an array of a later function": (lambda: explorer_of([net(nn.Linear(1, 2), inputs=["v"]), lambda n: {"v": n}]),
                                     r"asks for \['v'\], but .* the functions before it \[\]"),
    "a function of a drawing": (lambda: explorer_of([lambda d: {"y": [0, 1]}], {"d": drawing()}), "cannot hold the answers"),
    "unknown formula": (lambda: Formula("tangent", ["n"], "y"), "unknown formula 'tangent': choose one of paper"),
    "a formula of too few": (lambda: Formula("bernoulli", ["n"], "y"), "takes 2 inputs"),
    "a formula of odd halves": (lambda: explorer_of([Formula("mean", ["n"], "y", (2,))]), "an even number"),
    "a formula of two sizes": (lambda: explorer_of([constant, Formula("difference", ["n", "y"], "v")]), "inputs of one size"),
    "a formula that does not fill": (lambda: explorer_of([Formula("paper", ["n"], "y", (2,))]), "do not fill the shape"),
    "too few inputs": (lambda: explorer_of([net(nn.Linear(3, 2))]), "takes 3 numbers"),
    "a word as input": (
        lambda: explorer_of([net(nn.Linear(1, 2), inputs=["c"])], {"c": Choice("c", ["a", "b"], "a")}), "takes 1 num"),
}


BAD = {**BAD_CONTROLS, **BAD_MARKS, **BAD_EXPLORERS, **BAD_NETWORKS}


@pytest.mark.parametrize("make, message", BAD.values(), ids=BAD)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_function_that_forgets_to_return_is_named():
    def forgetful(n):
        pass

    with pytest.raises(TypeError, match="'forgetful' must return a dictionary of named arrays, got NoneType"):
        explorer_of([forgetful])


def test_bad_alt_text_of_a_figure():
    with pytest.raises(ValueError, match="alt text"):
        figures.show(figure(), " ")
    with pytest.raises(ValueError, match="unknown colour role"):
        figures.colour("pink")


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=0, max_size=6), st.one_of(finite, st.just(math.nan)))
def test_a_slider_holds_increasing_stops_and_one_of_them_or_says_no(values, value):
    try:
        slider = Slider("s", values, value)
    except ValueError:
        assert len(values) < 2 or any(b <= a for a, b in zip(values, values[1:])) or value not in values
    else:
        assert list(slider.stops) == values and slider.value in slider.stops
        assert abs(slider.value - value) <= 1e-9 * (values[-1] - values[0])
        assert json.loads(json.dumps(slider.spec()))["stops"] == values


@given(st.integers(1, 5), st.integers(1, 20), st.data())
def test_packed_arrays_come_back(rows, columns, data):
    number = st.one_of(st.floats(-1e30, 1e30), st.just(math.nan), st.just(math.inf))
    row = st.lists(number, min_size=columns, max_size=columns)
    array = np.array(data.draw(st.lists(row, min_size=rows, max_size=rows)))
    packer = Packer()
    packer.add(np.ones((3, 5)))  # so that the second does not begin at 0
    read = unpacked(packer.add(array), b"".join(packer.parts))
    clean = np.where(np.isfinite(array), array, np.nan)
    for row, expected in zip(read, clean):
        assert is_near(row, expected, half_a_step(expected))


@given(st.integers(0, 2**32 - 1))
def test_a_row_of_twelve_decades_comes_back_to_a_thousandth_of_each_number(seed):
    draw = np.random.default_rng(seed)
    row = 10 ** draw.uniform(-6, 6, 40)
    row[:3] = 1e-6, 1e6, math.nan
    packer = Packer()
    with_others = np.stack([row, -row, np.full(40, math.nan), np.linspace(0, 1, 40)])
    read = unpacked(packer.add(with_others), b"".join(packer.parts))
    np.testing.assert_allclose(read[0], row, rtol=1e-3, equal_nan=True)
    assert np.isnan(read[2]).all()
    for found, expected in zip(read[1::2], with_others[1::2]):  # in linear steps
        assert is_near(found, expected, half_a_step(expected))


def test_on_a_logarithmic_axis_a_dot_lies_on_its_curve_in_the_page():
    """The perturbation chapter's errors fall and rise over many decades; the dot is a double, the curve is packed."""
    explorer, packer = made("perturbation.coupling"), Packer()
    tables = {}
    for function in explorer.functions:
        tables.update(function.pack(explorer.controls, packer)["outputs"])
    read = {name: unpacked(tables[name], b"".join(packer.parts)) for name in ("error", "at")}
    orders = len(explorer.controls["order"].stops)
    assert np.nanmax(read["error"][0]) / np.nanmin(read["error"][0]) > 1e3
    np.testing.assert_allclose(read["error"], read["at"].reshape(-1, orders), rtol=1e-3)


def unpacked(packed: dict, buffer: bytes) -> np.ndarray:
    """What a page reads from a packed array, in NumPy."""
    size = packed["rows"] * packed["columns"]
    if "f8" in packed:
        return np.frombuffer(buffer, "<f8", size, packed["f8"]).reshape(packed["rows"], -1)
    low, span, logarithmic = np.frombuffer(buffer, "<f8", 3 * packed["rows"], packed["range"]).reshape(3, -1, 1)
    if "u1" in packed:
        return low + span / 255 * np.frombuffer(buffer, "u1", size, packed["u1"]).reshape(packed["rows"], -1)
    steps = np.frombuffer(buffer, "<u2", size, packed["u2"]).reshape(packed["rows"], -1)
    values = low + span / 65534 * steps
    return np.where(steps == 65535, np.nan, np.where(logarithmic, np.exp(np.where(logarithmic, values, 0)), values))


# ---- the live form, without a browser ------------------------------------------------------------------------------


def test_the_widget_answers_what_python_sets():
    explorer = gallery()
    widget = explorer.widget
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), "frame")
    widget.params = {"count": 8}
    assert widget.params == {**explorer.start, "count": 8} and len(seen) == 1
    expected = explorer.frame(count=8)
    for name, array in widget.frame["arrays"].items():
        found = np.frombuffer(array["data"], "<f8").reshape(array["shape"])
        np.testing.assert_array_equal(found, expected[name])
    assert widget.frame["at"] == widget.params


def test_the_widget_refuses_unknown_parameters_and_stays_as_it_was():
    widget = gallery().widget
    with pytest.raises(Exception, match=r"no control is called \['cuont'\]"):
        widget.params = {"cuont": 8}
    assert widget.params == gallery().start


def test_the_widget_outlives_a_function_that_raises():
    widget = trouble().widget
    widget.params = {"n": 2}
    assert widget.frame == {"at": {"n": 2}, "error": "ZeroDivisionError: two is <b>not</b> allowed"}
    widget.params = {"n": 3}
    assert "error" not in widget.frame


def test_the_widget_sits_among_other_widgets():
    from ipywidgets import IntSlider, VBox

    explorer, slider = gallery(), IntSlider(value=1, min=1, max=13)
    slider.observe(lambda change: explorer.widget.set_trait("params", {"count": change["new"]}), "value")
    box = VBox([slider, explorer.widget])
    slider.value = 5
    assert box.children[1].params["count"] == 5


def test_what_a_cell_shows(monkeypatch):
    explorer = made("gallery")
    monkeypatch.delenv(STATIC, raising=False)
    data, _ = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data and data["text/plain"] == repr(explorer)
    monkeypatch.setenv(STATIC, "1")
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"} and bundle["text/plain"] == repr(explorer)
    assert bundle["image/png"].startswith(b"\x89PNG")


# ---- the page, in a browser with no kernel -------------------------------------------------------------------------

PAGE = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>An explorer</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>
body{{font-family:sans-serif;margin:1rem;background:#fff}}
html[data-theme=dark] body{{background:#121212;color:#e6e6e6}}
</style></head><body><main><h1>A page</h1>{}</main></body></html>"""
browser_test = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def open_explorer(open_page, folder):
    """Opens a page with explorers from a file, as by a double click; gives the `Hand` of the first."""
    def open_it(*names: str, **options) -> Hand:
        path = folder / f"{'+'.join(names)}.html"
        if not path.exists():
            path.write_text(PAGE.format("".join(page_of(name) for name in names)))
        page = open_page(path.as_uri(), **options).page
        return Hand(page.locator(".tb-explorer").first)

    return open_it


def bounds(name: str, at: dict) -> dict | None:
    return {output: far for output, (_, far) in network_bounds(at).items()} if name == "network" else None


def network_bounds(at: dict) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each network's output at these controls, and how far a page's may be off, from its weights in 16-bit steps.

    With |dW| the error of a layer's weights (half a step of each row; none in rows of up to 8), L the activation's
    Lipschitz constant and d the error of what comes in: |W| d + |dW| (|v| + d) goes out of the layer, L times that
    of the activation.
    """
    lipschitz = {"Sigmoid": 0.25, "SiLU": 1.1}
    found = {}
    for name, module in networks().items():
        v = np.array([at["t"], *at["z"]])
        d = np.full(v.shape, 1e-15)
        for layer in module:
            if isinstance(layer, nn.Linear):
                W, b = layer.weight.detach().numpy(), 0 if layer.bias is None else layer.bias.detach().numpy()
                dW = np.array([[half_a_step(row).max()] for row in W])
                v, d = W @ v + b, np.abs(W) @ d + dW[:, 0] * (np.abs(v) + d).sum() + 1e-14
            else:
                v, d = layer(torch.tensor(v)).numpy(), lipschitz.get(type(layer).__name__, 1.0) * d
        found[name] = v.reshape(5, 6), d.reshape(5, 6)
    return found


def test_weights_in_bytes_are_the_same_for_kernel_and_page():
    """They are rounded to 255 steps a row where the network is made, so packing them loses nothing; the original stays."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 30)).double()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    small, packer = Network(module, ["ink"], "y", (30,), small=True), Packer()
    packed = small.pack({}, packer)
    buffer = b"".join(packer.parts)
    for layer, spec in zip(small.module, packed["layers"]):
        if isinstance(layer, nn.Linear):
            weight = layer.weight.detach().numpy()
            np.testing.assert_allclose(unpacked(spec["weight"], buffer), weight, rtol=0, atol=1e-14)
            span = np.ptp(weight, 1)[:, None]
            original = before[next(name for name, value in module.state_dict().items() if value.shape == weight.shape)].numpy()
            assert (np.abs(weight - original) <= span / 510 * (1 + 1e-9)).all() and np.abs(weight - original).max() > 0
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    again = Network(small.module, ["ink"], "y", (30,), small=True)
    x = tuple(np.linspace(0, 1, 30))
    np.testing.assert_allclose(again({"ink": x})["y"], small({"ink": x})["y"], rtol=1e-12)


def test_formulas_agree_with_torch():
    draw = np.random.default_rng(0)
    x, logits, code = (draw.random(12) > 0.5).astype(float), 9 * draw.normal(size=12), draw.normal(size=4)
    values = {"x": x, "logits": logits, "code": code}
    find = lambda name, inputs, shape=(): Formula(name, inputs, "y", shape)(values)["y"]
    q = torch.distributions.Normal(torch.tensor(code[:2]), torch.tensor(code[2:]).exp())
    prior = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    pixels = torch.distributions.Bernoulli(logits=torch.tensor(logits))
    assert find("rate", ["code"]) == pytest.approx(float(torch.distributions.kl_divergence(q, prior).sum()))
    assert find("bernoulli", ["x", "logits"]) == pytest.approx(float(pixels.log_prob(torch.tensor(x)).sum()))
    np.testing.assert_allclose(find("sigmoid", ["logits"], (12,)), pixels.probs, rtol=1e-9)
    np.testing.assert_allclose(find("mean", ["code"], (2,)), q.mean)
    np.testing.assert_allclose(find("covariance", ["code"], (2, 2)), torch.diag(q.variance))


def test_16_bit_weights_are_good_for_a_thousandth_of_the_range():
    for at in stops(made("network"), sample=20):
        for output, (value, far) in network_bounds(at).items():
            np.testing.assert_allclose(made("network").frame(**at)[output], value, atol=1e-13)
            assert far.max() <= 1e-3, output  # they end in a sigmoid: the range is 1


@browser_test
@pytest.mark.parametrize("name", ALL)
def test_every_control_through_its_full_range(name, open_explorer):
    explorer, hand = made(name), open_explorer(name)
    start = hand.snapshot()
    assert start.params == explorer.start and hand.ink() > 100
    assert_agrees(start, explorer, bounds=bounds(name, start.params))
    first = hand.picture()
    for control in explorer.controls:
        seen, pictures = [], set()
        for drawn in hand.sweep(control):
            assert_agrees(drawn, explorer, bounds=bounds(name, drawn.params))
            seen.append(drawn.params[control])
            if len(pictures) < 2:
                pictures.add(hand.picture())
        assert hand.ink() > 100
        spec = explorer.controls[control]
        if isinstance(spec, Point):
            assert {x for x, _ in seen} >= set(spec.x) and {y for _, y in seen} >= set(spec.y)
        else:
            assert set(seen) == set(spec.values)
        assert len(pictures) == 2 or control == "grid", f"{control} moves nothing"  # the grid moves the background
        hand.reset()
        assert hand.snapshot().params == explorer.start
    assert hand.picture() == first


@browser_test
@pytest.mark.parametrize("name", ALL)
def test_every_stop_of_the_page_is_what_python_says(name, open_explorer):
    """The whole lattice of a chapter's explorer, not one control at a time; of the others, which are larger, some."""
    explorer, hand = made(name), open_explorer(name)
    if name in CHAPTERS:
        values = [control.values for control in explorer.controls.values()]
        places = [dict(zip(explorer.controls, at)) for at in itertools.product(*values)]
    else:
        places = list(stops(explorer, seed=3))
    for at, drawn in zip(places, hand.ask(*places), strict=True):
        assert drawn.params == at
        assert_agrees(drawn, explorer, bounds=bounds(name, at))


@browser_test
@pytest.mark.parametrize("name", ALL)
def test_the_canvas_shows_what_matplotlib_draws(name, open_explorer):
    """From stop to stop the page's picture changes as matplotlib's does: the two changes differ by less than half."""
    explorer, hand, draw = made(name), open_explorer(name), random.Random(5)
    hand.page.add_style_tag(content=".tb-handle { visibility: hidden }")
    stage = hand.root.locator(".tb-stage")
    ours, theirs, compared = [], [], 0
    for _ in range(6):
        at = {key: draw.choice(control.values) for key, control in explorer.controls.items()}
        hand.ask(at)
        ours.append(small(stage.screenshot()))
        fig = explorer.picture(**at)
        fig.savefig(png := io.BytesIO(), dpi=stage.bounding_box()["width"] / fig.get_figwidth(), facecolor="white")
        theirs.append(small(png.getvalue()))
    for (a, x), (b, y) in itertools.combinations(zip(ours, theirs), 2):
        if (change := np.abs(x - y).mean()) > 0.003:
            compared += 1
            assert np.abs((a - b) - (x - y)).mean() < 0.5 * change
    assert compared >= 8


def small(png: bytes) -> np.ndarray:
    """A PNG in grey as means over cells of a 120 by 60 grid."""
    grey = imread(io.BytesIO(png))[..., :3].mean(-1)
    rows, columns = (np.linspace(0, size, n + 1).astype(int) for size, n in zip(grey.shape, (60, 120)))
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], 0), columns[:-1], 1)
    return sums / np.outer(np.diff(rows), np.diff(columns))


@browser_test
@pytest.mark.parametrize("name, dx, dy", [("laplace.eight_schools", 90, -60), ("gallery", 40, 50)])
def test_the_mouse_drags_the_point(name, dx, dy, open_explorer):
    explorer, hand = made(name), open_explorer(name)
    before = hand.picture()
    spot = next(key for key, control in explorer.controls.items() if isinstance(control, Point))
    with hand.dragging() as move:
        right, up = move(dx, dy)
        assert_lies_under(hand, hand.snapshot().params[spot], explorer.controls[spot], right, up)
        x, y = hand.snapshot().params[spot]
    drawn, control = hand.snapshot(), explorer.controls[spot]  # let go, it settles at the nearest stop
    nearest = min(control.x, key=lambda stop: abs(stop - x)), min(control.y, key=lambda stop: abs(stop - y))
    assert drawn.params[spot] == nearest
    assert_agrees(drawn, explorer)
    assert hand.picture() != before
    with hand.dragging() as move:
        move(5000, -5000)  # out of the picture: it stays at the end of its stops
    assert hand.snapshot().params[spot] == (control.x[-1], control.y[-1])
    assert_agrees(hand.snapshot(), explorer)


@browser_test
def test_a_network_is_right_between_the_stops_too(open_explorer):
    hand = open_explorer("network")
    with hand.dragging() as move:
        right, up = move(101, -7)
    drawn = hand.snapshot()
    assert_lies_under(hand, drawn.params["z"], made("network").controls["z"], right, up)
    assert_agrees(drawn, made("network"), bounds=bounds("network", drawn.params))


def assert_lies_under(hand: Hand, value, control: Point, right: float, up: float) -> None:
    """The point's value is where the pointer stood, `right` and `up` as fractions of the stage."""
    axes = hand.spec["backgrounds"][0]["axes"][control.axes]
    for at, start, size, (low, high), log, found in [
            (right, axes["left"], axes["width"], axes["x"], axes["log"][0], value[0]),
            (up, axes["bottom"], axes["height"], axes["y"], axes["log"][1], value[1])]:
        part = (at - start) / size
        expected = low * (high / low) ** part if log else low + part * (high - low)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3 * (high - low))


@browser_test
def test_the_mouse_draws_and_rubs_out(open_explorer):
    """Along the pen's way, and nowhere else; what follows from the drawing is what Python says of it."""
    explorer, hand = made("sketch"), open_explorer("sketch")
    hand.root.get_by_role("button", name="Clear").click()
    assert hand.snapshot().params["ink"] == (0,) * 30
    before = hand.picture()
    draw_row(hand, 2)
    drawn = hand.snapshot()
    ink = np.reshape(drawn.params["ink"], (5, 6))
    assert (ink[2] == 1).all() and (ink[1] > 0.5).all() and not ink[0, :].any() and not ink[4].any()
    assert_agrees(drawn, explorer)
    assert hand.picture() != before
    assert hand.control("ink")[0].evaluate("one => one.selectedOptions[0].textContent") == "(drawn)"
    hand.root.get_by_role("button", name="Rubber").click()
    draw_row(hand, 2)
    assert not np.any(np.reshape(hand.snapshot().params["ink"], (5, 6))[2])
    hand.root.get_by_role("button", name="Rubber").click()
    draw_row(hand, 2, button="right")
    assert_agrees(hand.snapshot(), explorer)
    hand.reset()
    assert hand.snapshot().params == explorer.start


def draw_row(hand: Hand, row: int, **options) -> None:
    """Draws from the left to the right through the middle of a row of the sheet."""
    box = hand.root.locator(".tb-sheet").bounding_box()
    y = box["y"] + box["height"] * (row + 0.5) / 5
    hand.page.mouse.move(box["x"] + 2, y)
    hand.page.mouse.down(**options)
    hand.page.mouse.move(box["x"] + box["width"] - 2, y, steps=6)
    hand.page.mouse.up(**options)


@browser_test
def test_the_keys_draw(open_explorer):
    explorer, hand = made("sketch"), open_explorer("sketch")
    sheet = hand.root.locator(".tb-sheet")
    sheet.press("Delete")
    assert sum(hand.snapshot().params["ink"]) == 0
    sheet.press("ArrowRight")
    assert sum(hand.snapshot().params["ink"]) == 0 and "column 5, row 3" in sheet.get_attribute("aria-label")
    sheet.press("Shift+ArrowUp")
    drawn = hand.snapshot()
    ink = np.reshape(drawn.params["ink"], (5, 6))
    assert ink[1, 4] == ink[2, 4] == 1 and not ink[:, 0].any()
    assert_agrees(drawn, explorer)
    for _ in range(6):
        sheet.press("ArrowUp")  # it stays on the sheet
    assert "row 1." in sheet.get_attribute("aria-label")
    sheet.press("Alt+ArrowDown")
    assert sum(hand.snapshot().params["ink"]) < sum(drawn.params["ink"])
    sheet.press(" ")
    assert_agrees(hand.snapshot(), explorer)


@browser_test
def test_a_drawing_is_reached_by_the_keyboard_and_has_a_name(open_explorer):
    hand = open_explorer("sketch")
    names = []
    for _ in range(5):
        hand.page.keyboard.press("Tab")
        names.append(hand.page.evaluate("""() => { const at = document.activeElement;
            return at.labels?.[0]?.textContent || at.ariaLabel || at.textContent; }"""))
    assert names[:4] == ["your drawing", "Clear", "Rubber", "Reset"] and names[4].startswith("your drawing: 6 by 5 pixels, 10 inked")


@browser_test
def test_between_stops_a_page_interpolates(open_explorer):
    explorer, hand = made("laplace.eight_schools"), open_explorer("laplace.eight_schools")
    xs, ys = explorer.controls["point"].x, explorer.controls["point"].y
    a, b = 0.3, 0.6
    (drawn,) = hand.ask({"point": [xs[10] + a * (xs[11] - xs[10]), ys[12] + b * (ys[13] - ys[12])]})
    corners = {(i, j): explorer.frame(point=(xs[10 + i], ys[12 + j])) for i in (0, 1) for j in (0, 1)}
    for name in ("mean", "covariance", "gap", "gradient"):
        expected = sum((a if i else 1 - a) * (b if j else 1 - b) * corners[i, j][name] for i, j in corners)
        np.testing.assert_allclose(drawn.frame[name], expected, rtol=1e-12)


@browser_test
def test_play_walks_on_and_pauses(open_page, open_explorer, folder):
    hand = open_explorer("gallery")
    hand.page.clock.install()
    hand.page.reload()
    hand = Hand(hand.page.locator(".tb-explorer"))
    hand.page.clock.pause_at("2100-01-01")
    button = hand.root.get_by_role("button", name="Play: count")
    button.click()
    hand.page.clock.run_for(2 * 400 + 50)  # six stops: 400 ms each
    assert hand.snapshot().params["count"] == COUNTS_FROM_3[2]
    hand.page.clock.run_for(3 * 400)
    assert hand.snapshot().params["count"] == COUNTS_FROM_3[5]  # past the end, at the beginning again
    hand.root.get_by_role("button", name="Pause: count").click()
    hand.page.clock.run_for(5000)
    assert hand.snapshot().params["count"] == COUNTS_FROM_3[5]
    button.click()
    hand.control("count")[0].press("End")  # a hand on the slider stops it
    hand.page.clock.run_for(5000)
    assert hand.snapshot().params["count"] == 13
    button.click()
    hand.reset()
    hand.page.clock.run_for(5000)
    assert hand.snapshot().params["count"] == 3


COUNTS_FROM_3 = [3, 5, 8, 13, 1, 2]


@browser_test
@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_auto_play_heeds_those_who_asked_for_less_motion(motion, open_page, folder):
    explorer = explorer_of(controls={"n": Slider("n", range(40), 0, play="auto")})
    (folder / "auto.html").write_text(PAGE.format(explorer.html()))
    page = open_page(reduced_motion=motion).page
    page.clock.install()
    page.goto((folder / "auto.html").as_uri())
    hand = Hand(page.locator(".tb-explorer"))
    page.clock.run_for(1000)
    assert (hand.snapshot().params["n"] == 0) == (motion == "reduce")


@browser_test
@pytest.mark.parametrize("name", ["gallery", *CHAPTERS])
def test_it_follows_the_theme(name, open_explorer):
    hand = open_explorer(name)
    light, colour = hand.picture(), "root => getComputedStyle(root).color"
    assert hand.root.evaluate(colour) == rgb(figures.PALETTE["ink"][0])
    hand.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    hand.page.evaluate("new Promise(requestAnimationFrame)")
    assert hand.root.evaluate(colour) == rgb(figures.PALETTE["ink"][1])
    dark = hand.picture()
    assert dark != light
    assert axe_violations(hand.page) == []
    hand.page.emulate_media(media="print")  # paper is white
    hand.page.evaluate("new Promise(requestAnimationFrame)")
    assert hand.root.evaluate(colour) == rgb(figures.PALETTE["ink"][0])
    for _ in range(40):  # a busy machine draws it some frames later
        if hand.picture() == light:
            break
        hand.page.wait_for_timeout(50)
    assert hand.picture() == light


@browser_test
def test_without_a_theme_it_follows_the_system(open_page, folder):
    (folder / "plain.html").write_text(PAGE.replace(' data-theme="light"', "").format(page_of("laplace.coin")))
    hand = Hand(open_page((folder / "plain.html").as_uri(), color_scheme="light").page.locator(".tb-explorer"))
    light = hand.picture()
    hand.page.emulate_media(color_scheme="dark")
    hand.page.evaluate("new Promise(requestAnimationFrame)")
    assert hand.picture() != light
    assert hand.root.evaluate("root => getComputedStyle(root).color") == rgb(figures.PALETTE["ink"][1])


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i:i + 2], 16)) for i in (1, 3, 5))})"


@browser_test
@pytest.mark.parametrize("name", ALL)
def test_it_fits_a_phone_and_takes_a_finger(name, open_explorer):
    hand = open_explorer(name, viewport={"width": 390, "height": 844}, has_touch=True, device_scale_factor=2)
    assert hand.page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in hand.root.locator("input, select, button, canvas, .tb-readout").all():
        box = part.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    for part in hand.root.locator("select, button").all():
        assert min(part.bounding_box()["height"], part.bounding_box()["width"]) >= 24
    sharpness = hand.root.locator("canvas").evaluate("canvas => canvas.width / canvas.clientWidth")
    assert sharpness == pytest.approx(2, abs=0.02)


@browser_test
@pytest.mark.parametrize("name", ALL)
def test_print_shows_the_picture_and_its_words_alone(name, open_explorer):
    hand = open_explorer(name)
    hand.page.emulate_media(media="print")
    assert not hand.root.locator(".tb-controls").is_visible()
    assert all(not handle.is_visible() for handle in hand.root.locator(".tb-handle").all())
    assert hand.root.locator("canvas").is_visible() and hand.root.locator(".tb-readout").is_visible()


@browser_test
@pytest.mark.parametrize("name", ALL)
def test_without_javascript_a_still_stands_there(name, open_page, folder):
    path = folder / f"{name}.html"
    path.write_text(PAGE.format(page_of(name)))
    page = open_page(path.as_uri(), java_script_enabled=False).page
    still = page.get_by_role("img", name=made(name).alt, exact=True)
    assert still.is_visible() and still.locator("svg").bounding_box()["height"] > 100
    assert page.locator("canvas, input").count() == 0
    frame = made(name).frame()
    for template in made(name).readout:
        assert page.get_by_text(fill(template, frame), exact=True).is_visible()


@browser_test
def test_explorers_share_a_page(open_explorer):
    """Two of them, one twice: every control has its own label, and moves its own picture."""
    hand = open_explorer("laplace.coin", "laplace.eight_schools", "laplace.coin")
    page = hand.page
    hands = [Hand(root) for root in page.locator(".tb-explorer").all()]
    coin, schools = made("laplace.coin"), made("laplace.eight_schools")
    assert [one.snapshot().params for one in hands] == [coin.start, schools.start, coin.start]
    hands[2].control("flips")[0].press("Home")
    hands[1].root.get_by_label("coordinate").select_option("tau")
    assert hands[2].snapshot().params["flips"] == 1 and hands[0].snapshot().params["flips"] == 10
    assert hands[1].snapshot().params["coordinate"] == "tau" and hands[0].snapshot().params["coordinate"] == "p"
    labels = page.evaluate("[...document.querySelectorAll('label')].map(label => label.control?.id)")
    assert all(labels) and len(set(labels)) == len(labels)


@browser_test
@pytest.mark.parametrize("name", ALL)
def test_axe_finds_nothing_serious(name, open_explorer):
    assert axe_violations(open_explorer(name).page) == []


@browser_test
def test_every_control_is_reached_by_the_keyboard_alone(open_explorer):
    hand = open_explorer("gallery")
    reached = []
    for _ in range(8):
        hand.page.keyboard.press("Tab")
        reached.append(hand.page.evaluate("""() => { const at = document.activeElement;
            return at.labels?.[0]?.textContent || at.ariaLabel || at.textContent; }"""))
    assert reached == ["count", "Play: count", "angle", "kind", "grid", "spot, a", "spot, b", "Reset"]


@pytest.fixture(scope="module")
def fill_of_the_page(chromium):
    """The page's own `fill`, from the module that every explorer carries."""
    page = chromium.new_page()
    page.add_script_tag(content=SOURCE.read_text() + "\nwindow.fill = fill;", type="module")
    page.wait_for_function("() => Boolean(window.fill)")
    yield lambda template, value: page.evaluate("([template, v]) => fill(template, { v })", [template, value])
    page.close()


@browser_test
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=st.one_of(st.floats(-1e15, 1e15), st.integers(-(10**15), 10**15), st.floats(-1, 1), st.booleans(),
                        st.integers(-4000, 4000).map(lambda k: k / 16)),  # halves, to be rounded alike
       form=st.sampled_from(["{v}", "{v:d}", "{v:.0f}", "{v:.1f}", "{v:.3f}", "{v:+.2f}", "{v:+.4f}", "a {v:.1f} b", "{v} || no"]))
def test_the_page_writes_numbers_as_python_does(fill_of_the_page, number, form):
    assert fill_of_the_page(form, number) == fill(form, {"v": number})
