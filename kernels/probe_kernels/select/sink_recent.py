"""The first keys and the last ones, and some of those between."""

from dataclasses import dataclass
from typing import ClassVar

from probe_kernels.mask import Mask, at_every, first, near
from probe_kernels.select.base import Selection, Site
from probe_kernels.select.skipping import visits
from probe_kernels.select.telling import need_count, spec
from probe_kernels.types import Layout, Scores


@dataclass(frozen=True)
class SinkRecent:
    """See `sink_recent`."""

    sinks: int = 4
    recent: int = 256
    middle: int = 0

    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        need_count("sink_recent", "sinks", self.sinks, "it counts the first keys", least=0)
        need_count("sink_recent", "recent", self.recent, "it counts the last keys, the query's own included")
        need_count(
            "sink_recent", "middle", self.middle, "one key in so many is kept between, 0 = none", least=0
        )

    @property
    def name(self) -> str:
        """The spec that makes it again."""
        return spec("sink_recent", sinks=self.sinks, recent=self.recent, middle=self.middle or None)

    def select(self, scores: Scores, layout: Layout, site: Site) -> Selection:
        """The keys as a mask, and as a visit where that saves work."""
        between = (at_every(self.middle),) if self.middle else ()
        rules = (near(self.recent - 1), *((first(self.sinks),) if self.sinks else ()), *between)
        return visits(Selection(Mask((), rules) if len(rules) > 1 else Mask(rules)), layout)


def sink_recent(sinks: int = 4, recent: int = 256, middle: int = 0) -> SinkRecent:
    """Each query keeps the first `sinks` keys and those less than `recent` positions from it, |i - j| < recent.

    With `middle` also the keys at positions that are a multiple of it. Positions are those of the layout, numbers of
    real tokens, so that padding on the left moves nothing. Raises `ValueError` where recent is below 1 or another is
    negative. StreamingLLM (arXiv 2309.17453).
    """
    return SinkRecent(sinks, recent, middle)
