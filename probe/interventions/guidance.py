"""Guidance: push the model's logits away from those of an edited run of itself."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probe_kernels.types import Attended, Edits
from torch import Tensor

from probe.errors import InterventionError, UsageError
from probe.interventions.base import Prepares, Requires, edits_something
from probe.interventions.target import Target
from probe.interventions.twins import Twins
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Batch, Phase, Place
from probe.seam.stage import Stage


@dataclass(frozen=True)
class Guidance:
    """logits := original + w · (original - edited), where edited is the same forward under other interventions."""

    interventions: tuple[Any, ...]
    w: float

    @property
    def name(self) -> str:
        """How reports name it: ``guidance:w=2 of [to_identity:heads=L1.H0]``."""
        return f"guidance:w={self.w:g} of [{'; '.join(str(one.name) for one in self.interventions)}]"

    @property
    def may_rest(self) -> bool:
        """Whether all that it guides away from may change nothing."""
        return all(getattr(one, "may_rest", False) for one in self.interventions)

    def control(self, seed: int) -> "Guidance":
        """The same around the controls of its interventions, drawn with `seed`."""
        return replace(self, interventions=tuple(one.control(seed) for one in self.interventions))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Refuse what its interventions refuse, and edits of an encoder, which runs once before both passes."""
        encoders = [place for place in places.values() if place.tower == "encoder"]
        decodes = any(place.tower in ("decoder", "cross") for place in places.values())
        for one in self.interventions:
            target = getattr(one, "target", None)
            if isinstance(one, Requires):
                one.require(places, heads)
            elif isinstance(target, Target):
                target.require(places, heads)
            if (
                decodes
                and encoders
                and not (isinstance(target, Target) and not any(map(target.covers, encoders)))
            ):
                raise InterventionError(
                    f"{self.name} was asked; {one.name} edits the encoder too, whose output generate() computes once "
                    "for both passes: name tower=decoder or tower=cross"
                )

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "Guidance":
        """The same with its interventions ready for use."""
        made = (
            one.prepare(loaded, prompts) if isinstance(one, Prepares) else one for one in self.interventions
        )
        return replace(self, interventions=tuple(made))

    def live(self) -> "Guiding":
        """The two passes of one session, with a state of their own."""
        running = tuple(one.live() if hasattr(one, "live") else one for one in self.interventions)
        return Guiding(self.name, self.w, running)


class Guiding:
    """One session's guidance: which pass runs now, and the caches of the edited pass."""

    def __init__(self, name: str, w: float, running: tuple[Any, ...]) -> None:
        self.name, self.w, self.running = name, w, running
        self._editing = False  # whether the pass in flight is the edited one
        self._twins = Twins()

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the interventions inside."""
        return [line for one in self.running for line in getattr(one, "notes", ())]

    def call(self, call: AttentionCall) -> AttentionCall:
        """The call as the interventions inside make it, in the edited pass."""
        for one in self._now("call"):
            call = one.call(call)
        return call

    def edits(self, call: AttentionCall) -> Edits:
        """The edits of the interventions inside, in order, in the edited pass."""
        made = [one.edits(call) for one in self._now("edits")]
        return Edits(
            tuple(edit for edits in made for edit in edits.scores),
            tuple(edit for edits in made for edit in edits.probs),
        )

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result as the interventions inside make it, in the edited pass."""
        for one in self._now("attended"):
            attended = one.attended(call, attended)
        return attended

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Hook what the interventions inside hook, and let every forward of the model be two passes."""
        inside = replace(stage, now=lambda: stage.now() if self._editing else None)
        undo = [one.attach(inside) for one in self.running if hasattr(one, "attach")]
        undo += [self._twins.attach(), self._wrap(stage)]

        def close() -> None:
            while undo:
                undo.pop()()

        return close

    def _now(self, method: str) -> list[Any]:
        return [one for one in self.running if hasattr(one, method)] if self._editing else []

    def _wrap(self, stage: Stage) -> Callable[[], None]:
        model, before = stage.model, stage.model.__dict__.get("forward")
        original = model.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            now = stage.now()
            if now is None or self._editing:
                return original(*args, **kwargs)
            return self._both(stage, now, lambda more: original(*args, **more), kwargs)

        model.forward = forward  # on this model only: generate() reads its signature, which `wraps` keeps

        def unwrap() -> None:
            if before is None:
                model.__dict__.pop("forward", None)
            else:
                model.forward = before

        return unwrap

    def _both(
        self,
        stage: Stage,
        now: tuple[Batch, Phase],
        run: Callable[[dict[str, Any]], Any],
        kwargs: dict[str, Any],
    ) -> Any:
        """Original and edited pass; what is returned is the original's output with guided logits."""
        if kwargs.get("labels") is not None:
            raise InterventionError(
                f"{self.name} was asked of a forward with labels; the model's loss would be that of one pass: "
                "leave labels out and compute the loss from the logits"
            )
        beside = self._twins.beside(kwargs)
        with stage.quiet():
            base = run(dict(kwargs))
        original = self._logits(base, stage)
        for one in self.running:
            if hasattr(one, "inputs"):
                made = one.inputs(beside, *now)
                if made is not beside:
                    stage.fired("")
                beside = made
        self._editing = True
        try:
            with stage.again():
                other = run(beside)
        finally:
            self._editing = False
        self._twins.pair(getattr(base, "past_key_values", None), getattr(other, "past_key_values", None))
        base["logits"] = original + self.w * (original - self._logits(other, stage))
        return base

    def _logits(self, output: Any, stage: Stage) -> Tensor:
        logits = output.get("logits") if isinstance(output, dict) else None
        if not isinstance(logits, Tensor):
            raise InterventionError(
                f"{self.name} was asked; {type(stage.model).__name__} returned no logits: "
                "load it with its language model head, and leave return_dict as it is"
            )
        return logits


def guidance(edits: Sequence[Any], w: float) -> Guidance:
    """Steer away from an edited run: logits + w · (original - edited), in every forward and every step of generate().

    The guidance of perturbed-attention methods: PAG, SoftPAG and HeadHunter (Ahn et al. 2025) with ``to_identity``, and
    classifier-free guidance with a knocked-out prompt. Every forward runs the model twice, with a KV cache for each
    run: twice the time. Statistics are those of the edited run. The output's other fields are the original's.

    Args:
        edits: The interventions of the edited run, applied in order.
        w: How far, any finite number but 0; negative steers towards the edited run (-1 is the edited run itself).

    Raises:
        UsageError: no interventions, one that edits nothing, or w = 0, which would change nothing.
    """
    if isinstance(edits, str) or not isinstance(edits, Sequence) or not edits:
        raise UsageError(f"guidance around {edits!r} was asked; give a list of interventions")
    for one in edits:
        if not edits_something(one):
            raise UsageError(f"guidance around {one!r} was asked; it has none of the methods that edit")
    if isinstance(w, bool) or not isinstance(w, int | float) or not math.isfinite(w) or w == 0:
        raise UsageError(f"guidance with w={w!r} was asked; w is a finite number other than 0")
    return Guidance(tuple(edits), float(w))
