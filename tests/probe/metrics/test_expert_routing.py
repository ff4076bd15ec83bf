"""Shares of tokens that route each expert, against the routers' own choices."""

import numpy as np
import pytest
import tiny
import torch
from subjects.catalogue import SUBJECTS

from probe.errors import UnknownNameError
from probe.metrics import answers, make
from probe.seam.session import Session


def top(logits: torch.Tensor, rows: torch.Tensor, k: int) -> np.ndarray:
    """Share of the chosen rows that have each expert among their k largest logits."""
    chosen = logits[rows].topk(k, -1).indices
    return torch.nn.functional.one_hot(chosen, logits.shape[-1]).sum(1).double().mean(0).numpy()


@pytest.mark.parametrize(("name", "own"), [("mixtral", 1.0), ("qwen3-moe", 1.0), ("dbrx", 0.0)])
def test_equals_the_routers_choice(name: str, own: float) -> None:
    """Two padded prompts: the mean over real tokens of the top-k of the model's own router logits."""
    subject = SUBJECTS[name]
    model = subject.model()
    inputs = subject.inputs(model, left_padding=True)
    metric = make("expert_routing")
    with Session(model, [metric]), torch.no_grad():
        logits = model(**inputs, output_router_logits=True).router_logits
    real = inputs["attention_mask"].bool().flatten()
    answer = answers(metric)[0]
    assert answer.head_map.dims == ("layer", "expert")
    for layer, one in enumerate(logits):
        np.testing.assert_allclose(answer.head_map[layer], top(one.reshape(-1, one.shape[-1]), real, 2))
    np.testing.assert_allclose(answer.head_map.sum("expert"), 2.0)
    assert answer.extra["own_choice"].values.tolist() == [own] * 2


def test_routed_heads_inside_attention_do_not_count() -> None:
    """A model with routers in attention and MLP answers for the MLP."""
    subject = SUBJECTS["jetmoe"]
    model, metric = subject.model(), make("expert_routing")
    with Session(model, [metric]), torch.no_grad():
        model(**subject.inputs(model))
    np.testing.assert_allclose(answers(metric)[0].head_map.sum("expert"), 2.0)


def test_a_span_counts_its_own_tokens() -> None:
    """Only the tokens of the span; an unknown span is an error that names the known."""
    subject = SUBJECTS["mixtral"]
    model, inputs = subject.model(), {"input_ids": tiny.tokens(1, 12)}
    flags = torch.arange(12) % 3 == 0
    metric, every = make("expert_routing:span=these"), make("expert_routing")
    with Session(model, [metric, every]) as session, torch.no_grad():
        session.announce([{"these": flags}])
        logits = model(**inputs, output_router_logits=True).router_logits
    found = answers(metric)[0].head_map
    for layer, one in enumerate(logits):
        np.testing.assert_allclose(found[layer], top(one, flags, 2))
    assert not np.allclose(found, answers(every)[0].head_map)
    with Session(model, [make("expert_routing:span=others")]) as session, torch.no_grad():
        session.announce([{"these": flags}])
        with pytest.raises(UnknownNameError, match="these"):
            model(**inputs)


def test_a_model_without_experts_is_not_applicable() -> None:
    """No number, no error, and the reason."""
    model, metric = tiny.llama(), make("expert_routing")
    with Session(model, [metric]), torch.no_grad():
        model(tiny.tokens(1, 6))
    answer = answers(metric)[0]
    assert np.isnan(answer.head_map).all()
    assert "no routed experts" in answer.notes[0]
