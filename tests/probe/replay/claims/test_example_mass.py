"""Rises by question, and the numbers of a task."""

import numpy as np
from copier import copier

from probe.experiments.shots import OTHER
from probe.prompts.choices import LETTERS
from probe.prompts.data import rows
from probe.replay.claims.example_mass import _of_task, _rise

KINDS = {row["kind"]: row["words"] for row in rows("kinds.jsonl")}
WORDS = [
    "Which",
    "of",
    "these",
    "is",
    "a",
    "an",
    "?",
    ":",
    "Answer",
    "Kinds",
    "Kind",
    "Word",
    ",",
    ".",
    *OTHER,
]


def test_an_example_shows_a_copier_what_may_be_said() -> None:
    """On held-out words: mass rises with a valid answer before it, right or wrong, and not with another word."""
    model = copier([*WORDS, *LETTERS, *KINDS, *(word for words in KINDS.values() for word in words)])
    model.model.lm_head.weight.data.mul_(4.0)
    rises = {}
    for demo in ("right", "wrong", "other"):
        found = {name: np.asarray(values) for name, values in _of_task(model, "letters", demo, 4, 0).items()}
        assert found["mass"].shape == found["right"].shape == (4, 2)
        rises[demo] = _rise(found["mass"]).mean()
    # A colon stands before every letter's word too, so that the copier's rise is a small one.
    assert min(rises["right"], rises["wrong"]) > max(3 * rises["other"], 0.01)
