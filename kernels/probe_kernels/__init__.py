"""Attention that also counts: z and exact statistics in one sweep, without the n×n map.

Imports torch only, and Triton where its backend is chosen; never transformers, never probe.
"""

from probe_kernels import reference
from probe_kernels.dispatch import Backend, BackendError, attend, backend_for, chosen_backend
from probe_kernels.mask import Mask, Predicate, Tile
from probe_kernels.merge import merge
from probe_kernels.pattern import pattern_block, score_block
from probe_kernels.types import Attended, BlockEdit, Edits, Layout, Match, Scores, Want
from probe_kernels.visit import Visit

__all__ = [
    "Attended",
    "Backend",
    "BackendError",
    "BlockEdit",
    "Edits",
    "Layout",
    "Mask",
    "Match",
    "Predicate",
    "Scores",
    "Tile",
    "Visit",
    "Want",
    "attend",
    "backend_for",
    "chosen_backend",
    "merge",
    "pattern_block",
    "reference",
    "score_block",
]
