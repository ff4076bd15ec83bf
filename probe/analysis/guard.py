"""An observer that refuses NaN: it names the first layer whose attention is not finite."""

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import ModelError
from probe.seam.call import AttentionCall


class FiniteGuard:
    """Raises `ModelError` at the first layer whose z holds NaN or infinity at a real query."""

    def want(self, call: AttentionCall) -> Want:
        """Nothing beyond z, which is computed anyway."""
        return Want()

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Check one call: one sum of z, looked at closely only if it is not finite."""
        z = attended.z
        if z is None:  # shadow mode computes statistics alone
            value = None if call.scores is None else call.scores.value
            if value is None or _finite(value):
                return
            raise _error(call)
        if not _finite(z) and not bool(torch.isfinite(z[_real(call, z)]).all()):
            raise _error(call)


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values.detach().sum(dtype=torch.float32)))


def _real(call: AttentionCall, z: Tensor) -> Tensor:
    return call.query_real[:, None].expand(z.shape[:3])


def _error(call: AttentionCall) -> ModelError:
    place = call.place
    return ModelError(
        f"attention of {place.module} ({place.tower} layer {place.layer}) is not finite: NaN or infinity came from "
        "its weights or from the layers before it; check the weights, or compute in float32 (dtype='float32')"
    )
