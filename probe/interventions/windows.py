"""Where a sliding window, or a cache that slides, hides parts of documents, so that order matters again."""

from collections.abc import Iterable

from probe.interventions.blocks import Blocks
from probe.seam.call import AttentionCall


def cuts(call: AttentionCall, blocks: Blocks) -> bool:
    """Whether the last query of a call can no longer see the first tokens of the documents."""
    key_index, last = call.key_index, int(call.layout.query_pos.max())
    first_seen, _ = call.layout.mask.reach(last, last)
    in_blocks = blocks.number(key_index) >= 0
    gone = in_blocks.sum(1) < blocks.total
    hidden = (in_blocks & (call.layout.key_pos < first_seen)).any(1)
    past = call.query_index.amax(1) >= blocks.first + blocks.total
    return bool((past & (gone | hidden)).any())


def note(name: str, layers: Iterable[str]) -> list[str]:
    """What a reader of the numbers must know, if it happened anywhere."""
    found = sorted(layers)
    if not found:
        return []
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return [
        f"{name}: a sliding window hides parts of the documents in {shown}; "
        "there the order of the documents still matters"
    ]
