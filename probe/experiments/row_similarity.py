"""Row similarity: do different queries of a head look at the same keys, once its sinks are set apart?"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from probe.errors import UsageError
from probe.experiments.base import Ask, told
from probe.experiments.gathered import Gathered
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.seen_rows import (
    SeenRows,
    cannot_read,
    drawn_rows,
    long_enough,
    see_rows,
)
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.metrics.sight import uniform_column
from probe.prompts import Prompt
from probe.report.answer import Answer

Keys = Literal["common", "all"]

GUO_2023 = """@inproceedings{guo2023robustifying,
  title={Robustifying Token Attention for Vision Transformers},
  author={Guo, Yong and Stutz, David and Schiele, Bernt},
  booktitle={International Conference on Computer Vision},
  year={2023}
}"""


class RowSimilarity:
    """Mean cosine, 0 to 1, between the attention rows of two queries of a head, sink keys left out.

    ``cos(A_a, A_b)`` over pairs of `rows` query rows, drawn by the seed. ``keys=common`` compares over the keys that
    both rows see, ``keys=all`` over all keys, where a key that one row does not see counts as 0 there. A key is a sink
    of a head where it receives `sinks` or more of all the head's attention. A pair with nothing outside the sinks has
    no cosine and is left out.

    `extra` holds head maps: ``with_sinks``, the same over every key; ``over_focus``, the share of the attention outside
    sinks that goes to the `top` most-received share of keys, and ``over_focus_uniform``, what it would be if rows
    looked at all visible keys alike; ``sink_mass``, the share of the attention on sinks, and ``sinks``, their number.

    Guo, Stutz & Schiele 2023 (arXiv:2303.11126) penalise the cosine between rows of different tokens and call what
    few tokens get over-focus. Their images have no causal mask, no sink is set apart, and all pairs are taken:
    ``sinks=0,keys=all`` with as many rows as the prompt has is that.

    Args:
        rows: how many rows are drawn; memory is rows · keys per head.
        sinks: share of a head's attention, 0 to 1, from which a key is a sink; 0 = none is.
        top: share of keys that over-focus counts, above 0, up to 1.
        keys: which keys of a pair of rows are compared.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="row_similarity",
        summary="Mean cosine between the attention rows of two queries, sink keys left out, 0 to 1.",
        unit="cosine",
        better="high",
        paper="Guo et al. 2023",
        bibtex=GUO_2023,
    )

    def __init__(self, rows: int = 64, sinks: float = 0.1, top: float = 0.05, keys: Keys = "common") -> None:
        at_least("row_similarity", "rows", rows, 2)
        if not 0 <= sinks <= 1:
            raise UsageError(f"row_similarity: sinks was {sinks}; allowed is 0 to 1")
        if not 0 < top <= 1:
            raise UsageError(f"row_similarity: top was {top}; allowed is above 0, up to 1")
        self.spec = self.info.name
        self.rows, self.sinks, self.top, self.keys = rows, sinks, top, keys

    def run(self, ask: Ask) -> list[Answer]:
        """One forward per prompt; prompts of fewer than three tokens are left out, with a note."""
        prompts, short = long_enough(ask.texts(), 3)
        reason = cannot_read(ask.model) or ("" if prompts else "; ".join(short))
        if reason:
            return [not_applicable(self.info, self.spec, ask.model, reason)]
        found, notes = Gathered(), dict.fromkeys(short)
        for number, prompt in enumerate(prompts):
            ask.tell(number, len(prompts), f"{self.spec}: {prompt.id}")
            notes |= dict.fromkeys(self._one(ask, prompt, found))
        ask.tell(len(prompts), len(prompts), self.spec)
        names = ("with_sinks", "over_focus", "over_focus_uniform", "sink_mass", "sinks")
        extra = {name: found.mean(name) for name in names}
        return [
            Answer(
                **told(self.spec, self.info, found.tower), head_map=found.mean("cosine"),
                by_prompt=found.of("cosine"), extra=extra,
                notes=(self._how(prompts, ask.seed), _sinks_line(extra), *notes),
            )
        ]  # fmt: skip

    def _one(self, ask: Ask, prompt: Prompt, found: Gathered) -> list[str]:
        # The first row has one key to look at, whatever it asks for.
        rows = drawn_rows(np.arange(1, len(prompt)), self.rows, ask.seed)
        found.start(prompt.id)

        def take(seen: SeenRows) -> None:
            found.tower = seen.call.place.tower
            keep, column = seen.without_sinks(self.sinks)[0], seen.column[0].double()
            p, visible = seen.p[0], seen.visible[0]
            found.add("cosine", seen.layer, self._cosine(p, visible, keep))
            found.add("with_sinks", seen.layer, self._cosine(p, visible, torch.ones_like(keep)))
            uniform = uniform_column(seen.call)[0].expand_as(column)
            for name, values in (("over_focus", column), ("over_focus_uniform", uniform)):
                found.add(name, seen.layer, focus(values, keep, self.top))
            on_sinks = 1 - (column * keep).sum(-1) / column.sum(-1)
            found.add("sink_mass", seen.layer, on_sinks)
            found.add("sinks", seen.layer, (~keep).sum(-1).double())

        return see_rows(ask.model, torch.tensor([prompt.tokens]), rows, take)

    def _cosine(self, p: Tensor, visible: Tensor, keep: Tensor) -> Float[Tensor, "head"]:
        seen = visible if self.keys == "common" else torch.ones_like(visible)
        return mean_off_diagonal(row_cosines(p, seen, keep))

    def _how(self, prompts: Sequence[Prompt], seed: int) -> str:
        counts = [min(self.rows, len(prompt) - 1) for prompt in prompts]
        return (
            f"{', '.join(map(str, counts))} of {', '.join(str(len(p) - 1) for p in prompts)} rows (the first left "
            f"out), drawn with seed {seed}; keys={self.keys}, sinks={self.sinks:g}, top={self.top:g}"
        )


