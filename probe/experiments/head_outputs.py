"""Head outputs z, before W_O, at the last rows of one sequence."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating
from probe.seam.call import AttentionCall
from probe.seam.session import Session

Outputs = Mapping[int, Float[Tensor, "head row d_head"]]


def last_outputs(loaded: LoadedModel, inputs: Mapping[str, Any], count: int) -> tuple[Outputs, list[str]]:
    """Outputs of every decoder layer at its last `count` real rows, in one forward, and the lines a reader must see.

    Layers that give no z (the model bypasses the attention registry) are left out. Raises `UnseenLayersError` where no
    attention was seen.
    """
    model = loaded.model
    accepts = inspect.signature(model.forward).parameters
    frugal = {k: v for k, v in {"logits_to_keep": 1, "use_cache": False}.items() if k in accepts}
    given = {k: v.to(loaded.device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    watch = _Watch(count)
    with evaluating(model), torch.no_grad(), Session(model, [watch]) as session:
        model(**{**frugal, **given})
        session.require_seen()
        return watch.z, session.notes


class _Watch:
    """The observer behind `last_outputs`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.z: dict[int, Tensor] = {}

    def want(self, call: AttentionCall) -> Want:
        """Head outputs of the decoder."""
        return Want(z=call.place.tower == "decoder")

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep a layer's last rows."""
        if call.place.tower == "decoder" and attended.z is not None:
            real = attended.z[0][:, call.query_real[0]]
            self.z[call.place.layer] = real[:, -self._count :].detach().clone()
