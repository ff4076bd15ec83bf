"""Rhythm: planted near and far heads, equality with whole patterns in float64, responses, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from copier import copier
from small_models import bert, letters, llama, mistral, t5

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask, Experiment
from probe.experiments.rhythm import Rhythm, middle_five
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt

TEXT = (
    "the cat sat on the mat, and the dog ran far away from the cold old house. then it came back home again."
)


def _loaded(model, tokenizer=letters) -> LoadedModel:
    return LoadedModel(model, None if tokenizer is None else tokenizer(), "small", ModelSource("given"))


def _answering(prompt: Prompt, start: int, stop: int) -> Prompt:
    at = np.arange(len(prompt))
    return replace(prompt, spans={**prompt.spans, "response": (at >= start) & (at < stop)})


def _patterns(loaded: LoadedModel, prompt: Prompt) -> np.ndarray:
    """Whole patterns ``[layer, head, query, key]`` in float64, by the model's own eager attention."""
    model = loaded.model.double()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(torch.tensor([prompt.tokens]), output_attentions=True)
    model.set_attn_implementation("sdpa")
    return torch.stack(out.attentions)[:, 0].numpy()


def _dense(pattern: np.ndarray, start: int, stop: int, group: np.ndarray, band: tuple[int, int], window: int):
    """WAAD and FAI as the paper writes them, from the mean pattern of each group."""
    at = np.arange(pattern.shape[-1])
    back = at[:, None] - at[None]
    near, far = pattern[group == -1].mean(0), pattern[group == 1].mean(0)
    waad = (near * np.minimum(back, window)).sum(-1)[start:stop]
    inside = (at >= start) & (at < stop)
    fai = []
    for s in range(start, stop):
        rows = inside & (at >= s + band[0]) & (at <= s + band[1])
        fai.append(far[rows, s].mean() if rows.any() else np.nan)
    return waad, np.array(fai)


@pytest.mark.parametrize("make", [llama, mistral])
@pytest.mark.parametrize("span", [(0, 104), (20, 90)])
@pytest.mark.parametrize("sink", ["keep", "drop"])
def test_equals_the_formulas_on_whole_patterns(make, span, sink) -> None:
    """Distances, groups, WAAD and FAI are those of the definition on float64 eager patterns, of the response alone."""
    loaded = _loaded(make())
    prompt = _answering(Prompt.of(TEXT, loaded.tokenizer), *span)
    pattern = _patterns(loaded, prompt)
    start, stop = span[0], min(span[1], len(prompt))
    loaded.model.double()
    (answer,) = Rhythm(horizon="3+20", window=4, sink=sink).run(Ask(loaded, (prompt,)))
    at = np.arange(len(prompt))
    kept = pattern.copy()
    if sink == "drop":
        kept[..., 0] = 0.0
    rows = kept[..., start:stop, :]
    expected = (rows * (at[start:stop, None] - at[None])).sum((-2, -1)) / rows.sum((-2, -1))
    np.testing.assert_allclose(answer.head_map, expected, rtol=2e-5)
    group = answer.extra["group"].values
    assert (group == -1).sum() == (group == 1).sum() == 2
    assert expected[group == -1].max() < expected[group == 0].min()
    assert expected[group == 1].min() > expected[group == 0].max()
    waad, fai = _dense(pattern, start, stop, group, (3, 20), 4)
    np.testing.assert_allclose(answer.extra["waad"].values[0, start:stop], waad, atol=5e-6)
    np.testing.assert_allclose(answer.extra["fai"].values[0, start:stop], fai, atol=5e-6)
    assert np.isnan(answer.extra["fai"].values[0, :start]).all()


def test_planted_heads_have_their_exact_signals() -> None:
    """A head that looks one back is local and has WAAD 1; heads that attend evenly are global: FAI = mean 1/t."""
    words = [f"w{number}" for number in range(40)]
    loaded = copier(words)
    prompt = Prompt.of(" ".join(words), loaded.tokenizer)
    (answer,) = Rhythm(fraction=0.25, horizon="5+10").run(Ask(loaded, (prompt,)))
    group = answer.extra["group"]
    assert float(group.sel(layer=0, head=0)) == -1
    assert group.sel(head=1).values.tolist() == [1, 1]
    assert float(answer.head_map.sel(layer=0, head=0)) == pytest.approx(39 / 40, abs=1e-3)
    np.testing.assert_allclose(answer.extra["waad"].values[0, 1:], 1.0, atol=1e-3)
    expected = [np.mean([1 / (t + 1) for t in range(s + 5, min(s + 11, 40))]) for s in range(35)]
    np.testing.assert_allclose(answer.extra["fai"].values[0, :35], expected, rtol=1e-5)
    assert np.isnan(answer.extra["fai"].values[0, 35:]).all()
    assert any("5 tokens have no query in their horizon" in note for note in answer.notes)


