"""The nouns of the kernels: what is attended, how it lies, what is wanted, and what came out.

Axes: ``B`` batch, ``H`` query heads, ``Hk`` key/value heads (H % Hk == 0; query head h reads head h // (H/Hk)),
``Q`` queries, ``K`` keys, ``D`` head width of q and k, ``Dv`` head width of v.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from probe_kernels.mask import Mask


@dataclass(frozen=True)
class Scores:
    """What makes the scores: s = softcap·tanh(scale·q·k / softcap) + bias, and one learned sink logit per head.

    Raises `ValueError` where shapes do not fit together.
    """

    query: Tensor  # [B, H, Q, D]
    key: Tensor  # [B, Hk, K, D], not repeated over the group
    value: Tensor | None  # [B, Hk, K, Dv]; None: no z is wanted
    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None  # [H] or [B, H, Q]: logits of a virtual key with value 0
    bias: Tensor | None = (
        None  # added to scores, broadcastable to [B, H, Q, K] (T5 position bias, a user's float mask)
    )
    alibi: Tensor | None = None  # [H]: slopes m, adds -m·(query_pos - key_pos)

    def __post_init__(self) -> None:
        q, k, v = self.query, self.key, self.value
        if q.ndim != 4 or k.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
            raise ValueError(
                f"query {tuple(q.shape)} and key {tuple(k.shape)} must be [B,H,Q,D] and [B,Hk,K,D]"
            )
        if q.shape[1] % k.shape[1]:
            raise ValueError(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads evenly")
        if v is not None and v.shape[:3] != k.shape[:3]:
            raise ValueError(
                f"value {tuple(v.shape)} must match key {tuple(k.shape)} in batch, heads and length"
            )


@dataclass(frozen=True)
class Layout:
    """Where queries and keys lie, and which of them count. ``b`` is 1 or B.

    A key that is not real is never visible. A query that is not real still gets an answer (z = whatever its row
    gives) but is left out of every sum over queries (column mass).
    """

    mask: Mask
    query_pos: Tensor  # int64 [b, Q]
    key_pos: Tensor  # int64 [b, K]
    query_segment: Tensor | None = None  # int [b, Q]
    key_segment: Tensor | None = None  # int [b, K]
    query_real: Tensor | None = None  # bool [b, Q]
    key_real: Tensor | None = None  # bool [b, K]


@dataclass(frozen=True)
class Match:
    """Mass on visible keys whose id equals the query's id: ids int64, ``query_ids [b, Q]``, ``key_ids [b, K]``."""

    query_ids: Tensor
    key_ids: Tensor


@dataclass(frozen=True)
class Want:
    """The statistics that somebody asked for; the union over metrics is computed once, in one sweep.

    All are taken from p = exp(s - lse), the pattern as the model has it (with a learned sink, rows sum to
    1 - sink mass). Named mappings: key = how the asker will find the answer again.
    """

    z: bool = True
    lse: bool = False
    entropy: bool = False  # nats; a learned sink counts as one more outcome
    square: bool = False  # Σ p²
    top: bool = False  # largest probability and the storage index of its key (first of equals)
    distance: bool = False  # Σ p·|query_pos - key_pos|
    visible: bool = False  # number of visible keys of a row
    column: bool = False  # Σ over real queries of p, per key; and how many real queries see the key
    first: tuple[int, ...] = ()  # mass on the first n visible keys of the row
    offsets: tuple[int, ...] = ()  # mass on the key exactly o positions behind the query
    bands: tuple[tuple[int, int], ...] = ()  # column mass from queries with lo <= query_pos - key_pos <= hi
    matches: Mapping[str, Match] = field(default_factory=dict)  # token-match mass
    key_groups: Mapping[str, Tensor] = field(default_factory=dict)  # int16 [b, K], -1 = none: mass per group
    parts: frozenset[str] = frozenset()  # key_groups whose z_g = Σ_{j in g} p v is wanted as well
    query_groups: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # int16 [b, Q]: column mass per query group
    table: int = 0  # block size of the block-LSE table; 0 = no table
    rows: Mapping[str, Callable[[Tensor, slice, slice], Tensor]] = field(default_factory=dict)
    # ^ torch backend only: fn(block p [B, H, rows, keys], rows, keys) -> [B, H, rows, ...], concatenated over rows

    def __or__(self, other: "Want") -> "Want":
        return Want(**{name: _union(name, getattr(self, name), getattr(other, name)) for name in _WANTS})


def _union(name: str, a: Any, b: Any) -> Any:
    if isinstance(a, bool):
        return a or b
    if isinstance(a, tuple):
        return tuple(dict.fromkeys((*a, *b)))
    if isinstance(a, frozenset):
        return a | b
    if isinstance(a, int):
        if a and b and a != b:
            raise ValueError(f"two block sizes of the table were wanted, {a} and {b}; agree on one")
        return a or b
    clash = [key for key in a if key in b and a[key] is not b[key]]
    if clash:
        raise ValueError(f"two different {name} were wanted under the name {clash[0]!r}; rename one")
    return {**a, **b} if a or b else a


