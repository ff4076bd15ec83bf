"""The observer that cuts what was asked out of every forward and hands it to a store, piece by piece."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from probe_kernels.types import Attended, Scores, Want
from torch import Tensor, nn

from probe.analysis.captured.ask import Ask
from probe.analysis.captured.cut import Cut, to_numpy, weigh
from probe.analysis.captured.kinds import KINDS
from probe.analysis.captured.labels import TokenAxes, real_index
from probe.analysis.captured.numbering import Numbering
from probe.analysis.captured.pieces import Extent, Piece, Slot
from probe.errors import CaptureError
from probe.seam.call import Activation, AttentionCall, Point
from probe.seam.places import places
from probe.seam.projection import Projection, ProjectionWatch

_EXACT = frozenset({"pattern", "scores", "lse"})  # computed here, in float32, from q and k
_SWEPT = frozenset({"pattern", "lse"})  # of these, what the kernel gives by itself in fused mode


@runtime_checkable
class Store(Protocol):
    """Where pieces go."""

    def add(self, slot: Slot, piece: Piece) -> None:
        """Take one piece."""


@dataclass
class CaptureObserver:
    """Cuts what `ask` wants out of the forwards of one item."""

    ask: Ask
    axes: TokenAxes
    store: Store
    numbering: Numbering
    fused: bool
    notes: list[str] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)
    _newest: dict[Slot, int] = field(default_factory=dict)
    _rows_done: dict[Slot, int] = field(default_factory=dict)
    _cut: tuple[AttentionCall, Cut] | None = None
    _projecting: dict[str, tuple[AttentionCall, Cut]] = field(default_factory=dict)
    _watch: ProjectionWatch | None = None

    @property
    def points(self) -> frozenset[Point]:
        """The asked points of the residual stream."""
        return self.ask.points  # type: ignore[return-value]

    def attach(self, model: nn.Module) -> Callable[[], None]:
        """Watch the output projections, if ``head_out`` was asked; returns the undo."""
        if "head_out" not in self.ask.what:
            return lambda: None
        wanted = [name for name, place in places(model).items() if self.ask.wants(place.tower, place.layer)]
        self._watch = ProjectionWatch(model, wanted, self._head_out)
        return self._watch.close

    def want(self, call: AttentionCall) -> Want:
        """In fused mode the pattern and the normaliser of the sweep itself; in shadow mode nothing."""
        asked = self.ask.at_attention
        if not asked or not self.ask.wants(call.place.tower, call.place.layer):
            self._cut = None
            return Want(z=False)
        if call.batch.reordered:
            raise CaptureError("a capture was asked; beams swapped its sequences: generate without beams")
        cut = Cut.of(call, self.ask, self.axes)
        self._cut = (call, cut)
        self.seen.add((call.place.tower, call.place.layer))
        if not self.fused or call.scores is None:
            return Want(z=False)
        swept = cut.picker(lambda mine, cells: self._hand_on("pattern", call, mine, cells))
        rows = {f"capture-{id(self)}": swept} if "pattern" in asked else {}
        return Want(z=False, lse="lse" in asked, rows=rows)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Hand on what was asked of one call."""
        if self._cut is None:
            return
        known, cut = self._cut
        self._cut = None
        if known.place != call.place:
            raise CaptureError(
                f"{call.place.module} was asked; the calls of {known.place.module} came between"
            )
        if call.scores is None:
            self._hand_on("pattern", call, cut, self._returned(call, cut))
            return
        if attended.z is None:
            raise CaptureError(f"{call.place.module} was asked; its attention gave no output")
        if "head_out" in self.ask.what and self._watch is not None:
            self._projecting[call.place.module] = (call, cut)
            self._watch.seen(call.place.module, attended.z)
        formed = (self.ask.at_attention & _EXACT) - (_SWEPT if self.fused else frozenset())
        for mine, made in weigh(call, cut, formed) if formed else ():
            for name, values in made.items():
                self._hand_on(name, call, mine, values)
        for name, values in self._given(call.scores, cut, attended):
            self._hand_on(name, call, cut, values)

    def _given(self, scores: Scores, cut: Cut, attended: Attended) -> Iterator[tuple[str, Tensor]]:
        """What need not be computed: the sweep's normaliser, z, and what the scores are made from."""
        device = scores.query.device
        rows, keys = cut.rows.to(device), cut.keys.to(device)
        by_query = {"lse": attended.lse if self.fused else None, "z": attended.z, "q": scores.query}
        by_key = {"k": scores.key, "v": scores.value}
        for name in self.ask.what:
            query_side, key_side = by_query.get(name), by_key.get(name)
            if query_side is not None:
                yield name, query_side[:, cut.heads][:, :, rows]
            if key_side is not None:
                yield name, key_side[:, cut.kv_heads][:, :, keys]

    def _returned(self, call: AttentionCall, cut: Cut) -> Tensor:
        """The eager fallback knows the pattern alone."""
        other = sorted(self.ask.at_attention - {"pattern"})
        if other or call.pattern is None:
            raise CaptureError(
                f"{', '.join(other)} of {call.place.module} was asked; this model bypasses transformers' attention "
                "registry and returns only its pattern: ask for pattern and the residual points"
            )
        rows, keys = cut.rows.to(call.pattern.device), cut.keys.to(call.pattern.device)
        return call.pattern[:, cut.heads][:, :, rows][..., keys].float()

    def _head_out(self, module: str, projection: Projection, given: Tensor) -> None:
        call, cut = self._projecting.pop(module)
        if not projection.exact:
            self.notes.append(
                f"head_out of {module}: the model changes z before W_O (a gate or a norm); "
                f"what {projection.name} was given is projected"
            )
        with torch.no_grad():
            values = projection.head_out(given[:, cut.rows.to(given.device)], cut.heads)
        self._hand_on("head_out", call, cut, values)

    def _hand_on(self, name: str, call: AttentionCall, cut: Cut, values: Tensor) -> None:
        """Split by sequence, keep only what that sequence asks, and give it to the store."""
        kind = KINDS[name]
        heads = tuple(cut.kv_heads if kind.head_axis == "kv_head" else cut.heads)
        for row, prompt in enumerate(call.batch.prompts):
            number = self.numbering.of(call.place.tower, "call", prompt)
            slot = Slot(name, number, call.place.tower, call.place.layer)
            mine = values[row]
            rows = keys = np.zeros(0, np.int64)
            if "query_pos" in kind.axes:
                at = np.flatnonzero(cut.row_index[row] >= 0)
                rows = cut.row_index[row][at]
                mine = mine[:, torch.from_numpy(at).to(mine.device)]
                self._once(slot, rows, call)
            if "key_pos" in kind.axes:
                at = self._keys(slot, cut.key_index[row], whole="query_pos" in kind.axes)
                keys = cut.key_index[row][at]
                columns = torch.from_numpy(at).to(mine.device)
                mine = mine[..., columns] if "query_pos" in kind.axes else mine[:, columns]
            if len(rows) or ("query_pos" not in kind.axes and len(keys)):
                self.store.add(slot, Piece(to_numpy(mine), Extent(heads, rows, keys)))

    def _keys(self, slot: Slot, index: np.ndarray, *, whole: bool) -> np.ndarray:
        """The columns to keep: all that are asked, and of keys and values only those not kept before."""
        at = np.flatnonzero(index >= 0)
        if whole:
            return at
        at = at[index[at] > self._newest.get(slot, -1)]
        if len(at):
            self._newest[slot] = int(index[at].max())
        return at

    def _once(self, slot: Slot, rows: np.ndarray, call: AttentionCall) -> None:
        """Refuse a second answer for the same rows: nobody could tell the two apart."""
        done = self._rows_done.get(slot, -1)
        if len(rows) and int(rows.min()) <= done:
            raise CaptureError(
                f"{slot.name} of {call.place.module} was asked; it attends more than once to the same queries, "
                "or tokens were revisited, so one array cannot hold it: use probe.observe with an observer of your own"
            )
        if len(rows):
            self._rows_done[slot] = int(rows.max())

    def activation(self, seen: Activation) -> None:
        """Hand on the asked tokens of the residual stream."""
        place = seen.place
        if not self.ask.wants(place.tower, place.layer):
            return
        self.seen.add((place.tower, place.layer))
        width, length = seen.value.shape[:2]
        batched = width == len(seen.batch.prompts)
        real = seen.batch.real
        if place.tower == "encoder" and self.axes.encoder_decoder:
            real = self.axes.given_real
        index = real_index(real if batched else None, width, seen.start, length)
        for row in range(width):
            axis = self.axes.axis(place.tower, "query", row)
            at = np.flatnonzero(self.ask.queries.chosen(index[row], axis))
            if not len(at):
                continue
            prompt = seen.batch.prompts[row] if batched else row
            number = self.numbering.of(place.tower, "activation", prompt)
            values = seen.value[row, torch.from_numpy(at).to(seen.value.device)]
            slot = Slot(seen.point, number, place.tower, place.layer)
            self.store.add(slot, Piece(to_numpy(values), Extent(rows=index[row][at])))
