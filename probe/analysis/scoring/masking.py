"""What masks the heads: an intervention or its spec, with the heads that go to it."""

from collections.abc import Sequence
from typing import Any

from probe.analysis.ready import check_interventions
from probe.errors import UsageError
from probe.interventions.making import make, wants_heads
from probe.terms import HeadId


def make_mask(how: object, heads: Sequence[str] | None) -> Any:
    """The intervention on the heads.

    Raises:
        UnknownNameError: no such intervention or parameter.
        UsageError: heads that `how` does not take or names itself, or an edit that rests in a forward over a text.
    """
    if heads is not None and not wants_heads(how):
        if isinstance(how, str):
            make(how)  # a name that does not exist is told first
        raise UsageError(
            f"{how if isinstance(how, str) else getattr(how, 'name', how)} was asked with heads given apart; it names "
            "its own or has none: leave heads out"
        )
    if isinstance(how, str):
        made = make(how) if heads is None else make(how, heads=list(heads))
    else:
        made = check_interventions([how])[0]
    if getattr(getattr(made, "target", None), "phase", "both") == "decode":
        raise UsageError(
            f"{made.name} was asked; documents are scored in one forward, where edits of decode steps rest: "
            "leave phase out"
        )
    return made


def read_names(heads: object) -> tuple[str, ...] | None:
    """Heads as a tuple of names, each one checked to be a head's; None stays None."""
    if heads is None:
        return None
    if isinstance(heads, str) or not isinstance(heads, Sequence) or not heads:
        raise UsageError(f"heads={heads!r} was asked; give a list of heads, such as ['L18.H6']")
    return tuple(str(one if isinstance(one, HeadId) else HeadId.parse(str(one))) for one in heads)
