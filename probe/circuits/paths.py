"""Effects along paths: a sender head's value of the other run reaches chosen receivers alone, all else as it was.

Pass one: the clean run with the sender's z from the corrupt run and every later head's z (and, if asked, every later
MLP's output) as in the clean run; what the receivers get is read. Pass two: the clean run with the receivers' values
so read. With the logits as receiver the first pass's logits are the answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.engine import Engine
from probe.circuits.nodes import Key, Node
from probe.circuits.patching import most_copies, recovery
from probe.circuits.receivers import Heads, Receiver
from probe.circuits.study import Study
from probe.circuits.tables import Effects
from probe.circuits.taps import Write
from probe.circuits.trace import Trace
from probe.circuits.where import Where
from probe.errors import UsageError

Mlps = Literal["free", "frozen"]
JOINT = "joint"


def mlps_of(name: str) -> Mlps:
    """Read ``free`` or ``frozen``; raises `UsageError`."""
    if name not in ("free", "frozen"):
        raise UsageError(f"mlps={name!r} was asked; it is 'free' or 'frozen'")
    return name  # type: ignore[return-value]


@dataclass(frozen=True)
class Paths:
    """What is asked: who sends (heads by layer), at which positions, to whom, and whether MLPs are frozen."""

    receivers: tuple[Receiver, ...]
    senders: Mapping[int, tuple[int, ...]]
    where: Where
    mlps: Mlps

    @property
    def last(self) -> int:
        """The last receiver's layer; beyond every layer where the logits receive."""
        return max((one.layer for one in self.receivers if one.kind != "logits"), default=2**31)

    @property
    def upstream(self) -> dict[int, tuple[int, ...]]:
        """The senders from which a path leads to some receiver."""
        return {layer: heads for layer, heads in self.senders.items() if layer < self.last}


def heads_of(case: Study) -> Heads:
    """How many heads the model's layers have, read from one forward."""
    trace = case.engine.record(case.batches[0], "clean", ["z", "k"])
    query, key = (
        {layer: trace.value(node, layer).shape[1] for layer in trace.layers(node)} for node in ("z", "k")
    )
    return Heads(query, key)


def path_effects(case: Study, asked: Paths) -> dict[str, Effects]:
    """``(m_patched - m_clean) / (m_corrupt - m_clean)`` of every sender, by receiver and, of several, jointly.

    Raises:
        UsageError: no sender comes before a receiver.
    """
    upstream = asked.upstream
    if not upstream:
        raise UsageError(
            f"paths to {', '.join(one.name for one in asked.receivers)} were asked; the senders are in layers "
            f"{', '.join(map(str, asked.senders))}, none of them before: senders must be in earlier layers"
        )
    found: dict[str, dict[int, list[Tensor]]] = {}
    done, total = 0, len(upstream) * len(case.batches)
    for batch in case.batches:
        run = _Run.of(case, batch, asked)
        for layer, heads in upstream.items():
            case.options.tell(done, total, f"patching paths from layer {layer}")
            for name, numbers in run.layer(layer, heads).items():
                found.setdefault(name, {}).setdefault(layer, []).append(numbers)
            done += 1
    case.options.tell(total, total, "patching paths")
    return {name: _effects(case, parts, asked.where) for name, parts in found.items()}


def _effects(case: Study, parts: Mapping[int, list[Tensor]], where: Where) -> Effects:
    scores = {layer: recovery(case, case.joined(some), "clean") for layer, some in parts.items()}
    return Effects("z", scores, where.places)


