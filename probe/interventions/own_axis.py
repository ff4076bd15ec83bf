"""Refuses cross-attention, beforehand, where an intervention compares positions of queries and keys."""

from collections.abc import Mapping

from probe.errors import InterventionError
from probe.interventions.target import Target
from probe.seam.call import Place


def refuse_cross(name: str, target: Target, places: Mapping[str, Place]) -> None:
    """Raise `InterventionError` where the target covers cross-attention, whose keys lie on an axis of their own."""
    cross = sorted(
        place.module for place in places.values() if place.tower == "cross" and target.covers(place)
    )
    if cross:
        shown = ", ".join(cross[:3]) + (f" and {len(cross) - 3} more" if len(cross) > 3 else "")
        raise InterventionError(
            f"{name} was asked; the keys of {shown} are another sequence's, so no key has the query's position: "
            "name tower=decoder or tower=encoder, or heads of those"
        )
