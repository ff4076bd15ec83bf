"""Which key each head looks at most, at single rows: all that the retrieval score needs of attention."""

from dataclasses import dataclass, field

import numpy as np
from probe_kernels.types import Attended, Want

from probe.seam.call import AttentionCall


@dataclass
class TopKeys:
    """An observer of the last row of each decoder call, while `active`.

    `seen` maps a layer to, per head, the index among the prompt's real tokens of the key with the most mass (-1 where
    the row sees nothing). `take` hands one step over and starts the next.
    """

    active: bool = False
    seen: dict[int, np.ndarray] = field(default_factory=dict)

    def want(self, call: AttentionCall) -> Want:
        """The top key while active; nothing otherwise, so that a long prefill costs nothing."""
        return Want(z=False, top=self.active and call.place.tower == "decoder")

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep the last row's top key of every head."""
        if not self.active or call.place.tower != "decoder" or attended.top_index is None:
            return
        top = attended.top_index[0, :, -1]
        index = call.key_index[0].gather(0, top.clamp_min(0)).masked_fill(top < 0, -1)
        self.seen[call.place.layer] = index.cpu().numpy()

    def take(self) -> dict[int, np.ndarray]:
        """What was seen since the last call."""
        seen, self.seen = self.seen, {}
        return seen
