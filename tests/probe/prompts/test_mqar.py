"""Sequences of multi-query associative recall are what they promise."""

import numpy as np
import pytest
from copier import words_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import UsageError
from probe.prompts.mqar import RecallTask, mqar

WORDS = words_tokenizer([f"w{number}" for number in range(60)])


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 12), st.floats(0.01, 2.0), st.integers(0, 99))
def test_every_key_is_asked_once_and_has_its_value(
    pairs: int, passes: int, more: int, power: float, seed: int
) -> None:
    """Each key of the pairs is asked at exactly one position behind them, and the label is its value, wherever said."""
    task = RecallTask(2 * pairs * (passes + 1) + 2 * more, pairs, passes, power)
    (found,) = mqar(task, WORDS, count=1, seed=seed)
    ids = np.array(found.prompt.tokens)
    assert len(ids) == task.length
    assert (ids[found.keys] == ids[found.queries][:, None]).all()
    assert (ids[found.values] == found.labels[:, None]).all()
    assert (found.values == found.keys + 1).all()
    assert found.keys.shape == (pairs, passes)
    context = 2 * pairs * passes
    assert (found.queries >= context).all()
    assert (np.diff(found.queries) > 0).all()
    assert ((found.queries - context) % 2 == 0).all()
    asked = np.flatnonzero(np.isin(ids, ids[found.queries]))
    assert set(asked) == {*found.queries.tolist(), *found.keys.ravel().tolist()}
    assert len(set(ids[found.queries])) == len(set(found.labels)) == pairs
    assert ids[found.queries].max() < found.labels.min()  # keys are the lower half
    assert set(found.choices) == set(found.labels)
    assert found.prompt.spans["pairs"].sum() == context
    assert np.flatnonzero(found.prompt.spans["queries"]).tolist() == found.queries.tolist()


def test_the_seed_decides_and_special_tokens_are_left_out() -> None:
    """The same seed gives the same sequences; another gives others; no token is special."""
    one, two, other = (mqar(RecallTask(24, 4), WORDS, count=2, seed=seed) for seed in (3, 3, 4))
    assert [found.prompt.tokens for found in one] == [found.prompt.tokens for found in two]
    assert one[0].prompt.tokens != other[0].prompt.tokens
    assert min(min(found.prompt.tokens) for found in one) > max(WORDS.all_special_ids)


def test_a_small_power_asks_early() -> None:
    """With a power of 0.01 keys are asked sooner behind the pairs than with 1, where every slot is as likely."""
    early, even = (
        np.mean([one.queries.mean() for one in mqar(RecallTask(64, 4, power=power), WORDS, count=30)])
        for power in (0.01, 1.0)
    )
    assert early < even - 5


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"length": 15, "pairs": 2}, "even"),
        ({"length": 14, "pairs": 4}, "need 16"),
        ({"length": 40, "pairs": 8, "passes": 2}, "need 48"),
        ({"pairs": 0}, "above 0"),
        ({"passes": 0}, "above 0"),
        ({"power": 0.0}, "above 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict, why: str) -> None:
    """Sizes are refused by name before anything is drawn."""
    with pytest.raises(UsageError, match=why):
        RecallTask(**sizes)


def test_too_small_a_vocabulary_is_refused() -> None:
    """More pairs than half the vocabulary has tokens, or no sequences, are refused."""
    with pytest.raises(UsageError, match="at most 2 pairs for 6 tokens"):
        mqar(RecallTask(64, 8), words_tokenizer([f"w{number}" for number in range(6)]))
    with pytest.raises(UsageError, match="0 sequences"):
        mqar(RecallTask(), WORDS, count=0)
