"""Putting ourselves where transformers looks for attention, and taking ourselves out again.

*Fused*: our function and our lazy mask are registered class-wide under one name (two names: models without SDPA
support expect an additive float mask), and the configs of the observed model point at it. *Shadow*: the functions that
the model already uses are wrapped, and answer as before.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from probe.errors import CaptureError
from probe.seam.masks import MaskSpec, lazy_additive_mask, lazy_mask, remember
from probe.seam.places import submodels

FUSED, FUSED_ADDITIVE = "probe", "probe_additive"

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
_lock = threading.RLock()


def register_fused(function: AttentionFunction) -> None:
    """Make our attention and masks known to transformers, once, on the classes (some models make own instances)."""
    with _lock:
        for name, mask in ((FUSED, lazy_mask), (FUSED_ADDITIVE, lazy_additive_mask)):
            AttentionInterface.register(name, function)
            AttentionMaskInterface.register(name, mask)


def configs(model: nn.Module) -> Iterator[tuple[PretrainedConfig, PreTrainedModel]]:
    """Every config that an attention module may consult, with the innermost sub-model that owns it."""
    owner: dict[int, tuple[PretrainedConfig, PreTrainedModel]] = {}
    for sub in submodels(model).values():
        for module in sub.modules():
            config = getattr(module, "config", None)
            if isinstance(config, PretrainedConfig):
                owner[id(config)] = (config, sub)
    yield from owner.values()


def switchable(model: nn.Module) -> bool:
    """Whether any sub-model reads its attention function from the registry."""
    return any(sub._can_set_attn_implementation() for sub in submodels(model).values())


class Switched:
    """The configs of one model, pointed at another attention; `restore` points them back."""

    def __init__(self) -> None:
        self._before: list[tuple[PretrainedConfig, str | None]] = []

    def fuse(self, model: nn.Module) -> None:
        """Point every sub-model that uses the registry at our fused attention."""
        for config, sub in configs(model):
            if sub._can_set_attn_implementation():
                self._point(config, FUSED if sub._supports_sdpa else FUSED_ADDITIVE)

    def make_eager(self, model: nn.Module) -> None:
        """Point every sub-model at its eager attention (which returns weights)."""
        for config, _ in configs(model):
            self._point(config, "eager")

    def _point(self, config: PretrainedConfig, name: str) -> None:
        self._before.append((config, config._attn_implementation_internal))
        config._attn_implementation_internal = name

    def restore(self) -> None:
        """Point every config back at what it used before."""
        while self._before:
            config, name = self._before.pop()
            config._attn_implementation_internal = name


class _Wrap:
    """One name of a transformers registry, wrapped as long as anybody shadows it."""

    def __init__(self, registry: Any, name: str, wrapped: Callable[..., Any]) -> None:
        self.users = 1
        self._mapping = (
            registry._local_mapping if name in registry._local_mapping else registry._global_mapping
        )
        self._name = name
        self._before = self._mapping.get(name)
        self._mapping[name] = wrapped

    def undo(self) -> None:
        if self._before is None:
            self._mapping.pop(self._name, None)
        else:
            self._mapping[self._name] = self._before


_wraps: dict[tuple[str, str], _Wrap] = {}

Around = Callable[
    [AttentionFunction, nn.Module, tuple[Any, ...], dict[str, Any]], tuple[Tensor, Tensor | None]
]


def shadow(model: nn.Module, around: Around) -> Callable[[], None]:
    """Wrap the attention and mask functions that `model` uses now; returns the function that unwraps them.

    The wrapper is process-wide but answers for others exactly as the wrapped function does.
    """
    used: list[tuple[str, str]] = []
    names = {config._attn_implementation for config, _ in configs(model)} - {None}
    unknown = {n for n in names if n != "eager" and n not in ALL_ATTENTION_FUNCTIONS}
    if unknown:
        raise CaptureError(
            f"the model uses attention {sorted(unknown)[0]!r}, which is not registered with transformers; "
            "observe with mode='fused'"
        )
    with _lock:
        for name in sorted(names):
            _wrap(("attention", name), partial(_attention_wrap, name, around), used)
            if name in ALL_MASK_ATTENTION_FUNCTIONS:
                _wrap(("mask", name), partial(_mask_wrap, name), used)

    def undo() -> None:
        with _lock:
            while used:
                key = used.pop()
                _wraps[key].users -= 1
                if _wraps[key].users == 0:
                    _wraps.pop(key).undo()

    return undo


def _wrap(key: tuple[str, str], make: Callable[[], _Wrap], used: list[tuple[str, str]]) -> None:
    if key in _wraps:
        _wraps[key].users += 1
    else:
        _wraps[key] = make()
    used.append(key)


def _attention_wrap(name: str, around: Around) -> _Wrap:
    registered = None if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]

    def attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        native = registered or _own_eager(module)
        return around(native, module, args, kwargs)

    return _Wrap(ALL_ATTENTION_FUNCTIONS, name, attention)


def _own_eager(module: nn.Module) -> AttentionFunction:
    """The eager function of the file that defines an attention module, which the module itself would have used."""
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            found: AttentionFunction = function
            return found
    raise CaptureError(
        f"{type(module).__name__} runs eager attention, but its file defines no eager_attention_forward"
    )


def _mask_wrap(name: str) -> _Wrap:
    native = ALL_MASK_ATTENTION_FUNCTIONS[name]

    def mask(*args: Any, **keywords: Any) -> Any:
        made = native(*args, **keywords)
        if not args:
            remember(made, MaskSpec.of(keywords, additive=False))
        return made

    return _Wrap(ALL_MASK_ATTENTION_FUNCTIONS, name, mask)
