"""Interventions made ready for one model: checked against it, verified to take effect, and prepared."""

from collections.abc import Sequence
from typing import Any

from probe.analysis.first_use import verify_on_first_use
from probe.errors import InterventionError, UnseenLayersError, UsageError
from probe.interventions.base import Prepares, Requires, edits_something
from probe.interventions.contradictions import require_agreement
from probe.interventions.named_spans import require_spans
from probe.interventions.target import Target
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.declared import declared_heads
from probe.seam.hub import hub_of
from probe.seam.places import places
from probe.seam.session import Session


def check_interventions(interventions: object) -> tuple[Any, ...]:
    """The interventions as a tuple; raises `UsageError` for anything that edits nothing."""
    if not isinstance(interventions, Sequence) or isinstance(interventions, str):
        raise UsageError(f"interventions={interventions!r} was asked; give a list of them")
    for one in interventions:
        if not edits_something(one):
            raise UsageError(
                f"{one!r} was asked as an intervention; it has none of the methods that edit: "
                "use probe.interventions"
            )
    return tuple(interventions)


def require_places(interventions: Sequence[Any], loaded: LoadedModel) -> None:
    """Refuse, before anything runs, what the model does not have.

    Heads are checked where their number is known: seen when the model was verified, or stated by its modules.
    """
    found = places(loaded.model)
    known = verify_on_first_use(loaded.model) if interventions else None
    heads = {**declared_heads(loaded.model), **(known.heads if known is not None else {})}
    for one in interventions:
        target = getattr(one, "target", None)
        if isinstance(one, Requires):
            one.require(found, heads)
        elif isinstance(target, Target):
            target.require(found, heads)


def ready(
    interventions: object, loaded: LoadedModel, prompts: Sequence[Prompt] | None = None
) -> tuple[Any, ...]:
    """The interventions, checked and prepared for a model, before its first forward.

    Raises:
        UsageError: something that edits nothing, or that needs prompts where none are known.
        UnknownNameError: a tower, layer or head that the model does not have, or a span that a prompt does not have.
        InterventionError: an intervention that cannot act on this model, or two that contradict each other.
        CaptureError: the model was verified on first use, and edits would not take effect.
    """
    edits = check_interventions(interventions)
    require_places(edits, loaded)
    hub = hub_of(loaded.model)
    around = [one for member in hub.members for one in member.interventions] if hub is not None else []
    for alike in _lists(edits):
        require_spans(alike, prompts or ())
        require_agreement([*around, *alike] if alike is edits else alike, places(loaded.model), prompts)
    return tuple(one.prepare(loaded, prompts) if isinstance(one, Prepares) else one for one in edits)


def _lists(edits: Sequence[Any]) -> list[Sequence[Any]]:
    """The list itself, and the lists inside it, such as those that guidance runs."""
    inside = [one.interventions for one in edits if isinstance(getattr(one, "interventions", None), tuple)]
    return [edits, *(found for one in inside for found in _lists(one))]


def require_edited(interventions: Sequence[Any], session: Session) -> None:
    """Raise `UnseenLayersError` where an edited layer ran without reaching the seam, so that no edit is lost."""
    for one in interventions:
        target = getattr(one, "target", None)
        if not isinstance(target, Target):
            continue
        for module in session.unseen_layers:
            if target.covers(session.hub.places[module]) and not hasattr(one, "attach"):
                raise UnseenLayersError(
                    f"{one.name} was asked; the attention of {module} bypasses transformers' registry, so it was not "
                    "edited: name layers that are seen"
                )


def require_effect(session: Session) -> None:
    """Raise `InterventionError` where forwards ran and an intervention changed nothing in any of them.

    One that chooses by what it sees may rest (an attribute ``may_rest``): it is told in the session's notes instead.
    """
    if not session.n_forwards:
        return
    for one in session.idle:
        if getattr(one, "may_rest", False):
            continue
        raise idle_error(one, session.n_forwards, sorted(session.census) or sorted(session.hub.places))


def idle_error(one: Any, n_forwards: int, layers: Sequence[str]) -> InterventionError:
    """The error for an intervention that changed nothing in any forward."""
    shown = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
    return InterventionError(
        f"{one.name} was asked; it changed nothing in {n_forwards} forwards through {shown}: "
        "look at its phase, its spans and its layers"
    )
