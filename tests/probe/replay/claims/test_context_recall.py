"""Which tokens of a passage count as recalled, seen or new, and shares of the gain by hand."""

import numpy as np
import pytest
from small_models import gpt2, letters

from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.replay.claims import context_recall
from probe.replay.claims.context_recall import _ahead, _drawn, _mean_gain, _share_of_gain


def test_kinds_follow_from_the_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far: its bigram stands in the long context alone; near: in the short one; seen: after another token; else new."""
    for name, value in (("LONG", 8), ("SHORT", 3), ("LAST", 4)):
        monkeypatch.setattr(context_recall, name, value)
    small = LoadedModel(gpt2(), letters(), "small", ModelSource("given"))
    #          long: 5 6 9 9 9 | short: 7 8 7 | last: 8 (near) 5 (seen) 6 (far) 40 (new)
    tokens = [5, 6, 9, 9, 9, 7, 8, 7, 8, 5, 6, 40]
    found = context_recall._of_passage(small, Prompt.of_tokens(tokens, id="p"))
    assert found["kind"] == ["near", "seen", "far", "new"]
    assert len(found["gain"]) == 4
    assert np.isfinite(found["gain"]).all()


def test_shares_and_means_by_hand() -> None:
    """Recalled tokens have 3 of 4 nats; each gains 1.5, others 0.25 each."""
    gain = np.array([[1.0, 2.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    flags = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    both = np.stack([gain[:1], flags[:1]], axis=-1)
    assert _share_of_gain(both) == 0.75
    assert _mean_gain(both) == 1.5
    assert np.isnan(_mean_gain(np.stack([gain, 0 * flags], axis=-1)))
    assert _ahead(np.stack([gain[:1], flags[:1], 1 - flags[:1]], axis=-1)) == 1.0


def test_the_control_flags_as_many_tokens_of_each_passage() -> None:
    """Counts stay passage by passage; another seed draws others."""
    flags = np.random.default_rng(0).random((5, 40)) < 0.2
    one, two = _drawn(flags, 0), _drawn(flags, 1)
    assert (one.sum(1) == flags.sum(1)).all()
    assert (one != two).any()
