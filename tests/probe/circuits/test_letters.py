"""Answer-letter heads: a planted one, and what is said of a head's letters on random models."""

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from movers import Fetch, fetch_pairs, mover
from support_pairs import random_pairs

from probe.circuits.batches import batches
from probe.circuits.letter_scores import letter_right, letter_scores, letters_of, margin
from probe.circuits.letters import letter_heads
from probe.circuits.study import CircuitOptions, study
from probe.errors import UsageError
from probe.prompts.pairs import Pair


def marked(pairs: list[Pair], right: int = 3, other: int = 4) -> list[Pair]:
    marks = {"right_letter": right, "other_letter": other}
    return [Pair(p.id, p.clean, p.corrupt, p.right, p.wrong, marks) for p in pairs]


def test_the_head_that_fetches_the_letter_is_found() -> None:
    answer = letter_heads(mover([Fetch(1, 1, 3), Fetch(0, 0, 5)]), marked(fetch_pairs(3))).answers[0]
    roles, measures = answer.extra["roles"], answer.extra["measures"]
    assert roles.values.sum() == roles.sel(role="letter", layer=1, head=1) == 1
    assert measures.sel(measure="letter_accuracy", layer=1, head=1) == 1
    assert measures.sel(measure="to_right_letter", layer=1, head=1) > 0.9
    assert np.isnan(measures.sel(measure="to_right_option").values).all()
    # What the others add is the same for both letters, or nothing: that names none.
    assert measures.sel(measure="letter_accuracy", layer=2).values.max() == 0
    assert "letter: L1.H1" in answer.notes
    assert answer.extra["role_effect"].values[0] == pytest.approx(1, abs=0.05)
    assert np.abs(answer.extra["random_effect"].values).max() < 0.05


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3])
def test_a_head_s_letters_are_its_write_read_by_the_last_norm_and_the_unembedding(make: object) -> None:
    pairs = marked(random_pairs(64, 3, 7))
    loaded = make().double()
    with study((loaded, None), pairs, CircuitOptions(min_accuracy=0.0)) as case:
        letters, batch = letters_of(case), batches(case.pairs.pairs)[0]
        found = letter_scores(case, batch, letters)
        trace = case.engine.record(batch, "clean", ["z", "resid_post"])
        stream = trace.value("resid_post", 1)[:, 0, -1]
        rate = loaded.model.norm(stream)[:, :1] / (trace.anatomy.final.gain * stream)[:, :1]
        for layer, scores in found.items():
            write = trace.head_writes(layer)[0][:, :, -1]
            logits = loaded.lm_head(trace.anatomy.final.gain * write * rate[:, None]).detach()
            for row, some in enumerate(letters.tokens):
                wanted = logits[row][:, list(some)] - logits[row][:, some[:1]]
                torch.testing.assert_close(scores[:, row], wanted, atol=1e-6, rtol=1e-5)


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**16))
def test_right_letters_and_margins(letters: int, pairs: int, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    scores = {0: torch.randn(3, pairs, letters, generator=drawn, dtype=torch.float64)}
    right = torch.randint(0, letters, (pairs,), generator=drawn)
    for pair, own in enumerate(right.tolist()):
        says = scores[0][:, pair].argmax(-1) == own
        assert (letter_right(scores, right)[0][:, pair].bool() == says).all()
        others = [one for one in range(letters) if one != own]
        wanted = scores[0][:, pair, own] - scores[0][:, pair, others].mean(-1)
        torch.testing.assert_close(margin(scores, right)[0][:, pair], wanted)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(UsageError, match="lack the marks right_letter"):
        letter_heads((tiny.llama(), None), random_pairs(64), min_accuracy=0.0)
    for changes in ({"least_effect": 0.0}, {"least_accuracy": 1.1}):
        with pytest.raises(UsageError, match="effects must be above 0"):
            letter_heads((tiny.llama(), None), marked(random_pairs(64)), min_accuracy=0.0, **changes)
