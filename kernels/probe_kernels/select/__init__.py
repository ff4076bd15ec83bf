"""Sparse patterns: who keeps which keys."""

from probe_kernels.select.anchor_stripe import anchor_stripe
from probe_kernels.select.antidiagonal import antidiagonal
from probe_kernels.select.base import Pattern, Selection, Site
from probe_kernels.select.oracle_topk import oracle_topk
from probe_kernels.select.permuted_block import permuted_block
from probe_kernels.select.persistent_topk import persistent_topk
from probe_kernels.select.pooled_topk import pooled_topk
from probe_kernels.select.table import PATTERNS, make
from probe_kernels.select.vertical_slash import vertical_slash

__all__ = [
    "PATTERNS",
    "Pattern",
    "Selection",
    "Site",
    "anchor_stripe",
    "antidiagonal",
    "make",
    "oracle_topk",
    "permuted_block",
    "persistent_topk",
    "pooled_topk",
    "vertical_slash",
]
