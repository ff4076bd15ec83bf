"""What an intervention that works on the model itself is given: where things are, and what runs now."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from probe.seam.call import Batch, Phase, Place


@dataclass(frozen=True)
class Stage:
    """One model while one session edits it.

    An intervention hooks modules of `model` and tells `fired(module name)` whenever it changed something, so that an
    intervention without effect is found out.
    """

    model: nn.Module
    places: Mapping[str, Place]  # attention modules by name
    now: Callable[[], tuple[Batch, Phase] | None]  # the forward in flight; None outside any
    fired: Callable[[str], None]
    again: Callable[
        [], AbstractContextManager[None]
    ]  # open around a second pass within the forward in flight
    quiet: Callable[[], AbstractContextManager[None]]  # open around a pass that observers must not see
