"""Redistribution: a part of the mass on some keys is moved to others, and rows keep their sum."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import InterventionError, UsageError
from probe.interventions.editing import edit_probs
from probe.interventions.sink_dims import find_sink_dims, require_dims
from probe.interventions.sink_tokens import SinkFlags
from probe.interventions.span import SpanChoice, as_text, checked, members
from probe.interventions.target import Target, Where, name_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Place
from probe.seam.stage import Stage
from probe.terms import HeadId

SINKS = "sinks"


@dataclass(frozen=True)
class Redistribute:
    """p_S := (1 - f) p_S and p_T := p_T + f m_S p_T / m_T, where S is the source, T the target without S.

    m are the row's masses before. Rows that see nothing of T stay as they are.
    """

    target: Target
    source: SpanChoice
    to: SpanChoice
    fraction: float
    rho: float | None = None
    floor: float = 0.2
    tau: float = 20.0
    dims: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of(
            "redistribute",
            self.target,
            source=as_text(self.source),
            target=as_text(self.to),
            fraction=self.fraction,
            rho=self.rho,
            floor=None if self.rho is None else self.floor,
            tau=self.tau if self.source == SINKS else None,
            dims=None if self.dims is None else "+".join(map(str, self.dims)),
        )

    @property
    def may_rest(self) -> bool:
        """Whether it may find nothing to do: sinks, and heads by `rho`, are chosen by what is seen."""
        return self.source == SINKS or self.rho is not None

    @property
    def needs_spans(self) -> tuple[SpanChoice, ...]:
        """The source, unless it is found, and the target."""
        return (self.to,) if self.source == SINKS else (self.source, self.to)

    def control(self, seed: int) -> "Redistribute":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Refuse what the model does not have, and sinks of cross-attention, whose keys are another tower's."""
        self.target.require(places, heads)
        if self.source == SINKS and not any(self.covers(place) for place in places.values()):
            raise InterventionError(
                f"{self.name} was asked; sinks are found at the inputs of self-attention over text, and no layer that "
                "was chosen is that: choose tower=decoder or tower=encoder, or name the source as a span"
            )

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "Redistribute":
        """Find the sink dimensions where they are needed and were not given; refuse those that are not there."""
        if self.source != SINKS:
            return self
        if self.dims is not None:
            require_dims(loaded, self.dims, self.name)
            return self
        return replace(self, dims=find_sink_dims(loaded, self.tau, self.name))

    def covers(self, place: Place) -> bool:
        """Whether it may act in a layer."""
        return self.target.covers(place) and (self.source != SINKS or place.tower in ("decoder", "encoder"))

    def live(self) -> "_Redistributing":
        """A copy that remembers sinks for one session."""
        if self.source == SINKS and self.dims is None:
            raise InterventionError(
                f"{self.name} was opened before its sink dimensions were found: give dims=[...], or open it with "
                "probe.edit, analyze or observe, which find them"
            )
        return _Redistributing(self)


class _Redistributing:
    """One session of a redistribution."""

    def __init__(self, said: Redistribute) -> None:
        self.said = said
        self._sinks = (
            SinkFlags(said.name, said.dims, said.tau) if said.source == SINKS and said.dims else None
        )
        self._found = self._selected = self._ran = False

    @property
    def notes(self) -> list[str]:
        """What the reader of a report must know of the choices that were made."""
        said, lines = self.said, []
        if self._sinks is not None and self._ran and not self._found:
            lines.append(f"{said.name}: no sink token was found in the layers and rows that were edited")
        if said.rho is not None and self._found and not self._selected:
            lines.append(
                f"{said.name}: no head was selected: none had a mass of {said.floor:g} on the target, of which at "
                f"least {said.rho:g} beside the source"
            )
        if self._sinks is not None and self._sinks.swapped:
            lines.append(
                f"{said.name}: beams swapped rows, so sinks were looked for among the prompt's tokens only"
            )
        return lines

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Watch the layers' inputs, where sinks are looked for."""
        return (lambda: None) if self._sinks is None else self._sinks.attach(stage, self.said.covers)

    def edits(self, call: AttentionCall) -> Edits:
        """Move the mass inside the sweep, so that z and every statistic come from the edited row."""
        said = self.said
        if not said.target.applies(call) or not said.covers(call.place):
            return Edits()
        self._ran = True
        span = members(said.to, call, call.key_index, "keys")
        source = self._source(call)
        if not bool(source.any()) or not bool((span & ~source).any()):
            return Edits()
        self._found = True
        after = _after(span, call) if said.rho is not None else None

        def move(block: Tensor, rows: slice, keys: slice) -> Tensor:
            return self._moved(
                block, source[:, None, None, keys], span[:, None, None, keys], _part(after, rows)
            )

        return edit_probs(said.target, call, move)

    def _source(self, call: AttentionCall) -> Bool[Tensor, "batch key_pos"]:
        if self._sinks is not None:
            return self._sinks.of(call)
        return members(self.said.source, call, call.key_index, "keys")

    def _moved(
        self,
        p: Float[Tensor, "batch chosen query_pos key_pos"],
        source: Bool[Tensor, "batch 1 1 key_pos"],
        span: Bool[Tensor, "batch 1 1 key_pos"],
        after: Bool[Tensor, "batch 1 query_pos 1"] | None,
    ) -> Float[Tensor, "batch chosen query_pos key_pos"]:
        said = self.said
        given, kept = p * source, p * (span & ~source)
        m_source, m_target = given.sum(-1, keepdim=True), kept.sum(-1, keepdim=True)
        selected = m_target > 0
        if said.rho is not None and after is not None:
            whole = (p * span).sum(-1, keepdim=True)
            selected = selected & after & (whole >= said.floor) & (m_target >= said.rho * whole)
        self._selected = self._selected or bool(selected.any())
        # Shares first: m_source / m_target may be beyond the range of floats, a share never is.
        share = kept / torch.where(selected, m_target, torch.ones_like(m_target))
        return torch.where(selected, p - said.fraction * given + said.fraction * m_source * share, p)


