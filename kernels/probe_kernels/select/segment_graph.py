"""Attention between stretches of a prompt along the edges of a graph."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_kernels.cells import between_cells
from probe_kernels.mask import Mask
from probe_kernels.select.base import Selection, Site
from probe_kernels.select.skipping import visits
from probe_kernels.types import Layout, Scores

Segment = tuple[int, int]  # first position, and the one behind the last
_TOKENS = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class SegmentGraph:
    """See `segment_graph`."""

    edges: tuple[tuple[Segment, tuple[Segment, ...]], ...]

    learned: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        parts = []
        for source, seen in self.edges:
            parts += [f"{_text(source)}>{_text(one)}" for one in seen] or [_text(source)]
        return "segment_graph:edges=" + "+".join(parts)

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The graph as a mask, and as a visit where that saves work."""
        bounds = tuple(sorted({end for segment in self._segments for end in segment}))
        return visits(Selection(Mask((between_cells(bounds, self._shown(bounds)),))), layout)

    @property
    def _segments(self) -> tuple[Segment, ...]:
        return tuple(dict.fromkeys(one for source, seen in self.edges for one in (source, *seen)))

    def _shown(self, bounds: tuple[int, ...]) -> Tensor:
        """Bool ``[query cell, key cell]``; a cell is a stretch between neighbouring ends of segments."""
        number = {one: i for i, one in enumerate(self._segments)}
        allowed = torch.eye(len(number))
        for source, seen in self.edges:
            for one in seen:
                allowed[number[source], number[one]] = 1
        starts = torch.tensor([-1, *bounds])[:, None]
        ends = torch.tensor(self._segments)
        member = ((starts >= ends[:, 0]) & (starts < ends[:, 1])).float()  # [cell, segment]
        met = member @ allowed @ member.T > 0
        inside = member.any(1)
        return met | ~(inside[:, None] & inside)


def segment_graph(
    edges: str | Mapping[str | Segment, Sequence[str | Segment]], spans: Mapping[str, Segment] | None = None
) -> SegmentGraph:
    """Tokens of a segment keep the keys of their own segment and of those that it has an edge to.

    Tokens of no segment keep, and are kept by, everybody; a token of several segments keeps what any of them keeps; the
    model's own mask holds on top. As ``probe``'s intervention of the same name.

    Args:
        edges: ``"0..4>4..9+9..12"`` or ``{(0, 4): [(4, 9)], (9, 12): []}``: queries at positions 0 to 3 keep keys at 4
            to 8 and their own; a segment without an edge keeps itself alone. Positions are those of the layout,
            numbers of real tokens.
        spans: Segments by name, for edges that use names.

    Raises:
        ValueError: fewer than two segments, an empty one, a name that no span has, edges that cannot be read. After
            Guan et al. 2025 (arXiv 2505.02130), set-based prompting (arXiv 2406.06581).
    """
    known = spans or {}
    found: dict[Segment, list[Segment]] = {}
    for source, seen in _read(edges) if isinstance(edges, str) else edges.items():
        found.setdefault(_segment(source, known), []).extend(_segment(one, known) for one in seen)
    graph = SegmentGraph(tuple((source, tuple(dict.fromkeys(seen))) for source, seen in found.items()))
    if len(graph._segments) < 2:
        raise ValueError(f"segment_graph was asked with edges={edges!r}; a graph needs two segments or more")
    return graph


def _read(text: str) -> list[tuple[str, list[str]]]:
    parts = [part.split(">") for part in text.split("+")]
    wrong = [part for part in parts if len(part) > 2]
    if wrong:
        raise ValueError(
            f"an edge was asked as {'>'.join(wrong[0])!r}; edges are written a>b, joined by + (a>b+b>c)"
        )
    return [(part[0], part[1:]) for part in parts]


def _segment(one: str | Segment, spans: Mapping[str, Segment]) -> Segment:
    match = _TOKENS.fullmatch(one.strip()) if isinstance(one, str) else None
    if match is not None:
        one = int(match[1]), int(match[2])
    if isinstance(one, str):
        if one.strip() not in spans:
            raise ValueError(
                f"segment_graph was asked with the segment {one!r}; write it as start..stop, or give it in spans "
                f"(there: {sorted(spans)})"
            )
        one = spans[one.strip()]
    start, stop = one
    if not 0 <= start < stop:
        raise ValueError(f"segment_graph was asked with the segment {start}..{stop}; give 0 ≤ start < stop")
    return start, stop


def _text(segment: Segment) -> str:
    return f"{segment[0]}..{segment[1]}"
