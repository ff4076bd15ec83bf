"""At which positions a node is patched: all at once, one that is marked, or one after another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.circuits.batches import Batch
from probe.errors import UnknownNameError, UsageError
from probe.prompts.pairs import PairSet


@dataclass(frozen=True)
class Where:
    """``all`` (every position at once), a mark such as ``end``, ``marks`` or ``tokens`` (one after another)."""

    at: str
    labels: tuple[str, ...]  # of the places that are told apart; one where they are not

    @classmethod
    def of(cls, at: str, pairs: PairSet) -> "Where":
        """Read what was asked of these pairs.

        Raises:
            UnknownNameError: a mark that not every pair has.
            UsageError: ``tokens`` of pairs that differ in length, whose positions do not correspond.
        """
        if at == "marks":
            return cls(at, pairs.marks)
        if at == "tokens":
            lengths = sorted({len(pair) for pair in pairs})
            if len(lengths) > 1:
                raise UsageError(
                    f"positions one by one were asked (at='tokens'); the pairs have {lengths[0]} to {lengths[-1]} "
                    "tokens, so that positions do not correspond: use at='marks', or pairs of one length"
                )
            return cls(at, _tokens(pairs))
        if at != "all" and at not in pairs.marks:
            raise UnknownNameError.of("position", at, ("all", "marks", "tokens", *pairs.marks))
        return cls(at, (at,))

    @property
    def several(self) -> bool:
        """Whether places are told apart."""
        return self.at in ("marks", "tokens")

    @property
    def places(self) -> Mapping[str, Sequence[str]] | None:
        """Labels of the axis ``position``, the marks as ``mark`` too; None where places are not told apart."""
        if not self.several:
            return None
        return {"position": self.labels} | ({"mark": self.labels} if self.at == "marks" else {})

    def masks(self, batch: Batch) -> Iterator[Bool[Tensor, "#pair #position"]]:
        """The positions of each place, pair by pair, in the order of the labels."""
        if self.at == "all":
            yield torch.ones(1, 1, dtype=torch.bool)
        elif self.at == "tokens":
            yield from torch.eye(batch.length, dtype=torch.bool)[:, None]
        else:
            for mark in self.labels:
                yield batch.positions(mark)


def _tokens(pairs: PairSet) -> tuple[str, ...]:
    """Positions by number, with the token where it is the same in every clean prompt, else with a mark's name."""
    first = pairs.pairs[0]
    names = {
        place: name for name, place in first.marks.items() if all(p.marks.get(name) == place for p in pairs)
    }
    told = []
    for place in range(len(first)):
        said = {pair.clean.str_tokens[place] for pair in pairs}
        told.append(f"{place}:{next(iter(said)) if len(said) == 1 else names.get(place, '·')}")
    return tuple(told)
