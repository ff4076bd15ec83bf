"""Reading and replacing values at every node of a decoder, inside one open session.

One object stands among the session's interventions. Before each forward it is told what to read and what to write;
nodes of the stream are hooks on modules, those of attention pass the seam.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from probe_kernels import pattern_block
from probe_kernels.types import Attended, BlockEdit, Edits
from torch import Tensor, nn

from probe.circuits.anatomy import Anatomy, Block
from probe.circuits.nodes import PER_HEAD, PER_KV_HEAD, Key, Node
from probe.errors import CaptureError, UnsupportedAttentionError
from probe.seam.call import AttentionCall
from probe.seam.points import first_tensor, hidden_input
from probe.seam.stage import Stage


@dataclass(frozen=True)
class Write:
    """Values put in the place of a node's own, where `mask` says so.

    Rows of a forward are copies of the pairs, one copy after another; a source without an axis of copies serves all.
    """

    source: Float[Tensor, "*copies pair unit position width"]
    mask: Bool[Tensor, "copy_or_1 pair_or_1 unit_or_1 position_or_1"]

    def over(
        self, value: Float[Tensor, "row unit position width"], start: int = 0
    ) -> Float[Tensor, "row unit position width"]:
        """The value with what is written; `start` is the position of its first token."""
        copies, positions = self.mask.shape[0], value.shape[2]
        mask = self.mask if self.mask.shape[3] == 1 else self.mask[..., start : start + positions]
        mask, source = mask.to(value.device), self.source[..., start : start + positions, :].to(value)
        split = value.reshape(copies, -1, *value.shape[1:])
        made = torch.where(mask[..., None], source if source.ndim == 5 else source[None], split)
        return made.flatten(0, 1)


@dataclass(frozen=True)
class Seen:
    """A node's value as it went on through the model.

    `raw` is the tensor that the model itself went on with (what gradients are taken of), ``value = times · raw`` in the
    shape (pair, unit, position, width).
    """

    value: Float[Tensor, "row unit position width"]
    raw: Tensor
    times: float = 1.0

    def shaped(self, gradient: Tensor) -> Float[Tensor, "row unit position width"]:
        """A gradient with respect to `raw` as one with respect to `value`."""
        return gradient.reshape(self.value.shape) / self.times


@dataclass
class Taps:
    """What is read and written in the next forward; `seen` holds what was read.

    `first` is the first layer that runs, `start` the position of the first token that does. `leaf` makes the stream
    that enters the first layer a leaf of the graph, so that gradients reach every node. `held` takes patterns for
    constants in the backward pass.
    """

    anatomy: Anatomy
    reads: frozenset[Node] = frozenset()
    writes: Mapping[Key, Write] = field(default_factory=dict)
    first: int = 0
    start: int = 0
    leaf: bool = False
    held: bool = False
    seen: dict[Key, Seen] = field(default_factory=dict)
    calls: dict[int, AttentionCall] = field(
        default_factory=dict
    )  # by layer, where patterns, keys or values are read
    given: dict[int, Tensor] = field(default_factory=dict)  # what W_O was given, by layer, where z is read
    normed: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict
    )  # in and out of a norm behind attention
    name: str = "taps"
    _entering: dict[int, Tensor] = field(default_factory=dict)

    def ready(
        self, reads: Collection[Node] = (), writes: Mapping[Key, Write] | None = None, **changes: Any
    ) -> None:
        """Forget the last forward, and set up the next one; raises `CaptureError` for what this model has not."""
        self.reads, self.writes = frozenset(reads), dict(writes or {})
        self.first, self.start, self.leaf, self.held = 0, 0, False, False
        for name, value in changes.items():
            setattr(self, name, value)
        self.seen, self.calls, self.given, self.normed, self._entering = {}, {}, {}, {}, {}
        for part in ("attn_out", "mlp_out", "resid_mid"):
            wanted = {layer for name, layer in self.writes if name == part}
            if part in self.reads:
                wanted |= {block.place.layer for block in self.anatomy.blocks}
            for layer in wanted:
                self._require(part, layer)

    def _require(self, part: str, layer: int) -> None:
        self.anatomy.writer(layer, "attn_out" if part == "resid_mid" else part)
        if part == "resid_mid" and self.anatomy.block(layer).parallel:
            raise CaptureError(
                f"resid_mid of layer {layer} was asked; attention and MLP read the same stream there, so there is "
                "nothing between them: use resid_pre, attn_out or mlp_out"
            )

    # -- the stream ------------------------------------------------------------------------------------------------

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Hook blocks and writers."""
        handles: list[Any] = []
        for block in self.anatomy.blocks:
            handles.append(block.module.register_forward_pre_hook(self._enter(block), with_kwargs=True))
            handles.append(block.module.register_forward_hook(self._leave(block)))
            if block.attn is not None:
                handles.append(block.attn.module.register_forward_hook(self._adds(block, "attn_out")))
            if block.mlp is not None:
                handles.append(block.mlp.module.register_forward_hook(self._adds(block, "mlp_out")))
            if block.projection is not None:
                handles.append(block.projection.module.register_forward_pre_hook(self._gives(block)))

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo

    def _enter(self, block: Block) -> Callable[..., Any]:
        layer = block.place.layer

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = hidden_input(args, kwargs)
            if value is None or layer < self.first:
                return None
            before = value
            if self.leaf and layer == self.first:
                value = value.detach().requires_grad_()
            value = self._pass(("resid_pre", layer), value)
            self._entering[layer] = value
            if value is before:
                return None
            return (
                tuple(value if one is before else one for one in args),
                {key: value if one is before else one for key, one in kwargs.items()},
            )

        return hook

    def _leave(self, block: Block) -> Callable[..., Any]:
        layer = block.place.layer

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            value = first_tensor(output, block.index)
            if value is None or layer < self.first:
                return None
            made = self._pass(("resid_post", layer), value)
            return None if made is value else _holding(output, block.index, made)

        return hook

    def _adds(self, block: Block, part: Node) -> Callable[..., Any]:
        layer = block.place.layer
        writer = self.anatomy.writer(layer, part)

        def hook(_module: nn.Module, args: Any, output: Any) -> Any:
            value = first_tensor(output)
            entering = self._entering.get(layer)
            if value is None or entering is None or layer < self.first:
                return None
            if part == "attn_out" and block.post is not None and "z" in self.reads:
                self.normed[layer] = (args[0], value)
            made = self._pass((part, layer), value, entering.shape, writer.times)
            if part == "attn_out":
                made = self._mid(layer, made, entering, writer.times)
            return None if made is value else _holding(output, 0, made)

        return hook

    def _gives(self, block: Block) -> Callable[..., None]:
        layer = block.place.layer

        def hook(_module: nn.Module, args: Any) -> None:
            if "z" in self.reads and layer >= self.first and layer in self._entering:
                self.given[layer] = args[0].reshape(*self._entering[layer].shape[:2], -1)

        return hook

    def _pass(self, key: Key, value: Tensor, shape: torch.Size | None = None, times: float = 1.0) -> Tensor:
        """A value of the stream, written and read if that was asked."""
        write = self.writes.get(key)
        if write is None and key[0] not in self.reads:
            return value
        whole = value.reshape(shape or value.shape)[:, None] * times
        if write is not None:
            whole = write.over(whole, self.start)
            value = (whole[:, 0] / times).reshape(value.shape).to(value.dtype)
        if key[0] in self.reads:
            self.seen[key] = Seen(whole, value, times)
        return value

    def _mid(self, layer: int, value: Tensor, entering: Tensor, times: float) -> Tensor:
        """The stream behind attention: written by what attention would have to add, read as the sum."""
        key: Key = ("resid_mid", layer)
        write = self.writes.get(key)
        if write is None and "resid_mid" not in self.reads:
            return value
        mid = (entering + value.reshape(entering.shape) * times)[:, None]
        if write is not None:
            mid = write.over(mid, self.start)
            value = ((mid[:, 0] - entering) / times).reshape(value.shape).to(value.dtype)
        if "resid_mid" in self.reads:
            # Whatever attention adds goes on through this sum alone: the two have one gradient.
            self.seen[key] = Seen(mid, value, times)
        return value

    # -- attention -------------------------------------------------------------------------------------------------

    def _mine(self, call: AttentionCall) -> bool:
        return call.place.tower == "decoder" and call.place.layer >= self.first

    def call(self, call: AttentionCall) -> AttentionCall:
        """The call with queries, keys and values as written."""
        if not self._mine(call) or call.scores is None:
            return call
        layer, scores = call.place.layer, call.scores
        if self.held:
            scores = replace(scores, query=scores.query.detach(), key=scores.key.detach())
        made: dict[str, Tensor] = {}
        for name, fieldname in (("q", "query"), ("k", "key"), ("v", "value")):
            key: Key = (name, layer)  # type: ignore[assignment]
            write, value = self.writes.get(key), getattr(scores, fieldname)
            if write is not None:
                start = self.start if name == "q" else 0
                if name != "q" and value.shape[2] != write.source.shape[-2]:
                    raise UnsupportedAttentionError(
                        f"{name} of {call.place.module} was asked; it holds {value.shape[2]} of "
                        f"{write.source.shape[-2]} keys (a sliding window): use shorter prompts"
                    )
                value = made[fieldname] = write.over(value, start).to(value.dtype)
            if name in self.reads:
                self.seen[key] = Seen(value, value)
        if made or self.held:
            new: Any = made
            call = replace(call, scores=replace(scores, **new))
        return call

    def edits(self, call: AttentionCall) -> Edits:
        """Patterns as written."""
        write = self.writes.get(("pattern", call.place.layer)) if self._mine(call) else None
        if write is None:
            return Edits()
        held = write

        def apply(block: Tensor, rows: slice, keys: slice) -> Tensor:
            part = Write(held.source[..., keys], held.mask)
            return part.over(block, self.start + (rows.start or 0))

        return Edits(probs=(BlockEdit(apply),))

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with z as written; z and patterns are read here."""
        if not self._mine(call) or attended.z is None:
            return attended
        key: Key = ("z", call.place.layer)
        z, write = attended.z, self.writes.get(("z", call.place.layer))
        if write is not None:
            z = write.over(z, self.start).to(attended.z.dtype)
        if "z" in self.reads:
            self.seen[key] = Seen(z, z)
        if self.reads & {"pattern", "k", "v"}:
            self.calls[call.place.layer] = call
        if "pattern" in self.reads and call.scores is not None:
            n_query, n_key = call.size[1:]
            with torch.no_grad():
                block = pattern_block(call.scores, call.layout, slice(0, n_query), slice(0, n_key))
            self.seen["pattern", call.place.layer] = Seen(block, block)
        return attended if write is None else replace(attended, z=z)


def units(node: Node, call: AttentionCall) -> int:
    """How many units a node has in a layer: its heads, its key/value heads, or one."""
    return call.n_heads if node in PER_HEAD else call.n_kv_heads if node in PER_KV_HEAD else 1


def _holding(output: Any, index: int, value: Tensor) -> Any:
    if isinstance(output, Tensor):
        return value
    parts = [value if place == index else one for place, one in enumerate(output)]
    return type(output)(parts) if isinstance(output, list) else tuple(parts)
