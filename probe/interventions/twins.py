"""A second cache beside each cache of a model: the same tokens, as another run of the model has seen them."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

from transformers.cache_utils import Cache

# What generate() and users do to a whole cache; it must happen to both.
_DONE_TO_BOTH = (
    "reorder_cache",
    "crop",
    "batch_repeat_interleave",
    "batch_select_indices",
    "reset",
    "activate_past_recording",
)


class Twins:
    """Twin caches by the cache that they stand beside; a twin lives as long as its cache."""

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[Cache, Cache] = weakref.WeakKeyDictionary()

    def beside(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of a forward with every cache replaced by its twin, made at first use.

        A cache that was filled before has a copy for a twin: what it holds is common to both runs.
        """
        return {
            key: self._twin(value) if isinstance(value, Cache) else value for key, value in keywords.items()
        }

    def pair(self, cache: object, twin: object) -> None:
        """Take the caches that the two runs made themselves for a pair."""
        if (
            isinstance(cache, Cache)
            and isinstance(twin, Cache)
            and cache is not twin
            and cache not in self._of
        ):
            self._keep(cache, twin)

    def attach(self) -> Callable[[], None]:
        """Follow every known cache; what is returned lets go of them."""
        for cache, twin in list(self._of.items()):
            _follow(cache, twin)
        return self._let_go

    def _let_go(self) -> None:
        for cache in list(self._of):
            for name in _DONE_TO_BOTH:
                cache.__dict__.pop(name, None)

    def _twin(self, cache: Cache) -> Cache:
        if cache not in self._of:
            twin = copy.deepcopy(cache)
            for name in _DONE_TO_BOTH:
                twin.__dict__.pop(name, None)  # others may follow the cache; nobody follows the twin yet
            self._keep(cache, twin)
        return self._of[cache]

    def _keep(self, cache: Cache, twin: Cache) -> None:
        self._of[cache] = twin
        _follow(cache, twin)


def _follow(cache: Cache, twin: Cache) -> None:
    for name in _DONE_TO_BOTH:
        if hasattr(cache, name):
            setattr(cache, name, _both(getattr(cache, name), getattr(twin, name)))


def _both(mine: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    def do(*args: Any, **kwargs: Any) -> Any:
        other(*args, **kwargs)
        return mine(*args, **kwargs)

    return do
