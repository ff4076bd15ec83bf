"""Dense float64 attention in a model's own eager place, whose rows a test may change: the judge of edited rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from subjects.oracle import go_eager
from torch import Tensor, nn
from transformers import AttentionInterface


@dataclass(frozen=True)
class Dense:
    """One layer's attention in a whole forward, float64; `scores` are -inf where hidden."""

    module: str
    scores: Tensor  # [batch, head, query, key], with bias
    sinks: Tensor | None  # [head]
    query: Tensor  # [batch, head, query, d]
    key: Tensor  # [batch, head, key, d], repeated over the group
    value: Tensor

    @property
    def seen(self) -> Tensor:
        """Which keys are visible."""
        return self.scores > -torch.inf

    def softmax(self, scores: Tensor, *, sinks: bool = True) -> Tensor:
        """Rows of probabilities; a row without keys is 0."""
        parts = [scores]
        if sinks and self.sinks is not None:
            parts.append(self.sinks[None, :, None, None].expand(*scores.shape[:3], 1))
        joined = torch.cat(parts, dim=-1)
        p = torch.softmax(joined, dim=-1)[..., : scores.shape[-1]]
        return p.nan_to_num(0.0)


@contextmanager
def changed_rows(model: nn.Module, change: Callable[[Dense], Tensor]) -> Iterator[None]:
    """While open, every attention of the model weighs its values with the probabilities that `change` gives."""
    names = {id(module): name for name, module in model.named_modules()}

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kw: Any
    ) -> tuple[Tensor, None]:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        scaling = kw.get("scaling")
        s = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if kw.get("position_bias") is not None:
            s = s + kw["position_bias"]
        if mask is not None:
            s = (s + mask[..., : key.shape[2]]).masked_fill(mask[..., : key.shape[2]] < -1e30, -torch.inf)
        sinks = getattr(module, "sinks", None)
        p = change(Dense(names[id(module)], s, sinks, query, key, value))
        return (p @ value).transpose(1, 2).contiguous(), None

    go_eager(model)
    AttentionInterface.register("eager", attend)
    try:
        yield
    finally:
        AttentionInterface._global_mapping.pop("eager")
