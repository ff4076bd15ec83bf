"""Sparse patterns: who keeps which keys."""

from probe_kernels.select.anchor_stripe import anchor_stripe
from probe_kernels.select.antidiagonal import antidiagonal
from probe_kernels.select.base import Pattern, Selection, Site
from probe_kernels.select.full import full
from probe_kernels.select.neighborhood import neighborhood
from probe_kernels.select.oracle_topk import oracle_topk
from probe_kernels.select.per_head import per_head
from probe_kernels.select.permuted_block import permuted_block
from probe_kernels.select.persistent_topk import persistent_topk
from probe_kernels.select.pooled_topk import pooled_topk
from probe_kernels.select.power_of_two import power_of_two
from probe_kernels.select.random_blocks import random_blocks
from probe_kernels.select.reach import reach, reach_of
from probe_kernels.select.segment_graph import segment_graph
from probe_kernels.select.sink_recent import sink_recent
from probe_kernels.select.skipping import visits
from probe_kernels.select.sliding import sliding
from probe_kernels.select.table import PATTERNS, make
from probe_kernels.select.vertical_slash import vertical_slash

__all__ = [
    "PATTERNS",
    "Pattern",
    "Selection",
    "Site",
    "anchor_stripe",
    "antidiagonal",
    "full",
    "make",
    "neighborhood",
    "oracle_topk",
    "per_head",
    "permuted_block",
    "persistent_topk",
    "pooled_topk",
    "power_of_two",
    "random_blocks",
    "reach",
    "reach_of",
    "segment_graph",
    "sink_recent",
    "sliding",
    "vertical_slash",
    "visits",
]
