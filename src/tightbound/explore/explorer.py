"""A picture that a hand can move, on a kernel in JupyterLab and in the rendered page with no kernel."""

from __future__ import annotations

import html
import itertools
import json
import os
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tightbound import figures
from tightbound.explore.controls import Choice, Control, Drawing, Point, Toggle
from tightbound.explore.lattice import Function, Packer
from tightbound.explore.marks import Mark, Text, fill

STATIC = "TIGHTBOUND_STATIC"  # set while the book is built
SOURCE = Path(__file__).with_name("explorer.js")
STYLE = Path(__file__).with_name("explorer.css")


class Explorer:
    """A picture with controls. It lives twice: live, where every change of a control calls Python on the kernel; and
    static, where a page holds the answers at every stop of the controls (or a small network's weights).

    Args:
        functions: functions from controls to named arrays. A parameter of a function is the name of a control; a function
            is called again only when one of its own controls moves. A `Network` or a `Formula` is such a function too, and
            may take what functions before it return.
        controls: the controls by name.
        figure: a function that returns the matplotlib figure behind the marks: axes, labels, and what never moves. Its
            parameters may name drop-downs and toggles; the page then holds one background for each of their values.
        marks: what moves, later ones on top.
        alt: what the picture shows, in words, for those who do not see it.
        readout: lines of text under the picture, templates as `marks.fill` takes them.
        title: a heading.

    In a kernel, `explorer.widget` is an ipywidgets widget like any other; its `params` can be set, linked and observed.

    Raises:
        ValueError: for a mark that draws an unknown array, arrays that do not fit it, a function of unknown controls, an
            array named like a control or returned twice, a readout of an unknown name, or missing alt text.
    """

    def __init__(self, functions: Sequence[Callable], controls: Mapping[str, Control], figure: Callable, marks: Sequence[Mark],
                 *, alt: str, readout: Sequence[str] = (), title: str = ""):
        if not alt.strip():
            raise ValueError("an explorer needs alt text that says what it shows")
        self.controls, self.marks, self.title = dict(controls), list(marks), title
        self.functions = [f if isinstance(f, Function) else Function(f) for f in functions]
        self.alt, self.readout = " ".join(alt.split()), list(readout)
        self._figure = Function(figure)
        self.start = {name: control.value for name, control in self.controls.items()}
        self._check()

    def _check(self) -> None:
        earlier: dict[str, np.ndarray] = {}
        for function in self.functions:
            function.check(self.controls, earlier)
            earlier.update(function({**self.start, **earlier}))
        self._figure.check(self.controls)
        for name in self._figure.inputs:
            if not isinstance(self.controls[name], (Choice, Toggle)):
                raise ValueError(f"the figure may depend on drop-downs and toggles, but {name!r} is neither")
        first = self.frame()
        arrays = [name for function in self.functions for name in function(first)]
        if repeated := sorted(name for name in first if [*arrays, *self.controls].count(name) > 1):
            raise ValueError(f"{repeated} name more than one array or control: give each its own name")
        for mark in self.marks:
            if missing := [name for name in mark.arrays() if name not in arrays]:
                raise ValueError(f"marks draw {missing}, but the functions return {sorted(arrays)}")
            mark.check(first)
        for template in [*self.readout, *(mark.text for mark in self.marks if isinstance(mark, Text))]:
            fill(template, first)

    def frame(self, **values) -> dict[str, object]:
        """The controls' values and every array at them; a control that is not named stands where it started.

        Raises:
            ValueError: for an unknown control.
        """
        unknown = set(values) - set(self.controls)
        if unknown:
            raise ValueError(f"no control is called {sorted(unknown)}: there are {list(self.controls)}")
        at = {**self.start, **values}
        found: dict[str, object] = dict(at)
        for function in self.functions:
            found.update(function(found))
        return found

    @cached_property
    def _backgrounds(self) -> list[dict]:
        """One background, as SVG with the places of its axes, for each value of the controls that the figure depends on."""
        names = self._figure.inputs
        found = []
        for at in itertools.product(*(self.controls[name].values for name in names)):
            fig = self._drawn(dict(zip(names, at)))
            width, height = fig.get_size_inches()
            places = []
            for ax in fig.axes:
                box = ax.get_position()
                places.append({"left": box.x0, "bottom": box.y0, "width": box.width, "height": box.height,
                               "x": ax.get_xlim(), "y": ax.get_ylim(),
                               "log": [ax.get_xscale() == "log", ax.get_yscale() == "log"]})
            found.append({"at": at, "svg": figures.svg(fig, f"{self.id}b{len(found)}"), "axes": places,
                          "ratio": width / height, "width": width})
        return found

    def _drawn(self, at: Mapping[str, object]):
        fig = self._figure.compute(*(at[name] for name in self._figure.inputs))
        for thing in [*self.marks, *(control for control in self.controls.values() if isinstance(control, (Point, Drawing)))]:
            if not 0 <= thing.axes < len(fig.axes):
                raise ValueError(f"{thing.label or type(thing).__name__!r} lives in axes {thing.axes}, but the figure has "
                                 f"only {len(fig.axes)}, counted from 0")
        fig.draw_without_rendering()
        fig.set_layout_engine("none")  # so that axes stay where the marks expect them
        return fig

    def picture(self, **values):
        """The whole picture by matplotlib alone, as a `Figure`."""
        frame = self.frame(**values)
        fig = self._drawn(frame)
        for ax in fig.axes:
            ax.set_autoscale_on(False)
        for mark in self.marks:
            limits = fig.axes[mark.axes].axis()
            mark.draw(fig.axes[mark.axes], frame)
            fig.axes[mark.axes].axis(limits)
        return fig

    @cached_property
    def id(self) -> str:
        return f"tb{zlib.crc32((self.title + self.alt).encode()):08x}"

    @cached_property
    def spec(self) -> dict:
        """Everything that the page needs to draw, but for the answers."""
        return {"title": self.title, "alt": self.alt, "readout": self.readout, "css": figures.css() + STYLE.read_text(),
                "controls": {name: control.spec() for name, control in self.controls.items()},
                "switches": self._figure.inputs, "backgrounds": self._backgrounds, "dashes": figures.DASHES,
                "marks": [mark.spec() for mark in self.marks]}

    def html(self, still: Figure | None = None) -> str:
        """The explorer as HTML that is complete in itself: it works from a file, over http, and, as a still (its `picture`, if
        that was drawn already), without JavaScript."""
        packer = Packer()
        functions = [function.pack(self.controls, packer) for function in self.functions]
        spec = json.dumps({**self.spec, "functions": functions, "data": packer.text()}, allow_nan=False,
                          separators=(",", ":")).replace("<", "\\u003c")  # so that nothing in it ends the script
        drawn = figures.svg(still or self.picture(), f"{self.id}s")
        title = f'<p class="tb-title">{html.escape(self.title)}</p>' if self.title else ""
        lines = "".join(f"<p>{html.escape(fill(template, self.frame()))}</p>" for template in self.readout)
        return (f'<div class="tb tb-explorer" id="{self.id}"><style>{self.spec["css"]}</style>{title}'
                f'<figure class="tb-still" role="img" aria-label="{html.escape(self.alt)}">{drawn}</figure>{lines}</div>'
                f'<script type="application/json" id="{self.id}-spec">{spec}</script>'
                f'<script type="module">{SOURCE.read_text()}\nboot("{self.id}");</script>')

    @cached_property
    def widget(self):
        """The live explorer: an `anywidget.AnyWidget` with traits `params` (the controls' values) and `frame`."""
        from tightbound.explore.live import ExplorerWidget

        return ExplorerWidget(self)

    def _repr_mimebundle_(self, include=None, exclude=None):
        if os.environ.get(STATIC):
            still = self.picture()
            return {"text/html": self.html(still), "image/png": figures.png(still), "text/plain": repr(self)}
        bundle = self.widget._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/plain": repr(self)}, metadata

    def __repr__(self) -> str:
        return f"Explorer: {self.alt}"


def answer(explorer: Explorer, params: Mapping[str, object]) -> dict:
    """The frame at `params` as the widget sends it: arrays as bytes; or, where Python raised, the error's last line.

    It says `at` which parameters it answers: so no two answers are equal, and none is taken for old news and not sent.
    """
    try:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in params.items()}
        frame = explorer.frame(**values)
        return {"at": dict(params), "arrays": {
            name: {"shape": array.shape, "data": np.ascontiguousarray(array, dtype="<f8").tobytes()}
            for name, array in frame.items() if name not in explorer.controls}}
    except Exception as error:  # a student's function may raise anything: the picture says so and stays alive
        return {"at": dict(params), "error": traceback.format_exception_only(error)[-1].strip()}
