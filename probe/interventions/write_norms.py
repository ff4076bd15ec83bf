"""How much each head writes into the residual stream, ‖W_O z‖, without making what it writes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import CaptureError, InterventionError
from probe.interventions.feeds import feeds_of, run_feeds
from probe.models import LoadedModel
from probe.seam.call import AttentionCall
from probe.seam.projection import Projection, ProjectionWatch, head_slices, matrix
from probe.seam.session import Session

Factor = Float[Tensor, "head d_head rank"]

_PLAIN = "choose by z_norm, which every model has"


def write_factors(
    loaded: LoadedModel, tokens: Sequence[int], wanted: Sequence[str], asked: str
) -> dict[str, Factor]:
    """Per attention module and head the triangular R with ‖z R‖ = ‖z W_O[h]‖: the QR factor of W_O[h] transposed.

    W_O is found by what it is given, in one forward on `tokens`.

    Raises:
        InterventionError: `asked` cannot be done: no output projection was found in a wanted layer, or the model
            changes z before it.
        UsageError: the model is being observed or edited already.
    """
    feeds = feeds_of([torch.tensor(list(tokens))], loaded, asked)
    finder = _Finder(loaded.model, list(wanted))
    try:
        run_feeds(loaded, feeds, Session(loaded.model, (finder,), mode="shadow"), asked)
    except CaptureError as error:
        raise InterventionError(f"{asked} was asked; {error}: {_PLAIN}") from error
    finally:
        finder.close()
    found = finder.projections
    missing = [name for name in wanted if name not in found or not found[name].exact]
    if missing:
        raise InterventionError(
            f"{asked} was asked; {missing[0]} has no output projection that is given z itself: {_PLAIN}"
        )
    return {name: _factor(found[name]) for name in wanted}


def write_norms(
    attended: Attended, factor: Factor, heads: tuple[int, ...]
) -> Float[Tensor, "batch chosen query_pos"]:
    """‖W_O[h] z_h‖ of some heads, without the bias."""
    if attended.z is None:
        raise ValueError("write norms need z")
    index = torch.tensor(heads, device=attended.z.device)
    factor = factor.to(attended.z.device).index_select(0, index)
    chosen = attended.z.index_select(1, index).to(factor.dtype)
    norms: Tensor = torch.linalg.vector_norm(chosen @ factor, dim=-1)
    return norms


class _Finder:
    """An observer that shows every layer's z to the watch on its output projection."""

    def __init__(self, model: nn.Module, wanted: list[str]) -> None:
        self._wanted = frozenset(wanted)
        self._watch = ProjectionWatch(model, wanted, lambda *_: None)

    def want(self, call: AttentionCall) -> Want:
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        if call.place.module in self._wanted and attended.z is not None:
            self._watch.seen(call.place.module, attended.z)

    def close(self) -> None:
        self._watch.close()

    @property
    def projections(self) -> dict[str, Projection]:
        return self._watch.projections


def _factor(projection: Projection) -> Factor:
    weight = matrix(projection.module)
    width = projection.n_heads * projection.d_head
    with torch.no_grad():
        if weight is None:  # quantised, or with an adapter: what it does to unit vectors is its matrix
            of = next(projection.module.parameters())
            dtype = of.dtype if of.is_floating_point() else torch.float32
            unit = torch.eye(width, dtype=dtype, device=of.device)
            weight = projection.module(unit[None])[0] - projection.module(torch.zeros_like(unit[None, :1]))[0]
        wide = weight if weight.dtype == torch.float64 else weight.float()
        slices = head_slices(projection.n_heads, projection.d_head)
        parts = [torch.linalg.qr(wide[part].T, mode="r").R.T for part in slices]
    return torch.stack(parts)
