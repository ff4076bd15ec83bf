"""What a sweep edits, one after another: every head, or every layer, that an intervention reaches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probe_kernels.types import Attended, Want

from probe.errors import InterventionError, UsageError
from probe.interventions.target import Target
from probe.models import LoadedModel
from probe.seam.call import AttentionCall, Place
from probe.seam.recorded import blocks
from probe.seam.session import Session
from probe.terms import TOWER_PREFIX, HeadId

OVER = ("heads", "layers")


@dataclass(frozen=True)
class Unit:
    """One head, or (head None) one whole layer."""

    place: Place
    head: int | None

    @property
    def name(self) -> str:
        """``L18.H6``, or ``L18`` for a layer."""
        if self.head is None:
            return f"{TOWER_PREFIX.get(self.place.tower, self.place.tower + '.')}L{self.place.layer}"
        return str(HeadId(self.place.tower, self.place.layer, self.head))

    def narrow(self, intervention: Any) -> Any:
        """The intervention on this unit alone."""
        target: Target = intervention.target
        if self.head is not None:
            alone = replace(target, heads=(HeadId(self.place.tower, self.place.layer, self.head),))
        else:
            alone = replace(target, layers=(self.place.layer,), tower=self.place.tower)
        return replace(intervention, target=alone)


class _Census:
    """Observes which layers run, and how many heads each has."""

    def __init__(self) -> None:
        self.heads: dict[Place, int] = {}

    def want(self, call: AttentionCall) -> Want:
        """Nothing."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Note the layer."""
        self.heads.setdefault(call.place, call.n_heads)


def heads_of(loaded: LoadedModel, run: Any) -> dict[Place, int]:
    """Every attention layer that `run` reaches, in tower and layer order, with its number of heads."""
    census = _Census()
    with Session(loaded.model, [census]) as session:
        run()
        session.require_seen()
    return dict(sorted(census.heads.items(), key=lambda entry: (entry[0].tower, entry[0].layer)))


def units_of(intervention: Any, heads: Mapping[Place, int], over: str) -> list[Unit]:
    """The heads or layers that the intervention's target reaches; raises `UsageError` where there are none."""
    target: Target = intervention.target
    found: list[Unit] = []
    for place, count in heads.items():
        among: Sequence[int] = target.among(place, count)
        found += (
            [Unit(place, head) for head in among] if over == "heads" else [Unit(place, None)] * bool(among)
        )
    if not found:
        raise UsageError(f"a sweep of {intervention.name} was asked; it reaches no {over} of this model")
    return found


def require_narrow(unit: Unit, session: Session) -> None:
    """Raise `InterventionError` where the session's only intervention acted outside its unit's layer."""
    names = [block.name for block in blocks(session.model)]

    def block_of(module: str) -> str | None:
        return next((name for name in names if f"{module}.".startswith(f"{name}.")), None)

    for module in sorted(session.effects.get(0, ())):
        if block_of(module) not in (None, block_of(unit.place.module)):
            raise InterventionError(
                f"{session.interventions[0].name} was asked for {unit.name} alone; it also acted in {module}: it "
                "cannot be swept, use an intervention that edits the heads or layers that it is told"
            )