@dataclass(frozen=True)
class _Run:
    """One batch: what both runs' heads gave, and which places are patched."""

    case: Study
    batch: Batch
    asked: Paths
    clean: Trace
    corrupt: Trace
    places: tuple[Tensor, ...]  # flags [#pair, #position]

    @classmethod
    def of(cls, case: Study, batch: Batch, asked: Paths) -> "_Run":
        engine = case.engine
        reads: set[Node] = {"z", *(one.kind for one in asked.receivers if one.kind != "logits")}
        if asked.mlps == "frozen":
            reads.add("mlp_out")
        places = tuple(asked.where.masks(batch))
        return cls(
            case,
            batch,
            asked,
            engine.record(batch, "clean", reads),
            engine.record(batch, "corrupt", ["z"]),
            places,
        )

    def layer(self, layer: int, heads: Sequence[int]) -> dict[str, Tensor]:
        """By receiver, the measure for each sender of a layer and place: ``[unit, place, pair]``, NaN if not asked."""
        n_heads = self.clean.value("z", layer).shape[1]
        parts: dict[str, list[Tensor]] = {}
        for masks in self._chunks(n_heads, heads):
            for name, numbers in self._patched(layer, masks).items():
                parts.setdefault(name, []).append(numbers)
        made = {}
        for name, some in parts.items():
            numbers = torch.cat(some).reshape(len(heads), len(self.places), len(self.batch))
            whole = torch.full((n_heads, *numbers.shape[1:]), torch.nan, dtype=numbers.dtype)
            whole[list(heads)] = numbers
            made[name] = whole
        return made

    def _chunks(self, n_heads: int, heads: Sequence[int]) -> Iterator[Tensor]:
        """Flags ``[copy, pair, unit, position]`` of the senders at the places, as many as one forward takes."""
        masks = []
        for head in heads:
            for place in self.places:
                alone = torch.zeros(len(self.batch), n_heads, self.batch.length, dtype=torch.bool)
                alone[:, head] = place
                masks.append(alone)
        size = most_copies(self.case, self.batch)
        for start in range(0, len(masks), size):
            yield torch.stack(masks[start : start + size])

    def _patched(self, layer: int, masks: Tensor) -> dict[str, Tensor]:
        engine, copies = self.case.engine, len(masks)
        writes: dict[Key, Write] = {("z", layer): Write(self.corrupt.value("z", layer), masks)}
        # Before the first sender's position nothing changes, so nothing has to be frozen there.
        behind = (torch.arange(self.batch.length) >= _first(masks)).expand(copies, 1, 1, -1)
        for node, later in self._frozen(layer):
            writes[node, later] = Write(self.clean.value(node, later), behind)
        if self.asked.receivers[0].kind == "logits":
            logits = engine.patched(self.batch, "clean", writes, copies)
            return {self.asked.receivers[0].name: self.case.numbers(self.batch, logits)}
        near = [one for one in self.asked.receivers if one.layer > layer]
        got = self._got(engine, near, writes, copies)
        sets = {one.name: [one] for one in near}
        if len(self.asked.receivers) > 1:
            sets[JOINT] = near
        return {
            name: self.case.numbers(
                self.batch, engine.patched(self.batch, "clean", _received(got, some, behind), copies)
            )
            for name, some in sets.items()
        }

    def _frozen(self, layer: int) -> Iterator[Key]:
        for later in self.clean.layers("z"):
            if layer < later:
                yield "z", later
        for later in self.clean.layers("mlp_out"):
            if layer <= later:
                yield "mlp_out", later

    def _got(
        self, engine: Engine, near: Sequence[Receiver], writes: Mapping[Key, Write], copies: int
    ) -> dict[Key, Tensor]:
        """What receivers get in the first pass: ``[copy, pair, unit, position, width]``, all positions."""
        last = max(one.layer for one in near)
        kinds: list[Node] = sorted({one.kind for one in near if one.kind != "logits"})
        # Later heads are not reached: nothing behind the last receiver runs.
        before = {key: write for key, write in writes.items() if key[1] <= last}
        values, start = engine.passing(self.batch, "clean", before, kinds, last=last, copies=copies)
        made: dict[Key, Tensor] = {}
        for key in {(one.kind, one.layer) for one in near if one.kind != "logits"}:
            whole = self.clean.value(*key)[None].repeat(copies, 1, 1, 1, 1)
            whole[..., start:, :] = values[key]
            made[key] = whole
        return made


def _received(got: Mapping[Key, Tensor], some: Sequence[Receiver], behind: Tensor) -> dict[Key, Write]:
    """The second pass's writes: the receivers' own units at every position that can have changed."""
    made: dict[Key, Write] = {}
    for key, value in got.items():
        units = torch.zeros(value.shape[2], dtype=torch.bool)
        units[[one.unit for one in some if (one.kind, one.layer) == key]] = True
        if bool(units.any()):
            made[key] = Write(value, units[:, None] & behind)
    return made


def _first(masks: Tensor) -> int:
    """The first position that any sender is patched at."""
    return int(masks.flatten(0, -2).any(0).nonzero()[0])
