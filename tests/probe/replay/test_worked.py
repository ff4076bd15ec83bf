"""Worked problems are right at every step, and shuffled texts keep their tokens."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import letters, llama

from probe.models import LoadedModel, ModelSource
from probe.replay.worked import shuffled, texts, worked_problem

LOADED = LoadedModel(llama(), letters(), "small", ModelSource("given"))
_STEP = re.compile(r"has (\d+) .* Since (\d+) ([-+*]) (\d+) = (\d+), .* now has (\d+) ")


@given(st.integers(0, 10_000), st.integers(1, 15))
def test_every_step_is_right_and_uses_the_one_before(seed: int, steps: int) -> None:
    """Each step starts with the count that the last one found, computes right and never goes below zero."""
    first, *lines, last = worked_problem(seed, steps).splitlines()
    count = int(re.search(r"starts with (\d+)", first).group(1))
    assert len(lines) == steps
    for line in lines:
        had, before, sign, n, after, now = _STEP.search(line).groups()
        assert int(had) == int(before) == count
        count = {"+": count + int(n), "-": count - int(n), "*": count * int(n)}[sign]
        assert int(after) == int(now) == count >= 0
    assert f"has {count} " in last


def test_texts_are_of_three_kinds_and_seeded() -> None:
    """As many of each kind, none longer than asked; another seed gives other problems."""
    found = texts(LOADED, 3, 40)
    assert {kind: len(some) for kind, some in found.items()} == {"worked problems": 3, "code": 3, "story": 3}
    assert all(len(one) == 40 for some in found.values() for one in some)
    other = texts(LOADED, 3, 400, seed=1)["worked problems"]
    assert {one.tokens for one in other}.isdisjoint(
        {one.tokens for one in texts(LOADED, 3, 400)["worked problems"]}
    )


def test_shuffling_keeps_the_tokens() -> None:
    """The same tokens in another order, the same one for the same seed."""
    (prompt,) = texts(LOADED, 1, 60)["story"]
    one, two = shuffled(LOADED, prompt, 0), shuffled(LOADED, prompt, 0)
    assert one.tokens == two.tokens != prompt.tokens
    assert sorted(one.tokens) == sorted(prompt.tokens)
    assert one.id == f"{prompt.id}:shuffled"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_token_in_front_stays_in_front(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tokenizer puts before a text is not shuffled into it."""
    (prompt,) = texts(LOADED, 1, 60)["story"]
    monkeypatch.setattr("probe.replay.worked.opening", lambda _: [prompt.tokens[0]])
    assert shuffled(LOADED, prompt, seed).tokens[0] == prompt.tokens[0]
