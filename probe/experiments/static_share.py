"""Static share: how much of a head is one map that does not depend on the text, its sinks removed."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.errors import UsageError
from probe.experiments.base import Ask, told
from probe.experiments.gathered import Gathered
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.seen_rows import SeenRows, cannot_read, drawn_rows, long_enough, see_rows, share_within
from probe.interventions.reference import windows
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.prompts import Prompt
from probe.report.answer import Answer

_AT_ONCE = 4  # texts per forward
_SHORTEST = 8  # tokens


class _Sums(NamedTuple):
    """Σ over texts of a layer's rows: outside each text's sinks, and whole."""

    kept: Float[Tensor, "head row key"]
    whole: Float[Tensor, "head row key"]


class StaticShare:
    """Share, 0 to 1, of a head's attention outside sinks that lies where its mean map over other texts has it.

    Texts are cut to `size` tokens. The mean map M, position by position, is that of half of the texts; on every other
    text ``Σ min(A_ij, M_ij) / Σ A_ij`` over rows i (`rows` of them, drawn by the seed) and keys j that are no sink
    there. A key is a sink of a head in a text where it receives `sinks` or more of all the head's attention; sinks
    count as 0 in M. 1 = the map is the same whatever the text; what follows the text (a word seen before, a sentence's
    end) is not in the mean.

    `extra` holds head maps: ``with_sinks``, the same over every key; ``energy``, ``1 - Σ (A - M)² / Σ A²`` outside
    sinks, the share of the map's energy that M explains, negative where M does harm; ``uniform``, the overlap with
    rows that look at all of their visible keys but sinks alike, which a head without any preference also has.

    After the static maps of Xue, Moosavi & Aletras 2025 (arXiv:2510.11602), who train with them; `static` among the
    interventions puts M in a head's place.

    Args:
        size: tokens of a text, 8 or more.
        texts: windows of the shipped train text where no prompts are given, 4 or more; else all prompts long enough.
        rows: how many rows are drawn; memory is two maps of rows · size numbers per head.
        sinks: share of a head's attention, 0 to 1, from which a key is a sink; 0 = none is.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="static_share",
        summary="Share of a head's attention, sinks left out, that its mean map over other texts has, 0 to 1.",
        unit="share",
        better="high",
        paper="Xue et al. 2025",
        bibtex="""@misc{xue2025deconstructing,
  title={Deconstructing Attention: Investigating Design Principles for Effective Language Modeling},
  author={Xue, Huiyin and Moosavi, Nafise Sadat and Aletras, Nikolaos},
  year={2025},
  eprint={2510.11602},
  archivePrefix={arXiv}
}""",
        slow=True,
    )

    def __init__(self, size: int = 128, texts: int = 16, rows: int = 64, sinks: float = 0.1) -> None:
        at_least("static_share", "size", size, _SHORTEST)
        at_least("static_share", "texts", texts, 4)
        at_least("static_share", "rows", rows, 1)
        if not 0 <= sinks <= 1:
            raise UsageError(f"static_share: sinks was {sinks}; allowed is 0 to 1")
        self.spec = self.info.name
        self.size, self.texts, self.rows, self.sinks = size, texts, rows, sinks

    def run(self, ask: Ask) -> list[Answer]:
        """Every text through the model once; prompts of fewer than `size` tokens are left out, with a note."""
        texts, notes = long_enough(self._texts(ask), self.size)
        reason = cannot_read(ask.model)
        if not reason and len(texts) < 2:
            reason = "; ".join(
                [f"it needs two texts or more of {self.size} tokens, and got {len(texts)}", *notes]
            )
        if reason:
            return [not_applicable(self.info, self.spec, ask.model, reason)]
        tokens = torch.tensor([one.tokens[: self.size] for one in texts])
        rows = drawn_rows(np.arange(1, self.size), self.rows, ask.seed)
        half = len(texts) // 2
        means, lines = self._fit(ask, tokens[:half], rows)
        found = Gathered()
        for number in range(half, len(texts)):
            ask.tell(number, len(texts), f"{self.spec}: {texts[number].id}")
            found.start(texts[number].id)
            lines += see_rows(
                ask.model, tokens[number : number + 1], rows, lambda seen: self._judge(seen, means, found)
            )
        ask.tell(len(texts), len(texts), self.spec)
        how = (
            f"the mean map of {half} texts judged on {len(texts) - half} others, {self.size} tokens each, {len(rows)} "
            f"rows drawn with seed {ask.seed}; sinks={self.sinks:g}; "
            + ("your prompts" if ask.prompts else "windows of the shipped train text")
        )
        return [
            Answer(
                **told(self.spec, self.info, found.tower), head_map=found.mean("overlap"),
                by_prompt=found.of("overlap"),
                extra={name: found.mean(name) for name in ("with_sinks", "energy", "uniform")},
                notes=(how, *notes, *dict.fromkeys(lines)),
            )
        ]  # fmt: skip

    def _texts(self, ask: Ask) -> Sequence[Prompt]:
        if ask.prompts or ask.model.tokenizer is None:
            return ask.prompts
        return windows(ask.model, self.size, self.texts, ask.seed)

    def _fit(
        self, ask: Ask, tokens: Int[Tensor, "text token"], rows: Int[Tensor, "row"]
    ) -> tuple[dict[int, _Sums], list[str]]:
        """The mean maps of every layer."""
        sums: dict[int, _Sums] = {}

        def take(seen: SeenRows) -> None:
            kept = (seen.p * seen.without_sinks(self.sinks)[:, :, None]).sum(0) / len(tokens)
            whole = seen.p.sum(0) / len(tokens)
            before = sums.get(seen.layer)
            sums[seen.layer] = (
                _Sums(kept, whole) if before is None else _Sums(before.kept + kept, before.whole + whole)
            )

        lines: list[str] = []
        for start in range(0, len(tokens), _AT_ONCE):
            ask.tell(start, 2 * len(tokens), f"{self.spec}: mean maps")
            lines += see_rows(ask.model, tokens[start : start + _AT_ONCE], rows, take)
        return sums, lines

    def _judge(self, seen: SeenRows, means: dict[int, _Sums], found: Gathered) -> None:
        """How much of one text's rows the mean map has."""
        found.tower = seen.call.place.tower
        keep, mean = seen.without_sinks(self.sinks)[0], means[seen.layer]
        p, every = seen.p[0].double(), torch.ones_like(keep)
        free = (keep[:, None] & seen.visible).double()
        mass = (p * free).sum(-1, keepdim=True)
        uniform = mass * free / free.sum(-1, keepdim=True).clamp_min(1.0)
        found.add("overlap", seen.layer, share_within(p, mean.kept.double(), keep))
        found.add("with_sinks", seen.layer, share_within(p, mean.whole.double(), every))
        found.add("uniform", seen.layer, share_within(p, uniform, keep))
        found.add("energy", seen.layer, energy_explained(p, mean.kept.double(), keep))


def energy_explained(
    p: Float[Tensor, "head row key"], mean: Float[Tensor, "head row key"], keep: Bool[Tensor, "head key"]
) -> Float[Tensor, "head"]:
    """``1 - Σ (p - mean)² / Σ p²`` over rows and kept keys; NaN where the kept keys have nothing."""
    kept = keep[:, None]
    left, whole = (((p - mean) * kept).square().sum((-1, -2)), (p * kept).square().sum((-1, -2)))
    return torch.where(whole > 0, 1 - left / whole.clamp_min(1e-300), torch.nan)
