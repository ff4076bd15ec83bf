"""The spans that interventions mean, checked against the prompts before anything runs."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from probe.errors import UnknownNameError
from probe.interventions.span import SpanChoice
from probe.interventions.target import Target
from probe.prompts import Prompt


@runtime_checkable
class NeedsSpans(Protocol):
    """An intervention on tokens besides its query rows."""

    @property
    def needs_spans(self) -> tuple[SpanChoice, ...]:
        """The spans that every prompt must have."""


def require_spans(interventions: Sequence[Any], prompts: Sequence[Prompt]) -> None:
    """Raise `UnknownNameError` for a span that a prompt does not have, naming the prompt and the spans it has."""
    for one in interventions:
        target = getattr(one, "target", None)
        rows = (target.queries,) if isinstance(target, Target) else ()
        for span in (*rows, *(one.needs_spans if isinstance(one, NeedsSpans) else ())):
            if isinstance(span, tuple) or span == "all":
                continue
            for prompt in prompts:
                if span not in prompt.spans:
                    raise UnknownNameError(
                        f"{one.name} was asked; prompt {prompt.id!r} has no span {span!r}, only "
                        f"{', '.join(sorted(prompt.spans))}: give the prompt that span (spans= in Python, "
                        '"spans" in a prompts file), or name start..stop in tokens'
                    )
