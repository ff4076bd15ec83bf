"""Activations beyond attention: hooks on blocks, MLPs, routers and the final logits.

- ``resid_pre`` / ``resid_post``: a block's input and output.
- ``mlp_out``: what the block's MLP returns, before any norm that follows it and before the residual is added.
- ``router_logits``: what the model itself records under that name, per expert.
- ``logits``: the model's final logits, for the positions that it computed them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import CaptureError
from probe.seam.call import Activation, Batch, Phase, Place, Point
from probe.seam.mlp import MlpWatch, mlp_candidates
from probe.seam.places import places
from probe.seam.recorded import Recorded, block_places, blocks, recorded

Sink = Callable[[Activation], None]
Undo = Callable[[], None]
Now = Callable[[], tuple[Batch, Phase] | None]  # the forward in flight, if any


@dataclass
class _Feed:
    """Turns hooked tensors into activations: adds batch, phase and the position of the first token."""

    model: nn.Module
    sink: Sink
    now: Now
    undo: list[Undo] = field(default_factory=list)
    _seen: dict[tuple[str, Point], tuple[tuple[int, ...], int]] = field(default_factory=dict)

    def emit(self, place: Place, point: Point, value: Tensor) -> None:
        """Send one activation, unless no forward of the observed model is running."""
        found = self.now()
        if found is None:
            return
        now, phase = found
        if value.ndim == 2:  # vision towers that work on packed patches
            value = value[None]
        if value.ndim != 3:
            shape = f"block {place.module!r} works on {list(value.shape)}, not on [batch, token, d_model]"
            raise CaptureError(_missing(self.model, point, shape))
        start = self._start(now, place, point, int(value.shape[1]))
        if place.tower not in ("decoder", "cross"):
            phase = "prefill"
        self.sink(Activation(place, now, phase, point, value, start))

    def _start(self, now: Batch, place: Place, point: Point, length: int) -> int:
        config = getattr(self.model, "config", None)
        alone = not getattr(config, "is_encoder_decoder", False)
        if alone and place.tower == "decoder" and now.tokens is not None:
            return int(now.tokens.shape[1]) - length
        prompts, begun = self._seen.get((place.module, point), ((), 0))
        start = begun if now.step > 0 and prompts == now.prompts else 0
        self._seen[place.module, point] = (now.prompts, start + length)
        return start

    def hook(self, handle: Any) -> None:
        """Remember a hook so that it is taken off again."""
        self.undo.append(handle.remove)

    def close(self) -> None:
        """Take every hook off."""
        while self.undo:
            self.undo.pop()()


def attach(model: nn.Module, wanted: frozenset[Point], sink: Sink, now: Now) -> Undo:
    """Send an `Activation` to `sink` for every wanted point of every forward; returns what undoes it.

    Raises `CaptureError` naming the model and the point where a wanted point does not exist in it.
    """
    feed = _Feed(model, sink, now)
    try:
        if wanted & {"resid_pre", "resid_post", "mlp_out"}:
            _attach_blocks(feed, wanted)
        if "router_logits" in wanted:
            _attach_routers(feed)
        if "logits" in wanted:
            feed.hook(model.register_forward_hook(_logits_hook(feed)))
    except CaptureError:
        feed.close()
        raise
    return feed.close


def _attach_blocks(feed: _Feed, wanted: frozenset[Point]) -> None:
    found = blocks(feed.model)
    if not found:
        asked = ", ".join(sorted(wanted & {"resid_pre", "resid_post", "mlp_out"}))
        raise CaptureError(_missing(feed.model, asked, "it declares no blocks (`_can_record_outputs`)"))
    attention = places(feed.model)
    where = block_places(found, attention)
    for block in found:
        if "resid_pre" in wanted:
            hook = _input_hook(feed, where[block.name])
            feed.hook(block.module.register_forward_pre_hook(hook, with_kwargs=True))
        if "resid_post" in wanted:
            hook = _output_hook(feed, where[block.name], block)
            feed.hook(block.module.register_forward_hook(hook))
    if "mlp_out" in wanted:
        _attach_mlps(feed, found, attention, where)


def _attach_mlps(
    feed: _Feed, found: list[Recorded], attention: dict[str, Place], where: dict[str, Place]
) -> None:
    candidates = mlp_candidates(found, set(attention))
    if not any(candidates.values()):
        raise CaptureError(
            _missing(feed.model, "mlp_out", "no block has a child with weights besides attention")
        )
    watches = []
    for block in found:
        if candidates[block.name]:
            watch = MlpWatch(block, candidates[block.name], _sender(feed, where[block.name]))
            watches.append(watch)
            feed.undo.append(watch.close)

    def check(*_: object) -> None:
        if not any(watch.found for watch in watches):
            raise CaptureError(
                _missing(feed.model, "mlp_out", "no child of a block returns [batch, token, d_model]")
            )

    feed.hook(feed.model.register_forward_hook(check))


def _sender(feed: _Feed, place: Place) -> Callable[[Tensor], None]:
    return lambda value: feed.emit(place, "mlp_out", value)


def _attach_routers(feed: _Feed) -> None:
    routers = recorded(feed.model, "router_logits")
    if not routers:
        raise CaptureError(
            _missing(feed.model, "router_logits", "it declares no router (`_can_record_outputs`)")
        )
    found = blocks(feed.model)
    where = block_places(found, places(feed.model))
    for router in routers:
        owner = next((b for b in found if router.name.startswith(f"{b.name}.")), None)
        if owner is None:
            raise CaptureError(
                _missing(feed.model, "router_logits", f"router {router.name!r} lies in no block")
            )
        shape: list[tuple[int, int]] = []
        feed.hook(owner.module.register_forward_pre_hook(_shape_hook(shape), with_kwargs=True))
        place = replace(where[owner.name], module=router.name)
        feed.hook(router.module.register_forward_hook(_router_hook(feed, place, router, shape)))


def _shape_hook(shape: list[tuple[int, int]]) -> Callable[..., None]:
    """Note ``(batch, token)`` of the block, to unfold a router's flat ``[batch·token, expert]``."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = hidden_input(args, kwargs)
        shape[:] = (
            [(int(value.shape[0]), int(value.shape[1]))] if value is not None and value.ndim == 3 else []
        )

    return hook


