"""Every intervention that edits attention, as it is called and as a formula of dense attention."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from edited.dense import Dense, Formula, Part, Rows, densely
from probe_kernels.types import Want
from torch import Tensor, nn

from probe import interventions as of
from probe.seam.places import places
from probe.seam.recorded import blocks
from probe.terms import HeadId

SPANS = {"a": (1, 3), "b": (3, 6), "c": (6, 8)}  # real tokens; every prompt of the subjects is longer


@dataclass(frozen=True)
class Model:
    """A model, and inputs that an intervention may learn from."""

    model: nn.Module
    over: list[Any]


@dataclass(frozen=True)
class Case:
    """`make(heads, where)` is the intervention, `formula` what it must do at those heads (and `rows`)."""

    name: str
    make: Callable[[list[str], dict[str, Any]], Any]
    formula: Formula | None = None
    by_heads: Callable[[Dense, list[int]], Dense] | None = (
        None  # a formula in which chosen heads look at each other
    )
    learned: Callable[[Model, Part], Formula] | None = None  # a formula that needs another run of the model
    by_hand: Callable[[nn.Module, Part], list[Any]] | None = None  # hooks on modules instead of a formula
    over: bool = False  # `make` is given reference inputs under the key "over"
    rows: Rows | None = None
    phase: str = "both"
    own: bool = False  # looks at the query's own position: not for cross-attention
    several: bool = False  # needs two heads or more
    norms: bool = False  # compares query norms: not where a norm of q makes them all alike
    spans: bool = False  # means named spans
    text: bool = True  # means tokens of the prompt: not for towers that read no text

    def fits(self, tower: str) -> bool:
        """Whether the case means anything in a tower."""
        if tower == "cross":
            return not self.own and not self.text
        return tower in ("decoder", "encoder") or not self.text


def part_of(case: Case, tower: str, layer: int, heads: tuple[int, ...]) -> Part:
    """Where the formula holds."""
    return Part(tower, layer, heads, case.phase, case.rows)


def formula_of(case: Case, part: Part, model: nn.Module, over: list[Any]) -> Formula:
    """What must happen in that part of that model."""
    if case.learned is not None:
        return case.learned(Model(model, over), part)
    if case.by_heads is not None:
        return partial(case.by_heads, heads=list(part.heads))
    return case.formula or (lambda one: one)


def named(tower: str, layer: int, heads: tuple[int, ...]) -> list[str]:
    """The same heads by name."""
    return [str(HeadId(tower, layer, head)) for head in heads]


def last_row(one: Dense) -> Tensor:
    """The last real row of every prompt, ``[B, 1, Q, 1]``."""
    return (one.i >= 0) & (one.i == one.i.amax(2, keepdim=True))


def _uniform(one: Dense) -> Dense:
    n = one.seen.sum(-1, keepdim=True)
    return one.with_pattern((one.seen / n.clamp_min(1)).expand_as(one.p).double())


def _cached(one: Dense) -> Dense:
    at, to = one.call.layout.key_pos[:, None, None, :], one.call.layout.query_pos[:, None, :, None]
    seen = (at <= to) & one.call.key_real[:, None, None, :]
    bias = one.call.scores.bias
    if bias is not None:  # padding may be in it
        seen = seen & (bias != -torch.inf)
    return one.with_pattern((seen / seen.sum(-1, keepdim=True).clamp_min(1)).expand_as(one.p).double())


def _first(one: Dense) -> Dense:
    only = one.seen & (one.seen.cumsum(-1) == 1)
    return one.with_pattern(only.expand_as(one.p).double())


def _own(one: Dense) -> Tensor:
    layout = one.call.layout
    return (layout.query_pos[:, None, :, None] == layout.key_pos[:, None, None, :]).double()


def _towards_own(one: Dense) -> Dense:
    own = _own(one) * one.seen
    return one.with_pattern(torch.where(own.any(-1, keepdim=True), 0.7 * one.p + 0.3 * own, one.p), 0.7)


def _linear(one: Dense) -> Dense:
    scores = one.call.scores
    k = scores.key.double().repeat_interleave(one.p.shape[1] // scores.key.shape[1], dim=1)
    feature = torch.nn.functional.elu
    weights = (feature(scores.query.double()) + 1) @ (feature(k) + 1).transpose(-1, -2) * one.seen
    return one.with_pattern(weights / weights.sum(-1, keepdim=True).clamp_min(1e-300))


def _between(one: Dense, queries: str, keys: str) -> Tensor:
    """Pairs from a span's queries to a span's keys, ``[B, 1, Q, K]``."""
    (start, stop), place = SPANS[queries], one.keys_in(*SPANS[keys])
    return (one.i >= start) & (one.i < stop) & place


def _isolated(one: Dense) -> Dense:
    gap = one.i - one.j
    far = _between(one, "b", "b") & ((gap < 0) | (gap >= 2))
    return one.with_scores(one.s.masked_fill(far, -torch.inf))


def _graph(one: Dense) -> Dense:
    """The one edge is c→a: of the segments, a sees itself, b itself, and c itself and a."""
    cut = _between(one, "a", "b") | _between(one, "a", "c") | _between(one, "b", "a")
    cut = cut | _between(one, "b", "c") | _between(one, "c", "b")
    return one.with_scores(one.s.masked_fill(cut, -torch.inf))


def _windowed(one: Dense) -> Dense:
    kept = ((one.i - one.j).abs() < 3) | (one.j == 0)
    return one.with_scores(one.s.masked_fill(~kept, -torch.inf))


def _top_keys(one: Dense) -> Dense:
    least = one.s.topk(min(3, one.s.shape[-1]), dim=-1).values[..., -1:]
    return one.with_scores(one.s.masked_fill(one.s < least, -torch.inf))


def _local(one: Dense) -> Dense:
    return one.with_scores(one.s.masked_fill((one.i - one.j).abs() >= 3, -torch.inf))


def _sharper(one: Dense) -> Dense:
    n = one.seen.sum(-1, keepdim=True).clamp_min(1).double()
    return one.with_scores(one.s * (1 + math.exp(-math.exp(0.5)) * n.log()))


def _boosted(one: Dense) -> Dense:
    raised = one.s + 0.7 * one.s.abs()
    return one.with_scores(torch.where(one.keys_in(4, 11) & one.s.isfinite(), raised, one.s))


def _moved(one: Dense) -> Dense:
    source, target = one.keys_in(1, 3), one.keys_in(3, 6)
    here, there = (one.p * source).sum(-1, keepdim=True), (one.p * target).sum(-1, keepdim=True)
    gain = torch.where(there > 0, 0.6 * here / there, 0.0)
    p = one.p * (1 - 0.6 * source * (there > 0)) + one.p * target * gain
    return one.with_pattern(p, 1.0)


def _largest(size: Tensor, heads: list[int]) -> Tensor:
    """1 at the largest of the chosen heads, 0 at the others of them, 1 elsewhere; `size` is ``[B, H, Q]``."""
    gate = torch.ones_like(size)
    best = size[:, heads].argmax(1, keepdim=True)
    gate[:, heads] = torch.zeros_like(size[:, heads]).scatter(1, best, 1.0)
    return gate


def _by_query(one: Dense, heads: list[int]) -> Dense:
    return one.with_z(one.z * _largest(one.call.scores.query.double().norm(dim=-1), heads)[..., None])


def _by_z(one: Dense, heads: list[int]) -> Dense:
    return one.with_z(one.z * _largest(one.z.norm(dim=-1), heads)[..., None])


class _Mean:
    """Mean z of one layer over real rows."""

    def __init__(self, part: Part) -> None:
        self.part, self.total, self.count = part, 0.0, 0

    def want(self, call: Any) -> Want:
        return Want(z=True)

    def update(self, call: Any, attended: Any) -> None:
        if self.part.holds(call):
            real = call.query_real[:, None, :, None]
            self.total = self.total + (attended.z.double() * real).sum((0, 2))
            self.count += int(call.query_real.sum())


def _mean(model: Model, part: Part) -> Formula:
    seen = _Mean(part)
    with torch.no_grad(), densely(model.model, lambda one: one, [], [seen]):
        for inputs in model.over:
            model.model(**inputs)
    mean = (seen.total / seen.count)[None, :, None, :]
    return lambda one: one.with_z(mean)


def _skip(model: nn.Module, part: Part) -> list[Any]:
    """The block that holds the layer's attention returns what it was given."""
    attention = next(
        name
        for name, place in places(model).items()
        if (place.tower, place.layer) == (part.tower, part.layer)
    )
    block = next(one for one in blocks(model) if attention.startswith(f"{one.name}."))

    def hook(_module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        given = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point())
        return (given, *output[1:]) if isinstance(output, tuple) else given

    return [block.module.register_forward_hook(hook, with_kwargs=True)]


