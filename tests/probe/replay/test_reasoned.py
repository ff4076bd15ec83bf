"""Responses that a model writes itself: seeded, cut at their end, and named as the response."""

from pathlib import Path

import numpy as np
import pytest
from small_models import letters, llama

from probe.models import LoadedModel, ModelSource
from probe.replay import reasoned as module
from probe.replay.kept import Kept
from probe.replay.reasoned import PROBLEMS, reasoned, told
from probe.replay.work import Work

LOADED = LoadedModel(llama(max_position_embeddings=512), letters(), "small", ModelSource("given"))


def _work(folder: Path, seed: int = 0, *, small: bool = False) -> Work:
    return Work(
        LOADED, Kept(folder / "kept", seed), shared=Kept(folder / "shared", 0), seed=seed, small=small
    )


def test_responses_are_drawn_with_the_seed_and_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each prompt ends with its response; another claim reads the same, another seed gives others, a check a few."""
    monkeypatch.setattr(module, "TOKENS", 12)
    found = reasoned(_work(tmp_path))
    assert 0 < len(found) <= len(PROBLEMS)
    for one in found:
        said = np.flatnonzero(one.spans["response"])
        assert 0 < said.size <= 12
        assert said[-1] == len(one) - 1
        assert not set(np.asarray(one.tokens)[said].tolist()) & {LOADED.tokenizer.eos_token_id}
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("written again"))
    assert [one.tokens for one in reasoned(_work(tmp_path))] == [one.tokens for one in found]
    assert [one.tokens for one in reasoned(_work(tmp_path, small=True))] == [one.tokens for one in found[:3]]
    monkeypatch.undo()
    monkeypatch.setattr(module, "TOKENS", 12)
    assert [one.tokens for one in reasoned(_work(tmp_path, seed=1))] != [one.tokens for one in found]
    assert f"{len(found)} responses of the model itself" in told(found)


def test_padding_of_the_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest problem, which is not padded, and the others are continued as they are alone: greedily here."""
    monkeypatch.setattr(module, "TOKENS", 6)
    monkeypatch.setattr(module, "TEMPERATURE", 1e-4)
    together = module._write(LOADED, 0)
    monkeypatch.setattr(module, "PROBLEMS", PROBLEMS[:1])
    assert module._write(LOADED, 0)[0] == together[0]
