"""The book's looks: one palette, one matplotlib style, and pictures that carry alt text and follow the reader's theme.

Pictures are SVG whose colours are CSS variables, so the same picture serves a light page, a dark page and print. A line's
meaning never hangs on its colour alone: each role has a dash pattern of its own.
"""

from __future__ import annotations

import html
import io
import re
import zlib
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

#: role -> (colour on light ground, colour on dark ground). Contrast with its ground is at least 3 to 1 (text: 4.5 to 1),
#: but for "faint", for grids, which carries no meaning.
PALETTE = {
    "ink": ("#1f2328", "#e6e6e6"),
    "truth": ("#4a4f55", "#c3c9d0"),
    "approximation": ("#b84a00", "#ff9d4d"),
    "bound": ("#0061a8", "#6cb6ff"),
    "prior": ("#7d8790", "#8b95a0"),
    "accent": ("#00735c", "#45c9a5"),
    "faint": ("#d9dde1", "#3d434a"),
}
DASHES = {"truth": (), "approximation": (6, 3), "bound": (6, 2, 1.5, 2), "prior": (1.5, 2.5), "accent": (3, 1.5)}

STYLE = {
    "figure.figsize": (6.4, 3.4), "figure.dpi": 100, "savefig.transparent": True, "svg.fonttype": "path",
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
    "grid.color": PALETTE["faint"][0],
    "legend.frameon": False, "lines.linewidth": 2, "figure.constrained_layout.use": True,
    **{key: PALETTE["ink"][0] for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor",
                                          "xtick.color", "ytick.color")},
}


def colour(role: str) -> str:
    """The colour of a role on light ground; the page exchanges it in the dark.

    Raises:
        ValueError: for an unknown role.
    """
    if role not in PALETTE:
        raise ValueError(f"unknown colour role {role!r}: choose one of {', '.join(PALETTE)}")
    return PALETTE[role][0]


def line(role: str, **options) -> dict:
    """Keyword arguments for `Axes.plot` that draw a line in its role: ``ax.plot(x, y, **line("truth"))``."""
    dashes = DASHES.get(role, ())
    return {"color": colour(role), **({"dashes": dashes} if dashes else {}), **options}


@contextmanager
def style():
    """The book's matplotlib style for the figures made inside."""
    with mpl.rc_context(STYLE):
        yield


def subplots(*args, **kwargs):
    """`matplotlib.pyplot.subplots` in the book's style, outside of pyplot's global state: returns (figure, axes)."""
    figure_options = {key: kwargs.pop(key) for key in ("figsize",) if key in kwargs}
    with style():
        fig = Figure(**figure_options)
        return fig, fig.subplots(*args, **kwargs)


def graph(nodes: dict[str, tuple], edges: list[tuple[str, str]], plates: list[tuple] = ()) -> Figure:
    """A graphical model, drawn by daft: open circles are latent, shaded ones observed, bare words fixed::

        graph({"z": ("$z_n$", 0, 1, "latent"), "x": ("$x_n$", 0, 0, "observed")}, [("z", "x")],
              [(-0.5, -0.6, 1, 2.1, "$N$")])

    Args:
        nodes: name -> (label, x, y, kind), the kind one of "latent", "observed", "fixed" and "computed" (a box).
        edges: pairs of names, from cause to effect.
        plates: (left, bottom, width, height, label) of boxes whose content is repeated as often as the label says.

    Raises:
        ValueError: for an unknown kind.
    """
    import daft  # here, for it loads pyplot

    ink = colour("ink")
    looks = {"latent": {"fc": "none"}, "observed": {"fc": colour("faint")}, "fixed": {"fc": ink}, "computed": {"fc": "none"}}
    unknown = {kind for *_, kind in nodes.values()} - set(looks)
    if unknown:
        raise ValueError(f"unknown kind of node {min(unknown)!r}: choose one of {', '.join(looks)}")
    with style():
        pgm = daft.PGM(node_ec=ink, node_fc="none", plate_fc="none", grid_unit=2.3, node_unit=1.15)
        for name, (label, x, y, kind) in nodes.items():
            pgm.add_node(name, label, x, y, fixed=kind == "fixed", fontsize=12, aspect=1.4 if kind == "computed" else 1,
                         shape="rectangle" if kind == "computed" else "ellipse",
                         plot_params={"ec": ink, **looks[kind]}, label_params={"color": ink})
        for cause, effect in edges:
            pgm.add_edge(cause, effect, plot_params={"ec": ink, "fc": ink, "head_width": 0.18, "head_length": 0.2})
        for left, bottom, width, height, label in plates:
            pgm.add_plate([left, bottom, width, height], label=label, position="bottom right", fontsize=11,
                          rect_params={"ec": ink, "fc": "none", "lw": 1})
        pgm.render()
    fig = pgm.figure
    fig.set_layout_engine("none")
    mpl.pyplot.close(fig)  # else Jupyter shows it a second time
    return fig


