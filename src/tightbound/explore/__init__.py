"""Explorers: pictures that a hand can move, with a kernel and without one."""

from tightbound.explore.controls import Choice, Drawing, Point, Slider, Toggle
from tightbound.explore.explorer import Explorer
from tightbound.explore.lattice import Formula, Network
from tightbound.explore.marks import Area, Arrows, Ellipse, HeatMap, Image, Line, Points, Text

__all__ = ["Area", "Arrows", "Choice", "Drawing", "Ellipse", "Explorer", "Formula", "HeatMap", "Image", "Line", "Network",
           "Point", "Points", "Slider", "Text", "Toggle"]