def _after(span: Bool[Tensor, "batch key_pos"], call: AttentionCall) -> Bool[Tensor, "batch 1 query_pos 1"]:
    """Queries that come after the last token of the span."""
    last = call.key_index.masked_fill(~span, -1).amax(1, keepdim=True)
    return (call.query_index > last)[:, None, :, None]


def _part(after: Tensor | None, rows: slice) -> Tensor | None:
    return None if after is None else after[:, :, rows]


def redistribute(
    source: SpanChoice,
    target: SpanChoice,
    fraction: float = 0.6,
    rho: float | None = None,
    floor: float = 0.2,
    tau: float = 20.0,
    dims: Iterable[int] | None = None,
    heads: Iterable[str | HeadId] | None = None,
    **where: Unpack[Where],
) -> Redistribute:
    """Move a part of the attention mass on some keys to others, in proportion to what these already hold.

    Visual Attention Redistribution (VAR) of Kang et al. 2025, arXiv:2503.03321, for any two spans. `fraction` is the
    share that is REMOVED from the source: the paper's p in the reading "sinks keep 1 - p". Its code multiplies the
    sinks by p instead, which is ``fraction = 1 - p`` here; p = 0.6 is 0.6 in the first convention, 0.4 in the second.

    With `rho`, a (head, query) is edited only if VAR selects it: the query comes after the target span, its mass on
    the span (sinks inside it included) is at least `floor`, and at least `rho` of that lies beside the source. The
    paper's code asks "sink portion at most rho", which is ``1 - rho`` here, and skips layers without a sink inside the
    span; its formula, and this, do not. The paper edits layers 2 to the last but one: give `layers`.

    Args:
        source: A span's name, ``(start, stop)`` in real tokens, or ``"sinks"``: the sink tokens of each layer,
            ``phi(x) = max over dims of |x_d| / RMS(x) >= tau`` at the layer's input (see `sink_tokens`).
        target: The span that gets the mass; its tokens that are in the source belong to the source.
        fraction: Share of the source's mass that is moved, above 0 and up to 1.
        rho: Least share of the span's mass beside the source, 0 to 1; None edits every chosen head and row.
        floor: Least mass on the span, 0 to 1; with `rho` only.
        tau: How massive a sink's activation is, in RMS of the layer's input; the largest possible is √d_model.
        dims: Sink dimensions; None finds them: the one or two that are massive at the first token of several texts,
            at the input of the middle layer.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a span, share, threshold, dimension, head, layer or phase that cannot be one.
        InterventionError: when opened: no sink dimension was found, or layer inputs cannot be seen.
    """
    _check_shares({"fraction": fraction, "floor": floor, **({} if rho is None else {"rho": rho})})
    if fraction == 0 or not isinstance(tau, int | float) or not 0 < tau < float("inf"):
        raise UsageError(
            f"redistribute with fraction={fraction:g}, tau={tau!r} was asked; both must be numbers above 0"
        )
    if source == target or target == SINKS:
        raise UsageError(
            f"redistribute from {as_text(source)!r} to {as_text(target)!r} was asked; name two spans, "
            "of which only the source may be 'sinks'"
        )
    chosen = _dims(dims, source)
    selects = ("per_step",) if source == SINKS or rho is not None else ("fixed",)
    return Redistribute(
        Target.of(heads, where, selects=selects), checked(source, "source"), checked(target, "target"),
        float(fraction), None if rho is None else float(rho), float(floor), float(tau), chosen,
    )  # fmt: skip


def _check_shares(shares: Mapping[str, float]) -> None:
    for what, share in shares.items():
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise UsageError(f"redistribute with {what}={share!r} was asked; it is a share, 0 to 1")


def _dims(dims: Iterable[int] | None, source: SpanChoice) -> tuple[int, ...] | None:
    if dims is None:
        return None
    listed = list(dims) if isinstance(dims, Iterable) else []
    if source != SINKS or not listed or not all(isinstance(one, int) and one >= 0 for one in listed):
        raise UsageError(
            f"redistribute with dims={dims!r} was asked; dims are dimensions, counted from 0, "
            "that tell sinks: they go with source='sinks'"
        )
    return tuple(sorted(set(listed)))
