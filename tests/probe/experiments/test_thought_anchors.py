"""Thought anchors as a whole: equality with whole patterns, sentences of responses, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from small_models import bert, gpt2, letters, llama, t5

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask, Experiment
from probe.experiments.thought_anchors import ThoughtAnchors
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.sentences import sentences

TEXT = "the cat sat. a dog came by. they ran off! who saw it. we did not. then it rained. all went home. it was late."


def _loaded(model, tokenizer=letters) -> LoadedModel:
    return LoadedModel(model, None if tokenizer is None else tokenizer(), "small", ModelSource("given"))


def _cells(loaded: LoadedModel, prompt: Prompt, found) -> np.ndarray:
    """M of every head ``[layer, head, sentence, source]`` from float64 eager patterns."""
    model = loaded.model.double()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(torch.tensor([prompt.tokens]), output_attentions=True)
    model.set_attn_implementation("sdpa")
    pattern = torch.stack(out.attentions)[:, 0].numpy()
    cells = [[pattern[..., a.start : a.stop, b.start : b.stop].mean((-2, -1)) for b in found] for a in found]
    return np.array(cells).transpose(2, 3, 0, 1)


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("start", [0, 12])
def test_equals_the_formulas_on_whole_patterns(make, start: int) -> None:
    """Kurtosis, receiver heads, scores and the map are those of float64 eager patterns, of the response alone."""
    loaded = _loaded(make())
    prompt = Prompt.of(TEXT, loaded.tokenizer)
    prompt = replace(prompt, spans={**prompt.spans, "response": np.arange(len(prompt)) >= start})
    found = sentences(prompt, start)
    cells = _cells(loaded, prompt, found)
    (answer,) = ThoughtAnchors(top=3, proximity=2).run(Ask(loaded, (prompt,)))
    count = len(found)
    vert = np.array([cells[..., b + 2 :, b].mean(-1) for b in range(count - 2)]).transpose(1, 2, 0)
    expected = kurtosis(vert, axis=-1)
    np.testing.assert_allclose(answer.head_map, expected, atol=1e-3)
    chosen = answer.extra["receivers"].values == 1
    assert chosen.sum() == 3
    assert expected[chosen].min() > expected[~chosen].max()
    score = answer.extra["receiver_score"].values[0]
    np.testing.assert_allclose(score[:-2], vert[chosen].mean(0), rtol=1e-4)
    assert np.isnan(score[-2:]).all()
    between = answer.extra["map"].values[0]
    lower = np.tril_indices(count)
    np.testing.assert_allclose(between[lower], cells[chosen].mean(0)[lower], atol=1e-6)
    assert np.isnan(between[np.triu_indices(count, 1)]).all()
    assert answer.extra["start"].values[0].tolist() == [one.start for one in found]
    assert answer.extra["stop"].values[0, -1] == len(prompt)


def test_several_prompts_are_pooled_and_held_against_each_other() -> None:
    """The head map is the mean over prompts; sentences are padded; four prompts have a reliability with an interval."""
    loaded = _loaded(llama())
    texts = [TEXT, TEXT[14:], TEXT[5:], TEXT[:-13]]
    prompts = tuple(Prompt.of(text, loaded.tokenizer, id=str(number)) for number, text in enumerate(texts))
    (answer,) = ThoughtAnchors(top=2, proximity=2).run(Ask(loaded, prompts))
    np.testing.assert_allclose(answer.by_prompt.mean("prompt"), answer.head_map)
    assert answer.extra["receiver_score"].dims == ("prompt", "sentence")
    value, low, high, heads = answer.extra["reliability"].values
    assert heads == 8
    assert -1 <= low <= high <= 1
    assert -1 <= value <= 1
    assert any("95 % interval over prompts" in note for note in answer.notes)


def test_suppression_only_when_asked() -> None:
    """Its arrays are there with it, centred over sources, and absent without; one effect per source."""
    loaded = _loaded(llama())
    prompts = (Prompt.of(TEXT, loaded.tokenizer),)
    (plain,) = ThoughtAnchors(proximity=2).run(Ask(loaded, prompts))
    assert "suppression" not in plain.extra
    told: list[str] = []
    (answer,) = ThoughtAnchors(proximity=2, suppression=True).run(
        Ask(loaded, prompts, progress=lambda _done, _total, what: told.append(what))
    )
    matrix = answer.extra["suppression"].values[0]
    assert np.isfinite(matrix[np.tril_indices(len(matrix), -1)]).all()
    np.testing.assert_allclose(np.nanmean(matrix[1:], axis=1), 0.0, atol=1e-9)
    effect = answer.extra["suppression_effect"].values[0]
    assert np.isnan(effect).tolist() == [False] * (len(effect) - 1) + [True]
    np.testing.assert_allclose(effect[:-1], np.nanmean(matrix[:, :-1], axis=0))
    assert any("suppressing" in what for what in told)


def test_the_first_token_is_left_out_when_asked() -> None:
    """Where no BOS takes the sink, a note tells that the first sentence holds it; sink=drop starts behind it."""
    loaded = _loaded(llama())
    prompts = (Prompt.of(TEXT, loaded.tokenizer),)
    (kept,) = ThoughtAnchors(proximity=2).run(Ask(loaded, prompts))
    (dropped,) = ThoughtAnchors(proximity=2, sink="drop").run(Ask(loaded, prompts))
    assert [float(one.extra["start"].values[0, 0]) for one in (kept, dropped)] == [0, 1]
    assert [any("sink=drop" in note for note in one.notes) for one in (kept, dropped)] == [True, False]
    marked = replace(prompts[0], spans={**prompts[0].spans, "bos": np.arange(len(prompts[0])) == 0})
    (behind,) = ThoughtAnchors(proximity=2).run(Ask(loaded, (marked,)))
    np.testing.assert_array_equal(behind.head_map, dropped.head_map)


def test_too_few_sentences_are_refused_by_name() -> None:
    """The prompt, its sentences and what is needed are named; one short prompt among others is left out with a note."""
    loaded = _loaded(llama())
    short = Prompt.of("the cat sat on it. a dog came.", loaded.tokenizer, id="tale")
    with pytest.raises(InputError, match=r"needs 8 sentences .* 'tale' has 2"):
        ThoughtAnchors().run(Ask(loaded, (short,)))
    (answer,) = ThoughtAnchors(proximity=2).run(Ask(loaded, (short, Prompt.of(TEXT, loaded.tokenizer))))
    assert answer.by_prompt.sizes["prompt"] == 1
    assert any("1 prompts were left out" in note and "'tale'" in note for note in answer.notes)


@pytest.mark.parametrize(("model", "why"), [(bert, "causal self-attention"), (t5, "not through an encoder")])
def test_models_without_a_causal_decoder_get_a_reason(model, why) -> None:
    """An encoder and an encoder-decoder get NaN for every head and the reason."""
    (answer,) = ThoughtAnchors(proximity=2).run(Ask(_loaded(model()), (Prompt.of(TEXT, letters()),)))
    assert answer.head_map.isnull().all()
    assert why in answer.notes[0]


@pytest.mark.parametrize("wrong", [{"top": 0}, {"proximity": 0}, {"kl": "grouped"}])
def test_wrong_parameters_are_refused(wrong) -> None:
    """Each is refused by name before anything runs."""
    with pytest.raises(UsageError, match=f"thought_anchors: {next(iter(wrong))}"):
        ThoughtAnchors(**wrong)


def test_is_an_experiment_that_takes_its_time() -> None:
    """It is an experiment, run by its name or its suite alone."""
    assert isinstance(ThoughtAnchors(), Experiment)
    assert ThoughtAnchors.info.slow
