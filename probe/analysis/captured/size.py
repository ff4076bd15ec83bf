"""How many bytes a capture will take, known before it starts: shapes from a tiny forward, lengths from tokens."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.analysis.captured.ask import Ask
from probe.analysis.captured.kinds import KINDS
from probe.analysis.captured.labels import Side, TokenAxes
from probe.analysis.forward import Runner
from probe.analysis.inputs import Item
from probe.errors import BudgetError, UnseenLayersError
from probe.models import LoadedModel
from probe.seam.call import Activation, AttentionCall, Point
from probe.seam.places import places
from probe.seam.projection import Projection, ProjectionWatch, widths
from probe.seam.session import Session

_TEXT_KEYS = {"input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "decoder_attention_mask"}


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one layer: heads, key/value heads, widths, bytes per number, and how many rows and keys were seen."""

    n_heads: int = 0
    n_kv_heads: int = 0
    d_qk: int = 0
    d_v: int = 0
    d_model: int = 0
    itemsize: int = 4
    n_query: int = 0
    n_key: int = 0
    batch: int = 1


@dataclass
class ShapeObserver:
    """Notes the sizes of every layer and keeps nothing else."""

    points: frozenset[Point]
    layers: dict[tuple[str, int], LayerShape] = field(default_factory=dict)
    watch: ProjectionWatch | None = None
    _waiting: dict[str, tuple[str, int]] = field(default_factory=dict)

    def want(self, call: AttentionCall) -> Want:
        """Nothing."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Note one layer's attention."""
        key = (call.place.tower, call.place.layer)
        batch, n_query, n_key = call.size
        shape = replace(
            self.layers.get(key, LayerShape()),
            n_heads=call.n_heads,
            n_kv_heads=call.n_kv_heads,
            n_query=n_query,
            n_key=n_key,
            batch=batch,
        )
        if call.scores is not None:
            q, v = call.scores.query, call.scores.value
            d_v = v.shape[3] if v is not None else q.shape[3]
            shape = replace(shape, d_qk=q.shape[3], d_v=d_v, itemsize=_itemsize(q))
        self.layers[key] = shape
        if self.watch is not None and attended.z is not None:
            self._waiting[call.place.module] = key
            self.watch.seen(call.place.module, attended.z)

    @contextmanager
    def watching(self, model: torch.nn.Module, ask: Ask) -> Iterator[None]:
        """While open, also note how wide the output projections are, if ``head_out`` was asked."""
        if "head_out" not in ask.what:
            yield
            return
        wanted = [name for name, place in places(model).items() if ask.wants(place.tower, place.layer)]
        self.watch = ProjectionWatch(model, wanted, self._projected)
        try:
            yield
        finally:
            self.watch.close()

    def _projected(self, module: str, projection: Projection, given: Tensor) -> None:
        key = self._waiting.pop(module)
        size = widths(projection.module)
        self.layers[key] = replace(self.layers[key], d_model=0 if size is None else size[1])

    def activation(self, seen: Activation) -> None:
        """Note the width of the residual stream."""
        key = (seen.place.tower, seen.place.layer)
        batch, length, width = seen.value.shape
        known = self.layers.get(key, LayerShape(n_query=length, batch=batch))
        self.layers[key] = replace(known, d_model=width, itemsize=_itemsize(seen.value))


def _itemsize(values: Tensor) -> int:
    return 4 if values.dtype == torch.bfloat16 else values.element_size()


