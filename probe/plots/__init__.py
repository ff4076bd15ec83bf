"""Plots: a labelled array in, a plotly figure out. No torch, no browser, nothing written."""

from probe.plots.head_map import head_map
from probe.plots.retrieval_grid import retrieval_grid
from probe.plots.theme import TEMPLATE, colorscale

__all__ = ["TEMPLATE", "colorscale", "head_map", "retrieval_grid"]
