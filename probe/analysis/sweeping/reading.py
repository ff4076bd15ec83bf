"""From logits of scored rows to the task's numbers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analysis.sweeping.cases import Case
from probe.analysis.sweeping.tasks import Task


def read(
    task: Task,
    cases: Sequence[Case],
    rows: range,
    logits: Float[Tensor, "sequence row vocab"],
) -> Float[Tensor, "number sequence row"]:
    """The task's numbers for some rows (counted in the whole sequence); sequences are the cases, over and over."""
    copies = logits.shape[0] // len(cases)

    def flat(tokens: list[list[int]]) -> Tensor:
        return torch.tensor(tokens, device=logits.device).repeat(copies, 1).reshape(-1)

    wanted = flat([[case.wanted[row - case.first] for row in rows] for case in cases])
    compared = all(case.against is not None for case in cases)
    against = flat([[case.against or 0] * len(rows) for case in cases]) if compared else None
    made = task.rows(logits.flatten(0, 1), wanted, against)
    return made.reshape(made.shape[0], *logits.shape[:2]).cpu()
