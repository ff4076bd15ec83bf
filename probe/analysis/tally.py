"""Counts the tokens and sequences that pass, for the record."""

from probe_kernels.types import Attended, Want

from probe.seam.call import AttentionCall


class Tally:
    """Counts real tokens of the sequences seen, once each."""

    def __init__(self) -> None:
        self.tokens: dict[int, int] = {}
        self._first: tuple[str, int] | None = None

    def want(self, call: AttentionCall) -> Want:
        """Nothing."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Look at the first layer that is called, which sees every token."""
        where = (call.place.tower, call.place.layer)
        self._first = self._first or where
        if where != self._first:
            return
        counts = call.query_real.sum(-1).tolist()
        for prompt, count in zip(call.batch.prompts, counts, strict=True):
            self.tokens[prompt] = self.tokens.get(prompt, 0) + int(count)
