"""A group of cases as a model is called with it: whole, or as the continuation of a prefix that was run once."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from probe.analysis.sweeping.cases import Group
from probe.models import LoadedModel

_GROWING = (DynamicLayer, DynamicSlidingWindowLayer)
MOST_BYTES = 2**28  # of copied caches at a time


class Feed:
    """The inputs of one group.

    With `cached` the tokens before the first scored row are run once, unedited, and what is edited is the continuation
    of their cache: right where an edit touches no earlier row.
    """

    def __init__(self, loaded: LoadedModel, group: Group, *, cached: bool) -> None:
        self.model: Any = loaded.model
        self.group = group
        self.accepts = frozenset(inspect.signature(self.model.forward).parameters)
        self.ids: Tensor = group.ids.to(loaded.device)
        self.cache: Any = None
        self.start = group.first if cached else 0
        if self.start:
            made = self.model(
                input_ids=self.ids[:, : self.start], **self._keyword("logits_to_keep", 1), use_cache=True
            )
            self.cache = made.past_key_values

    @property
    def width(self) -> int:
        """Tokens per row of one call."""
        return int(self.ids.shape[1]) - self.start

    @property
    def bytes(self) -> int:
        """Bytes of the prefix's cache that a call may copy."""
        if self.cache is None:
            return 0
        tensors = [t for layer in self.cache.layers for t in vars(layer).values() if isinstance(t, Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)

    @property
    def repeats(self) -> bool:
        """Whether a call may take several copies: caches of kinds of their own are known for the group alone."""
        return self.cache is None or all(type(layer) in _GROWING for layer in self.cache.layers)

    def __call__(self, copies: int = 1, rows: Tensor | None = None) -> Any:
        """Call the model on `copies` of the group; logits of `rows` only, where the model can be asked so."""
        inputs: dict[str, Any] = {"input_ids": self.ids[:, self.start :].repeat(copies, 1)}
        if self.cache is not None:
            inputs |= {"past_key_values": copied(self.cache, copies), "use_cache": True}
        else:
            inputs |= self._keyword("use_cache", value=False)
        return self.model(**inputs, **self._keyword("logits_to_keep", 1 if rows is None else rows))

    def logits(self, output: Any, rows: Tensor) -> Tensor:
        """The logits of `rows` in an output of a call that was asked for them."""
        found: Tensor = output.logits
        return found if "logits_to_keep" in self.accepts else found[:, rows]

    def _keyword(self, name: str, value: object) -> dict[str, Any]:
        return {name: value} if name in self.accepts else {}


def copied(cache: Any, copies: int) -> Any:
    """A cache to go on from, so that `cache` stays as it is; its rows `copies` times over, where all its layers grow.

    Growing layers replace their tensors when they grow, so their tensors are shared; layers of other kinds are copied.
    """
    made = copy.copy(cache)
    made.layers = [_layer(layer, copies) for layer in cache.layers]
    # A session watches a cache by a method of its own on it; that one is the other cache's.
    made.__dict__.pop("reorder_cache", None)
    return made


def _layer(layer: Any, copies: int) -> Any:
    if type(layer) not in _GROWING:
        return copy.deepcopy(layer)
    made = copy.copy(layer)
    if copies > 1 and isinstance(layer.keys, Tensor) and layer.keys.numel():
        made.keys, made.values = _tiled(layer.keys, copies), _tiled(layer.values, copies)
    return made


def _tiled(value: Tensor, copies: int) -> Tensor:
    if value.shape[0] == 1:
        return value.expand(copies, *value.shape[1:])
    return torch.cat([value] * copies)
