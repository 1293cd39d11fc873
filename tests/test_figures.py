"""Pictures follow the reader's theme: no colour of their own survives in the SVG but by name."""

import re

import numpy as np
import pytest

from tightbound import figures


def test_nothing_in_a_picture_stays_black():
    fig, ax = figures.subplots()
    ax.bar([0, 1], [1, 2], yerr=[0.1, 0.2], color=figures.colour("bound"), label="bars")  # error bars: black by default
    ax.fill_between([0, 1], [0, 1], color="black")
    ax.legend(title="black words")
    drawn = figures.svg(fig)
    assert "#000000" not in drawn and "stroke: var(--tb-ink)" in drawn
    root = re.match(r"<svg[^>]*>", drawn)[0]
    assert "fill:var(--tb-ink)" in root  # what has no fill of its own takes this one: matplotlib writes none for black


def test_roles_become_variables():
    fig, ax = figures.subplots()
    for role in figures.DASHES:
        ax.plot([0, 1], [0, 1], **figures.line(role))
    drawn = figures.svg(fig)
    for role, (light, _) in figures.PALETTE.items():
        assert light not in drawn
        assert role == "faint" or f"var(--tb-{role})" in drawn


def test_two_pictures_of_one_page_share_no_id():
    def ids(name):
        fig, ax = figures.subplots()
        ax.imshow(np.eye(3))
        ax.plot([0, 1], "o-")
        return set(re.findall(r'id="([^"]*)"', figures.svg(fig, name)))

    one, other = ids("one"), ids("other")
    assert one and not one & other


NODES = {"z": ("$z$", 0, 1, "latent"), "x": ("$x$", 0, 0, "observed"), "a": ("$a$", 1, 1, "fixed"), "y": ("$y$", 1, 0, "computed")}


def test_a_graph_has_its_nodes_edges_and_plates():
    fig = figures.graph(NODES, [("z", "x"), ("a", "z")], [(-0.5, -0.6, 1, 2.1, "$N$")])
    words = [text.get_text() for text in fig.findobj(figures.Text)]
    assert {"$z$", "$x$", "$a$", "$y$", "$N$"} <= set(words)
    drawn = figures.svg(fig)
    assert "#000000" not in drawn and "var(--tb-faint)" in drawn  # the observed node is shaded


def test_an_unknown_kind_of_node_is_named():
    with pytest.raises(ValueError, match="unknown kind of node 'hidden': choose one of latent, observed"):
        figures.graph({"z": ("$z$", 0, 0, "hidden")}, [])
