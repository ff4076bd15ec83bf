"""The residual stream at the blocks of a model: read, or replaced, as attention's own calls are."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from probe_kernels.mask import Mask
from probe_kernels.types import Layout, Scores
from torch import Tensor, nn

from probe.errors import InterventionError
from probe.seam.call import AttentionCall, Place
from probe.seam.hub import Hub, hub_of
from probe.seam.points import first_tensor, hidden_input
from probe.seam.recorded import Recorded, block_places, blocks

Side = Literal["resid_pre", "resid_post"]  # what enters a block, and what leaves it
# (the block's place, said as a call of one head; its stream [batch, 1, token, d_model]) -> another stream, or None
See = Callable[[AttentionCall, Tensor], Tensor | None]


def watch_stream(model: nn.Module, side: Side, see: See) -> Callable[[], None]:
    """Show `see` the residual stream of every block in every forward, and put in its place what `see` returns.

    Raises:
        InterventionError: the model declares no blocks, or they work on something else than [batch, token, d_model].
    """
    found = blocks(model)
    hub = hub_of(model)
    if not found or hub is None:
        raise InterventionError(
            f"the residual stream of {type(model).__name__} was asked; it declares no blocks: use node='z'"
        )
    where = block_places(found, hub.places)
    handles = []
    for block in found:
        watched = _Watched(hub, block, where[block.name], see)
        if side == "resid_pre":
            handles.append(block.module.register_forward_pre_hook(watched.before, with_kwargs=True))
        else:
            handles.append(block.module.register_forward_hook(watched.after))

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


class _Watched:
    """The hooks of one block."""

    def __init__(self, hub: Hub, block: Recorded, place: Place, see: See) -> None:
        self.hub, self.block, self.place, self.see = hub, block, place, see
        # A block that is entered again in one forward (shared weights) is a further layer, as its attention is.
        self.inner = [name for name in hub.places if name.startswith(f"{block.name}.")]

    def before(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        value = hidden_input(args, kwargs)
        made = self._seen(value, 0)
        if made is None:
            return None
        return (
            tuple(made if one is value else one for one in args),
            {key: made if one is value else one for key, one in kwargs.items()},
        )

    def after(self, _module: nn.Module, _args: object, output: Any) -> Any:
        made = self._seen(first_tensor(output, self.block.index), 1)
        if made is None:
            return None
        if isinstance(output, tuple | list):
            parts = [made if n == self.block.index else one for n, one in enumerate(output)]
            return tuple(parts) if isinstance(output, tuple) else parts
        return made

    def _seen(self, value: Tensor | None, entered: int) -> Tensor | None:
        if value is None or value.ndim not in (2, 3):
            shape = "nothing" if value is None else str(list(value.shape))
            raise InterventionError(
                f"the residual stream was asked; block {self.place.module} works on {shape}, not on "
                "[batch, token, d_model]: use node='z'"
            )
        whole = value if value.ndim == 3 else value[None]  # vision towers that work on packed patches
        made = self.see(self._call(whole, entered), whole[:, None])
        return None if made is None else made[:, 0].reshape(value.shape).to(value.dtype)

    def _call(self, value: Tensor, entered: int) -> AttentionCall:
        """Where the block stands, said as a call of one head, so that targets read it as they read attention."""
        forward = self.hub.forwards.current
        if forward is None:
            raise InterventionError(
                f"block {self.place.module} ran outside any forward of the model (gradient checkpointing), where its "
                "tokens are not known: switch gradient checkpointing off"
            )
        place = self.place
        again = max((forward.entries.get(name, 0) for name in self.inner), default=0) - entered
        if again > 0:
            shared = sum(1 for other in self.hub.places.values() if other.tower == place.tower)
            place = replace(place, layer=place.layer + again * shared)
        batch = self.hub.batch_for(place, int(value.shape[0]))
        decodes = place.tower in ("decoder", "cross")
        start = forward.start if decodes else 0
        at = torch.arange(start, start + int(value.shape[1]), device=value.device)[None]
        real = batch.real
        if real is not None and place.tower in ("decoder", "encoder"):
            inside = at[0] < real.shape[1]
            real = real[:, at[0].clamp_max(real.shape[1] - 1)] & inside
        else:
            real = None
        nothing = value.new_zeros(1).expand(value.shape[0], 1, value.shape[1], 1)
        layout = Layout(Mask(), at, at, query_real=real, key_real=real)
        phase = forward.phase if decodes else "prefill"
        return AttentionCall(place, batch, phase, Scores(nothing, nothing, None, 1.0), layout, causal=decodes)
