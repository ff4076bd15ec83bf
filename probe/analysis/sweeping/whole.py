"""Whole edited forwards: what resuming must equal, and what is done where a model cannot be resumed."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analysis.sweeping.cases import Group
from probe.analysis.sweeping.reading import read
from probe.analysis.sweeping.tasks import Task
from probe.analysis.sweeping.track import HEAD_ROWS
from probe.models import LoadedModel
from probe.readouts.logits import Logits, next_token_logits
from probe.seam.session import Session


class Whole:
    """One group through the whole model, in as many forwards as the edit's phase tells apart.

    With phase ``decode`` the tokens before the first scored row are one forward, and the rest continues its cache;
    with ``prefill`` the prompt is one forward, and what follows it continues its cache.
    """

    def __init__(self, loaded: LoadedModel, group: Group, phase: str) -> None:
        self.model: Any = loaded.model
        self.group = group
        self.ids: Tensor = group.ids.to(loaded.device)
        cut = {"decode": group.first, "prefill": group.cases[0].told}.get(phase, 0)
        edges = sorted({0, min(cut, group.length), group.length})
        self.parts = list(pairwise(edges))

    def logits(self, session: Session) -> Iterator[tuple[range, Float[Tensor, "case row vocab"]]]:
        """Scored rows and their logits, a few at a time, under the open session."""
        for number, (start, stop) in enumerate(self.parts):
            rows = range(max(start, self.group.first), stop)
            if rows:
                made = self._part(number, session)
                for first in range(rows.start, rows.stop, HEAD_ROWS):
                    part = range(first, min(first + HEAD_ROWS, rows.stop))
                    yield part, made.columns(slice(part.start - start, part.stop - start))

    def numbers(self, task: Task, session: Session) -> Float[Tensor, "number case"]:
        """The task's numbers of every case under the open session."""
        parts = [read(task, self.group.cases, rows, logits) for rows, logits in self.logits(session)]
        return torch.cat(parts, dim=-1).mean(-1)

    def _part(self, number: int, session: Session) -> Logits:
        start, stop = self.parts[number]

        def forward(keep: int | Tensor | None) -> Any:
            session.announce(self.group.spans)
            cache = None
            for before, until in self.parts[:number]:
                made = self.model(
                    input_ids=self.ids[:, before:until],
                    past_key_values=cache,
                    use_cache=True,
                    **_keep(1, keep),
                )
                cache = made.past_key_values
            more = {} if len(self.parts) == 1 else {"past_key_values": cache, "use_cache": True}
            return self.model(input_ids=self.ids[:, start:stop], **more, **_keep(keep, keep))

        return next_token_logits(self.model, {"input_ids": self.ids[:, start:stop]}, forward)


def _keep(value: int | Tensor | None, asked: object) -> dict[str, Any]:
    return {} if asked is None else {"logits_to_keep": value}
