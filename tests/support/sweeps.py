"""Sweeps of small models, as the tests of sweeping call them."""

from typing import Any

import small_models
from subjects.catalogue import SUBJECTS

import probe

# Two of one length, so that they run as one batch, and one of another.
TEXTS = ["the cat sat on the mat and ran", "a dog ran after it, all day on", "Over the lazy dog"]


def pair(name: str = "") -> tuple[Any, Any]:
    """The small model, or a subject by name, with a tokenizer of letters."""
    return SUBJECTS[name].model() if name else small_models.llama(), small_models.letters()


def swept(model: Any = None, how: Any = "zero", **changes: Any) -> probe.Report:
    """A sweep over the heads of the small model."""
    call = {"over": "heads", "task": "loss:tail=8", "prompts": TEXTS, **changes}
    return probe.sweep(pair() if model is None else model, how, **call)
