"""The context-aware means of a task: over prompts drawn for that, or over the other pairs that were given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from probe.circuits.batches import Batch, batches
from probe.circuits.study import Pairs, Study
from probe.circuits.token_means import SIDES, Own, TokenMeans, token_means
from probe.errors import InputError
from probe.prompts.pairs import make_pairs


@dataclass
class Reference:
    """What means are taken over: prompts drawn for that, or the other pairs (`left_out`)."""

    case: Study
    groups: Sequence[Batch]
    left_out: bool
    tables: dict[int, TokenMeans] = field(default_factory=dict)
    unseen: list[int] = field(default_factory=lambda: [0, 0])  # tokens without a mean of their own, and all

    @classmethod
    def of(cls, case: Study, pairs: Pairs, count: int) -> "Reference":
        """As many pairs of a named task, without those that are studied; else the pairs that were given.

        Raises:
            InputError: one pair alone was given.
        """
        if not isinstance(pairs, str):
            if len(case.pairs) < 2:
                raise InputError(
                    "means over the other pairs were asked; there is one pair alone: give more, or a task's name"
                )
            return cls(case, case.batches, left_out=True)
        own = {prompt.tokens for pair in case.pairs for prompt in (pair.clean, pair.corrupt)}
        seed = case.options.seed + 1
        drawn = make_pairs(pairs, case.loaded.tokenizer, count=count, seed=seed)
        others = [pair for pair in drawn if not {pair.clean.tokens, pair.corrupt.tokens} & own]
        return cls(case, batches(others), left_out=False)

    @property
    def prompts(self) -> int:
        """Prompts that means are taken over."""
        return 2 * sum(len(batch) for batch in self.groups)

    @property
    def notes(self) -> list[str]:
        """How many tokens had no mean of their own."""
        if not self.unseen[0]:
            return []
        return [
            f"{self.unseen[0]} of {self.unseen[1]} tokens are at their position in no reference prompt; they took the "
            "mean of the position over all tokens: raise reference="
        ]

    def states(self, batch: Batch, layers: Sequence[int]) -> Mapping[tuple[int, str], Tensor]:
        """The states ``[pair, 1, position, width]`` that replace a layer's own, by layer and kind of mean."""
        engine, device = self.case.engine, self.case.loaded.device
        vocab = int(self.case.logits[batch, "clean"].shape[-1])
        if batch.length not in self.tables:
            self.tables[batch.length] = token_means(engine, self.groups, batch.length, vocab)
        table, ids = self.tables[batch.length], batch.ids("clean", device)
        if self.left_out and table.prompts <= 2:
            raise InputError(
                f"means over the other pairs were asked; one pair alone has {batch.length} tokens: give more of that "
                "length"
            )
        own = [Own(batch.ids(side, device), engine.record(batch, side, ["resid_pre"])) for side in SIDES]
        own = own if self.left_out else []
        made: dict[tuple[int, str], Tensor] = {}
        for layer in layers:
            given, seen = table.given_token(layer, ids, own)
            made[layer, "token"] = given[:, None]
            made[layer, "position"] = table.at_position(layer, own).expand_as(given)[:, None]
        self.unseen[0] += int((~seen).sum())
        self.unseen[1] += seen.numel()
        return made
