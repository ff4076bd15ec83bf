"""What TransformerLens cached, under the names of its hooks. The library itself is never imported here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe.errors import InputError, UsageError

# Rotary ones first: those are the vectors that meet in the score.
QUERY, KEY = ("attn.hook_rot_q", "attn.hook_q"), ("attn.hook_rot_k", "attn.hook_k")
VALUE, PATTERN = ("attn.hook_v",), ("attn.hook_pattern",)
POINTS = {"resid_pre": "hook_resid_pre", "mlp_out": "hook_mlp_out", "resid_post": "hook_resid_post"}
HOOKS = frozenset((*QUERY, *KEY, *VALUE, *PATTERN, *POINTS.values()))
_INSTALL = "pip install 'attention-probe[lens]'"


@dataclass(frozen=True)
class Cached:
    """Cached tensors by hook name, each with a batch axis, and the model that made them where that is known."""

    tensors: Mapping[str, Tensor]
    model: Any | None

    @property
    def layers(self) -> list[int]:
        """The layers of which anything is cached, ascending."""
        found = {name.split(".")[1] for name in self.tensors if name.startswith("blocks.")}
        return sorted(int(layer) for layer in found if layer.isdigit())

    @property
    def size(self) -> tuple[int, int]:
        """Sequences, and tokens of each."""
        for name, value in self.tensors.items():
            if _hook(name) not in PATTERN:
                return int(value.shape[0]), int(value.shape[1])
        pattern = next(iter(self.tensors.values()))
        return int(pattern.shape[0]), int(pattern.shape[3])

    @property
    def config(self) -> Any:
        """TransformerLens's configuration; None where no model is known."""
        return getattr(self.model, "cfg", None)

    def get(self, layer: int, hooks: tuple[str, ...]) -> Tensor | None:
        """The first of these hooks that is cached for a layer."""
        names = (f"blocks.{layer}.{hook}" for hook in hooks)
        return next((self.tensors[name] for name in names if name in self.tensors), None)


def read_cache(source: Any, tokens: Tensor | None) -> Cached:
    """A cache as it is, or of a bridge the one that it makes of `tokens`, with the hooks that metrics read.

    Raises:
        UsageError: `source` is neither, or a bridge was given without tokens.
        InputError: the cache holds nothing of any attention layer.
    """
    if hasattr(source, "run_with_cache"):
        if tokens is None:
            raise UsageError("a bridge was given without tokens; give the tokens that it is to run on")
        made = source.run_with_cache(tokens, names_filter=_wanted())
        source = made[1]
    if not (hasattr(source, "keys") and hasattr(source, "__getitem__")):
        raise UsageError(
            f"from_lens was given a {type(source).__name__}; it takes an ActivationCache of TransformerLens, a bridge "
            f"with run_with_cache, or a mapping of hook names to tensors ({_INSTALL})"
        )
    batched = getattr(source, "has_batch_dim", True)
    tensors = {}
    for name in source.keys():  # noqa: SIM118 -- an ActivationCache iterates over nothing else
        value = source[name]
        if isinstance(value, Tensor) and _hook(str(name)) in HOOKS:
            tensors[str(name)] = value.detach() if batched else value.detach()[None]
    found = Cached(tensors, getattr(source, "model", None))
    if not found.layers:
        raise InputError(
            f"a cache without attention was given; it needs {', '.join(f'blocks.0.{one[-1]}' for one in (QUERY, KEY))} "
            "and blocks.0.attn.hook_v, or blocks.0.attn.hook_pattern: look at its names_filter"
        )
    return found


def _hook(name: str) -> str:
    """The hook's name within its block: ``attn.hook_q``."""
    return name.split(".", 2)[-1] if name.startswith("blocks.") else ""


def _wanted() -> Callable[[str], bool]:
    return lambda name: _hook(name) in HOOKS


def heads_first(value: Tensor) -> Tensor:
    """TransformerLens's ``[batch, pos, head, d]`` as ``[batch, head, pos, d]``."""
    return value.transpose(1, 2).to(torch.float32 if value.dtype == torch.float16 else value.dtype)
