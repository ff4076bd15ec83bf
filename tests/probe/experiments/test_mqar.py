"""Multi-query associative recall: a hand-built induction circuit, equality with eager attention, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from copier import copier
from small_models import bert, letters, llama
from tokenizers.processors import TemplateProcessing

from probe.errors import UsageError
from probe.experiments.base import Ask, Experiment
from probe.experiments.mqar import Mqar
from probe.models import LoadedModel, ModelSource
from probe.prompts.mqar import RecallTask, mqar


@pytest.fixture(scope="module")
def circuit() -> LoadedModel:
    """Two layers that do induction; a token in front, since the first token has none before it to look at."""
    built = copier([f"w{number}" for number in range(40)])
    tokenizer = built.tokenizer
    tokenizer.bos_token = "<eos>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    return replace(built, tokenizer=tokenizer)


def test_the_copy_head_of_a_hand_built_circuit_scores_one(circuit: LoadedModel) -> None:
    """The head that is built to copy finds every value; no other head finds more than it must."""
    sizes = {"length": 28, "pairs": 6}
    (answer,) = Mqar(**sizes, examples=4).run(Ask(circuit))
    assert float(answer.head_map.sel(layer=1, head=0)) == 1.0
    assert (answer.extra["accuracy"] == 1.0).all()
    assert (answer.extra["accuracy_among_values"] == 1.0).all()
    assert float(answer.extra["key_hit"].sel(layer=1, head=0)) == 0.0
    # The previous-token head looks at a value only where a key is asked right behind its own pair.
    tests = mqar(RecallTask(**sizes), circuit.tokenizer, count=4)
    beside = np.mean([(one.values[:, 0] == one.queries - 1).mean() for one in tests])
    assert float(answer.head_map.sel(layer=0, head=0)) == beside
    assert (answer.head_map.sel(head=1) == 0.0).all()


def test_values_said_twice_count_wherever_they_are_seen(circuit: LoadedModel) -> None:
    """With two passes both places of a value are right, and a uniform head has twice the mass that it has with one."""
    (answer,) = Mqar(length=36, pairs=4, passes=2, examples=3).run(Ask(circuit))
    assert float(answer.head_map.sel(layer=1, head=0)) == 1.0
    tests = mqar(RecallTask(36, 4, 2), circuit.tokenizer, count=3)
    uniform = np.mean([(2 / (one.queries + 1)).mean() for one in tests])
    assert float(answer.extra["value_mass"].sel(layer=0, head=1)) == pytest.approx(uniform)
    assert f"value_mass {uniform:.3g}" in answer.notes[0]


def test_equals_eager_attention_in_float64() -> None:
    """Hits and masses are those of the model's own eager attention, looked up at the known positions."""
    model = llama(attn_implementation="eager").double()
    loaded = LoadedModel(model, letters(), "small", ModelSource("given"))
    (answer,) = Mqar(length=32, pairs=5, examples=2, passes=2).run(Ask(loaded, seed=7))
    hits, masses = [], []
    for one in mqar(RecallTask(32, 5, 2), loaded.tokenizer, count=2, seed=7):
        with torch.no_grad():
            out = model(input_ids=torch.tensor([one.prompt.tokens]), output_attentions=True)
        rows = torch.stack(out.attentions)[:, 0][:, :, torch.from_numpy(one.queries)].numpy()
        places = np.broadcast_to(one.values, (*rows.shape[:2], *one.values.shape))
        masses.append(np.take_along_axis(rows, places, -1).sum(-1))
        hits.append((rows.argmax(-1)[..., None] == places).any(-1))
    np.testing.assert_allclose(answer.extra["value_mass"], np.concatenate(masses, -1).mean(-1), atol=1e-5)
    np.testing.assert_allclose(answer.head_map, np.concatenate(hits, -1).mean(-1))
    assert dict(answer.by_prompt.sizes) == {"prompt": 2, "layer": 2, "head": 4}


def test_the_gate_keeps_only_what_the_model_answers(circuit: LoadedModel) -> None:
    """Where the model answers nothing, gated scores are undefined and a note says so; ungated ones are as before."""
    silent = replace(circuit, model=copier([f"w{number}" for number in range(40)]).model)
    silent.model.lm_head.weight.data.zero_()
    (gated,), (plain,) = (Mqar(28, 6, examples=2, gate=gate).run(Ask(silent)) for gate in (True, False))
    assert gated.head_map.isnull().all()
    assert any("no query was answered" in note for note in gated.notes)
    assert float(plain.head_map.sel(layer=1, head=0)) == 1.0
    (all_right,) = Mqar(28, 6, examples=2, gate=True).run(Ask(circuit))
    assert float(all_right.head_map.sel(layer=1, head=0)) == 1.0
    assert "12 of 12 queries counted" in all_right.notes[2]


@pytest.mark.parametrize(
    ("model", "tokenizer", "length", "why"),
    [
        (bert, letters, 64, "generates"),
        (llama, lambda: None, 64, "tokenizer"),
        (llama, letters, 256, "128 positions"),
    ],
)
def test_models_that_cannot_be_asked(model, tokenizer, length, why) -> None:
    """An encoder, a model without tokenizer and one with too few positions get NaN for every head and a reason."""
    loaded = LoadedModel(model(), tokenizer(), "small", ModelSource("given"))
    (answer,) = Mqar(length=length).run(Ask(loaded))
    assert answer.head_map.shape == (2, 4)
    assert answer.head_map.isnull().all()
    assert why in answer.notes[0]


def test_wrong_parameters_are_refused_and_it_is_an_experiment() -> None:
    """Sizes are refused when the experiment is made; it goes by its own name."""
    for wrong in ({"length": 10}, {"pairs": 0}, {"examples": 0}):
        with pytest.raises(UsageError, match="mqar"):
            Mqar(**wrong)
    assert isinstance(Mqar(), Experiment)
    assert Mqar().spec == "mqar"