def svg(fig: Figure, name: str = "figure") -> str:
    """The figure as an SVG element whose colours are the page's CSS variables (``--tb-ink``, ``--tb-truth``, ...)."""
    for legend in fig.findobj(Legend):  # made after `subplots`, it has matplotlib's own white box and black words
        legend.set_frame_on(False)
    for text in fig.findobj(Text):
        if mpl.colors.same_color(text.get_color(), "black"):
            text.set_color(colour("ink"))
    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg"):], flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1)
    text = text.replace("<svg ", f'<svg class="tb-svg" style="fill:var(--tb-ink);stroke-linejoin:round;max-width:{fig.get_figwidth() * 1.25:.2f}in" ', 1)
    text = re.sub(r"\b([1-9]\d*\.\d{3})\d+", r"\1", text)  # a thousandth of a point is fine enough; numbers below one are scales
    text = re.sub(r'(<image[^>]*?) id="[^"]*"', r"\1", text)  # a hash of the pixels: two alike would share it
    prefix = re.sub(r"\W", "", name)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)  # several pictures share one page
    for role, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--tb-{role})")
    text = text.replace("stroke: #000000", "stroke: var(--tb-ink)")  # matplotlib's own black, of error bars; a fill it leaves out
    return re.sub(r"\s*\n\s*", "\n", text)


def css() -> str:
    """The palette as CSS variables, light and dark, in the book's theme, in JupyterLab, and elsewhere."""
    light, dark = ("".join(f"--tb-{role}:{pair[i]};" for role, pair in PALETTE.items()) for i in (0, 1))
    return (f".tb{{{light}}}"
            f"@media (prefers-color-scheme:dark){{html:not([data-theme]) body:not([data-jp-theme-light]) .tb{{{dark}}}}}"
            f'html[data-theme="dark"] .tb,body[data-jp-theme-light="false"] .tb{{{dark}}}'
            f'@media print{{html .tb.tb{{{light}}}}}'
            ".tb-svg{display:block;width:100%;height:auto;overflow:visible}"
            ".tb-picture{overflow-x:auto;margin:0}.tb-picture .tb-svg{min-width:27rem}"  # a phone scrolls sideways
            "@media print{.tb-picture .tb-svg{min-width:0}}")


class Picture:
    """A figure with its alt text: SVG that follows the theme in pages and notebooks, PNG where only that is shown."""

    def __init__(self, fig: Figure, alt: str):
        if not alt.strip():
            raise ValueError("a figure needs alt text that says what it shows")
        self.figure, self.alt = fig, " ".join(alt.split())

    def _repr_mimebundle_(self, include=None, exclude=None):
        name = f"tb{zlib.crc32(self.alt.encode()):08x}"
        page = (f'<div class="tb tb-picture" role="group" aria-label="Picture" tabindex="0"><style>{css()}</style>'
                f'<figure role="img" aria-label="{html.escape(self.alt)}" style="margin:0">{svg(self.figure, name)}'
                "</figure></div>")
        return {"text/html": page, "image/png": png(self.figure), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"Picture: {self.alt}"


def png(fig: Figure) -> bytes:
    """The figure as a PNG on white."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        fig.savefig(buffer, format="png", dpi=120, facecolor="white", transparent=False)
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> Picture:
    """The figure, ready to stand as the last line of a cell.

    Raises:
        ValueError: for empty alt text: it carries the content of the picture to those who do not see it.
    """
    return Picture(fig, alt)
