"""W_O of every attention layer of a decoder, told by what it is given in one forward."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Int
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import CaptureError
from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating
from probe.seam.call import AttentionCall
from probe.seam.places import places
from probe.seam.projection import Projection, ProjectionWatch
from probe.seam.session import Session


class _Tell:
    """Observer that tells a watch each layer's z."""

    def __init__(self, watch: ProjectionWatch) -> None:
        self.watch = watch

    def want(self, call: AttentionCall) -> Want:
        """Z."""
        return Want()

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Pass z on."""
        if attended.z is not None and call.place.tower == "decoder":
            self.watch.seen(call.place.module, attended.z)


def projections_of(loaded: LoadedModel, ids: Int[Tensor, "batch position"]) -> Mapping[str, Projection]:
    """W_O by attention module; empty where it cannot be told in this model."""
    model: Any = loaded.model
    names = [name for name, place in places(model).items() if place.tower == "decoder"]
    watch = ProjectionWatch(model, names, lambda *_: None)
    try:
        with evaluating(model), Session(model, [_Tell(watch)], mode="fused"):
            model(input_ids=ids)
    except CaptureError:
        return {}
    finally:
        watch.close()
    return dict(watch.projections)
