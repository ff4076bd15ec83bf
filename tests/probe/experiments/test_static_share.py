"""Static share: heads that read no token have one map, heads that match tokens have none, and the map is held out."""

import numpy as np
import pytest
import torch
from copier import copier
from hypothesis import given
from hypothesis import strategies as st
from small_models import letters, llama

from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.experiments.seen_rows import share_within
from probe.experiments.static_share import StaticShare, energy_explained
from probe.models import as_loaded
from probe.prompts import Prompt

WORDS = [chr(97 + a) + chr(97 + b) for a in range(6) for b in range(6)]


def texts_of(loaded, count, words, seed=0):
    """Texts of random words, so that repeats lie anywhere."""
    draw = np.random.default_rng(seed)
    made = [" ".join(draw.choice(WORDS, words)) for _ in range(count)]
    return tuple(Prompt.of(text, loaded.tokenizer, id=f"t{n}") for n, text in enumerate(made))


def test_a_positional_head_is_all_static_and_a_matching_head_is_not():
    """The planted previous-token head is one map to the last digit; the planted induction head is not."""
    loaded = copier(WORDS)
    answer = StaticShare(size=40, rows=99).run(Ask(loaded, texts_of(loaded, 12, 50)))[0]
    assert answer.head_map.values[0, 0] == pytest.approx(1.0, abs=1e-4)
    assert answer.extra["energy"].values[0, 0] == pytest.approx(1.0, abs=1e-4)
    assert answer.extra["uniform"].values[0, 0] < 0.2
    assert answer.head_map.values[1, 0] < 0.8
    assert answer.by_prompt.sizes["prompt"] == 6


def test_the_map_is_that_of_the_other_half():
    """Overlap, energy and uniform share equal loops over eager maps of two halves, without sinks."""
    model = llama()
    loaded = as_loaded((model, letters()))
    prompts = tuple(
        Prompt.of(text, letters()) for text in ("abcdefghij", "the cat sat", "zyxwvutsrq", "on the mat.")
    )
    answer = StaticShare(size=10, rows=99, sinks=0).run(Ask(loaded, prompts))[0]
    model.set_attn_implementation("eager")
    ids = torch.tensor([one.tokens[:10] for one in prompts])
    with torch.no_grad():
        maps = [p.double()[:, :, 1:] for p in model(ids, output_attentions=True).attentions]
    uniform = torch.ones(10, 10).tril()[1:] / torch.arange(2, 11)[:, None]
    for layer, p in enumerate(maps):
        mean, rest = p[:2].mean(0), p[2:]
        overlap = torch.minimum(rest, mean).sum((-1, -2)) / 9
        np.testing.assert_allclose(answer.head_map.values[layer], overlap.mean(0), atol=1e-5)
        np.testing.assert_allclose(answer.extra["with_sinks"].values[layer], overlap.mean(0), atol=1e-5)
        energy = 1 - (rest - mean).square().sum((-1, -2)) / rest.square().sum((-1, -2))
        np.testing.assert_allclose(answer.extra["energy"].values[layer], energy.mean(0), atol=1e-5)
        alike = torch.minimum(rest, uniform.double()).sum((-1, -2)) / 9
        np.testing.assert_allclose(answer.extra["uniform"].values[layer], alike.mean(0), atol=1e-5)


@given(seed=st.integers(0, 999))
def test_shares_know_their_bounds(seed):
    """A map explains itself wholly, another at most wholly; without kept keys nothing is said."""
    draw = torch.Generator().manual_seed(seed)
    p, other = (torch.rand(2, 3, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    keep = torch.rand(2, 5, generator=draw) < 0.8
    if keep.any(-1).all():
        torch.testing.assert_close(share_within(p, p, keep), torch.ones(2, dtype=torch.float64))
        torch.testing.assert_close(energy_explained(p, p, keep), torch.ones(2, dtype=torch.float64))
        assert bool((share_within(p, other, keep) <= 1 + 1e-12).all())
    none = torch.zeros_like(keep)
    assert torch.isnan(share_within(p, other, none)).all()
    assert torch.isnan(energy_explained(p, other, none)).all()


def test_too_few_texts_are_told_and_wrong_parameters_refused():
    """One text long enough is not two; the answer names the others."""
    loaded = as_loaded((llama(), letters()))
    prompts = (Prompt.of("abcdefghij", letters(), id="long"), Prompt.of("abc", letters(), id="short"))
    answer = StaticShare(size=8).run(Ask(loaded, prompts))[0]
    assert np.isnan(answer.head_map).all()
    assert "got 1" in answer.notes[0]
    assert "'short' (3)" in answer.notes[0]
    for wrong in ({"size": 7}, {"texts": 3}, {"rows": 0}, {"sinks": 2.0}):
        with pytest.raises(UsageError, match=str(*wrong)):
            StaticShare(**wrong)
