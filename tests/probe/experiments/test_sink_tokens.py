"""Sink tokens found in a model whose massive dimension was planted."""

import numpy as np
import pytest
import torch
from small_models import letters, llama

import probe
from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.experiments.base import Ask
from probe.metrics.making import make
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt

DIM, TAU = 5, 4.0


def planted(*, everywhere: bool = False) -> LoadedModel:
    """A model whose dimension 5 is massive at the first token (or everywhere), by a hook on its embedding."""
    model = llama(hidden_size=64)

    def massive(_module: torch.nn.Module, _args: object, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, slice(None) if everywhere else slice(0, 1), DIM] = 1e4
        return out

    model.model.embed_tokens.register_forward_hook(massive)
    return LoadedModel(model, letters(), "planted", ModelSource("given"))


def prompts(loaded: LoadedModel) -> tuple[Prompt, ...]:
    return tuple(Prompt.of(text, loaded.tokenizer) for text in ("the cat sat", "a longer line of text"))


def test_the_planted_dimension_is_found_and_tells_the_first_token() -> None:
    """The dimension is named, and the only sink of each prompt is its first token, at both layers."""
    loaded = planted()
    answer = make(f"sink_tokens:tau={TAU}").run(Ask(loaded, prompts(loaded)))[0]
    assert answer.extra["dims"].values.tolist() == [DIM]
    np.testing.assert_array_equal(answer.head_map.values, [1.0, 1.0])
    np.testing.assert_array_equal(answer.extra["first"].values, [1.0, 1.0])
    assert answer.by_prompt is not None
    assert answer.by_prompt.shape == (2, 2)
    for number, one in enumerate(prompts(loaded)):
        assert answer.token_maps[number].sizes["token"] == len(one)
        assert ((answer.token_maps[number] >= TAU).sum("token") == 1).all()


def test_it_runs_in_analyze_as_well() -> None:
    """The dimensions are found inside a run that is being watched, and stand in the report."""
    loaded = planted()
    report = probe.analyze(loaded, "the cat sat on the mat", metrics=[f"sink_tokens:tau={TAU}"])
    answer = report.answer(f"sink_tokens:tau={TAU}")
    assert answer.extra["dims"].values.tolist() == [DIM]
    assert any(f"sink dimensions {DIM}" in line for line in answer.notes)


def test_where_no_dimension_tells_a_sink_it_says_so() -> None:
    """A dimension that is massive everywhere tells nothing: NaN and the reason, never 0 sinks."""
    loaded = planted(everywhere=True)
    answer = make(f"sink_tokens:tau={TAU}").run(Ask(loaded, prompts(loaded)))[0]
    assert np.isnan(answer.head_map.values).all()
    assert any("not applicable" in line and "tells no sink" in line for line in answer.notes)


def test_given_dimensions_are_used_and_checked() -> None:
    """Dimensions of the user are taken as they are; one beyond the width is refused."""
    loaded = planted()
    answer = make("sink_tokens:dims=1,tau=7.9").run(Ask(loaded, prompts(loaded)))[0]
    np.testing.assert_array_equal(answer.head_map.values, [0.0, 0.0])
    with pytest.raises(InterventionError, match="64 dimensions"):
        make("sink_tokens:dims=64").run(Ask(loaded, prompts(loaded)))
    with pytest.raises(UsageError, match="joined by"):
        make("sink_tokens:dims=x")
    with pytest.raises(UnknownNameError):
        make("sink_tokens:tua=3")
