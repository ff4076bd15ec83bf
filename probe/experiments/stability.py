"""Stability: how much of a head's map stays where it is when some tokens of the prompt are replaced."""

from typing import ClassVar

import numpy as np
import torch

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask, told
from probe.experiments.gathered import Gathered
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.row_similarity import GUO_2023
from probe.experiments.seen_rows import SeenRows, cannot_read, drawn_rows, long_enough, see_rows, share_within
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.prompts import Prompt
from probe.report.answer import Answer

_TOKENS = 512


class Stability:
    """Mean overlap, 0 to 1, of a head's rows before and after a share of the prompt's other tokens was replaced.

    Row i has ``Σ_j min(p_ij, p'_ij)``: the probability that stays where it was (1 - total variation). Rows are those of
    tokens that were not replaced, `rows` of them, drawn by the seed. Each of `draws` corruptions replaces ``rate`` of
    the tokens, never the first, by other tokens of the same prompt.

    `extra` holds head maps: ``cosine`` of the two rows; ``without_sinks``, ``Σ min / Σ p`` over keys that receive less
    than `sinks` of all the head's attention in the prompt as it is: a sink stays whatever is replaced.

    After Guo, Stutz & Schiele 2023 (arXiv:2303.11126), who show that over-focused attention diverges under corruption;
    they corrupt images, compare by cosine, and set no sink apart.

    Args:
        rate: share of tokens that are replaced, above 0, below 1.
        rows: how many rows are drawn.
        draws: how many corruptions, one forward each.
        sinks: share of a head's attention, 0 to 1, from which a key is a sink; 0 = none is.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="stability",
        summary="Share of a row's attention that stays when other tokens are replaced, 0 to 1.",
        unit="share",
        better="high",
        paper="Guo et al. 2023",
        bibtex=GUO_2023,
        slow=True,
    )

    def __init__(self, rate: float = 0.1, rows: int = 64, draws: int = 2, sinks: float = 0.1) -> None:
        if not 0 < rate < 1:
            raise UsageError(f"stability: rate was {rate}; allowed is above 0 and below 1")
        if not 0 <= sinks <= 1:
            raise UsageError(f"stability: sinks was {sinks}; allowed is 0 to 1")
        at_least("stability", "rows", rows, 1)
        at_least("stability", "draws", draws, 1)
        self.spec = self.info.name
        self.rate, self.rows, self.draws, self.sinks = rate, rows, draws, sinks

    def run(self, ask: Ask) -> list[Answer]:
        """One forward of two rows, as it is and corrupted, per prompt and draw.

        Raises:
            InputError: a prompt all of whose tokens are alike. Prompts of fewer than four tokens are left out.
        """
        prompts, short = long_enough(ask.texts(_TOKENS), 4)
        reason = cannot_read(ask.model) or ("" if prompts else "; ".join(short))
        if reason:
            return [not_applicable(self.info, self.spec, ask.model, reason)]
        found, notes = Gathered(), dict.fromkeys(short)
        for number, (prompt, draw) in enumerate((one, draw) for one in prompts for draw in range(self.draws)):
            ask.tell(number, len(prompts) * self.draws, f"{self.spec}: {prompt.id}")
            notes |= dict.fromkeys(self._one(ask, prompt, ask.seed + draw, found))
        ask.tell(len(prompts) * self.draws, len(prompts) * self.draws, self.spec)
        how = (
            f"{self.rate:g} of the tokens replaced by others of the prompt (never the first), {self.draws} draws from "
            f"seed {ask.seed}, at most {self.rows} rows each; sinks={self.sinks:g}"
        )
        return [
            Answer(
                **told(self.spec, self.info, found.tower), head_map=found.mean("overlap"),
                by_prompt=found.of("overlap") if self.draws == 1 else None,
                extra={name: found.mean(name) for name in ("cosine", "without_sinks")}, notes=(how, *notes),
            )
        ]  # fmt: skip

    def _one(self, ask: Ask, prompt: Prompt, seed: int, found: Gathered) -> list[str]:
        tokens = np.array(prompt.tokens)
        replaced = corrupted(tokens, self.rate, seed, prompt.id)
        unchanged = np.flatnonzero(tokens == replaced)
        rows = drawn_rows(unchanged[unchanged > 0], self.rows, seed)
        found.start(prompt.id)

        def take(seen: SeenRows) -> None:
            found.tower = seen.call.place.tower
            before, after = seen.p.double()
            keep = seen.without_sinks(self.sinks)[0]
            found.add("overlap", seen.layer, share_within(before, after, torch.ones_like(keep)))
            found.add("without_sinks", seen.layer, share_within(before, after, keep))
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
            found.add("cosine", seen.layer, cosine.mean(-1))

        return see_rows(ask.model, torch.from_numpy(np.stack([tokens, replaced])), rows, take)


def corrupted(tokens: np.ndarray, rate: float, seed: int, prompt: str) -> np.ndarray:
    """The same tokens with a share of them, at least one, replaced by other tokens of the prompt; never the first.

    Raises:
        InputError: all tokens are alike, so that there is nothing to replace one by.
    """
    draw = np.random.default_rng(seed)
    room = len(tokens) - 2  # one row beside the first stays as it is, to be compared
    count = min(room, max(1, round(rate * (len(tokens) - 1))))
    out = tokens.copy()
    for at in draw.choice(np.arange(1, len(tokens)), size=count, replace=False):
        others = tokens[tokens != tokens[at]]
        if not len(others):
            raise InputError(
                f"stability was asked; all tokens of prompt {prompt!r} are alike: give a text of several tokens"
            )
        out[at] = draw.choice(others)
    return out
