"""Which tokens of a call lie in a named span of their prompt."""

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.errors import UnknownNameError
from probe.seam.call import AttentionCall

UNKNOWN = "the spans of these sequences are not known here (see announce)"


class InSpan:
    """One span by name; the flags of the call that was asked last are kept."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._last: tuple[AttentionCall, Tensor] | None = None

    def reason(self, call: AttentionCall) -> str | None:
        """Why nothing can be said of a call, or None."""
        return None if call.batch.spans else UNKNOWN

    def tokens(self, call: AttentionCall) -> Bool[Tensor, "batch token"]:
        """Members over real tokens, on the CPU, one column of False at least; raises `UnknownNameError`."""
        if self._last is None or self._last[0] is not call:
            self._last = (call, self._read(call))
        return self._last[1]

    def keys(self, call: AttentionCall) -> Bool[Tensor, "batch key_pos"]:
        """Members among the keys of a call, on its device."""
        return self._at(call, call.key_index)

    def queries(self, call: AttentionCall) -> Bool[Tensor, "batch query_pos"]:
        """Members among the queries of a call, on its device."""
        return self._at(call, call.query_index)

    def _at(self, call: AttentionCall, at: Tensor) -> Tensor:
        inside, index = self.tokens(call), at.cpu()
        width = inside.shape[1]
        member = inside.gather(1, index.clamp(0, width - 1)) & (index >= 0) & (index < width)
        return member.to(at.device)

    def _read(self, call: AttentionCall) -> Tensor:
        spans = call.batch.spans
        for number, named in zip(call.batch.prompts, spans, strict=True):
            if self.name not in named:
                raise UnknownNameError(
                    f"prompt {number}: " + str(UnknownNameError.of("span", self.name, named))
                )
        flags = [named[self.name].bool().cpu() for named in spans]
        inside = torch.zeros(len(flags), max(1, *(len(one) for one in flags)), dtype=torch.bool)
        for row, one in enumerate(flags):
            inside[row, : len(one)] = one
        return inside
