"""Values from elsewhere put in the place of a run's own: z of chosen heads, or the residual stream at a block."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from probe_kernels.types import Attended
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.editing import edit_z
from probe.interventions.stream import Side, watch_stream
from probe.interventions.target import Target, on_rows
from probe.seam.call import AttentionCall
from probe.seam.stage import Stage

NODES = ("z", "resid")
Rows = Bool[Tensor, "batch query_pos"] | None  # None: every row
Given = tuple[Float[Tensor, "#batch chosen #query_pos width"], Rows]  # values, and the rows that have any


@runtime_checkable
class Values(Protocol):
    """Where values come from."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines that a reader of the numbers must see."""

    def at(self, call: AttentionCall, heads: tuple[int, ...], rows: Rows) -> Given:
        """The values of some heads of a call (head 0 is the stream at a block); `rows` are those that are asked."""


class InZ:
    """z := the values, at the target's heads and rows."""

    def __init__(self, target: Target, values: Values) -> None:
        self.target, self.values = target, values

    @property
    def notes(self) -> Sequence[str]:
        """What the values have to say."""
        return self.values.notes

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with z replaced."""
        return replaced_z(self.target, self.values, call, attended)


class InStream:
    """The residual stream entering, or leaving, the target's layers := the values, at its rows."""

    def __init__(self, target: Target, values: Values, side: Side = "resid_pre") -> None:
        self.target, self.values, self.side = target, values, side

    @property
    def notes(self) -> Sequence[str]:
        """What the values have to say."""
        return self.values.notes

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Hook the blocks."""

        def see(call: AttentionCall, stream: Tensor) -> Tensor | None:
            if not self.target.applies(call):
                return None
            rows = self.target.rows_of(call)
            if rows is not None and not bool(rows.any()):
                return None
            value, have = self.values.at(call, (0,), rows)
            chosen = _both(rows, have)
            if chosen is not None and not bool(chosen.any()):
                return None
            stage.fired(call.place.module)
            value = value.to(stream.dtype).expand_as(stream)
            return on_rows(value, stream, None if chosen is None else chosen[:, None, :, None])

        return watch_stream(stage.model, self.side, see)


def replaced_z(target: Target, values: Values, call: AttentionCall, attended: Attended) -> Attended:
    """The result with z of the target's heads and rows replaced; the same object where nothing is."""
    heads, rows = target.heads_of(call), target.rows_of(call)
    if attended.z is None or not heads or (rows is not None and not bool(rows.any())):
        return attended
    value, have = values.at(call, heads, rows)
    if have is not None and not bool(have.any()):
        return attended

    def change(z: Tensor) -> Tensor:
        return on_rows(value.to(z.dtype).expand_as(z), z, None if have is None else have[:, None, :, None])

    return edit_z(target, call, attended, change)


def node_target(target: Target, node: str, what: str, nodes: Sequence[str] = NODES) -> Target:
    """The target as it fits a node; raises `UsageError` for an unknown node, or heads of a residual stream."""
    if node not in nodes:
        raise UsageError(f"{what} with node={node!r} was asked; there are {', '.join(nodes)}")
    if not node.startswith("resid"):
        return target
    if target.heads is not None:
        raise UsageError(
            f"{what} with node={node!r} was asked for heads; a stream has none: name layers=[...]"
        )
    if target.tower == "cross":
        raise UsageError(f"{what} with node={node!r} was asked for tower=cross; its blocks are the decoder's")
    return target


def _both(one: Rows, other: Rows) -> Rows:
    return other if one is None else one if other is None else one & other
