"""One layer's attention, kept from the unedited run: an edit of z needs no more of it than W_O and what follows.

An intervention that edits z alone, and keeps no state, is a function of what attention was given and what it made. Both
are recorded once per layer; every head's edit is then applied to them, and the attention module answers with W_O of the
edited z. W_O is whichever linear map turns the recorded z into the recorded output; a module that does more than that
with its z has none, and is run instead.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from probe_kernels.types import Attended
from torch import Tensor, nn

from probe.analysis.sweeping.stack import Hidden, replaced_forward
from probe.seam.call import AttentionCall
from probe.seam.projection import linear_maps, widths
from probe.seam.session import Session

_BEFORE = ("call", "edits", "inputs", "attach", "live")


def edits_z_alone(intervention: Any) -> bool:
    """Whether an intervention is a function of one call and its result."""
    return hasattr(intervention, "attended") and not any(hasattr(intervention, name) for name in _BEFORE)


class _Recorder:
    """Stands among the interventions of a session, and keeps what one module's attention was given and made."""

    name = "recorder"

    def __init__(self, module: str) -> None:
        self.module = module
        self.seen: tuple[AttentionCall, Attended] | None = None

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result as it is."""
        if call.place.module == self.module:
            self.seen = call, attended
        return attended


@dataclass(frozen=True)
class KeptAttention:
    """What one attention module was given and made, and its W_O."""

    module: nn.Module
    output: Hidden
    projection: nn.Module
    call: AttentionCall
    result: Attended

    def edited(self, intervention: Any) -> Tensor | None:
        """The z of an intervention; None where it changes nothing."""
        after = intervention.attended(self.call, self.result)
        return None if after is self.result else after.z

    def made_of(self, several: Sequence[Tensor]) -> Tensor:
        """What the module returns for each of several z, one batch after another."""
        found: Tensor = self.projection(_flat(torch.cat(list(several))))
        return found.to(self.output.tensor.dtype)

    @contextmanager
    def answering(self, made: Tensor) -> Iterator[None]:
        """While open, the attention module returns `made`."""
        with replaced_forward([self.module], self.output.holding(made).output):
            yield


@contextmanager
def recording(model: nn.Module, module: str, spans: list[dict[str, Tensor]]) -> Iterator[list[KeptAttention]]:
    """While open, run what reaches `module` once, unedited; afterwards the list holds it, if it can be kept."""
    recorder, found = _Recorder(module), list[KeptAttention]()
    attention = model.get_submodule(module)
    outputs: list[Any] = []
    handle = attention.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        with Session(model, (), [recorder], mode="fused") as session:
            session.announce(spans)
            yield found
    finally:
        handle.remove()
    if recorder.seen is None or len(outputs) != 1:
        return
    call, result = recorder.seen
    output = Hidden(outputs[0], 0)
    projection = None if result.z is None else _projection(model, module, output, _flat(result.z))
    if projection is not None:
        found.append(KeptAttention(attention, output, projection, call, result))


def _projection(model: nn.Module, module: str, output: Hidden, given: Tensor) -> nn.Module | None:
    shape = tuple(output.tensor.shape)
    for one in linear_maps(model, module).values():
        if widths(one) != (given.shape[-1], shape[-1]):
            continue
        made: Tensor = one(given)
        if tuple(made.shape) == shape and torch.equal(made, output.tensor):
            return one
    return None


def _flat(z: Tensor) -> Tensor:
    return z.transpose(1, 2).contiguous().flatten(2)