def measure(loaded: LoadedModel, runner: Runner, item: Item, ask: Ask) -> dict[tuple[str, int], LayerShape]:
    """The asked layers' sizes, from a forward over two tokens (over the whole item where it is not plain text).

    Raises `UnseenLayersError` for asked layers that ran but could not be seen, `UnknownNameError` for layers
    and heads that do not exist.
    """
    observer = ShapeObserver(ask.points)  # type: ignore[arg-type]
    with Session(loaded.model, [observer], mode="shadow") as session, observer.watching(loaded.model, ask):
        runner.run(_tiny(runner.tensors([_short(item)])))
        unseen = session.unseen_layers
        hidden = {session.hub.places[name].module: session.hub.places[name] for name in unseen}
    lost = [
        name
        for name, place in hidden.items()
        if ask.layers is not None and ask.wants(place.tower, place.layer)
    ]
    if lost or not observer.layers:
        raise UnseenLayersError(
            f"a capture of {', '.join(ask.what)} was asked; the attention of {', '.join(lost or unseen)} bypasses "
            "transformers' attention registry and returns no weights: ask for other layers"
        )
    ask.check_layers(observer.layers)
    asked = {key: shape for key, shape in observer.layers.items() if ask.wants(*key)}
    for (tower, layer), shape in asked.items():
        if shape.n_heads:
            ask.heads_in(tower, layer, shape.n_heads)
    return asked


def _short(item: Item) -> Item:
    return item if item.prompt is None else Item(item.prompt.truncate(2))


def _tiny(inputs: dict[str, Any]) -> dict[str, Any]:
    """Plain text cut to one row of two tokens; anything else (pixels, audio) as it is."""
    if set(inputs) - _TEXT_KEYS or "input_ids" not in inputs:
        return inputs
    return {name: value[:1, -2:] for name, value in inputs.items()}


def size_of(ask: Ask, shapes: dict[tuple[str, int], LayerShape], axes: TokenAxes) -> int:
    """Bytes of everything that one item will bring; raises `UsageError` for positions that it does not have."""
    return sum(_layer_size(ask, tower, layer, shape, axes) for (tower, layer), shape in shapes.items())


def _layer_size(ask: Ask, tower: str, layer: int, shape: LayerShape, axes: TokenAxes) -> int:
    heads = ask.heads_in(tower, layer, shape.n_heads) if shape.n_heads else []
    group = max(1, shape.n_heads // max(1, shape.n_kv_heads))
    total = 0
    for row in range(_rows(axes, tower, shape)):
        lengths = {
            "head": len(heads),
            "kv_head": len({head // group for head in heads}),
            "query_pos": _count(ask, axes, tower, "query", row, shape.n_query),
            "key_pos": _count(ask, axes, tower, "key", row, shape.n_key),
            "d_model": shape.d_model,
        }
        lengths["token"] = lengths["query_pos"]
        for name in ask.what:
            lengths["d_head"] = shape.d_v if name in ("z", "v") else shape.d_qk
            size = 4 if name in ("pattern", "scores", "lse") else shape.itemsize
            total += size * int(np.prod([lengths[axis] for axis in KINDS[name].axes], dtype=np.int64))
    return total


def _rows(axes: TokenAxes, tower: str, shape: LayerShape) -> int:
    texts = axes.decoder if axes.encoder_decoder and tower != "encoder" else axes.given
    return len(texts) if texts and tower in ("decoder", "encoder", "cross") else shape.batch


def _count(ask: Ask, axes: TokenAxes, tower: str, side: Side, row: int, seen: int) -> int:
    axis = axes.axis(tower, side, row)
    positions = ask.queries if side == "query" else ask.keys
    positions.check(axis)
    return int(positions.chosen(np.arange(axis.total if axis.total is not None else seen), axis).sum())


def refuse_above(limit: int, needed: int, ask: Ask, shapes: Iterable[tuple[str, int]]) -> None:
    """Raise `BudgetError` naming the size, before anything is captured."""
    if needed > limit:
        raise BudgetError(
            f"a capture of {', '.join(ask.what)} over {len(list(shapes))} layers was asked; it needs {needed:,} bytes "
            f"({needed / 2**30:.2f} GiB), more than max_bytes={limit:,}: ask for fewer layers, heads, queries or keys, "
            "raise max_bytes, or write to the disk with to='DIR'"
        )
