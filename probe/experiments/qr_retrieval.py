"""Query-focused retrieval heads: which heads look from a query at the document that answers it (Zhang et al. 2025)."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import xarray as xr

from probe.errors import UsageError
from probe.experiments.base import Ask, told
from probe.experiments.copy_tests import cannot_copy
from probe.experiments.head_grid import by_prompt, head_grid
from probe.experiments.qr_ranking import Found, Head, best_first, random_ranks, ranked
from probe.experiments.qr_scores import gold_scores
from probe.experiments.query_rows import Example, document_attention
from probe.experiments.retrieval_answer import not_applicable
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.prompts import Prompt
from probe.prompts.documents import document_prompts, documents
from probe.report.answer import Answer


class QrRetrieval:
    """Mean probability that a query's rows give to the document that answers it, less that of an empty query.

    ``QR_h(d) = Σ_{j in d} [(1/|q|) Σ_{i in q} p_ij − (1/|n|) Σ_{i in n} p_ij]``, the null query n = "N/A" in place of
    the question; tokens of d below their mean − `drop`·std are left out. A head's score is the mean over examples of
    the sum over the documents that answer; about −1 to 1. The `heads` best heads together rank the documents.

    In `extra`, per example (`part` says which part of the data): ``documents``, the scores of the documents by the
    best heads, and ``rank``, that of the right one, 1 for the first; ``documents_all``, ``rank_all``, by all heads
    (in-context re-ranking); ``rank_random``, the mean rank over draws of as many other heads.

    Zhang et al. 2025, Query-Focused Retrieval Heads Improve Long-Context Reasoning and Re-ranking
    (arXiv:2506.09944). The layout of the prompt is theirs, the documents are our own. Deviation: no chat template; give
    prompts of your own for that.

    Your prompts need the spans ``query`` (the rows: instruction and question), ``doc:0``, ``doc:1``, … before it, and
    ``gold``; a span ``question`` within the query is what the null query replaces (else all of it).

    Args:
        heads: how many heads rank.
        documents: documents per shipped example.
        examples: shipped examples in each part; heads are found on ``train``, and rank ``held_out`` as well.
        calibrate: subtract the null query's attention.
        null: the null query.
        drop: standard deviations below the mean at which a token is an outlier; 0 keeps all.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="qr_retrieval",
        summary="Attention of a query to the document that answers it, less an empty query's, -1 to 1",
        unit="probability",
        better="high",
        paper="Zhang et al. 2025",
        bibtex="""@misc{zhang2025qrhead,
  title={Query-Focused Retrieval Heads Improve Long-Context Reasoning and Re-ranking},
  author={Zhang, Wuwei and Yin, Fangcong and Yen, Howard and Chen, Danqi and Ye, Xi},
  year={2025},
  eprint={2506.09944},
  archivePrefix={arXiv}
}""",
        causal_only=True,
        slow=True,
    )

    def __init__(
        self, heads: int = 16, documents: int = 6, examples: int = 8, calibrate: bool = True, null: str = "N/A",
        drop: float = 2.0,
    ) -> None:  # fmt: skip
        at_least("qr_retrieval", "heads", heads, 1)
        at_least("qr_retrieval", "documents", documents, 2)
        at_least("qr_retrieval", "examples", examples, 1)
        if not drop >= 0 or not null.strip():
            raise UsageError(
                f"qr_retrieval: drop was {drop}, null was {null!r}; drop is 0 or more, null some text"
            )
        self.spec = self.info.name
        self.heads, self.documents, self.examples = heads, documents, examples
        self.calibrate, self.null, self.drop = calibrate, null, drop

    def run(self, ask: Ask) -> list[Answer]:
        """Two forwards per example over one pass of its documents; the seed draws and orders shipped documents.

        Raises:
            InputError: a prompt of yours lacks a span, naming it.
            UsageError: more documents or examples than there are.
        """
        model = ask.model
        reason = cannot_copy(model)
        if reason:
            return [not_applicable(self.info, self.spec, model, reason)]
        tokenizer = model.tokenizer
        null = tuple(tokenizer(" " + self.null, add_special_tokens=False)["input_ids"])  # type: ignore[misc]
        examples = [(part, Example.of(prompt, null)) for part, prompt in self._prompts(ask)]
        longest = max(
            len(one.front) + max(len(one.asked.tokens), len(one.null.tokens)) for _, one in examples
        )
        if model.max_positions is not None and longest > model.max_positions:
            reason = f"an example of {longest} tokens needs more than its {model.max_positions} positions"
            return [not_applicable(self.info, self.spec, model, f"{reason}: ask for fewer documents")]
        found = []
        for number, (part, example) in enumerate(examples):
            ask.tell(number, len(examples), f"{self.spec}: {example.id}")
            seen = document_attention(model, example, calibrate=self.calibrate)
            found.append(Found(example, seen, part))
        ask.tell(len(examples), len(examples), self.spec)
        return [self._answer(found, ask.seed)]

    def _prompts(self, ask: Ask) -> list[tuple[str, Prompt]]:
        if ask.prompts:
            return [("yours", prompt) for prompt in ask.prompts]
        size = {"count": self.examples, "size": self.documents, "seed": ask.seed}
        if max(self.examples, self.documents) > len(documents("train")):
            raise UsageError(
                f"qr_retrieval: examples={self.examples}, documents={self.documents} were asked; each part has "
                f"{len(documents('train'))} documents: ask for fewer, or give prompts of your own"
            )
        return [
            (part, prompt)
            for part in ("train", "held_out")
            for prompt in document_prompts(ask.model.tokenizer, part, **size)
        ]

    def _answer(self, found: Sequence[Found], seed: int) -> Answer:
        learned = [one for one in found if one.part != "held_out"]
        grids = [head_grid(gold_scores(one.calibrated, one.example, self.drop)) for one in learned]
        each = by_prompt(grids, [one.example.id for one in learned])
        head_map = each.mean("prompt")
        order = best_first(head_map)
        best = order[: self.heads]
        extra = ranked(found, {"": best, "_all": order}, self.drop)
        extra["rank_random"] = random_ranks(found, order, len(best), self.drop, seed)
        return Answer(
            **told(self.spec, self.info),
            head_map=head_map,
            by_prompt=each,
            extra=extra,
            notes=self._notes(found, best, extra),
        )

    def _notes(
        self, found: Sequence[Found], best: Sequence[Head], extra: dict[str, xr.DataArray]
    ) -> tuple[str, ...]:
        parts = [one.part for one in found]
        names = ", ".join(f"L{layer}.H{head}" for layer, head in best)
        null = f"less attention from the null query {self.null!r}" if self.calibrate else "not calibrated"
        lines = [
            f"heads found on {sum(part != 'held_out' for part in parts)} examples; {null}; drop={self.drop:g}",
            f"the {len(best)} best heads: {names}",
        ]
        lines += [_part_line(part, found, extra) for part in dict.fromkeys(parts)]
        if "yours" in parts:
            lines.append("the heads rank the prompts that they were found on")
        return tuple(lines)


def _part_line(part: str, found: Sequence[Found], extra: dict[str, xr.DataArray]) -> str:
    here = np.array([one.part == part for one in found])
    ranks = {name: extra[name].values[here] for name in ("rank", "rank_all", "rank_random")}
    first = {name: float((values == 1).mean()) for name, values in ranks.items()}
    mean = {name: float(values.mean()) for name, values in ranks.items()}
    chance = float(np.mean([1 / len(one.example.documents) for one in found if one.part == part]))
    return (
        f"{part}: the right document is first in {first['rank']:.2f} of {here.sum()} examples by the best heads, "
        f"{first['rank_all']:.2f} by all heads (chance {chance:.2f}); mean rank {mean['rank']:.2f} by the best, "
        f"{mean['rank_all']:.2f} by all, {mean['rank_random']:.2f} by as many random others"
    )
