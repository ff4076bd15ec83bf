"""Attention between segments of a prompt along the edges of a graph."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

import torch
from jaxtyping import Bool
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.editing import edit_scores
from probe.interventions.span import SpanChoice, as_text, checked, members
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId

Edges = tuple[tuple[SpanChoice, tuple[SpanChoice, ...]], ...]  # each segment, and those whose keys it sees
_TOKENS = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class SegmentGraph:
    """s := -inf from a segment's queries to the keys of segments that it has no edge to.

    A segment always sees itself; tokens of no segment see, and are seen, as before; the model's mask stays. A token
    of several segments sees what any of them sees. After the attention windows over graph-structured prompts of Guan
    et al. 2025 (arXiv:2505.02130), with the mask given edge by edge.
    """

    target: Target
    edges: Edges
    narrow: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("segment_graph", self.target, edges=_written(self.edges))

    def control(self, seed: int) -> "SegmentGraph":
        """The same graph, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    @property
    def segments(self) -> tuple[SpanChoice, ...]:
        """Every segment that an edge names, each once."""
        return tuple(dict.fromkeys(one for source, seen in self.edges for one in (source, *seen)))

    @property
    def needs_spans(self) -> tuple[SpanChoice, ...]:
        """The segments."""
        return self.segments

    def edits(self, call: AttentionCall) -> Edits:
        """Hide the keys of segments without an edge."""
        if not self.target.applies(call):
            return Edits()
        segments = self.segments
        query_in = torch.stack([members(one, call, call.query_index, "queries") for one in segments], dim=-1)
        key_in = torch.stack([members(one, call, call.key_index, "keys") for one in segments], dim=-1)
        allowed = self._allowed().to(query_in.device)
        if not bool((query_in.flatten(0, 1).any(0)[:, None] & key_in.flatten(0, 1).any(0) & ~allowed).any()):
            return Edits()
        sees = (query_in.float() @ allowed.float()).clamp_max(1)  # [batch, query_pos, segment]

        def cut(scores: Tensor, rows: slice, keys: slice) -> Tensor:
            queries, among = query_in[:, rows], key_in[:, keys]
            met = torch.matmul(sees[:, rows], among.float().transpose(1, 2)) > 0
            barred = queries.any(-1)[:, :, None] & among.any(-1)[:, None] & ~met
            return scores.masked_fill(barred[:, None], float("-inf"))

        return edit_scores(self.target, call, cut)

    def _allowed(self) -> Bool[Tensor, "segment segment"]:
        """Whether queries of one segment (row) may see keys of another (column)."""
        number = {one: i for i, one in enumerate(self.segments)}
        allowed = torch.eye(len(number), dtype=torch.bool)
        for source, seen in self.edges:
            for one in seen:
                allowed[number[source], number[one]] = True
        return allowed


def segment_graph(
    edges: str | Mapping[SpanChoice, Sequence[SpanChoice]],
    heads: Iterable[str | HeadId] | None = None,
    **where: Unpack[Where],
) -> SegmentGraph:
    """Let segments of a prompt attend to each other along a graph's edges only; the model's mask is only narrowed.

    Args:
        edges: ``{"a": ["b"], "c": []}`` or ``"a>b+c"``: queries of a may see keys of b; c, without an edge, sees
            itself alone. Segments are span names, or ``(start, stop)`` in real tokens (``0..4`` in text).
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: fewer than two segments, or edges that cannot be read; a head, layer, span or phase that cannot be
            one.
    """
    graph = SegmentGraph(Target.of(heads, where), _read(edges) if isinstance(edges, str) else _checked(edges))
    if len(graph.segments) < 2:
        raise UsageError(f"segment_graph with edges={edges!r} was asked; a graph needs two segments or more")
    return graph


def _read(text: str) -> Edges:
    found: dict[SpanChoice, list[SpanChoice]] = {}
    for part in text.split("+"):
        ends = [_segment(one) for one in part.split(">")]
        if len(ends) > 2:
            raise UsageError(f"an edge was asked as {part!r}; edges are written a>b, joined by + (a>b+b>c)")
        found.setdefault(ends[0], []).extend(ends[1:])
    return _checked(found)


def _segment(text: str) -> SpanChoice:
    match = _TOKENS.fullmatch(text.strip())
    return text.strip() if match is None else (int(match[1]), int(match[2]))


def _checked(edges: Mapping[SpanChoice, Sequence[SpanChoice]]) -> Edges:
    if not isinstance(edges, Mapping) or any(isinstance(seen, str) for seen in edges.values()):
        raise UsageError(
            f"edges={edges!r} were asked; give a mapping such as {{'a': ['b']}}, or text such as a>b+b>c"
        )
    return tuple(
        (checked(source, "edges"), tuple(dict.fromkeys(checked(one, "edges") for one in seen)))
        for source, seen in edges.items()
    )


def _written(edges: Edges) -> str:
    """The edges as text that reads back."""
    parts = []
    for source, seen in edges:
        parts += [f"{as_text(source)}>{as_text(one)}" for one in seen] or [as_text(source)]
    return "+".join(parts)
