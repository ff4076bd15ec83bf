"""Peaks for claims: those of the experiment, and random groups that are as large and share no head."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from small_models import letters, llama

from probe.experiments.base import Ask
from probe.experiments.rhythm import Rhythm
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.replay.kept import Kept
from probe.replay.rhythms import QUANTILES, SEEDS, _pairs, rhythm_peaks
from probe.replay.work import Work

TEXT = (
    "the cat sat on the mat, and the dog ran far away from the cold old house. then it came back home again."
)


def test_peaks_are_those_of_the_experiment(tmp_path: Path) -> None:
    """The same WAAD peaks where FAI is defined, by the heads of all responses together."""
    loaded = LoadedModel(llama(), letters(), "small", ModelSource("given"))
    prompt = Prompt.of(TEXT, loaded.tokenizer, id="a")
    answered = np.arange(len(prompt)) >= 15
    prompts = [replace(prompt, spans={**prompt.spans, "response": answered})]
    work = Work(loaded, Kept(tmp_path / "kept", 0), shared=Kept(tmp_path / "shared", 0))
    ((own, *random),) = rhythm_peaks(work, prompts)
    (answer,) = Rhythm().run(Ask(loaded, tuple(prompts)))
    count = len(prompt) - 15 - 10
    assert len(random) == SEEDS
    assert [len(one.fai) for one in own] == [count] * len(QUANTILES)
    fai = answer.extra["peak:fai"].values[0, 15 : 15 + count]
    assert own[0].fai.tolist() == (fai == 1).tolist()


def test_random_groups_are_as_large_and_share_no_head() -> None:
    """As many local and global heads as the model has, drawn anew for each seed."""
    group = np.array([[-1.0, 0, 1, 0], [1.0, -1, -1, 0]])
    pairs = _pairs(group, seed=0)
    assert pairs[0] == ({0: [0], 1: [1, 2]}, {0: [2], 1: [0]})
    named = [
        [{(layer, head) for layer, heads in one.items() for head in heads} for one in pair] for pair in pairs
    ]
    assert all((len(near), len(far)) == (3, 2) and not near & far for near, far in named)
    assert len({frozenset(near) for near, _ in named}) > 1
