"""The generator keeps the task's rules, and its chain is that of the text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import InputError, UsageError
from probe.prompts.bigram_backcopy import BOS, BigramBackcopy

TEXT = "abacadabrabacad abra cadabra bcd dcb "


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), length=st.integers(4, 40), triggers=st.integers(1, 3))
def test_triggers_copy_and_all_else_follows_the_chain(seed: int, length: int, triggers: int) -> None:
    """After a trigger comes the token before it; after any other token one that the text has after it."""
    task = BigramBackcopy.of(TEXT, triggers=triggers)
    ids = task.sample(5, length, np.random.default_rng(seed))
    assert (ids[:, 0] == BOS).all()
    assert (ids[:, 1:] != BOS).all()
    before, now, after = ids[:, :-2], ids[:, 1:-1], ids[:, 2:]
    copies = task.is_trigger(now)
    assert (after[copies] == before[copies]).all()
    assert not task.is_trigger(after[copies]).any()
    assert (task.chain[now, after][~copies] > 0).all()


def test_the_chain_is_that_of_the_text() -> None:
    """Frequencies of 'ab': a is followed by b as often as the text says; the most frequent character is a trigger."""
    task = BigramBackcopy.of(TEXT, triggers=1)
    a, b = task.alphabet.index("a") + 1, task.alphabet.index("b") + 1
    assert task.triggers == (a,)
    assert task.chain[a, b] == pytest.approx(TEXT.count("ab") / TEXT.count("a"))
    np.testing.assert_allclose(task.chain.sum(1), 1.0)
    assert (task.chain[:, BOS] == 0).all()


def test_sampled_bigrams_are_as_frequent_as_the_chain_says() -> None:
    """Over many draws the next token of a character that is no trigger has the chain's distribution."""
    task = BigramBackcopy.of(TEXT, triggers=1)
    ids = task.sample(400, 60, np.random.default_rng(0))
    b = task.alphabet.index("b") + 1
    follows = ids[:, 2:][ids[:, 1:-1] == b]
    found = np.bincount(follows, minlength=task.n_tokens) / len(follows)
    np.testing.assert_allclose(found, task.chain[b], atol=4 * (0.25 / len(follows)) ** 0.5)


def test_the_best_loss_is_nothing_at_triggers_and_entropy_elsewhere() -> None:
    """A character that is always followed by the same has entropy 0 as well."""
    task = BigramBackcopy.of("xyxyxyxyz xyz ", triggers=1)
    losses = task.best_loss(np.arange(task.n_tokens))
    assert losses[task.triggers[0]] == 0.0
    row = task.chain[task.alphabet.index("y") + 1]
    expected = -sum(p * np.log(p) for p in row if p > 0)
    assert losses[task.alphabet.index("y") + 1] == pytest.approx(expected)


def test_texts_that_are_too_poor_are_refused() -> None:
    """No trigger, or nothing but triggers."""
    with pytest.raises(UsageError, match="0 triggers"):
        BigramBackcopy.of(TEXT, triggers=0)
    with pytest.raises(InputError, match="2 characters"):
        BigramBackcopy.of("abab", triggers=1)


def test_the_shipped_text_has_the_triggers_of_english() -> None:
    """Space, e and t are the most frequent characters."""
    task = BigramBackcopy.of()
    assert sorted(task.alphabet[one - 1] for one in task.triggers) == [" ", "e", "t"]