def test_what_follows_the_response_changes_nothing() -> None:
    """Tokens behind the response are seen by none of it."""
    loaded = _loaded(llama())
    whole = _answering(Prompt.of(TEXT, loaded.tokenizer), 10, 60)
    (one,) = Rhythm(horizon="2+9").run(Ask(loaded, (whole,)))
    (two,) = Rhythm(horizon="2+9").run(Ask(loaded, (whole.truncate(60),)))
    for name, values in one.extra.items():
        np.testing.assert_array_equal(values.values, two.extra[name].values)


def test_groups_are_made_over_all_prompts_and_weights_over_tokens() -> None:
    """Heads have one group for all prompts; each prompt's response has its own tokens, and weights of at least 1."""
    loaded = _loaded(llama())
    prompts = tuple(Prompt.of(TEXT[:n], loaded.tokenizer, id=str(n)) for n in (40, 90))
    (answer,) = Rhythm(horizon="2+9").run(Ask(loaded, prompts))
    weights = answer.extra["credit:coupled"]
    assert weights.dims == ("prompt", "token")
    assert (~np.isnan(weights)).sum("token").values.tolist() == [40, 90]
    assert float(weights.min()) == 1.0
    share = float(answer.extra["anchor"].sel(prompt="90").mean())
    assert share == pytest.approx(0.4, abs=1 / 80)
    np.testing.assert_allclose(
        (answer.by_prompt * answer.by_prompt["weight"]).sum("prompt")
        / answer.by_prompt["weight"].sum("prompt"),
        answer.head_map,
    )


def test_seed_repeats_the_control() -> None:
    """The same seed gives the same shifts; the text alone gives the share."""
    loaded = _loaded(llama())
    prompts = (Prompt.of(TEXT, loaded.tokenizer),)
    experiment = Rhythm(horizon="2+9", rule="peak=0.5")
    one, same, other = (
        experiment.run(Ask(loaded, prompts, seed=seed))[0].extra["coupling"] for seed in (1, 1, 2)
    )
    assert one.identical(same)
    assert not one.identical(other)
    assert float(one.sel(measure="within", statistic="share")) == float(
        other.sel(measure="within", statistic="share")
    )


def test_layers_are_sampled() -> None:
    """Named layers alone are answered and grouped; the paper's five lie in the middle third."""
    loaded = _loaded(llama(num_hidden_layers=6))
    prompts = (Prompt.of(TEXT, loaded.tokenizer),)
    (answer,) = Rhythm(layers="1+4").run(Ask(loaded, prompts))
    assert answer.head_map["layer"].values.tolist() == [1, 4]
    assert ((answer.extra["group"] != 0).sum() == 4).item()
    (answer,) = Rhythm(layers="five").run(Ask(loaded, prompts))
    assert answer.head_map["layer"].values.tolist() == [2, 3, 4]
    assert middle_five(30) == [10, 13, 15, 18, 20]
    assert middle_five(1) == [0]
    with pytest.raises(InputError, match="layer 9 was asked"):
        Rhythm(layers="1+9").run(Ask(loaded, prompts))


def test_a_text_shorter_than_the_horizon_says_so() -> None:
    """FAI is undefined everywhere, credit is 1 or local, and the coupling is said to be undefined."""
    loaded = _loaded(llama())
    (answer,) = Rhythm().run(Ask(loaded, (Prompt.of("the cat.", loaded.tokenizer),)))
    assert answer.extra["fai"].isnull().all()
    assert (answer.extra["credit:global"] == 1).all()
    assert answer.extra["coupling"].sel(statistic="share").isnull().all()
    assert any("coupling is not defined" in note for note in answer.notes)


@pytest.mark.parametrize(("model", "why"), [(bert, "causal self-attention"), (t5, "not through an encoder")])
def test_models_without_a_causal_decoder_get_a_reason(model, why) -> None:
    """An encoder and an encoder-decoder get NaN for every head and the reason."""
    (answer,) = Rhythm().run(Ask(_loaded(model()), (Prompt.of(TEXT, letters()),)))
    assert answer.head_map.isnull().all()
    assert why in answer.notes[0]


def test_no_text_at_all_gets_a_reason() -> None:
    """Without prompts and tokenizer there is nothing to read."""
    (answer,) = Rhythm().run(Ask(_loaded(llama(), None)))
    assert "needs text" in answer.notes[0]


def test_a_response_in_pieces_is_refused() -> None:
    """The prompt is named."""
    loaded = _loaded(llama())
    prompt = Prompt.of(TEXT, loaded.tokenizer, id="odd")
    holes = replace(prompt, spans={**prompt.spans, "response": np.arange(len(prompt)) % 2 == 0})
    with pytest.raises(InputError, match=r"'odd'.*several pieces"):
        Rhythm().run(Ask(loaded, (holes,)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": "some"}, {"layers": "1+"}, {"fraction": 0.6}, {"window": 0}, {"horizon": "10"},
        {"horizon": "9+3"}, {"horizon": "-1+3"}, {"rule": "gain=-1"},
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(wrong) -> None:
    """Each is refused before anything runs."""
    with pytest.raises(UsageError):
        Rhythm(**wrong)


def test_is_an_experiment() -> None:
    """Rhythm is what reports call an experiment."""
    assert isinstance(Rhythm(), Experiment)
    assert Rhythm().spec == "rhythm"
