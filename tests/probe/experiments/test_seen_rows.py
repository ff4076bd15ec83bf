"""Chosen rows equal those of eager attention, whatever the mask; edits of an outer block are seen."""

import numpy as np
import pytest
import torch
from small_models import bert, gpt2, letters, llama, mistral, t5
from tiny import bloom

import probe
from probe.experiments.gathered import Gathered
from probe.experiments.row_similarity import RowSimilarity
from probe.experiments.seen_rows import cannot_read, drawn_rows, see_rows
from probe.interventions import to_bos
from probe.models import as_loaded

MODELS = {"grouped": llama, "window": mistral, "positions": gpt2, "encoder": bert, "bypass": bloom}


def seen_of(model, ids, rows):
    """What `see_rows` hands over, by layer."""
    found = {}
    see_rows(as_loaded(model), ids, torch.tensor(rows), lambda seen: found.__setitem__(seen.layer, seen))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_rows_and_columns_are_those_of_eager(name):
    """Rows, what they see, and the columns of all rows are those of the model's own weights, two texts at once."""
    model = MODELS[name]()
    ids = torch.randint(3, 50, (2, 13), generator=torch.Generator().manual_seed(2))
    found = seen_of(model, ids, [1, 6, 12])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(ids, output_attentions=True).attentions
    assert sorted(found) == list(range(len(patterns)))
    for layer, pattern in enumerate(patterns):
        seen = found[layer]
        assert seen.p.shape == (2, 4, 3, 13)
        torch.testing.assert_close(seen.p, pattern[:, :, [1, 6, 12]].float(), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(seen.column, pattern.sum(2).float(), atol=5e-5, rtol=1e-4)
        assert torch.equal(seen.visible, (pattern[:, :, [1, 6, 12]] > 0).any(1))


def test_rows_of_many_chunks_come_in_order():
    """Chosen rows lie in several chunks of a long text; each is the row of a whole forward."""
    model = llama(max_position_embeddings=4096)
    ids = torch.randint(3, 50, (1, 1500), generator=torch.Generator().manual_seed(3))
    rows = [1, 2, 700, 1100, 1499]
    found = seen_of(model, ids, rows)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        pattern = model(ids, output_attentions=True).attentions[0]
    torch.testing.assert_close(found[0].p, pattern[:, :, rows], atol=2e-5, rtol=1e-3)


def test_edits_are_seen():
    """Rows are those of the edited attention."""
    model = llama()
    report = probe.analyze(
        (model, letters()), "abcdefghijkl", [RowSimilarity(sinks=1)], interventions=[to_bos(layers=[1])]
    )
    values = report["row_similarity"]
    assert np.isnan(values.sel(layer=1)).all()  # nothing is left outside the sink
    assert (values.sel(layer=0) < 0.999).all()


def test_rows_are_drawn_once_each_and_by_the_seed():
    """The same seed draws the same rows, each at most once, ascending."""
    rows = drawn_rows(np.arange(5, 50), 10, 3)
    assert torch.equal(rows, drawn_rows(np.arange(5, 50), 10, 3))
    assert not torch.equal(rows, drawn_rows(np.arange(5, 50), 10, 4))
    assert (rows.diff() > 0).all()
    assert int(rows[0]) >= 5
    assert drawn_rows(np.arange(3), 10, 0).tolist() == [0, 1, 2]


def test_models_of_two_towers_are_not_read():
    """An encoder-decoder is told to be none."""
    assert "one tower" in cannot_read(as_loaded(t5()))
    assert cannot_read(as_loaded(llama())) is None


def test_ragged_layers_and_prompts_are_gathered():
    """Layers of different heads are padded with NaN; the mean leaves NaN out."""
    found = Gathered()
    found.start("a")
    found.add("x", 0, torch.tensor([1.0, 2.0]))
    found.add("x", 2, torch.tensor([3.0]))
    found.start("b")
    found.add("x", 0, torch.tensor([3.0, float("nan")]))
    values = found.of("x")
    assert values.shape == (2, 2, 2)
    assert values.n_heads.values.tolist() == [2, 1]
    np.testing.assert_equal(found.mean("x").values, [[2.0, 2.0], [3.0, np.nan]])