def _router_hook(
    feed: _Feed, place: Place, router: Recorded, shape: list[tuple[int, int]]
) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: object, output: Any) -> None:
        value = output[router.index] if isinstance(output, tuple | list) else output
        if value.ndim == 2 and shape and value.shape[0] == shape[0][0] * shape[0][1]:
            value = value.unflatten(0, shape[0])
        feed.emit(place, "router_logits", value)

    return hook


def _input_hook(feed: _Feed, place: Place) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = hidden_input(args, kwargs)
        if value is None:
            raise CaptureError(
                _missing(feed.model, "resid_pre", f"block {place.module!r} was given no hidden states")
            )
        feed.emit(place, "resid_pre", value)

    return hook


def _output_hook(feed: _Feed, place: Place, block: Recorded) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: object, output: Any) -> None:
        value = first_tensor(output, block.index)
        if value is None:
            raise CaptureError(
                _missing(feed.model, "resid_post", f"block {place.module!r} returned no hidden states")
            )
        feed.emit(place, "resid_post", value)

    return hook


def _logits_hook(feed: _Feed) -> Callable[..., None]:
    # Logits come after the last layer; -1 keeps them apart from every layer's activations.
    place = Place("", "decoder", -1)

    def hook(model: nn.Module, _args: object, output: Any) -> None:
        value = getattr(output, "logits", None)
        if value is None and isinstance(output, dict):
            value = output.get("logits")
        if not isinstance(value, Tensor):
            raise CaptureError(
                _missing(model, "logits", "its output has no logits; load it with its language model head")
            )
        feed.emit(place, "logits", value)

    return hook


def hidden_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states among what a block was called with: its first floating tensor."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
            return value
    return None


def first_tensor(output: Any, index: int = 0) -> Tensor | None:
    """The tensor in a module's output: the output itself, or entry `index` of its tuple."""
    value = output[index] if isinstance(output, tuple | list) and len(output) > index else output
    return value if isinstance(value, Tensor) and torch.is_floating_point(value) else None


def _missing(model: nn.Module, point: str, why: str) -> str:
    return f"{point} was asked of {type(model).__name__}; {why}: leave it out, or hook the module yourself"
