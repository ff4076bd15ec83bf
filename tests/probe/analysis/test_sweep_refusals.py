"""Sweeps that were asked wrongly are refused by name, before the first forward."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import small_models
from sweeps import swept

import probe
from probe.errors import InputError, InterventionError, ProbeError, UnknownNameError, UsageError
from probe.interventions import skip_layer, zero
from probe.interventions.target import Target
from probe.prompts import Prompt
from probe.seam.stage import Stage

_ANSWERLESS = Prompt.of("the cat", small_models.letters(), id="p")
WRONG: dict[str, tuple[dict[str, Any], type[ProbeError], str]] = {
    "unit": ({"over": "neurons"}, UsageError, "heads, layers"),
    "task": ({"task": "lambada"}, UnknownNameError, "unknown task 'lambada'"),
    "parameter": ({"task": "needle:lenght=9"}, UnknownNameError, "did you mean 'length'"),
    "number": ({"task": "ioi:count=0"}, UsageError, "at least 1"),
    "no number": ({"task": "loss:tokens=many"}, UsageError, "a whole number"),
    "intervention": ({"how": "zeero"}, UnknownNameError, "did you mean 'zero'"),
    "no intervention": ({"how": 3}, UsageError, "none of the methods that edit"),
    "head": ({"how": "zero:heads=L1.H4"}, UnknownNameError, r"unknown head 'L1\.H4'"),
    "layer": ({"how": "zero:layers=7"}, UnknownNameError, "unknown layer '7'"),
    "whole layers": ({"how": "skip_layer"}, UsageError, "sweep over layers"),
    "no heads": ({"how": "set_based:spans=a+b"}, UsageError, "cannot be told heads: use another"),
    "control": ({"how": zero(["L0.H1"]).control(0)}, UsageError, "sweep the edit itself"),
    "rows twice": ({"how": zero(), "queries": "last"}, UsageError, "to the intervention itself"),
    "phase": ({"phase": "later"}, UsageError, "prefill, decode, both"),
    "span": ({"how": "knockout:queries=last,keys=needle"}, UnknownNameError, "no span 'needle'"),
    "rows": ({"queries": "needle"}, UnknownNameError, "no span 'needle'"),
    "answer": ({"task": "needle", "prompts": _ANSWERLESS}, InputError, "no answer"),
    "subject": ({"task": "ioi", "prompts": "a b"}, InputError, "no span s2"),
    "one token": ({"prompts": "a"}, InputError, "has 1 tokens; a loss needs at least 2"),
    "short": ({"prompts": "ab", "phase": "decode"}, InputError, "needs at least 3"),
    "prompts": ({"prompts": []}, InputError, "the list of prompts is empty"),
    "prompt": ({"prompts": [7]}, InputError, "prompt 0 is a int"),
    "length": ({"prompts": "a" * 200}, InputError, "has positions for 128"),
    "cut": ({"max_tokens": 1}, UsageError, "at least 2 tokens"),
    "option": ({"sed": 1}, UnknownNameError, "did you mean 'seed'"),
    "encoder": ({"model": (small_models.bert(), small_models.letters())}, UsageError, "need a decoder"),
    "tokenizer": ({"model": (small_models.gpt2(), None)}, InputError, "no tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_call_is_refused_before_the_first_forward(what: str, tmp_path: Path) -> None:
    """By name, with nothing written."""
    change, kind, words = WRONG[what]
    model: Any = small_models.llama()
    probe.verify(model)
    model.register_forward_pre_hook(lambda *_: pytest.fail("a forward ran"))
    with pytest.raises(kind, match=words):
        swept(**{"model": (model, small_models.letters()), "out": tmp_path / "run", **change})
    assert not (tmp_path / "run").exists()


@dataclass(frozen=True)
class _Everywhere:
    """Skips both layers, whatever it is told."""

    target: Target = field(default_factory=Target)
    name: str = "everywhere"

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Hooks on both blocks."""
        return skip_layer([0, 1]).attach(stage)


def test_an_edit_that_acts_beyond_the_layer_it_is_told_is_refused(tmp_path: Path) -> None:
    """One layer's effect would be that of others."""
    with pytest.raises(InterventionError, match="also acted in"):
        swept(how=_Everywhere(), over="layers", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
