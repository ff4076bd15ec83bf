"""Whether edits of blocks changed anything, told once and at no cost after that."""

from collections.abc import Callable
from dataclasses import replace

import torch
from probe_kernels.types import BlockEdit, Edits
from torch import Tensor


def told(edits: Edits, changed: Callable[[], None]) -> Edits:
    """The same edits, which call `changed` at the first block that they alter; blocks after it are not compared."""
    known = [False]

    def watched(edit: BlockEdit) -> BlockEdit:
        def apply(block: Tensor, rows: slice, keys: slice) -> Tensor:
            made = edit.apply(block, rows, keys)
            if not known[0] and made is not block and not torch.equal(made, block):
                known[0] = True
                changed()
            return made

        return replace(edit, apply=apply)

    return Edits(tuple(map(watched, edits.scores)), tuple(map(watched, edits.probs)))
