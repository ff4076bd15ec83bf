"""Sink heads and the mass of a key: planted heads pass, others do not, each prompt by itself."""

import numpy as np
import pytest
import torch
from planted import HEADS, planted, repeated_tokens

from probe.errors import UsageError
from probe.metrics import answers, make
from probe.metrics.key_mass import KeyMass
from probe.testing import feed, on_pattern, samples

TOKENS = repeated_tokens(12)


def test_the_planted_sink_head_alone_passes() -> None:
    """The head on the first token is a sink head with mass 1; the copying heads rest there for half of their rows."""
    answer = answers(feed(make("sink_heads:threshold=0.6"), [planted(TOKENS)]))[0]
    assert [HEADS[h] for h in np.flatnonzero(answer.head_map.values[0])] == ["sink"]
    assert answer.extra["mass"].values[0, HEADS.index("sink")] == pytest.approx(1.0, abs=1e-6)
    assert float(answer.extra["share_of_heads"][0]) == pytest.approx(1 / len(HEADS))


def test_the_share_of_heads_counts_each_prompt_by_itself() -> None:
    """A head that passes in one of two prompts is half a head, whatever its pooled mass."""
    prompts = samples((6, 40), seed=1)
    answer = answers(feed(make("sink_heads:threshold=0.5"), prompts))[0]
    mass = answers(feed(make("key_mass"), prompts))[0].by_prompt
    assert mass is not None
    np.testing.assert_allclose(answer.extra["share_of_heads"], (mass.values > 0.5).mean((0, 2)))


def test_a_key_that_no_prompt_has_is_undefined() -> None:
    """Key 9 of four tokens is null, not 0."""
    assert np.isnan(on_pattern(KeyMass(key=9), torch.ones(2, 4, 4))).all()


@pytest.mark.parametrize("spec", ["key_mass:key=-1", "sink_heads:threshold=0", "sink_heads:threshold=1.5"])
def test_bad_parameters_are_refused(spec: str) -> None:
    """A key before the first, and thresholds that every or no head passes."""
    with pytest.raises(UsageError, match=spec.partition(":")[0]):
        make(spec)


def test_received_has_the_mass_of_every_key() -> None:
    """The token map of `received` is the mass of each key."""
    prompts = samples((9,), seed=2)
    rows = answers(feed(make("received"), prompts))[0].token_maps[0].values
    for key in (0, 4, 8):
        one = answers(feed(make(f"key_mass:key={key}"), prompts))[0].head_map.values
        np.testing.assert_allclose(rows[..., key], one, rtol=1e-5)
