"""Means of values over a reference, given a key of their row: its position, its token, or nothing at all."""

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
from probe.seam.call import AttentionCall
from probe.seam.session import Session

# The key of every row of a call, -1 where it has none.
KeysOf = Callable[[AttentionCall], Int[Tensor, "batch query_pos"]]
Where = tuple[str, int]  # module and layer: one module may be several layers


@dataclass(frozen=True)
class Table:
    """The mean of some heads per key; a key that was never seen has count 0."""

    heads: tuple[int, ...]
    mean: Float[Tensor, "key head width"]
    count: Int[Tensor, "key"]
    overall: Float[Tensor, "head width"]

    def of(self, heads: tuple[int, ...], where: str) -> list[int]:
        """The places of heads in the table; raises `InterventionError` for one that the reference did not gather."""
        missing = [head for head in heads if head not in self.heads]
        if missing:
            raise InterventionError(f"{where}: the reference has no values of heads {missing}")
        return [self.heads.index(head) for head in heads]


@dataclass
class Sums:
    """Sums of one layer in float64, on the processor: the same numbers whatever the device."""

    heads: tuple[int, ...]
    total: Tensor | None = None  # [key, head, width]
    count: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where the layer computes

    def add(
        self, value: Float[Tensor, "batch head query_pos width"], keys: Int[Tensor, "batch query_pos"]
    ) -> None:
        """Add the rows of one call."""
        self.device, keys = value.device, keys.cpu()
        real = keys >= 0
        if not bool(real.any()):
            return
        rows = value.detach().cpu().transpose(1, 2)[real].double()
        at = keys[real]
        self.total = self._with_room(int(at.max()) + 1, rows).index_add(0, at, rows)
        self.count.index_add_(0, at, torch.ones_like(at))

    def _with_room(self, size: int, rows: Tensor) -> Tensor:
        """The sums with a row for every key below `size`; counts grow with them."""
        before = rows.new_zeros(0, *rows.shape[1:]) if self.total is None else self.total
        more = size - len(self.count)
        if more <= 0:
            return before
        self.count = torch.cat([self.count, self.count.new_zeros(more)])
        return torch.cat([before, before.new_zeros(more, *before.shape[1:])])

    def table(self) -> Table | None:
        """The means; None where no row was seen."""
        if self.total is None:
            return None
        mean = self.total / self.count.clamp_min(1)[:, None, None]
        overall = self.total.sum(0) / int(self.count.sum())
        return Table(
            self.heads, *(one.to(self.device) for one in (mean.float(), self.count, overall.float()))
        )


class Gather:
    """Observer that sums z of the target's heads, or the stream at its layers."""

    def __init__(self, target: Target, node: str, keys_of: KeysOf) -> None:
        self.target, self.node, self.keys_of = target, node, keys_of
        self.sums: dict[Where, Sums] = {}

    def want(self, _call: AttentionCall) -> Want:
        """Nothing beyond z, which every session has."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Add z of one call."""
        if self.node != "z":
            return
        heads = self.target.among(call.place, call.n_heads)
        if not heads:
            return
        if attended.z is None:
            raise UnsupportedAttentionError(
                f"{call.place.module} bypasses transformers' attention registry, so its z cannot be read"
            )
        self._add(call, heads, attended.z[:, list(heads)])

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Hook the blocks where the stream is wanted."""
        if self.node == "z":
            return lambda: None

        def see(call: AttentionCall, stream: Tensor) -> None:
            if self.target.covers(call.place):
                self._add(call, (0,), stream)

        return watch_stream(model, "resid_pre", see)

    def _add(self, call: AttentionCall, heads: tuple[int, ...], value: Tensor) -> None:
        sums = self.sums.setdefault((call.place.module, call.place.layer), Sums(heads))
        sums.add(value, self.keys_of(call).masked_fill(~call.query_real, -1))


def gather(loaded: LoadedModel, feeds: Sequence[Feed], watch: Gather, what: str) -> Mapping[Where, Table]:
    """Run the reference and return the means of every layer; memory is that of the means."""
    run_feeds(loaded, feeds, Session(loaded.model, (watch,)), what)
    made = {where: sums.table() for where, sums in watch.sums.items()}
    tables = {where: table for where, table in made.items() if table is not None}
    if not tables:
        raise InterventionError(
            f"{what} was asked; the reference ran through none of its layers: give another over="
        )
    return tables


def table_at(tables: Mapping[Where, Table], call: AttentionCall, what: str) -> Table:
    """The means of a call's layer; raises `InterventionError` where the reference did not run through it."""
    found = tables.get((call.place.module, call.place.layer))
    if found is None:
        raise InterventionError(
            f"{what} was asked; the reference did not run through {call.place.module} (layer {call.place.layer}): "
            "give over=[model inputs] that do, or name other layers"
        )
    return found
