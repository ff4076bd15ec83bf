"""Claims on what attention depends on, on a small random model: they go on where they were, their edits are right."""

import math
import re

import numpy as np
import pytest
import small_models
import torch
from copier import words_tokenizer
from small_models import letters, llama

from probe.analysis.ready import ready
from probe.experiments.forwards import losses
from probe.interventions import static
from probe.models import as_loaded
from probe.prompts import Prompt
from probe.prompts.corpus import held_out_text
from probe.prompts.data import rows
from probe.replay import CLAIMS, Estimate, Finding
from probe.replay.claims import ensemble, static_layers
from probe.replay.claims.document import counterfactuals
from probe.replay.kept import Kept
from probe.replay.passages import passages
from probe.replay.reading import under
from probe.replay.work import Work

NAMES = ("divergence", "persistence", "specificity", "static_layers", "isolation", "ensemble")


SHAPE = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64, "max_position_embeddings": 1024}


@pytest.fixture
def loaded(monkeypatch):
    """Four layers of eight heads, so that there are controls; one token per letter, a line break among them."""
    monkeypatch.setattr(small_models, "LETTERS", [*small_models.LETTERS, "\n"])
    monkeypatch.setattr("probe.replay.passages.held_out_text", lambda: held_out_text()[:20_000])
    return as_loaded((llama(**SHAPE, vocab_size=len(small_models.LETTERS)), letters()))


@pytest.fixture
def speaking():
    """The same with the words of the counterfactual documents as tokens."""
    texts = [" ".join(map(str, row.values())) for row in rows("counterfactual.jsonl")]
    tokenizer = words_tokenizer(
        sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)})
    )
    return as_loaded((llama(**SHAPE, vocab_size=len(tokenizer)), tokenizer))


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_is_measured_once_and_told_again(name, loaded, speaking, tmp_path):
    """What was kept gives the same finding, with nothing measured anew; every number and verdict is there."""
    claim, model = CLAIMS.load(name), speaking if name == "divergence" else loaded

    def run():
        kept = Kept(tmp_path / "kept", "same")
        return claim.measure(
            Work(model, kept, shared=Kept(tmp_path / "shared", ""), small=True)
        ), kept.measured

    (found, measured), (again, more) = run(), run()
    assert measured > 0
    assert more == 0
    assert found == again == Finding.from_dict(found.to_dict())
    assert (found.holds is None) == (name == "isolation")  # a random model recalls nothing that could be lost
    numbers = [one for row in found.rows for one in (row.ours, row.control) if isinstance(one, Estimate)]
    assert bool(numbers) == (name != "isolation")
    assert all(math.isfinite(one.value) for one in numbers)


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_dropped_keys_are_hidden_from_later_rows_alone(rate, loaded):
    """Member attention equals dense attention with the drawn columns at -inf; position 0 and the own key stay."""
    ids = torch.randint(3, 50, (1, 40), generator=torch.Generator().manual_seed(1))
    edit = ensemble.DropKeys(rate, 7)
    with under(loaded, [edit]):
        found = loaded.model(ids).logits
    gone = []

    def hide(module, args, kwargs):
        draw = torch.Generator().manual_seed(7000 + module.layer_idx)
        columns = torch.rand(40, generator=draw) < rate
        columns[0] = False
        gone.append(int(columns.sum()))
        hidden = (columns[None] & ~torch.eye(40, dtype=torch.bool)) | torch.ones(40, 40).triu(1).bool()
        kwargs["attention_mask"] = torch.zeros(1, 1, 40, 40).masked_fill(
            hidden, torch.finfo(torch.float32).min
        )
        return args, kwargs

    loaded.model.set_attn_implementation("eager")
    for layer in loaded.model.model.layers:
        layer.self_attn.register_forward_pre_hook(hide, with_kwargs=True)
    with torch.no_grad():
        torch.testing.assert_close(found, loaded.model(ids).logits, atol=2e-4, rtol=2e-4)
    assert len(set(gone)) > 1
    assert 0.5 * rate < np.mean(gone) / 40 < 1.5 * rate


def test_a_static_map_of_all_layers_serves_some(loaded):
    """Maps made once act in the layers asked for as maps made for these layers do."""
    prompt = Prompt.of("the cat sat on the mat with a hat", letters())
    over = [Prompt.of(text, letters()) for text in ("abcdefghij" * 4, "zyxwvutsrq" * 4)]
    whole = static(over=over, size=36).prepare(loaded)
    some = static_layers._on(whole, [1, 3])
    own = static(over=over, size=36, layers=[1, 3])
    values = [losses(loaded, prompt, ready([one], loaded)) for one in (some, own)]
    torch.testing.assert_close(values[0], values[1], equal_nan=True)
    assert not torch.allclose(values[0][1:], losses(loaded, prompt, ready([whole], loaded))[1:])


def test_parts_cover_the_depth(loaded):
    """The thirds are disjoint and all layers together."""
    found = static_layers.parts(loaded)
    thirds = [found[name] for name in found if "third" in name]
    assert sorted(layer for third in thirds for layer in third) == found["all"] == [0, 1, 2, 3]
    assert found["odd"] == [1, 3]


def test_passages_are_of_both_texts_and_as_long_as_asked(loaded):
    """Half of the passages are of each text, each of exactly the width."""
    found = passages(loaded, 4, 50)
    assert [one.id for one in found] == ["story:0", "story:1", "haystack:0", "haystack:1"]
    assert {len(one) for one in found} == {50}
    assert len({one.tokens for one in found}) == 4


def test_counterfactuals_have_two_answers_that_begin_apart(speaking):
    """Items whose answers begin with the same token are left out."""
    found = counterfactuals(speaking)
    assert found
    assert all(item.answer != item.memory for item in found)