def row_cosines(
    p: Float[Tensor, "head row key"], visible: Bool[Tensor, "row key"], keep: Bool[Tensor, "head key"]
) -> Float[Tensor, "head row row2"]:
    """Cosines of every two rows over the kept keys that both see; NaN where a row has nothing there.

    ``Σ_j a_j b_j / (‖a on what b sees‖ · ‖b on what a sees‖)``, j over kept keys.
    """
    rows = (p * keep[:, None]).double()
    seen = visible.double()
    dots = rows @ rows.transpose(1, 2)
    norms = (rows.square() @ seen.T).sqrt()  # [head, a, b]: norm of a on what b sees
    both = norms * norms.transpose(1, 2)
    return torch.where(both > 0, dots / both.clamp_min(1e-300), torch.nan).clamp(max=1.0)


def mean_off_diagonal(values: Float[Tensor, "head row row2"]) -> Float[Tensor, "head"]:
    """The mean over pairs of different rows, NaN left out; NaN where no pair is left."""
    same = torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
    return values.masked_fill(same, torch.nan).flatten(1).nanmean(-1)


def focus(
    column: Float[Tensor, "head key"], keep: Bool[Tensor, "head key"], top: float
) -> Float[Tensor, "head"]:
    """Share of what the kept keys receive that goes to the most-received `top` of them, rounded up to a key."""
    received = (column * keep).double()
    order = received.sort(-1, descending=True).values.cumsum(-1)
    count = (keep.sum(-1).double() * top).ceil().long().clamp_min(1)
    share = order.gather(-1, (count - 1)[:, None])[:, 0] / order[:, -1]
    return torch.where(order[:, -1] > 0, share, math.nan)


def _sinks_line(extra: Mapping[str, xr.DataArray]) -> str:
    keys, mass = (float(extra[name].mean()) for name in ("sinks", "sink_mass"))
    return f"{keys:.2f} keys of a head are sinks, with {mass:.1%} of its attention (means over heads)"
