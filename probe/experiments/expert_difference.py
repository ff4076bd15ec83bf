"""Expert difference: which experts one kind of prompt routes to more than another (fTRI)."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import xarray as xr

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask, named, told
from probe.experiments.folding import fold
from probe.metrics.answering import answers
from probe.metrics.base import MetricInfo
from probe.metrics.expert_routing import ExpertRouting
from probe.metrics.papers import DAHLKE_2025
from probe.prompts import Prompt
from probe.report.answer import Answer

_SHOWN = 10


class ExpertDifference:
    """Share of tokens that route an expert in prompts of group a, less that in group b, -1 to 1; means over prompts.

    ``d_e = mean_{prompts in a} share_e - mean_{prompts in b} share_e``, share = `expert_routing` of a prompt. `a` and
    `b` are prefixes of prompts' ids (``refused:…``); where no id begins so, names of spans: then every prompt with
    tokens in a span counts to that group with those tokens. Without `b`: all prompts that are not in a.

    `extra`: ``a`` and ``b``, the mean shares. Experts that matter are switched by `expert_off`, such as
    ``expert_off:experts=L3.E7``.

    Dahlke et al. 2025, Mixture of Tunable Experts (arXiv:2502.11096).

    Args:
        a: prefix of ids, or a span.
        b: prefix of ids, or a span; all other prompts if left out.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="expert_difference",
        summary="Share of tokens that route an expert in prompts of group a less that in group b, -1 to 1.",
        unit="share of tokens",
        better="high",
        paper="Dahlke et al. 2025",
        bibtex=DAHLKE_2025,
        axis="expert",
    )

    def __init__(self, a: str, b: str = "") -> None:
        self.spec = self.info.name
        if not a or a == b:
            raise UsageError(f"{self.spec}: a was {a!r} and b {b!r}; give two different groups")
        self.a, self.b = a, b

    def run(self, ask: Ask) -> list[Answer]:
        """One forward per prompt.

        Raises:
            InputError: no prompts, a group without prompts, or a span that no prompt has.
        """
        if not ask.prompts:
            raise InputError(
                f"{self.spec} was asked without prompts; give prompts of two kinds (--prompts F.jsonl)"
            )
        found, notes = [], list[str]()
        groups = self._groups(ask.prompts)
        for number, (prompts, span) in enumerate(groups):
            metric = ExpertRouting(span=span)
            tell = partial(self._tell, ask, len(prompts), "ab"[number])
            notes += fold(ask.model, prompts, [metric], (), tell)
            answer = answers(metric)[0]
            if answer.by_prompt is None or bool(np.isnan(answer.head_map.values).all()):
                return [self._nothing(answer)]
            found.append(answer)
        return [self._answer(found, [len(prompts) for prompts, _ in groups], list(dict.fromkeys(notes)))]

    def _tell(self, ask: Ask, total: int, group: str, done: int) -> None:
        ask.tell(done, total, f"{self.spec}: {group}")

    def _groups(self, prompts: Sequence[Prompt]) -> list[tuple[list[Prompt], str]]:
        """The prompts of both groups, and the span of each (none where ids tell them apart)."""
        first = [one for one in prompts if one.id.startswith(self.a)]
        if first:
            rest = [one for one in prompts if not one.id.startswith(self.a)]
            second = [one for one in rest if one.id.startswith(self.b)]
            if not second:
                ids = ", ".join(sorted({one.id for one in prompts})[:6])
                raise InputError(
                    f"{self.spec}: no prompt outside {self.a!r} begins with {self.b!r}; there are {ids}: "
                    "name the other group's prefix"
                )
            return [(first, ""), (second, "")]
        if not self.b:
            raise InputError(
                f"{self.spec}: no prompt's id begins with {self.a!r}, and for spans b is needed: give a=SPAN,b=SPAN"
            )
        groups = []
        for span in (self.a, self.b):
            named(prompts, span)
            groups.append(([one for one in prompts if span in one.spans and one.spans[span].any()], span))
        return groups

    def _answer(self, found: Sequence[Answer], counts: Sequence[int], notes: Sequence[str]) -> Answer:
        means = [one.by_prompt.mean("prompt", skipna=False) for one in found if one.by_prompt is not None]
        means = [one.drop_vars("weight", errors="ignore") for one in means]
        difference = means[0] - means[1]
        return Answer(
            **told(self.spec, self.info, found[0].tower),
            head_map=difference.assign_coords(n_heads=found[0].head_map["n_heads"]),
            extra={"a": means[0], "b": means[1]},
            notes=(
                f"a={self.a}: {counts[0]} prompts, b={self.b or 'the rest'}: {counts[1]} prompts",
                *(_line(side, difference, sign) for side, sign in (("a", 1), ("b", -1))),
                *notes,
            ),
        )

    def _nothing(self, answer: Answer) -> Answer:
        return Answer(
            **told(self.spec, self.info, answer.tower),
            head_map=answer.head_map,
            notes=tuple(note.replace("expert_routing is", f"{self.spec} is") for note in answer.notes),
        )


def _line(side: str, difference: xr.DataArray, sign: int) -> str:
    flat = (sign * difference).stack(at=("layer", "expert")).dropna("at")
    order = np.argsort(-flat.values, kind="stable")[:_SHOWN]
    shown = ", ".join(
        f"L{int(flat['layer'][at])}.E{int(flat['expert'][at])} {float(flat[at]):+.3f}"
        for at in order
        if float(flat[at]) > 0
    )
    return f"more often in {side}: {shown or 'none'}"