CASES: tuple[Case, ...] = (
    Case("zero", lambda h, w: of.zero(h, **w), lambda one: one.with_z(torch.zeros_like(one.z)), text=False),
    Case("scale", lambda h, w: of.scale(h, -1.5, **w), lambda one: one.with_z(one.z * -1.5), text=False),
    Case(
        "knockout",
        lambda h, w: of.knockout("all", (1, 4), h, **w),
        lambda one: one.with_scores(one.s.masked_fill(one.keys_in(1, 4), -torch.inf)),
    ),
    Case(
        "drop",
        lambda h, w: of.drop("all", (1, 4), h, **w),
        lambda one: one.with_pattern(one.p.masked_fill(one.keys_in(1, 4), 0.0), 1.0),
    ),
    Case("uniform_past", lambda h, w: of.uniform_past(h, **w), _uniform, text=False),
    Case("uniform_cached", lambda h, w: of.uniform_cached(h), _cached, phase="decode"),
    Case("to_bos", lambda h, w: of.to_bos(h, **w), _first, text=False),
    Case(
        "to_identity",
        lambda h, w: of.to_identity(0.3, h, **w),
        _towards_own,
        own=True,
        text=False,
    ),
    Case("boost", lambda h, w: of.boost((4, 11), 0.7, h, **w), _boosted, rows=last_row),
    Case(
        "temperature",
        lambda h, w: of.temperature(1.7, h, **w),
        lambda one: one.with_scores(one.s * 1.7),
        text=False,
    ),
    Case(
        "temperature by position", lambda h, w: of.temperature(None, h, beta=0.5, **w), _sharper, text=False
    ),
    Case("isolate", lambda h, w: of.isolate((3, 6), 2, h, **w), _isolated, own=True),
    Case("segment_graph", lambda h, w: of.segment_graph("c>a+b", h, **w), _graph, own=True, spans=True),
    Case("pattern sink+window", lambda h, w: of.pattern("sink=1+window=3", h, **w), _windowed, own=True),
    Case("pattern topk", lambda h, w: of.pattern("topk=3", h, **w), _top_keys, text=False),
    Case("graft local", lambda h, w: of.graft("local", 3, h, **w), _local, own=True),
    Case("graft linear", lambda h, w: of.graft("linear", None, h, **w), _linear, text=False),
    Case("redistribute", lambda h, w: of.redistribute((1, 3), (3, 6), 0.6, heads=h, **w), _moved),
    Case(
        "reweight",
        lambda h, w: of.reweight(dict.fromkeys(h, 0.5), **w),
        lambda one: one.with_z(one.z * 0.5),
        text=False,
    ),
    Case(
        "reweight by query norm",
        lambda h, w: of.reweight(by="query_norm", keep=1, heads=h, **w),
        by_heads=_by_query,
        several=True,
        norms=True,
        text=False,
    ),
    Case(
        "top_heads", lambda h, w: of.top_heads(1, "z_norm", h, **w), by_heads=_by_z, several=True, text=False
    ),
    Case(
        "skip_layer",
        lambda h, w: of.skip_layer([HeadId.parse(h[0]).layer], tower=HeadId.parse(h[0]).tower, **w),
        by_hand=_skip,
        text=False,
    ),
    Case("mean", lambda h, w: of.mean(h, **w), learned=_mean, over=True, text=False),
)
BY_NAME = {case.name: case for case in CASES}
