"""The lazy mask: what transformers says about visibility, carried in O(n) and made dense only if model code insists.

transformers asks the registered mask function for one mask per layer type. Ours answers with a `LazyMask`: a tensor
of the right shape that holds the keywords it was asked with (lengths, absolute offsets, rule, padding), no cells.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, eager_mask, sdpa_mask

MaskFunction = Callable[..., Tensor]


@dataclass
class MaskTally:
    """How often, and at what size, model code forced a lazy mask to become dense."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class MaskSpec:
    """The keywords of one mask request; positions are absolute storage positions, padding included."""

    batch_size: int
    q_length: int
    kv_length: int
    q_offset: int
    kv_offset: int
    rule: MaskFunction
    padding: Tensor | None  # bool [batch, >= tokens], True = real
    use_vmap: bool
    dtype: torch.dtype
    device: torch.device
    additive: bool
    memo: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)
    tally: MaskTally = field(default_factory=MaskTally, compare=False, repr=False)

    @classmethod
    def of(cls, keywords: dict[str, Any], *, additive: bool) -> "MaskSpec":
        """Read the keywords that transformers passes to a mask function."""
        return cls(
            batch_size=int(keywords["batch_size"]),
            q_length=int(keywords["q_length"]),
            kv_length=int(keywords["kv_length"]),
            q_offset=int(keywords.get("q_offset", 0)),
            kv_offset=int(keywords.get("kv_offset", 0)),
            rule=keywords.get("mask_function", causal_mask_function),
            padding=keywords.get("attention_mask"),
            use_vmap=bool(keywords.get("use_vmap", False)),
            dtype=keywords.get("dtype", torch.float32),
            device=torch.device(keywords.get("device", "cpu")),
            additive=additive,
        )

    def dense(self) -> Tensor:
        """The mask as transformers itself would build it, never skipped."""
        build = eager_mask if self.additive else sdpa_mask
        made = build(
            batch_size=self.batch_size, q_length=self.q_length, kv_length=self.kv_length, q_offset=self.q_offset,
            kv_offset=self.kv_offset, mask_function=self.rule, attention_mask=self.padding, dtype=self.dtype,
            allow_is_causal_skip=False, allow_is_bidirectional_skip=False, use_vmap=self.use_vmap, device=self.device,
        )  # fmt: skip
        mask: Tensor = made.expand(self.batch_size, 1, self.q_length, self.kv_length)
        self.tally.count += 1
        self.tally.bytes += mask.numel() * mask.element_size()
        return mask


_KEEPS_CONTENT = {
    torch.ops.aten.alias.default,
    torch.ops.aten.detach.default,
    torch.ops.aten.clone.default,
    torch.ops.aten.lift_fresh.default,
}


class LazyMask(torch.Tensor):
    """A mask tensor ``[batch, heads, q, k]`` that is only its `MaskSpec` and a window (`rows`, `keys`) onto it.

    Stays lazy under alias, detach, clone, expand of batch and head, device copies and slices of the last two axes;
    any other operation is done on the dense mask, and counted in ``spec.tally``.
    """

    spec: MaskSpec
    rows: slice
    keys: slice

    @staticmethod
    def __new__(
        cls,
        spec: MaskSpec,
        rows: slice | None = None,
        keys: slice | None = None,
        lead: tuple[int, int] | None = None,
    ) -> "LazyMask":
        """Make the tensor that stands for the mask; it owns no storage."""
        rows = rows if rows is not None else slice(0, spec.q_length)
        keys = keys if keys is not None else slice(0, spec.kv_length)
        shape = (*(lead or (spec.batch_size, 1)), rows.stop - rows.start, keys.stop - keys.start)
        dtype = spec.dtype if spec.additive else torch.bool
        made: LazyMask = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=spec.device)
        made.spec, made.rows, made.keys = spec, rows, keys
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"LazyMask({tuple(self.shape)}, rows={self.rows}, keys={self.keys})"

    def dense(self) -> Tensor:
        """The cells of this window, built now."""
        return self.spec.dense()[:, :, self.rows, self.keys].expand(self.shape)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types it as an instance method
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        lazy = _stays_lazy(func, args, kwargs)
        if lazy is not None:
            return lazy
        plain = torch.utils._pytree.tree_map_only(LazyMask, LazyMask.dense, (args, kwargs))
        return func(*plain[0], **plain[1])


def _stays_lazy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LazyMask | None:
    mask = args[0] if args else None
    if not isinstance(mask, LazyMask):
        return None
    lead = (mask.shape[0], mask.shape[1])
    if func in _KEEPS_CONTENT:
        return LazyMask(mask.spec, mask.rows, mask.keys, lead)
    if func is torch.ops.aten._to_copy.default and kwargs.get("dtype", mask.dtype) == mask.dtype:
        device = torch.device(kwargs.get("device") or mask.device)
        return LazyMask(replace(mask.spec, device=device, memo={}), mask.rows, mask.keys, lead)
    if func is torch.ops.aten.slice.Tensor:
        return _sliced(mask, *args[1:])
    if func is torch.ops.aten.expand.default:
        target = tuple(own if new == -1 else new for new, own in zip(args[1], mask.shape, strict=True))
        if len(args[1]) == 4 and target[2:] == tuple(mask.shape[2:]):
            return LazyMask(mask.spec, mask.rows, mask.keys, (target[0], target[1]))
    return None


def _sliced(
    mask: LazyMask, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> LazyMask | None:
    begin, end, stride = slice(start, stop, step).indices(mask.shape[dim])
    dim = dim % 4
    lead = (mask.shape[0], mask.shape[1])
    if stride != 1:
        return None
    if dim < 2:
        return (
            LazyMask(mask.spec, mask.rows, mask.keys, lead) if (begin, end) == (0, mask.shape[dim]) else None
        )
    window = [mask.rows, mask.keys]
    base = window[dim - 2].start
    window[dim - 2] = slice(base + begin, base + max(begin, end))
    return LazyMask(mask.spec, window[0], window[1], lead)


def remember(made: object, spec: MaskSpec) -> None:
    """Write on a mask what it was asked with: `generate()` makes masks before the forward that uses them."""
    if isinstance(made, Tensor):
        made.probe_spec = spec  # type: ignore[attr-defined]


def spec_of(mask: object) -> MaskSpec | None:
    """What a mask was asked with; None for a mask that somebody made by hand."""
    spec = mask.spec if isinstance(mask, LazyMask) else getattr(mask, "probe_spec", None)
    return spec if isinstance(spec, MaskSpec) else None


def lazy_mask(**keywords: Any) -> LazyMask:
    """The mask function registered beside our attention, boolean form."""
    return LazyMask(MaskSpec.of(keywords, additive=False))


def lazy_additive_mask(**keywords: Any) -> LazyMask:
    """The mask function for models that expect an additive float mask."""
    return LazyMask(MaskSpec.of(keywords, additive=True))
