"""Blocked attention under a `Visit`: what is not listed is not computed."""

from probe_kernels import reference
from probe_kernels.types import Attended, Edits, Layout, Scores, Want
from probe_kernels.visit import Visit


def attend(scores: Scores, layout: Layout, want: Want, visit: Visit, edits: Edits | None = None) -> Attended:
    """Attention of each block of queries over its listed keys; see `probe_kernels.attend`."""
    return reference.attend(scores, layout, want, edits, visit=visit)
