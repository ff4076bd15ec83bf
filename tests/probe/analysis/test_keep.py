"""What a run keeps beside its numbers: pooled maps and, for exact tiles, queries and keys."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import bert, gpt2, letters, llama, mistral, t5

import probe
from probe.errors import BudgetError, ReportError, UsageError
from probe.report.kept import KeptRun

TEXT = "the quick brown fox jumps over the lazy dog, the quick brown fox."


def dense(model: torch.nn.Module, ids: torch.Tensor) -> np.ndarray:
    """The model's own eager weights, [layer, head, query, key]."""
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            maps = model(ids, output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")
    return np.stack([layer[0].numpy() for layer in maps])


def pooled(pattern: np.ndarray, block: int) -> np.ndarray:
    """Block means, the last block being as long as it is."""
    starts = np.arange(0, pattern.shape[-1], block)
    sums = np.add.reduceat(np.add.reduceat(pattern, starts, axis=-1), starts, axis=-2)
    size = np.minimum(starts + block, pattern.shape[-1]) - starts
    return sums / (size[:, None] * size[None])


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("build", [llama, gpt2, mistral])
def test_kept_queries_and_keys_give_the_dense_pattern(tmp_path, build, chunk):
    """Rows and tiles computed from the files equal the model's own weights to float16 accuracy."""
    model, tokenizer = build(), letters()
    probe.analyze((model, tokenizer), TEXT, ["entropy"], out=tmp_path / "run", keep="qk", chunk=chunk)
    expected = dense(model, torch.tensor([tokenizer(TEXT)["input_ids"]]))
    kept = KeptRun(tmp_path / "run")
    assert kept.has_qk
    assert kept.has_map  # the whole at a glance, where every pair would take long
    n = expected.shape[-1]
    for layer in range(2):
        one = kept.layer(layer)
        for head in range(4):
            np.testing.assert_allclose(one.rows(head, slice(None)), expected[layer, head], atol=8e-3)
            few = one.rows(head, [3, n - 1], slice(2, 9))
            np.testing.assert_allclose(few, expected[layer, head][[3, n - 1], 2:9], atol=8e-3)
            tile = one.tile(head, slice(0, n), slice(0, n), shape=(9, 9))
            np.testing.assert_allclose(tile, pooled(expected[layer, head], -(-n // 9)), atol=8e-3)


def test_bidirectional_padded_prompts_are_kept_without_padding(tmp_path):
    """In a batch of several lengths every prompt keeps its own tokens only."""
    model, tokenizer = bert(), letters()
    texts = [TEXT, "a dog.", "foxes"]
    probe.analyze((model, tokenizer), texts, ["entropy"], out=tmp_path / "run", keep="qk", batch_size=3)
    for number, text in enumerate(texts):
        expected = dense(model, torch.tensor([tokenizer(text)["input_ids"]]))
        one = KeptRun(tmp_path / "run").layer(1, tower="encoder", prompt=number)
        np.testing.assert_allclose(one.rows(2, slice(None)), expected[1, 2], atol=8e-3)


def test_position_bias_is_kept(tmp_path):
    """A model with a position bias keeps it, and rows come out right in every tower."""
    model, tokenizer = t5(), letters()
    probe.analyze((model, tokenizer), TEXT, ["entropy"], out=tmp_path / "run", keep="qk")
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(ids, decoder_input_ids=torch.zeros(1, 1, dtype=torch.int64), output_attentions=True)
    kept = KeptRun(tmp_path / "run")
    for tower, maps in (("encoder", out.encoder_attentions), ("cross", out.cross_attentions)):
        got = kept.layer(1, tower=tower).rows(3, slice(None))
        np.testing.assert_allclose(got, maps[1][0, 3].numpy(), atol=2e-2)  # scores are large


@pytest.mark.parametrize("chunk", [None, 50])
def test_pooled_maps_are_block_means(tmp_path, chunk):
    """A kept map holds the mean pattern of every block, hidden pairs counting as 0, at most 256 cells a side."""
    model, tokenizer = llama(max_position_embeddings=600), letters()
    text = (TEXT * 10)[:515]
    probe.analyze((model, tokenizer), text, ["entropy"], out=tmp_path / "run", keep="map", chunk=chunk)
    expected = dense(model, torch.tensor([tokenizer(text)["input_ids"]]))
    kept = KeptRun(tmp_path / "run").map(1)
    assert kept.attrs == {"query_block": 4, "key_block": 4}
    assert kept.shape == (4, 129, 129)
    assert list(kept.key_pos[:3]) == [0, 4, 8]
    np.testing.assert_allclose(kept.values.astype(np.float32), pooled(expected[1], 4), atol=2e-3)


def test_short_maps_are_the_pattern_itself(tmp_path):
    """Up to 256 tokens a map is the pattern, cell by cell."""
    model, tokenizer = llama(), letters()
    probe.analyze(
        (model, tokenizer), [TEXT, "abc"], ["entropy"], out=tmp_path / "run", keep="map", batch_size=2
    )
    expected = dense(model, torch.tensor([tokenizer("abc")["input_ids"]]))
    np.testing.assert_allclose(KeptRun(tmp_path / "run").map(0, prompt=1), expected[0], atol=1e-3)


def test_maps_show_the_edited_attention(tmp_path):
    """A kept map shows what an intervention did to the pattern."""
    cut = probe.interventions.knockout(queries=(3, 9), keys=(0, 2))
    probe.analyze((llama(), letters()), "abcdefghi", ["entropy"], [cut], out=tmp_path / "run", keep="map")
    shown = KeptRun(tmp_path / "run").map(0)
    assert float(shown[:, 3:9, 0:2].max()) == 0
    np.testing.assert_allclose(shown.sum("key_pos"), 1, atol=5e-3)


def test_queries_and_keys_are_refused_under_edited_scores(tmp_path):
    """Kept queries and keys cannot hold an edit of scores, so the two are refused together."""
    cut = probe.interventions.knockout(queries="all", keys=(0, 1))
    with pytest.raises(UsageError, match="keep='map'"):
        probe.analyze((llama(), letters()), TEXT, ["entropy"], [cut], out=tmp_path / "run", keep="qk")
    assert not (tmp_path / "run").exists()


def test_the_size_is_said_first_and_refused_if_too_large(tmp_path, monkeypatch):
    """What will be written is announced before the first prompt, and refused where the disk has less room."""
    model, lines = (llama(), letters()), []
    options = {"out": tmp_path / "run", "keep": "qk", "progress": lambda *now: lines.append(now)}
    report = probe.analyze(model, TEXT, ["entropy"], **options)
    assert lines[0][0] == 0
    assert "of queries and keys" in lines[0][2]
    assert lines[0][2] in report.provenance.notes
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(BudgetError, match="MB are free"):
        probe.analyze(model, TEXT, ["entropy"], **{**options, "out": tmp_path / "other"})
    assert not (tmp_path / "other").exists()


def test_what_was_not_kept_is_an_error(tmp_path):
    """Asking for a layer, head, row or map that was not kept says what to do."""
    probe.analyze((llama(), letters()), TEXT, ["entropy"], out=tmp_path / "run", keep="qk")
    kept = KeptRun(tmp_path / "run")
    with pytest.raises(ReportError, match="keep='qk'"):
        kept.layer(9)
    with pytest.raises(ReportError, match="4 heads"):
        kept.layer(0).rows(4, [0])
    with pytest.raises(ReportError, match="rows were kept"):
        kept.layer(0).rows(0, [1000])
    with pytest.raises(ReportError, match="keep='map'"):
        kept.map(9)


def test_damaged_files_are_an_error(tmp_path):
    """A file that was cut short is refused by name."""
    probe.analyze((llama(), letters()), TEXT, ["entropy"], out=tmp_path / "run", keep="qk")
    path = next((tmp_path / "run" / "kept" / "qk").rglob("decoder.L000*"))
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(ReportError, match=path.name):
        KeptRun(tmp_path / "run").layer(0)
