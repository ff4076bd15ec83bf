"""Claims of papers, replayed on real weights: one command each, against count-matched random controls.

Names are loaded on first use, so that the list of claims costs no torch.
"""

import importlib
from typing import TYPE_CHECKING

from probe.replay.claim import BOTH, Claim, Claims, Listed
from probe.replay.finding import NONE, Estimate, Finding, Row, Table, not_asked
from probe.replay.table import CLAIMS

if TYPE_CHECKING:
    from probe.replay.run import ReplayOptions, replay
    from probe.replay.work import Work

__all__ = [
    "BOTH",
    "CLAIMS",
    "NONE",
    "Claim",
    "Claims",
    "Estimate",
    "Finding",
    "Listed",
    "ReplayOptions",
    "Row",
    "Table",
    "Work",
    "not_asked",
    "replay",
]

_WHERE = {"ReplayOptions": "run", "replay": "run", "Work": "work"}


def __getattr__(name: str) -> object:
    """Import a torch-bound name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'probe.replay' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"probe.replay.{_WHERE[name]}"), name)
