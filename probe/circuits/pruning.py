"""A circuit by pruning: from the last layer to the first, every head and MLP that the task can spare is corrupted."""

import torch

from probe.circuits.members import Member, Parts
from probe.circuits.study import Study
from probe.circuits.together import Together

SPARED = 0.01  # a node may go where this share of the difference, or less, changes without it


def prune(case: Study, parts: Parts, spared: float = SPARED) -> dict[Member, float]:
    """What each node takes with it when it goes, as a share of the difference, beside those that are gone already.

    Nodes are visited from the last layer to the first, so that a run with a few more of them corrupt resumes at the
    layer that is visited. Those of one layer that change `spared` or less, each by itself, go together (Conmy et al.
    2023, by nodes instead of edges).
    """
    together = Together(case, parts, "noise")
    gone: list[Member] = []
    lost: dict[Member, float] = {}
    stages = sorted({(one.layer, one.node) for one in together.everything}, key=_from_behind)
    for number, stage in enumerate(stages):
        case.options.tell(number, len(stages), f"pruning: {len(gone)} of {len(lost)} nodes are gone")
        own = [one for one in together.everything if (one.layer, one.node) == stage]
        shares = together.recovery([gone, *([*gone, one] for one in own)]).mean(-1)
        taken = shares[1:] - shares[0]
        lost |= {one: float(share) for one, share in zip(own, taken, strict=True)}
        gone += [one for one, share in zip(own, taken, strict=True) if torch.abs(share) <= spared]
    case.options.tell(len(stages), len(stages), "pruning")
    return lost


def _from_behind(stage: tuple[int, str]) -> tuple[int, bool]:
    """Later layers first; in a layer the MLP before the heads that it may read."""
    return -stage[0], stage[1] == "z"
