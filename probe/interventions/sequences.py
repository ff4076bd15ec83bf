"""Which sequence of a session each row of a call is, counted from the first that is seen."""

from probe.seam.call import AttentionCall


class Order:
    """Numbers the sequences of one session from 0, per kind of row; a session that opens late starts at 0 as well."""

    def __init__(self) -> None:
        self._first: dict[bool, int] = {}

    def of(self, call: AttentionCall) -> tuple[int, ...]:
        """The number of each row; a KV-cached continuation keeps it, beams of one prompt share it."""
        text = call.place.tower in ("decoder", "encoder", "cross")
        first = self._first.setdefault(text, min(call.batch.prompts))
        return tuple(number - first for number in call.batch.prompts)
