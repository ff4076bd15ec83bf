"""Runs of one model on pairs: recorded, with a graph, or patched and resumed behind what was patched.

A patch in a layer cannot change what enters it, and a patch at a position cannot change earlier ones. So a patched run
starts at the first layer and the first position that is written: what enters there, and the keys and values before it,
are those of the unpatched run. Where a model cannot be run in parts (held against whole forwards once), every patched
run is a whole forward, and the notes say so.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analysis.sweeping.prefix import copied
from probe.analysis.sweeping.stack import Hidden, Stack, repeated
from probe.circuits.anatomy import anatomy_of
from probe.circuits.batches import Batch
from probe.circuits.nodes import Key, Node, Side
from probe.circuits.taps import Taps, Write
from probe.circuits.trace import Trace
from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating
from probe.seam.session import Session

Logits = Float[Tensor, "pair vocab"]  # of the last position

MOST_STATES, MOST_PREFIXES = 16, 32  # batches whose states, and prefixes whose keys and values, are kept

_CANNOT_RESUME = (
    TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError, RuntimeError,
)  # fmt: skip


class Engine:
    """One model under one session; `whole` says why patched runs are whole forwards (None: they are resumed)."""

    def __init__(self, loaded: LoadedModel, taps: Taps, session: Session) -> None:
        self.loaded, self.taps, self.session = loaded, taps, session
        self.model: Any = loaded.model
        self.whole: str | None = None
        self.forwards = 0  # calls of the model so far
        self._accepts = frozenset(inspect.signature(self.model.forward).parameters)
        self._stack: Stack | None = None
        self._entering: dict[tuple[Batch, Side], list[Hidden]] = {}
        self._prefix: dict[tuple[Batch, Side, int], Any] = {}
        self._tried = False

    def forget(self) -> None:
        """Let go of what was kept of batches."""
        self._entering.clear()
        self._prefix.clear()

    def logits(self, batch: Batch, side: Side) -> Logits:
        """The last position's logits without a patch."""
        with torch.no_grad():
            self.taps.ready()
            return self._call(batch.ids(side, self.loaded.device))

    def record(
        self, batch: Batch, side: Side, reads: Collection[Node], writes: Mapping[Key, Write] | None = None
    ) -> Trace:
        """Every value of some nodes in one forward, without a graph, and the last position's logits."""
        with torch.no_grad():
            self.taps.ready(reads, writes)
            return Trace.of(self.taps, self._call(batch.ids(side, self.loaded.device)))

    def graph(
        self,
        batch: Batch,
        side: Side,
        reads: Collection[Node],
        writes: Mapping[Key, Write] | None = None,
        *,
        held: bool = False,
    ) -> Trace:
        """The same with a graph from the stream that enters the first block; `held`: patterns are constants of it."""
        with torch.enable_grad():
            first = self.taps.anatomy.blocks[0].place.layer
            self.taps.ready(reads, writes, leaf=True, held=held, first=first)
            return Trace.of(self.taps, self._call(batch.ids(side, self.loaded.device)))

    def patched(
        self, batch: Batch, side: Side, writes: Mapping[Key, Write], copies: int = 1
    ) -> Float[Tensor, "copy pair vocab"]:
        """The last position's logits with values written, for several copies of the pairs at a time."""
        with torch.no_grad():
            self._try(batch, side)
            layer = min((one for _, one in writes), default=self.taps.anatomy.blocks[0].place.layer)
            start = min((_first(write.mask) for write in writes.values()), default=0)
            if self.whole is None and all(_first(write.mask) < batch.length for write in writes.values()):
                return self._resumed(batch, side, writes, (layer, start, copies))
            self.taps.ready((), writes)
            ids = batch.ids(side, self.loaded.device).repeat(copies, 1)
            logits = self._call(ids)
            return logits.reshape(copies, -1, logits.shape[-1])

    def passing(
        self,
        batch: Batch,
        side: Side,
        writes: Mapping[Key, Write],
        reads: Collection[Node],
        *,
        last: int,
        copies: int = 1,
    ) -> tuple[dict[Key, Float[Tensor, "copy pair unit position width"]], int]:
        """Values of nodes in a patched run, up to the layer `last`, and the first position that they are told of.

        Positions before it are those of the unpatched run. Blocks behind `last` do not run.
        """
        with torch.no_grad():
            self._try(batch, side)
            layer = min((one for _, one in writes), default=self.taps.anatomy.blocks[0].place.layer)
            start = min((_first(write.mask) for write in writes.values()), default=0)
            if self.whole is None and all(_first(write.mask) < batch.length for write in writes.values()):
                self._part(batch, side, writes, (layer, start, copies), reads, last)
            else:
                start = 0
                self.taps.ready(reads, writes)
                self._call(batch.ids(side, self.loaded.device).repeat(copies, 1))
            told = batch.length - start
            return {
                key: seen.value[:, :, -told:].reshape(copies, len(batch), *seen.value.shape[1:2], told, -1)
                for key, seen in self.taps.seen.items()
            }, start

    # -- running ---------------------------------------------------------------------------------------------------

    def _call(self, ids: Tensor, **more: Any) -> Logits:
        self.forwards += 1
        keep = {"logits_to_keep": 1} if "logits_to_keep" in self._accepts else {}
        cache = {"use_cache": False} if "use_cache" in self._accepts and not more else {}
        logits: Tensor = self.model(input_ids=ids, **keep, **cache, **more).logits
        return logits[:, -1]

    def _resumed(
        self, batch: Batch, side: Side, writes: Mapping[Key, Write], where: tuple[int, int, int]
    ) -> Float[Tensor, "copy pair vocab"]:
        made: Tensor = self._part(batch, side, writes, where)
        return made.reshape(where[2], -1, made.shape[-1])

    def _part(
        self,
        batch: Batch,
        side: Side,
        writes: Mapping[Key, Write],
        where: tuple[int, int, int],
        reads: Collection[Node] = (),
        last: int | None = None,
    ) -> Any:
        """Run the model from a layer and a position on, to the end or to the block of a layer; logits, or a state."""
        layer, start, copies = where
        stack = self._blocks(batch, side)
        block = self._number(layer)
        cache = self._cache(batch, side, start) if start else None
        entering = None
        if block:
            kept = self._states(batch, side)[block - 1]
            entering = repeated(kept.holding(kept.tensor[:, start:]), copies)
        ids = batch.ids(side, self.loaded.device)[:, start:].repeat(copies, 1)
        more = {} if cache is None else {"past_key_values": copied(cache, copies), "use_cache": True}
        self.taps.ready(reads, writes, first=layer, start=start)
        stop = None if last is None else self._number(last) + 1
        return stack.run(lambda: self._call(ids, **more), start=block, entering=entering, stop=stop)

    def _number(self, layer: int) -> int:
        """The number of a layer's block."""
        return next(n for n, one in enumerate(self.taps.anatomy.blocks) if one.place.layer == layer)

    def _blocks(self, batch: Batch, side: Side) -> Stack:
        if self._stack is None:
            self.taps.ready()
            ids = batch.ids(side, self.loaded.device)[:1]
            found = Stack.found(self.model, lambda: self._call(ids))
            if found is None:
                raise ValueError("it declares no chain of blocks that each run once")
            own = {block.place.module for block in self.taps.anatomy.blocks}
            if {one.name for one in found.order} != own:
                raise ValueError("other blocks than the decoder's run")
            self._stack = found
        return self._stack

    def _states(self, batch: Batch, side: Side) -> list[Hidden]:
        """What every block returned without a patch."""
        key = (batch, side)
        if key not in self._entering:
            made: list[Hidden] = []
            handles = [
                block.module.register_forward_hook(
                    lambda _module, _args, output, index=block.index: made.append(Hidden(output, index))
                )
                for block in self.taps.anatomy.blocks
            ]
            try:
                self.taps.ready()
                self._call(batch.ids(side, self.loaded.device))
            finally:
                for handle in handles:
                    handle.remove()
            if not all(one.alone for one in made):
                raise ValueError("blocks return more than hidden states")
            _keep(self._entering, key, made, MOST_STATES)
        return self._entering[key]

    def _cache(self, batch: Batch, side: Side, start: int) -> Any:
        key = (batch, side, start)
        if key not in self._prefix:
            self.taps.ready()
            ids = batch.ids(side, self.loaded.device)[:, :start]
            keep = {"logits_to_keep": 1} if "logits_to_keep" in self._accepts else {}
            self.forwards += 1
            _keep(
                self._prefix,
                key,
                self.model(input_ids=ids, use_cache=True, **keep).past_key_values,
                MOST_PREFIXES,
            )
        return self._prefix[key]

    def _try(self, batch: Batch, side: Side) -> None:
        """Hold one resumed run, unpatched, against the whole forward, once."""
        if self._tried:
            return
        self._tried = True
        layers = [block.place.layer for block in self.taps.anatomy.blocks]
        where = (layers[len(layers) // 2], max(0, batch.length - 2), 2)
        try:
            resumed = self._resumed(batch, side, {}, where)
        except _CANNOT_RESUME as error:
            self.whole = f"{type(error).__name__}: {error}"
            self.forget()
            return
        whole = self.logits(batch, side)
        worst, size = float((resumed - whole).abs().max()), max(1.0, float(whole.abs().max()))
        if worst > max(1e-5, 4 * torch.finfo(whole.dtype).eps) * size:
            self.whole = f"resumed logits would differ by {worst:.1e}"
            self.forget()

    @property
    def notes(self) -> list[str]:
        """Lines that a reader of the numbers must see."""
        said = list(self.session.notes)
        if self.whole is not None:
            said.append(
                f"every patch cost a whole forward, as the model cannot be run in parts ({self.whole})"
            )
        return said


@contextmanager
def engine(loaded: LoadedModel) -> Iterator[Engine]:
    """An engine, with its session open and the model in evaluation mode."""
    taps = Taps(anatomy_of(loaded))
    with evaluating(loaded.model), Session(loaded.model, (), [taps], mode="fused") as session:
        made = Engine(loaded, taps, session)
        try:
            yield made
        finally:
            made.forget()


def _keep(kept: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Keep a value, and let go of the oldest where there are too many."""
    while len(kept) >= most:
        kept.pop(next(iter(kept)))
    kept[key] = value


def _first(mask: Tensor) -> int:
    """The first position that any copy writes; beyond the last where none is written."""
    if mask.shape[-1] == 1:
        return 0
    found = mask.flatten(0, -2).any(0).nonzero()
    return int(found[0]) if len(found) else int(mask.shape[-1])
