"""Values of a run, kept row by row: z of chosen heads, or the residual stream, at the real tokens of each sequence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import InterventionError, UnsupportedAttentionError
from probe.interventions.feeds import Feed, run_feeds
from probe.interventions.stream import watch_stream
from probe.interventions.target import Target
from probe.models import LoadedModel
from probe.seam.call import AttentionCall, Place
from probe.seam.session import Session

Layer = tuple[str, int]  # module and layer: one module may be several layers


@dataclass(frozen=True)
class KeptRows:
    """The values of one layer; rows beyond a sequence's length are 0."""

    place: Place
    heads: tuple[int, ...]
    n_heads: int
    lengths: tuple[int, ...]
    values: Float[Tensor, "sequence head query_pos width"]

    def rows(
        self,
        source: Int[Tensor, "batch"],
        at: Int[Tensor, "batch query_pos"],
        heads: Sequence[int],
        where: str,
    ) -> Float[Tensor, "batch chosen query_pos width"]:
        """Rows `at` of sequences `source`; raises `InterventionError` for a head that was not kept."""
        missing = [head for head in heads if head not in self.heads]
        if missing:
            raise InterventionError(f"{where}: heads {missing} were not kept, only {list(self.heads)}")
        columns = torch.tensor([self.heads.index(head) for head in heads], device=self.values.device)
        at = at.clamp(0, self.values.shape[2] - 1)
        return self.values[source[:, None, None], columns[None, :, None], at[:, None, :]]


@dataclass
class _Rows:
    """One layer while its run lasts."""

    place: Place
    heads: tuple[int, ...]
    n_heads: int
    sequences: list[Tensor] = field(default_factory=list)  # [head, token, width]

    def kept(self) -> KeptRows:
        lengths = tuple(int(one.shape[1]) for one in self.sequences)
        first = self.sequences[0]
        values = first.new_zeros(len(lengths), first.shape[0], max(lengths), first.shape[2])
        for row, one in enumerate(self.sequences):
            values[row, :, : one.shape[1]] = one
        return KeptRows(self.place, self.heads, self.n_heads, lengths, values)


class KeepRows:
    """Observer that keeps z (``z``), or what enters (``resid``) or leaves (``resid_post``) a block."""

    def __init__(self, target: Target, node: str, fits: Callable[[int], None] | None = None) -> None:
        self.target, self.node = target, node
        self.fits = fits  # told how many numbers are kept per token, whenever that grows
        self.layers: dict[Layer, _Rows] = {}
        self._width = 0

    def want(self, _call: AttentionCall) -> Want:
        """Nothing beyond z, which every session has."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep z of one call."""
        heads = self.target.among(call.place, call.n_heads) if self.node == "z" else ()
        if not heads:
            return
        if attended.z is None:
            raise UnsupportedAttentionError(
                f"{call.place.module} bypasses transformers' attention registry, so its z cannot be read"
            )
        self._keep(call, heads, attended.z[:, list(heads)])

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Hook the blocks where the stream is wanted."""
        if self.node == "z":
            return lambda: None

        def see(call: AttentionCall, stream: Tensor) -> None:
            if self.target.covers(call.place):
                self._keep(call, (0,), stream)

        return watch_stream(model, "resid_post" if self.node == "resid_post" else "resid_pre", see)

    def kept(self) -> Mapping[Layer, KeptRows]:
        """What was kept of every layer."""
        return {key: rows.kept() for key, rows in self.layers.items()}

    def _keep(self, call: AttentionCall, heads: tuple[int, ...], value: Tensor) -> None:
        key = (call.place.module, call.place.layer)
        if key not in self.layers:
            self.layers[key] = _Rows(call.place, heads, call.n_heads)
            self._width += value.shape[1] * value.shape[3]
            if self.fits is not None:
                self.fits(self._width)
        value, index = value.detach(), call.query_index
        for row in range(len(value)):
            self.layers[key].sequences.append(value[row][:, index[row] >= 0].clone())


def keep_rows(
    loaded: LoadedModel, feeds: Sequence[Feed], keep: KeepRows, what: str
) -> Mapping[Layer, KeptRows]:
    """Run the feeds and return what was kept of every layer."""
    run_feeds(loaded, feeds, Session(loaded.model, (keep,)), what)
    if not keep.layers:
        raise InterventionError(f"{what} was asked; its runs passed through none of its layers: give others")
    return keep.kept()


def kept_at(kept: Mapping[Layer, KeptRows], call: AttentionCall, what: str) -> KeptRows:
    """What was kept of a call's layer; raises `InterventionError` where the run did not pass through it."""
    found = kept.get((call.place.module, call.place.layer))
    if found is None:
        raise InterventionError(
            f"{what} was asked; its other run did not pass through {call.place.module} (layer {call.place.layer}): "
            "give model inputs that do, or name other layers"
        )
    return found
