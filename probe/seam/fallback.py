"""Models that bypass the registry: eager attention, and hooks on the weights that their modules return.

Short contexts only (the model itself holds every map), and nothing can be edited. What was seen this way is listed in
``fallback_layers``; a module that returns no weights stays unseen.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from probe_kernels.mask import Mask, dense
from probe_kernels.reference import statistics
from probe_kernels.types import Layout, Want
from torch import Tensor, nn

from probe.errors import UnsupportedAttentionError
from probe.seam.call import AttentionCall, Place
from probe.seam.switch import Switched

if TYPE_CHECKING:
    from probe.seam.hub import Hub


class Fallback:
    """Watches the returned weights of every attention module of one model."""

    def __init__(self, hub: "Hub") -> None:
        self.hub = hub
        self.seen: set[str] = set()

    def attach(self) -> Callable[[], None]:
        """Switch to eager, ask for weights on every forward, hook the modules; returns the undo."""
        switched = Switched()
        switched.make_eager(self.hub.model)
        handles = [m.register_forward_pre_hook(self._ask, with_kwargs=True) for m in self._entrances()]
        for name in self.hub.places:
            module = self.hub.model.get_submodule(name)
            handles.append(module.register_forward_hook(self._see))

        def undo() -> None:
            for handle in handles:
                handle.remove()
            switched.restore()

        return undo

    def _entrances(self) -> list[nn.Module]:
        """Where a forward may begin: the model, and the encoder that ``generate()`` calls on its own."""
        model = self.hub.model
        get = getattr(model, "get_encoder", None)
        both = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        encoder = get() if both and callable(get) else model
        return [model] if encoder is model else [model, encoder]

    def _ask(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_attentions": True}

    def _see(self, module: nn.Module, args: Any, output: Any) -> None:
        weights = _weights(output)
        if weights is None:
            return
        place = self.hub.place(module)
        if not self._whole(place, weights):
            return
        self.seen.add(place.module)
        self.hub.count(place.module)
        with torch.no_grad():
            pattern = weights.detach().float()
            call = self._call(place, pattern)
            attended = statistics(pattern, call.layout, self._possible(self.hub.want(call)))
            self.hub.tell(call, attended)

    def _whole(self, place: Place, weights: Tensor) -> bool:
        """Whether the weights are over all keys: some models return only a band around the query."""
        forward = self.hub.forwards.current
        before = forward.start if forward is not None and place.tower == "decoder" else 0
        return place.tower == "cross" or weights.shape[3] == before + weights.shape[2]

    def _possible(self, want: Want) -> Want:
        """What weights alone can answer; z is dropped, it stays with the model here."""
        if want.lse or want.table or want.parts:
            raise UnsupportedAttentionError(
                f"lse, a block table or parts of z were wanted of {type(self.hub.model).__name__}, which bypasses "
                "transformers' attention registry and gives only its weights: leave out the metrics that want them"
            )
        return replace(want, z=False)

    def _call(self, place: Any, weights: Tensor) -> AttentionCall:
        forward = self.hub.forwards.current
        batch = self.hub.batch_for(place, weights.shape[0])
        n_query, n_key = weights.shape[2:]
        start = max(0, n_key - n_query)
        query_pos = torch.arange(start, start + n_query, device=weights.device)[None]
        key_pos = torch.arange(n_key, device=weights.device)[None]
        real = batch.real
        # Nobody tells which keys were visible: those that got any mass from any head.
        seen = (weights > 0).any(1)
        layout = Layout(
            Mask((dense(seen),)),
            query_pos,
            key_pos,
            query_real=None if real is None else real[:, -n_query:],
            key_real=None if real is None else real[:, :n_key],
        )
        causal = not bool(torch.triu(weights[:, :, :, start:], 1).any()) and place.tower == "decoder"
        phase = forward.phase if forward is not None else "prefill"
        return AttentionCall(place, batch, phase, None, layout, causal=causal, pattern=weights)


def _weights(output: Any) -> Tensor | None:
    """The attention weights among a module's outputs: four axes, rows that sum to one."""
    for part in output if isinstance(output, tuple | list) else (output,):
        if isinstance(part, Tensor) and part.ndim == 4 and part.is_floating_point():
            rows = part.detach().float().sum(-1)
            if bool((part >= 0).all()) and bool(((rows - 1).abs() < 1e-2).any(-1).all()):
                return part
    return None
