"""Where an intervention applies: which heads, layers, towers and phases; and the matched random control."""

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.errors import UnknownNameError, UsageError
from probe.seam.call import AttentionCall, Place
from probe.terms import HeadId


@dataclass(frozen=True)
class Target:
    """A choice of heads; `heads` None means every head of the chosen layers and towers.

    With `control_seed` set, every layer's heads are replaced by as many others of it, drawn at random.
    """

    heads: tuple[HeadId, ...] | None = None
    layers: tuple[int, ...] | None = None
    tower: str | None = None
    phase: str = "both"  # prefill, decode or both
    control_seed: int | None = None

    @classmethod
    def of(
        cls,
        heads: Iterable[str | HeadId] | None,
        layers: Iterable[int] | None,
        tower: str | None,
        phase: str,
    ) -> "Target":
        """Read what a user typed; raises `UsageError` on a head, layer or phase that cannot be one."""
        if phase not in ("prefill", "decode", "both"):
            raise UsageError(f"phase {phase!r} was asked; it is one of prefill, decode, both")
        if isinstance(heads, str):
            raise UsageError(f"heads={heads!r} was asked; give a list of heads, such as [{heads!r}]")
        named = None
        if heads is not None:
            named = tuple(sorted({h if isinstance(h, HeadId) else HeadId.parse(h) for h in heads}))
            if not named:
                raise UsageError(
                    "heads=[] was asked; name at least one head, or leave heads out for all of them"
                )
        chosen = None if layers is None else tuple(sorted({int(layer) for layer in layers}))
        if chosen is not None and not chosen:
            raise UsageError(
                "layers=[] was asked; name at least one layer, or leave layers out for all of them"
            )
        return cls(named, chosen, tower, phase)

    def control(self, seed: int) -> "Target":
        """As many other heads in each layer, drawn with `seed`; raises `UsageError` if all are chosen."""
        if self.heads is None:
            raise UsageError(
                "a control was asked for every head of a layer; name heads=[...] so that others remain"
            )
        return replace(self, control_seed=seed)

    def applies(self, call: AttentionCall) -> bool:
        """Whether any head of this call is chosen."""
        return self.phase in ("both", call.phase) and self.covers(call.place)

    def covers(self, place: Place) -> bool:
        """Whether any head of this layer is chosen, whatever the phase."""
        return (
            (self.tower is None or place.tower == self.tower)
            and (self.layers is None or place.layer in self.layers)
            and (self.heads is None or bool(self._named(place)))
        )

    def head_mask(self, call: AttentionCall) -> Bool[Tensor, "head"]:
        """True at the chosen heads of a call; raises `UnknownNameError` for a head that is not there."""
        n_heads = call.n_heads
        mask = torch.zeros(n_heads, dtype=torch.bool, device=call.layout.query_pos.device)
        if not self.applies(call):
            return mask
        if self.heads is None:
            return ~mask
        place = call.place
        chosen = self._named(place)
        for head in chosen:
            if head >= n_heads:
                asked = str(HeadId(place.tower, place.layer, head))
                known = [str(HeadId(place.tower, place.layer, h)) for h in range(n_heads)]
                raise UnknownNameError.of("head", asked, known)
        if self.control_seed is not None:
            chosen = self._others(call, chosen)
        mask[chosen] = True
        return mask

    def require(self, places: Collection[Place]) -> None:
        """Raise `UnknownNameError` where a chosen layer or tower does not exist, so that no edit is lost."""
        towers = {place.tower for place in places}
        if self.tower is not None and self.tower not in towers:
            raise UnknownNameError.of("tower", self.tower, towers)
        found = {(place.tower, place.layer) for place in places}
        for head in self.heads or ():
            if (head.tower, head.layer) not in found:
                first = sorted(str(HeadId(tower, layer, 0)) for tower, layer in found)
                raise UnknownNameError.of("head", str(head), first)
        for layer in self.layers or ():
            if not any(number == layer and self.tower in (None, tower) for tower, number in found):
                raise UnknownNameError.of("layer", str(layer), {str(number) for _, number in found})

    def _named(self, place: Place) -> list[int]:
        return [h.head for h in self.heads or () if (h.tower, h.layer) == (place.tower, place.layer)]

    def _others(self, call: AttentionCall, chosen: list[int]) -> list[int]:
        others = [head for head in range(call.n_heads) if head not in chosen]
        if len(others) < len(chosen):
            raise UsageError(
                f"a control for {len(chosen)} of {call.n_heads} heads of {call.place.module} was asked; "
                f"only {len(others)} other heads are left: edit at most half of a layer's heads"
            )
        draw = random.Random(f"{self.control_seed}/{call.place.tower}/{call.place.layer}")  # noqa: S311 -- not a secret
        return sorted(draw.sample(others, len(chosen)))

    def __str__(self) -> str:
        parts = []
        if self.heads is not None:
            parts.append("heads=" + "+".join(map(str, self.heads)))
        if self.layers is not None:
            parts.append("layers=" + "+".join(map(str, self.layers)))
        if self.tower is not None:
            parts.append(f"tower={self.tower}")
        if self.phase != "both":
            parts.append(f"phase={self.phase}")
        if self.control_seed is not None:
            parts.append(f"control={self.control_seed}")
        return ",".join(parts)
