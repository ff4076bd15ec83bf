"""One intervention on one subject in one way of running it: ours against attention written out by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from edited.cases import BY_NAME, CASES, SPANS, Case, formula_of, named, part_of
from edited.dense import densely
from edited.ways import outputs, padded, worst
from probe_kernels import reference
from probe_kernels.types import Attended, Want
from subjects.catalogue import SUBJECTS
from subjects.measure import STATISTICS, Row, Tally
from subjects.subject import Inputs, Subject
from torch import Tensor, nn

from probe.models import LoadedModel, ModelSource
from probe.seam.call import AttentionCall
from probe.seam.places import places
from probe.seam.recorded import block_places, blocks
from probe.seam.session import Session


@dataclass(frozen=True)
class Compared:
    """Largest differences; `moved` says that the edit changed some output or some z."""

    outputs: float
    statistics: float
    moved: bool


def tower_of(subject: Subject) -> str:
    """The tower that is edited: the decoder where there is one."""
    return "decoder" if "decoder" in subject.towers else subject.towers[0]


def applicable(subject: Subject) -> list[Case]:
    """The cases that mean something for a subject."""
    decodes = subject.generate or subject.cache
    named = subject.kind in ("decoder", "encoder")
    known = facts(subject.name)
    return [
        case
        for case in CASES
        if case.fits(tower_of(subject))
        and (case.phase == "both" or decodes)
        and (named or not case.spans)
        and (known.n_heads > 2 or not case.several)
        and (known.is_block or case.by_hand is None)
        and (known.told_apart or not case.norms)
    ]


def compare(subject: Subject, name: str, way: str) -> Compared:
    """Run both and take the largest differences."""
    case, model = BY_NAME[name], subject.model()
    inputs = subject.inputs(model, 2, 12, left_padding=padded(subject, way))
    tower, layer = tower_of(subject), facts(subject.name).layer
    heads = tuple(range(0, facts(subject.name).n_heads, 2))
    spans = _spans(inputs, subject) if case.spans else []
    ours, theirs = Tally(), _Judge()
    over = [subject.inputs(model, 1, 9)] if case.over else []
    where: dict[str, Any] = {} if case.phase == "both" else {"phase": case.phase}
    edit = case.make(named(tower, layer, heads), {**where, "over": over} if over else where)
    if hasattr(edit, "prepare"):
        edit = edit.prepare(LoadedModel(model, None, subject.name, ModelSource("given")), None)
    with Session(model, [ours], [edit]) as session:
        found = outputs(model, subject, inputs, way, session, spans)
        if not session.effects.get(0):
            raise ValueError(f"{name} took no effect on {subject.name}")
    part = part_of(case, tower, layer, heads)
    if case.by_hand is not None:
        expected = _by_hand(case.by_hand(model, part), theirs, (model, subject, inputs, way))
    else:
        with densely(model, formula_of(case, part, model, over), [part], [theirs]) as session:
            expected = outputs(model, subject, inputs, way, session, spans)
    before, plain = _plain(subject.name, way)
    return Compared(
        worst(found, expected, subject, inputs),
        _statistics(ours.rows, theirs.rows, theirs.largest),
        worst(found, before, subject, inputs) > 1e-6 or _statistics(ours.rows, plain) > 1e-6,
    )


@lru_cache(maxsize=8)  # a subject's ways follow one another, for every case
def _plain(name: str, way: str) -> tuple[dict[str, Tensor], list[Row]]:
    """Outputs and statistics of a subject as it is."""
    subject, tally = SUBJECTS[name], Tally()
    model = subject.model()
    inputs = subject.inputs(model, 2, 12, left_padding=padded(subject, way))
    with Session(model, [tally], mode="fused") as session:
        return outputs(model, subject, inputs, way, session), tally.rows


def _by_hand(
    handles: list[Any], tally: Tally, run: tuple[nn.Module, Subject, Inputs, str]
) -> dict[str, Tensor]:
    """The outputs while somebody's own hooks are set."""
    try:
        with Session(run[0], [tally], mode="fused") as session:
            return outputs(*run, session)
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Facts:
    """What is edited in a subject: the last layer of its tower that is seen, and what can be done there.

    Layers that share their keys are given the last query alone when text is generated: then it is the first layer.
    """

    layer: int
    n_heads: int
    is_block: bool  # one block: not entered again as a further layer, not holding several layers
    told_apart: bool  # the edited heads differ in the norm of their queries; a norm of q may make them one


class _Norms:
    """Per layer of a tower: its number of heads, and how near the query norms of two edited heads come."""

    def __init__(self, tower: str) -> None:
        self.tower, self.heads, self.least = tower, dict[int, int](), dict[int, float]()

    def want(self, call: AttentionCall) -> Want:
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        if call.place.tower == self.tower:
            norms = call.scores.query.double().norm(dim=-1)[:, ::2].sort(dim=1).values
            gap = (norms[:, 1:] - norms[:, :-1]) / norms[:, 1:]
            self.heads[call.place.layer] = call.n_heads
            self.least[call.place.layer] = float(gap.min()) if gap.numel() else 0.0


@cache
def facts(name: str) -> Facts:
    """What there is to know of a subject, from one forward."""
    subject = SUBJECTS[name]
    model, seen = subject.model(), _Norms(tower_of(subject))
    with torch.no_grad(), Session(model, [seen], mode="fused"):
        model(**subject.inputs(model, 1, 12))
    layer = list(seen.heads)[0 if "kv sharing" in subject.features else -1]
    found = block_places(blocks(model), places(model)).values()
    is_block = (seen.tower, layer) in {(place.tower, place.layer) for place in found}
    return Facts(layer, seen.heads[layer], is_block, seen.least[layer] > 1e-5)


def _spans(inputs: Inputs, subject: Subject) -> list[dict[str, Tensor]]:
    """The named spans of every prompt, over its real tokens."""
    ids = inputs.get("input_ids")
    if ids is None or subject.kind not in ("decoder", "encoder", "seq2seq"):
        return []
    mask = inputs.get("attention_mask")
    made = []
    for row in range(ids.shape[0]):
        n = int(mask[row].sum()) if isinstance(mask, Tensor) and mask.ndim == 2 else ids.shape[1]
        at = torch.arange(n)
        made.append({name: (at >= start) & (at < stop) for name, (start, stop) in SPANS.items()})
    return made


class _Judge(Tally):
    """Statistics of the dense run, and every call's largest score: rounding grows with it."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: list[float] = []

    def update(self, call: AttentionCall, attended: Attended) -> None:
        super().update(call, attended)
        seen = reference.visible(call.layout, call.scores)
        s = reference.dense_scores(call.scores, call.layout, seen)
        self.largest.append(max(1.0, float(s.masked_fill(~s.isfinite(), 0.0).abs().max())))


def _statistics(ours: list[Row], theirs: list[Row], largest: Sequence[float] = ()) -> float:
    """Largest difference, relative to max(1, max score) · (1 + value)."""
    if [row.module for row in ours] != [row.module for row in theirs]:
        raise ValueError("the two runs saw different calls")
    gap = 0.0
    scales = largest or [1.0] * len(theirs)
    for mine, truth, scale in zip(ours, theirs, scales, strict=True):
        for name in STATISTICS:
            value = truth.values[name]
            error = (mine.values[name] - value).abs() / (1 + value.abs()) / scale
            if name != "column":
                error = error.masked_fill(~mine.query_real[:, None], 0.0)
            gap = max(gap, float("nan") if error.isnan().any() else float(error.max()))
    return gap
