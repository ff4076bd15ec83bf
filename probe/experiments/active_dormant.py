"""Active and dormant heads: which heads rest on one key, on which kind of text, and what they are worth there."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import xarray as xr

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask, told
from probe.experiments.dormancy import Dormancy, causal_check, dormancy
from probe.experiments.retrieval_answer import not_applicable
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.metrics.papers import GUO_2024
from probe.prompts import Prompt
from probe.prompts.domains import domain_texts
from probe.report.answer import Answer

_SHOWN = 3  # heads that a note names


class ActiveDormant:
    """Share of domains in which a head is dormant, 0 to 1: it gives nearly all its attention to one key there.

    Dormant on a text (the authors' automatic test): mean over rows of H_i / log(i + 1), rows that see one key left out,
    is below `row`, and the largest normalised column entropy is above `column` (see `column_entropy`). Dormant in a
    domain: on more than half of its texts. The paper states no thresholds; these are ours. The column test is weak: the
    last keys, which few queries see, pass it easily; so ``sink``, the mass on key 0, stands beside it.

    Domains: those of your prompts, by the part of their id before the first ``:`` (``code:1``); without prompts the
    shipped prose, code, JSON and lists, the first `tokens` of each text. One domain gives a map, but no comparison.

    `extra`, by domain: ``dormant``, ``sink``, ``row_entropy`` and ``column_entropy`` (layer, head); ``switch``, the
    range of ``sink`` over domains (layer, head). Causal check: the `heads` that switch most are zeroed one at a time;
    ``loss_change`` (checked, domain) is the loss with the head zeroed less that without, in nats per token, mean over
    the domain's texts, ``control_change`` that of another head of the same layer, mean over two draws.

    Guo et al. 2024 (arXiv:2410.13835); texts of 64 tokens as in the paper.

    Args:
        texts: Shipped texts per domain, at most 8.
        tokens: Their length.
        row: A dormant head's mean normalised row entropy is below this.
        column: A dormant head's largest column entropy is above this.
        heads: How many heads the causal check zeroes; 0 leaves it out.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="active_dormant",
        summary="Share of domains (prose, code, JSON, lists; or yours) in which a head is dormant, 0 to 1.",
        unit="share of domains",
        better="high",
        paper="Guo et al. 2024",
        bibtex=GUO_2024,
        causal_only=True,
        slow=True,
    )

    def __init__(
        self, texts: int = 4, tokens: int = 64, row: float = 0.2, column: float = 0.9, heads: int = 2
    ) -> None:
        self.spec = self.info.name
        at_least("active_dormant", "texts", texts, 1)
        at_least("active_dormant", "tokens", tokens, 8)
        at_least("active_dormant", "heads", heads, 0)
        for name, value in (("row", row), ("column", column)):
            if not 0 < value <= 1:
                raise UsageError(f"active_dormant: {name} was {value}; it is above 0 and at most 1")
        self.texts, self.tokens, self.row, self.column, self.heads = texts, tokens, row, column, heads

    def run(self, ask: Ask) -> list[Answer]:
        """Measure every text, compare domains, and zero the heads that switch most.

        Raises `InputError` where a prompt has fewer than two tokens, or no tokenizer can read the shipped texts.
        """
        by_domain = self._texts(ask)
        prompts = [prompt for texts in by_domain.values() for prompt in texts]
        domains = [domain for domain, texts in by_domain.items() for _ in texts]
        found, notes = dormancy(ask, prompts, domains, self.row, self.column, self.spec)
        if found is None:
            return [not_applicable(self.info, self.spec, ask.model, "the model has no decoder")]
        how = f"dormant: row entropy below {self.row:g} and column entropy above {self.column:g}"
        counts = ", ".join(f"{domain!r} ({len(texts)})" for domain, texts in by_domain.items())
        notes = [f"texts: {counts}", how, *notes]
        extra = found.maps()
        if len(by_domain) > 1:
            switchers = found.switchers()
            notes.append("switch most: " + "; ".join(found.told(head) for head in switchers[:_SHOWN]))
            if self.heads:
                check = causal_check(ask, by_domain, switchers[: self.heads], self.spec)
                extra |= check.maps()
                notes += check.told()
        else:
            notes.append("one domain only, so nothing is compared: begin ids by DOMAIN: for others")
        return [self._answer(found, extra, notes)]

    def _texts(self, ask: Ask) -> Mapping[str, Sequence[Prompt]]:
        if not ask.prompts:
            if ask.model.tokenizer is None:
                raise InputError(
                    f"the shipped texts were asked; {ask.model.name} has no tokenizer: give prompts of token ids"
                )
            return {
                domain: [
                    Prompt.of(text, ask.model.tokenizer, id=f"{domain}:{number}").truncate(self.tokens)
                    for number, text in enumerate(texts[: self.texts])
                ]
                for domain, texts in domain_texts().items()
            }
        named: dict[str, list[Prompt]] = {}
        for prompt in ask.prompts:
            if len(prompt) < 2:
                raise InputError(f"prompt {prompt.id!r} has one token; active_dormant needs two or more")
            named.setdefault(str(prompt.id).partition(":")[0], []).append(prompt)
        return named

    def _answer(self, found: Dormancy, extra: dict[str, xr.DataArray], notes: Sequence[str]) -> Answer:
        head_map = extra["dormant"].mean("domain")
        undefined = extra["sink"].isnull().all("domain")
        return Answer(
            **told(self.spec, self.info), head_map=head_map.where(~undefined, np.nan), extra=extra,
            notes=tuple(notes),
        )  # fmt: skip
