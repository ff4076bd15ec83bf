"""Which announced prompt each row of a forward holds, told by its real tokens."""

from collections.abc import Sequence

from probe.errors import InterventionError
from probe.seam.call import Batch

Tokens = tuple[int, ...]


class PromptMatch:
    """Finds the prompt of every sequence once, and remembers it for as long as the sequence goes on.

    A sequence holds the longest known prompt that it begins with. One that is itself the beginning of a known prompt is
    still being fed in chunks: it holds none yet. So batches, beams and continuations find their prompt.
    """

    def __init__(self, known: Sequence[Tokens], asked: str) -> None:
        self._known = sorted(known, key=len, reverse=True)
        self._asked = asked
        self._found: dict[int, Tokens] = {}

    def of(self, batch: Batch) -> list[Tokens | None]:
        """The prompt of each row; raises `InterventionError` for tokens that begin with none of them."""
        return [self._row(batch, row, number) for row, number in enumerate(batch.prompts)]

    def _row(self, batch: Batch, row: int, number: int) -> Tokens | None:
        if number in self._found:
            return self._found[number]
        if batch.tokens is None:
            raise InterventionError(
                f"{self._asked} was asked; this forward was given no token ids, which tell its prompt: give input_ids"
            )
        ids = batch.tokens[row] if batch.real is None else batch.tokens[row][batch.real[row]]
        seen = tuple(ids.tolist())
        for prompt in self._known:
            if seen[: len(prompt)] == prompt:
                self._found[number] = prompt
                return prompt
        if any(prompt[: len(seen)] == seen for prompt in self._known):
            return None
        raise InterventionError(
            f"{self._asked} was asked; row {row} of a forward does not begin with a prompt that heads were selected "
            "for: give all of them, prompts=[...]"
        )
