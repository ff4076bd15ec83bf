"""Sets of heads and MLPs of one run that are put into the other run together."""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.members import Circuit, Member, Parts, members_of, nodes_of
from probe.circuits.nodes import Key
from probe.circuits.patching import Direction, most_copies, recovery, sides
from probe.circuits.study import Study
from probe.circuits.taps import Write


class Together:
    """Values of one run, ready to be put into the other; what is not put there goes on as it comes.

    ``denoise`` puts values of the clean run into the corrupt one, ``noise`` the other way round.
    """

    def __init__(self, case: Study, parts: Parts, direction: Direction) -> None:
        self.case = case
        source, self.into = sides(direction)
        nodes = nodes_of(parts)
        self._traces = {batch: case.engine.record(batch, source, nodes) for batch in case.batches}
        self.everything: tuple[Member, ...] = tuple(members_of(self._traces[case.batches[0]]))

    def recovery(self, sets: Sequence[Collection[Member]]) -> Float[Tensor, "set pair"]:
        """The share of the difference that each set carries."""
        return recovery(self.case, self.numbers(sets), self.into)

    def numbers(self, sets: Sequence[Collection[Member]]) -> Float[Tensor, "set pair"]:
        """The measure with each set put into the other run."""
        groups = list(_groups([frozenset(one) for one in sets]))
        parts = []
        for batch in self.case.batches:
            found = torch.empty(len(sets), len(batch), dtype=torch.float64)
            size = most_copies(self.case, batch)
            for group in groups:
                for start in range(0, len(group), size):
                    few = group[start : start + size]
                    found[[number for number, _ in few]] = self._run(batch, [one for _, one in few])
            parts.append(found)
        return self.case.joined(parts)

    def _run(self, batch: Batch, sets: Sequence[Circuit]) -> Float[Tensor, "set pair"]:
        differ = _differ(batch)
        units: dict[Key, list[tuple[int, int]]] = {}
        for row, one in enumerate(sets):
            for member in one:
                units.setdefault(member.key, []).append((row, member.unit))
        writes = {}
        for key, chosen in units.items():
            value = self._traces[batch].value(*key)
            mask = torch.zeros(len(sets), value.shape[1], dtype=torch.bool)
            mask[tuple(zip(*chosen, strict=True))] = True
            mask = mask[:, None, :, None] & differ
            writes[key] = Write(value, mask.to(value.device))
        logits = self.case.engine.patched(batch, self.into, writes, len(sets))
        return self.case.numbers(batch, logits)


def _groups(sets: Sequence[Circuit]) -> Iterator[list[tuple[int, Circuit]]]:
    """Sets with their numbers, those whose first layer is the same together: they resume at one place."""
    firsts = [min((member.layer for member in one), default=-1) for one in sets]
    for first in sorted(set(firsts)):
        yield [(number, one) for number, one in enumerate(sets) if firsts[number] == first]


def _differ(batch: Batch) -> Bool[Tensor, " position"]:
    """Positions from the first token on that differs in any pair: before it both runs have the same values."""
    cpu = torch.device("cpu")
    return (batch.ids("clean", cpu) != batch.ids("corrupt", cpu)).any(0).cumsum(0) > 0
