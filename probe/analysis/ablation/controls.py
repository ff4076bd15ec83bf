"""Random controls of a list of interventions: as many heads in each layer, none of which any of them edits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from probe.errors import UsageError
from probe.interventions.target import Target
from probe.models import LoadedModel
from probe.seam.places import places
from probe.seam.verify import verified
from probe.terms import HeadId

_TRIES = 50  # draws per control that was asked


@dataclass(frozen=True)
class Control:
    """The interventions on other heads, drawn with a seed."""

    seed: int
    interventions: tuple[Any, ...]
    heads: tuple[str, ...]


def draw_controls(
    interventions: Sequence[Any], loaded: LoadedModel, count: int, seed: int
) -> tuple[tuple[Control, ...], tuple[str, ...]]:
    """`count` different controls, and lines that say why there are fewer.

    Each intervention's own ``control(seed)`` is asked, with seeds from `seed` on; a draw that repeats an earlier one,
    or edits a head that another intervention of the list edits, is drawn again.
    """
    if not count:
        return (), ("no control: none was asked",)
    found: dict[object, Control] = {}
    try:
        edited = heads_of(interventions, loaded)
        for one_seed in range(seed, seed + _TRIES * count):
            drawn = tuple(_control(one, one_seed) for one in interventions)
            heads = heads_of(drawn, loaded)
            key: object = heads or one_seed  # heads of a model that was not verified are not known
            if not heads & edited and key not in found:
                named = tuple(str(head) for head in sorted(heads))
                found[key] = Control(one_seed, drawn, named)
            if len(found) == count:
                break
    except UsageError as error:
        return (), (f"no control: {error}",)
    if not found:
        return (), ("no control: every draw edits a head that another intervention of the list edits",)
    fewer = f"{len(found)} different controls exist or were found; {count} were asked"
    return tuple(found.values()), (fewer,) if len(found) < count else ()


def heads_of(interventions: Sequence[Any], loaded: LoadedModel) -> frozenset[HeadId]:
    """The heads that interventions name, as far as the model's layers are known."""
    known = verified(loaded.model)
    counts = {} if known is None else known.heads
    where = places(loaded.model)
    targets = [target for one in interventions if isinstance(target := getattr(one, "target", None), Target)]
    return frozenset(
        HeadId(where[module].tower, where[module].layer, head)
        for target in targets
        for module, n_heads in counts.items()
        if module in where
        for head in target.among(where[module], n_heads)
    )


def _control(one: Any, seed: int) -> Any:
    if not hasattr(one, "control"):
        raise UsageError(f"{one.name} has none")
    return one.control(seed)
