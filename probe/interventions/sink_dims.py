"""Finds a model's sink dimensions: where its first token's residual stream is massive, in every text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import InterventionError
from probe.interventions.feeds import feeds_of, run_feeds
from probe.interventions.sink_tokens import pick_dims, ratios
from probe.models import LoadedModel
from probe.prompts import Prompt, default_text
from probe.seam.call import Activation, AttentionCall
from probe.seam.places import places
from probe.seam.recorded import block_places, blocks
from probe.seam.session import Session

_TOKENS = 48
_TEXTS = 4
_GIVE = "give the dimensions (dims=[...]), another tau, or a span as the source"

Run = Callable[
    [Any, Sequence[Prompt]], object
]  # shows an observer each of some prompts, one forward at a time


def find_sink_dims(loaded: LoadedModel, tau: float, asked: str, run: Run | None = None) -> tuple[int, ...]:
    """One or two dimensions with massive activations at the first token, at the input of the middle layer.

    Measured on four pieces of the shipped text; see `pick_dims` for the rule. `run` shows them to an observer; without
    it they run in a session of their own, which must be the only one.

    Raises:
        InterventionError: the model reads no text, or no dimension tells its first token in every piece.
        UsageError: the model is being observed or edited already.
    """
    if loaded.tokenizer is None or getattr(loaded.model, "main_input_name", "") != "input_ids":
        raise InterventionError(f"{asked} was asked of {loaded.name}, which reads no text here: {_GIVE}")
    where = block_places(blocks(loaded.model), places(loaded.model)).values()
    tower = "decoder" if any(place.tower == "decoder" for place in where) else "encoder"
    layers = sorted(place.layer for place in where if place.tower == tower)
    if not layers:
        raise InterventionError(
            f"{asked} was asked; {loaded.name} declares no blocks to look between: {_GIVE}"
        )
    watch = _Middle(tower, layers[len(layers) // 2])
    pieces = [piece.truncate(_TOKENS) for piece in _pieces(loaded)]
    if run is not None:
        run(watch, pieces)
    else:
        feeds = feeds_of([torch.tensor(piece.tokens) for piece in pieces], loaded, asked, width=1)
        run_feeds(loaded, feeds, Session(loaded.model, (watch,), mode="shadow"), asked)
    dims, said = pick_dims([one[0] for one in watch.seen], [one[1:] for one in watch.seen], tau)
    if not dims:
        raise InterventionError(f"{asked} was asked of {loaded.name}; at layer {watch.layer} {said}: {_GIVE}")
    return dims


def require_dims(loaded: LoadedModel, dims: tuple[int, ...], asked: str) -> None:
    """Raise `InterventionError` for a dimension beyond the width that the model's config tells."""
    config: Any = getattr(loaded.model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    width = getattr(text, "hidden_size", None)
    if isinstance(width, int) and max(dims) >= width:
        raise InterventionError(
            f"{asked} was asked; the layers of {loaded.name} have {width} dimensions, counted from 0: name others"
        )


class _Middle:
    """An observer of the residual stream at the input of one layer."""

    points = ("resid_pre",)

    def __init__(self, tower: str, layer: int) -> None:
        self.tower, self.layer = tower, layer
        self.seen: list[Tensor] = []

    def want(self, call: AttentionCall) -> Want:
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Attention itself is not looked at."""

    def activation(self, seen: Activation) -> None:
        if (seen.place.tower, seen.place.layer) == (self.tower, self.layer):
            self.seen.append(ratios(seen.value[0]).cpu())


def _pieces(loaded: LoadedModel) -> list[Prompt]:
    words = default_text().split(" ")
    size = min(_TOKENS, len(words) // _TEXTS)
    starts = [number * len(words) // _TEXTS for number in range(_TEXTS)]
    return [Prompt.of(" ".join(words[start : start + size]), loaded.tokenizer) for start in starts]
