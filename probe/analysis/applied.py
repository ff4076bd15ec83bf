"""Interventions applied to one forward or generation at a time, and whether each of them ever took effect."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from probe.analysis.edit import spans_of
from probe.analysis.ready import idle_error, require_edited
from probe.interventions.sequences import counting_from
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.session import Session


class Applied:
    """One way of running a model on many prompts: its interventions (none for the base), made ready before.

    A session is open only while a prompt runs, so that other ways can run in between. The base runs under the same
    kernel as the edited model, so that nothing but the edits differs. `prompts` are those that the interventions were
    made ready for.
    """

    def __init__(
        self, loaded: LoadedModel, interventions: Sequence[Any] = (), prompts: Sequence[Prompt] = ()
    ) -> None:
        self.loaded = loaded
        self.interventions = tuple(interventions)
        self._prompts = tuple(prompts)
        self.notes: list[str] = []
        self._acted: set[int] = set()  # numbers of interventions that changed something
        self._layers: set[str] = set()
        self._forwards = 0

    @contextmanager
    def open(self, prompt: Prompt) -> Iterator[Session]:
        """A session for forwards of one prompt, its spans announced.

        Raises:
            UnseenLayersError: an edited layer ran without reaching the seam.
        """
        number = next((place for place, one in enumerate(self._prompts) if one is prompt), 0)
        with self.open_batch([spans_of(prompt)], number) as session:
            yield session

    @contextmanager
    def open_batch(self, spans: Sequence[dict[str, Tensor]], first: int) -> Iterator[Session]:
        """A session for forwards of a batch with such spans per row, whose first row is sequence number `first`.

        Raises:
            UnseenLayersError: an edited layer ran without reaching the seam.
        """
        with counting_from(first):  # interventions that hold values per prompt give those of these
            made = Session(self.loaded.model, (), self.interventions, mode="fused")
        with made as session:
            session.announce(spans)
            yield session
            require_edited(self.interventions, session)
            self._acted |= {number for number, modules in session.effects.items() if modules}
            self._layers |= set(session.census)
            self._forwards += session.n_forwards
            self.notes = list(dict.fromkeys([*self.notes, *session.notes]))

    def require_effect(self) -> None:
        """Raise `InterventionError` where an intervention changed nothing in any forward of any prompt."""
        for number, one in enumerate(self.interventions):
            if self._forwards and number not in self._acted and not getattr(one, "may_rest", False):
                raise idle_error(one, self._forwards, sorted(self._layers))
