"""What an ablation refuses, and by what name."""

from collections.abc import Callable

import pytest
import small_models
import torch
from ablated import letters_model

import probe
from probe.errors import InputError, InterventionError, UnknownNameError, UsageError
from probe.interventions import zero

BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no interventions": (lambda: probe.ablate(letters_model(), "a b", []), UsageError, "at least one"),
    "unknown head": (lambda: probe.ablate(letters_model(), "a b", [zero(heads=["L0.H9"])]), UnknownNameError, "L0.H9"),
    "unknown layer": (lambda: probe.ablate(letters_model(), "a b", [zero(heads=["L7.H0"])]), UnknownNameError, "L7.H0"),
    "unknown spec": (lambda: probe.ablate(letters_model(), "a b", ["zeero:heads=L0.H0"]), UnknownNameError, "'zero'"),
    "unknown option": (lambda: probe.ablate(letters_model(), "a b", ["zero"], control=1), UnknownNameError, "controls"),
    "encoder": (
        lambda: probe.ablate((small_models.bert(), small_models.letters()), "a b", ["zero"]), UsageError, "analyze",
    ),
    "encoder and decoder": (
        lambda: probe.ablate((small_models.t5(), small_models.letters()), "a b", ["zero"]), UsageError, "decoder",
    ),
    "ready-made inputs": (
        lambda: probe.ablate(letters_model(), {"input_ids": torch.ones(1, 3)}, ["zero"]), InputError, "text or prompts",
    ),
    "too long": (lambda: probe.ablate(letters_model(), "a" * 129, ["zero"]), InputError, "128"),
    "negative controls": (
        lambda: probe.ablate(letters_model(), "a b", ["zero"], controls=-1), UsageError, "controls=-1",
    ),
    "level": (lambda: probe.ablate(letters_model(), "a b", ["zero"], level=95.0), UsageError, "between 0 and 1"),
    "new tokens": (lambda: probe.ablate(letters_model(), "a b", ["zero"], new_tokens=-1), UsageError, "new_tokens=-1"),
    "never acts": (
        lambda: probe.ablate(letters_model(), "a b", ["zero:heads=L0.H0,phase=decode"], new_tokens=0, controls=0),
        InterventionError, "changed nothing in 1 forwards",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(what: str) -> None:
    """Whatever cannot be measured is an error that says what to do."""
    call, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        call()
