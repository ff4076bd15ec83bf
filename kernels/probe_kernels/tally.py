"""Folds one block into every wanted statistic."""

from collections.abc import Callable

from probe_kernels import over_keys, over_queries
from probe_kernels.block import Block
from probe_kernels.ledger import Ledger

FOLDS: dict[str, Callable[[Ledger, Block], None]] = {
    "lse": over_keys.lse,
    "entropy": over_keys.entropy,
    "square": over_keys.square,
    "top": over_keys.top,
    "distance": over_keys.distance,
    "first": over_keys.first,
    "offsets": over_keys.offsets,
    "matches": over_keys.matches,
    "key_groups": over_keys.key_groups,
    "table": over_keys.table,
    "column": over_queries.column,
    "bands": over_queries.bands,
    "query_groups": over_queries.query_groups,
}

LINEAR = frozenset({"distance", "first", "offsets", "matches", "key_groups"})
"""Sums over keys of p times something: from weights instead of p they differ by a factor per row."""


def wanted(ledger: Ledger) -> tuple[Callable[[Ledger, Block], None], ...]:
    """The folds that a call needs."""
    return tuple(fold for name, fold in FOLDS.items() if getattr(ledger.want, name))


def add(ledger: Ledger, block: Block) -> None:
    """Fold one block into every wanted statistic."""
    for fold in wanted(ledger):
        fold(ledger, block)
    if block.sink_mass is not None and ledger.out.sink_mass is not None:
        ledger.out.sink_mass[over_keys.place(block)] = block.sink_mass
    for name, function in ledger.want.rows.items():
        ledger.called[name].append(function(block.p.float(), block.chunk.rows, block.chunk.keys))
