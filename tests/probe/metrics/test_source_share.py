"""Source share: its maps against loops over the dense pattern, what it says of generation, and what it cannot say."""

import dense_metrics as dense
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import letters, llama

import probe
from probe.errors import UnknownNameError, UsageError
from probe.metrics import answers, make
from probe.testing import Feeding, feed, on_pattern, samples


@pytest.mark.parametrize("form", ["share", "excess", "lookback"])
@pytest.mark.parametrize("window", [None, 5])
def test_token_maps_are_the_rows(form: str, window: int | None) -> None:
    """Every row's value is that of the loops, whatever the window, padding and cuts."""
    prompts = samples((14, 9), seed=4)
    spec = f"source_share:source=middle,form={form}"
    found = answers(feed(make(spec), prompts, Feeding(pad=1, cuts=(4, 9, 10), window=window)))[0]
    for one in prompts:
        for layer in range(2):
            p = dense.pattern(one, layer, window)
            for head in range(4):
                wanted = dense.source_map(dense.Dense(p[head], one, window, head, False), "middle", form)
                np.testing.assert_allclose(
                    found.token_maps[one.number].values[layer, head], wanted, atol=2e-6
                )


@settings(max_examples=20, deadline=None)
@given(given=st.integers(1, 10), written=st.integers(1, 10), seed=st.integers(0, 99))
def test_the_baseline_is_that_of_a_uniform_head(given: int, written: int, seed: int) -> None:
    """A uniform head has the map `uniform`; its excess is 0 and its lookback ratio a half."""
    n = given + written
    spans = {"prompt": [at < given for at in range(n)]}
    uniform = torch.ones(1, n, n)
    expected = np.mean([given / (i + 1) for i in range(given, n)])
    assert on_pattern(make("source_share"), uniform, spans=spans)[0] == pytest.approx(expected, abs=1e-6)
    assert on_pattern(make("source_share:form=excess"), uniform, spans=spans)[0] == pytest.approx(0, abs=1e-6)
    ratio = on_pattern(make("source_share:form=lookback"), uniform, spans=spans)[0]
    assert ratio == pytest.approx(0.5, abs=1e-6)
    prompts = samples((n,), seed=seed)
    prompts[0].spans["prompt"] = torch.arange(n) < given
    made = answers(feed(make("source_share"), prompts))[0]
    np.testing.assert_allclose(made.extra["uniform"], expected, atol=1e-9)


def test_a_sink_is_told_apart_from_the_prompt() -> None:
    """A head with half of its mass on the first token and half on its own has nothing else in the prompt."""
    n = 8
    pattern = torch.eye(n)[None].clone()
    pattern[..., 0] += 1.0
    metric = make("source_share")
    value = on_pattern(metric, pattern, spans={"prompt": [at < 4 for at in range(n)]})
    assert value[0] == pytest.approx(0.5, abs=1e-6)
    assert answers(metric)[0].extra["without_first"].values[0, 0] == pytest.approx(0.0, abs=1e-6)


def test_generated_tokens_are_the_response() -> None:
    """In generate() the rows of written tokens count, and their mass is that of a whole forward over all tokens."""
    model, text = llama(), "abcdefgh"
    model.generation_config.eos_token_id = None
    prompt = probe.Prompt.of(text, letters())
    inputs = torch.tensor([prompt.tokens])
    with probe.observe(model, metrics=["source_share"], prompts=[prompt]) as run:
        made = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
    found = run.report()["source_share"].values
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(made[:, :-1], output_attentions=True).attentions
    for layer, p in enumerate(patterns):
        np.testing.assert_allclose(found[layer], p[0, :, 8:, :8].sum(-1).mean(-1), atol=1e-5)


def test_what_cannot_be_said_is_said() -> None:
    """No response gives null and coverage 0; spans nobody knows, and names nobody has, are told."""
    prompts = samples((6,))
    none = answers(feed(make("source_share:source=none"), prompts))[0]
    assert np.isnan(none.head_map).all()
    assert any("coverage is 0.000" in note for note in none.notes)
    with pytest.raises(UnknownNameError, match="sorce"):
        feed(make("source_share:source=sorce"), prompts)
    with pytest.raises(UsageError, match="form"):
        make("source_share:form=half")
    model = llama()
    with probe.observe(model, metrics=["source_share"]) as run, torch.no_grad():
        model(torch.tensor([[5, 6, 7]]))
    assert any(
        "spans of these sequences are not known" in note for note in run.report().answer("source_share").notes
    )
