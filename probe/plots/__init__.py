"""Plots: a labelled array in, a plotly figure out. No torch, no browser, nothing written."""

from probe.plots.attention_image import attention_image
from probe.plots.circuit_curve import circuit_curve
from probe.plots.difference_map import difference_map
from probe.plots.head_map import head_map
from probe.plots.head_scatter import head_scatter
from probe.plots.patch_map import patch_map
from probe.plots.path_graph import path_graph
from probe.plots.position_map import position_map
from probe.plots.ranked_heads import ranked_heads
from probe.plots.retrieval_grid import retrieval_grid
from probe.plots.sentence_map import sentence_map
from probe.plots.taxonomy_map import taxonomy_map
from probe.plots.theme import TEMPLATE, colorscale
from probe.plots.token_lines import token_lines
from probe.plots.token_rhythm import token_rhythm

__all__ = [
    "TEMPLATE",
    "attention_image",
    "circuit_curve",
    "colorscale",
    "difference_map",
    "head_map",
    "head_scatter",
    "patch_map",
    "path_graph",
    "position_map",
    "ranked_heads",
    "retrieval_grid",
    "sentence_map",
    "taxonomy_map",
    "token_lines",
    "token_rhythm",
]  # fmt: skip