_WANTS = tuple(one.name for one in fields(Want))


@dataclass
class Attended:
    """z and the wanted statistics, float32 (z in the value's dtype); a field that was not wanted is None or missing.

    Rows that see no key: z = 0, lse = -inf, entropy = 0, every mass 0, top_index = -1. Counts are the same for all
    heads and have no axis for them, unless a visit differs by head: then visible is ``[B, H, Q]``, seen_by and
    band_seen_by ``[B, H, K]``.
    """

    z: Tensor | None = None  # [B, H, Q, Dv]
    lse: Tensor | None = None  # [B, H, Q], includes a learned sink
    sink_mass: Tensor | None = None  # [B, H, Q], present whenever the scores have learned sinks
    entropy: Tensor | None = None  # [B, H, Q]
    square: Tensor | None = None  # [B, H, Q]
    top_p: Tensor | None = None  # [B, H, Q]
    top_index: Tensor | None = None  # int64 [B, H, Q], storage index into the keys
    distance: Tensor | None = None  # [B, H, Q]
    visible: Tensor | None = None  # int64 [B, Q]
    column: Tensor | None = None  # [B, H, K]
    seen_by: Tensor | None = None  # int64 [B, K]: real queries that see the key (with column)
    first: dict[int, Tensor] = field(default_factory=dict)  # n -> [B, H, Q]
    offsets: dict[int, Tensor] = field(default_factory=dict)  # o -> [B, H, Q]
    bands: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # (lo, hi) -> [B, H, K]
    band_seen_by: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # int64 [B, K]
    matches: dict[str, Tensor] = field(default_factory=dict)  # [B, H, Q]
    key_groups: dict[str, Tensor] = field(default_factory=dict)  # [B, H, Q, G]
    parts: dict[str, Tensor] = field(default_factory=dict)  # [B, H, Q, G, Dv]
    query_groups: dict[str, Tensor] = field(default_factory=dict)  # [B, H, R, K]
    table: Tensor | None = None  # [B, H, blocks, Q]: log Σ_{j in block} e^s, keys only
    rows: dict[str, Tensor] = field(default_factory=dict)
    n_keys: int = (
        0  # keys that were attended over, hidden ones included (merge counts storage indices from it)
    )
    table_block: int = 0  # block size of the table

    def in_float32(self) -> "Attended":
        """The same answers with every statistic in float32; z and integers keep their dtype."""
        lowered = {name: one if name == "z" else _lower(one) for name, one in vars(self).items()}
        return Attended(**lowered)  # type: ignore[arg-type]


def _lower(value: object) -> object:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _lower(one) for key, one in value.items()}
    return value


# apply(block, rows, keys) -> edited block; block is [B, len(heads), rows, keys], rows and keys are storage slices.
Apply = Callable[[Tensor, slice, slice], Tensor]


@dataclass(frozen=True)
class BlockEdit:
    """One edit of blocks. `apply` is given, and returns, the part of a block that belongs to `heads`, in their order.

    It must not change what it is given, and must answer alike when asked again: where gradients are on, the backward
    pass computes blocks a second time. In an edit of probabilities `sinks` says what becomes of the mass of the learned
    sink: ``sinks(mass [B, len(heads), rows], rows) -> mass``; None leaves it as it was.

    Raises `ValueError` where a head is named twice or is negative.
    """

    apply: Apply
    heads: tuple[int, ...] | None = None  # query heads that it edits; None = every head
    sinks: Callable[[Tensor, slice], Tensor] | None = None

    def __post_init__(self) -> None:
        heads = self.heads or ()
        if len(set(heads)) < len(heads) or any(head < 0 for head in heads):
            raise ValueError(f"an edit names heads {list(heads)}; name each head once, counted from 0")


@dataclass(frozen=True)
class Edits:
    """Edits of the blocks inside the sweep, so that z and every statistic come from the edited attention.

    `scores` edits are applied after mask, bias and softcap (hidden keys hold -inf and must stay -inf), in order;
    `probs` edits after the softmax, in order. Blocks hold whole rows: every key that any row of the chunk may see.
    A factor that wants a gradient must not meet those -inf: 0 · inf is NaN in the backward pass, so mask them first.

    Raises `ValueError` where an edit of scores has `sinks`: the sink has no mass before the softmax.
    """

    scores: tuple[BlockEdit, ...] = ()
    probs: tuple[BlockEdit, ...] = ()

    def __post_init__(self) -> None:
        if any(edit.sinks is not None for edit in self.scores):
            raise ValueError(
                "an edit of scores has sinks; only an edit of probabilities can change their mass"
            )

    def heads(self, n_heads: int) -> tuple[int, ...]:
        """The query heads that some edit touches, ascending; raises `ValueError` for one beyond `n_heads`."""
        touched: set[int] = set()
        for edit in (*self.scores, *self.probs):
            touched |= set(range(n_heads) if edit.heads is None else edit.heads)
        missing = sorted(head for head in touched if head >= n_heads)
        if missing:
            raise ValueError(
                f"edits name heads {missing}, but there are {n_heads} query heads, counted from 0"
            )
        return tuple(sorted(touched))
