"""Sink tokens, told by the massive activations of their residual stream, layer by layer.

``phi(x) = max over the sink dimensions of |x_d| / RMS(x)``, RMS over all dimensions of the layer's input, with 1e-6
under the root and no learned weight. A token is a sink of a layer where ``phi(x) >= tau``. Kang et al. 2025, See What
You Are Told: Visual Attention Sink in Large Multimodal Models, ICLR 2025 (arXiv:2503.03321); massive activations: Sun
et al. 2024 (arXiv:2402.17762).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probe.errors import InterventionError
from probe.seam.call import AttentionCall, Batch, Phase, Place
from probe.seam.points import hidden_input
from probe.seam.recorded import block_places, blocks
from probe.seam.stage import Stage

_EPS = 1e-6


def ratios(x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """|x_d| / RMS(x), float32 or wider; at most √d_model."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide.abs() * (wide.square().mean(-1, keepdim=True) + _EPS).rsqrt()


@dataclass
class _Known:
    """What is known of the tokens of one block's sequences."""

    prompts: tuple[int, ...]
    step: int
    start: int  # storage position of the first token of this step
    flags: Bool[Tensor, "batch token"]
    prompt_length: int


class SinkFlags:
    """Which tokens are sinks at each layer, remembered along a KV cache.

    Where beams have swapped rows, only the prompt's tokens count: which row a generated token belonged to is not known.
    """

    def __init__(self, asked: str, dims: tuple[int, ...], tau: float) -> None:
        self._asked, self._dims, self._tau = asked, dims, tau
        self._owner: dict[str, str] = {}  # attention module -> its block
        self._known: dict[str, _Known] = {}
        self.swapped = False  # whether beams were met

    def attach(self, stage: Stage, covers: Callable[[Place], bool]) -> Callable[[], None]:
        """Watch the input of every block that holds covered attention; returns what undoes it.

        Raises `InterventionError` where covered attention lies in no block that the model declares.
        """
        found = blocks(stage.model)
        where = block_places(found, dict(stage.places))
        handles = []
        for block in found:
            inside = [n for n, p in stage.places.items() if n.startswith(f"{block.name}.") and covers(p)]
            self._owner.update(dict.fromkeys(inside, block.name))
            if inside:
                hook = self._hook(stage, where[block.name])
                handles.append(block.module.register_forward_pre_hook(hook, with_kwargs=True))
        lost = [n for n, p in stage.places.items() if covers(p) and n not in self._owner]

        def undo() -> None:
            for handle in handles:
                handle.remove()

        if lost:
            undo()
            raise InterventionError(
                f"{self._asked} was asked; {lost[0]} lies in no block that the model declares, so its input, which "
                "tells the sinks, is not known: name the source as a span"
            )
        return undo

    def of(self, call: AttentionCall) -> Bool[Tensor, "batch key_pos"]:
        """True for the keys of a call that are sinks at its layer; raises `InterventionError` for unseen keys."""
        index = call.key_index
        known = self._known.get(self._owner.get(call.place.module, ""))
        at = call.layout.key_pos.expand(index.shape[0], -1)
        seen = 0 if known is None else known.flags.shape[1]
        if (
            known is None
            or known.flags.shape[0] != index.shape[0]
            or bool(((at >= seen) & (index >= 0)).any())
        ):
            raise InterventionError(
                f"{self._asked} was asked of {call.place.module}, which reads keys whose layer inputs were not seen (a "
                "cache that was filled before, or rows that are not those of the block): name the source as a span"
            )
        flags: Tensor = known.flags.to(index.device).gather(1, at.clamp(0, seen - 1))
        return flags & (index >= 0)

    def _hook(self, stage: Stage, place: Place) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value, now = hidden_input(args, kwargs), stage.now()
            if value is not None and now is not None:
                self._note(place, value if value.ndim == 3 else value[None], *now)

        return hook

    def _note(
        self, place: Place, x: Float[Tensor, "batch token d_model"], batch: Batch, phase: Phase
    ) -> None:
        if max(self._dims) >= x.shape[-1]:
            raise InterventionError(
                f"{self._asked} was asked; {place.module} has {x.shape[-1]} dimensions, counted from 0: name others"
            )
        with torch.no_grad():
            fresh = ratios(x)[..., list(self._dims)].amax(-1) >= self._tau
        known = self._known.get(place.module)
        if place.tower != "decoder" or known is None or known.prompts != batch.prompts or batch.step == 0:
            self._known[place.module] = _Known(batch.prompts, batch.step, 0, fresh, fresh.shape[1])
            return
        start = _start(known, batch, fresh.shape[1])
        flags = torch.cat([known.flags[:, :start], fresh], dim=1)
        prompt_length = flags.shape[1] if phase == "prefill" else known.prompt_length
        if batch.reordered:
            self.swapped = True
            flags[:, prompt_length:] = False
        self._known[place.module] = _Known(batch.prompts, batch.step, start, flags, prompt_length)


def _start(known: _Known, batch: Batch, length: int) -> int:
    if batch.tokens is not None:
        return int(batch.tokens.shape[1]) - length
    return known.start if known.step == batch.step else int(known.flags.shape[1])


def pick_dims(first: Sequence[Tensor], others: Sequence[Tensor], tau: float) -> tuple[tuple[int, ...], str]:
    """The sink dimensions that several texts agree on, and what was found, in words, for errors.

    `first` holds the ratios of each text's first token ``[d_model]``, `others` those of its other tokens
    ``[token, d_model]``. A sink dimension is at least `tau` at the first token of every text, and at no more than half
    of the other tokens of any: a dimension that is large everywhere tells no sink. At most the two largest.
    """
    least = torch.stack(list(first)).amin(0)
    spread = torch.stack([(one >= tau).float().mean(0) for one in others]).amax(0)
    order = least.argsort(descending=True).tolist()
    good = [d for d in order if float(least[d]) >= tau and float(spread[d]) <= 0.5]
    top = order[0]
    if float(least[top]) < tau:
        said = (
            f"no dimension is {tau:g} times the RMS at the first token of all {len(first)} texts; the largest is "
            f"dimension {top} with {float(least[top]):.1f}, and none can pass √{len(least)} = {len(least) ** 0.5:.1f}"
        )
    else:
        said = (
            f"dimension {top} is {tau:g} times the RMS not only at the first token but at "
            f"{100 * float(spread[top]):.0f} % of the others, so it tells no sink"
        )
    return tuple(good[:2]), said
