"""A circuit one node at a time: each time the head or MLP whose patch recovers most beside those that are in it."""

from dataclasses import dataclass

from probe.circuits.members import Member, Parts
from probe.circuits.patching import Direction
from probe.circuits.study import Study
from probe.circuits.together import Together

CANDIDATES = 48  # nodes that are tried again after the first round: those that recovered most alone


@dataclass(frozen=True)
class Pick:
    """A node that was taken, and the recovery with it and all that were taken before."""

    member: Member
    recovery: float


def pick(case: Study, parts: Parts, direction: Direction, most: int, goal: float) -> list[Pick]:
    """Nodes in the order in which they were taken, until `goal` is recovered, `most` are taken, or none adds to it.

    ``denoise``: clean values are put into the corrupt run until it does the task. ``noise``: corrupt values are put
    into the clean run until it does the task no more. All else is computed on what reaches it.
    """
    together = Together(case, parts, direction)
    candidates = list(together.everything)
    taken: list[Pick] = []
    reached = 0.0
    while candidates and len(taken) < most and reached < goal:
        case.options.tell(len(taken), most, f"greedy circuit: {reached:.2f} recovered")
        own = [one.member for one in taken]
        found = together.recovery([[*own, one] for one in candidates]).mean(-1)
        best = int(found.argmax())
        if float(found[best]) <= reached:
            break
        reached = float(found[best])
        taken.append(Pick(candidates[best], reached))
        kept = found.argsort(descending=True).tolist()
        if len(taken) == 1:
            kept = kept[: CANDIDATES + 1]
        candidates = [candidates[n] for n in kept if n != best]
    case.options.tell(most, most, "greedy circuit")
    return taken
