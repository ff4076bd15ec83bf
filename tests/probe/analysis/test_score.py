"""The numbers of ``probe.score``: against weight surgery in float64, planted truth, and whatever shares a forward."""

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from copier import copier
from small_models import letters, llama, mistral

import probe
from probe.analysis.scoring import Scores
from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions import skip_layer, uniform_past

HEADS = ["L0.H1", "L1.H2"]
TEXTS = [
    "the quick brown fox jumps over the lazy dog.",
    "a",
    "Sphinx of black quartz, judge my vow.",
    "",
    "to be or not to be, that is the question. to be or not to be",
    "ab",
]


def written(folder: Path, texts: list[str]) -> Path:
    """Documents in a file."""
    path = folder / "docs.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def scored(model: object, folder: Path, texts: list[str], **options: object) -> Scores:
    """Scores of some texts, in a new folder."""
    folder.mkdir(exist_ok=True)
    out = folder / f"out{len(list(folder.iterdir()))}"
    return probe.score(model, written(folder, texts), **{"heads": HEADS, "out": out, **options})


def queries_off(model: torch.nn.Module, heads: list[tuple[int, int]]) -> torch.nn.Module:
    """The model with queries of some heads at 0: no head can choose, whatever the mask lets it see."""
    made = copy.deepcopy(model)
    width = model.config.hidden_size // model.config.num_attention_heads
    with torch.no_grad():
        for layer, head in heads:
            made.model.layers[layer].self_attn.q_proj.weight[head * width : (head + 1) * width] = 0.0
    return made


def dense_loss(model: torch.nn.Module, text: str) -> float:
    """Mean cross-entropy of a text's tokens, from whole logits of the untouched model, alone in its batch."""
    ids = letters()(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))


@pytest.mark.parametrize("make", [llama, mistral])
def test_losses_are_those_of_weight_surgery_in_float64(make, tmp_path: Path) -> None:
    """Base and masked loss of every document equal a dense run of the model, and of one whose queries are 0."""
    model = make().double()
    surgery = queries_off(model, [(0, 1), (1, 2)])
    frame = scored((model, letters()), tmp_path, TEXTS).to_frame()
    assert list(frame["id"]) == [f"d{n}" for n in range(len(TEXTS))]
    for row, text in zip(frame.itertuples(), TEXTS, strict=True):
        assert row.tokens == len(text)
        if len(text) < 2:
            assert pd.isna(row.base_loss)
            assert pd.isna(row.influence)
            assert row.reason == "fewer than 2 tokens"
            continue
        base, masked = dense_loss(model, text), dense_loss(surgery, text)
        assert row.base_loss == pytest.approx(base, rel=1e-6)
        assert row.masked_loss == pytest.approx(masked, rel=1e-6)
        assert row.influence == pytest.approx((masked - base) / base, abs=1e-6)
        assert pd.isna(row.reason)


@pytest.mark.parametrize("options", [{"batch_tokens": 1}, {"batch_tokens": 100}, {"shard": 2}, {"shard": 1}])
def test_what_shares_a_forward_changes_no_number(options: dict, tmp_path: Path) -> None:
    """Whatever the batches and the shards, a document's row is the same."""
    model = (llama(), letters())
    together = scored(model, tmp_path, TEXTS).to_frame()
    apart = scored(model, tmp_path, TEXTS, **options).to_frame()
    pd.testing.assert_frame_equal(together, apart, rtol=1e-5, atol=1e-6)


def test_masking_the_copying_head_hurts_text_that_repeats(tmp_path: Path) -> None:
    """On an induction circuit, a text said twice depends on the head that copies; words that never return leave it
    nothing to choose, and masking it changes nothing."""
    words = [f"w{n}" for n in range(24)]
    model = copier(words)
    texts = [" ".join(words[:12] * 2), " ".join(words)]
    twice, once = scored(model, tmp_path, texts, heads=["L1.H0"]).to_frame()["influence"]
    assert twice > 0.2
    assert abs(once) < 0.01
    idle = scored(model, tmp_path, texts, heads=["L0.H1", "L1.H1"]).to_frame()["influence"]
    assert idle.abs().max() < 1e-5


def test_heads_that_are_uniform_already_have_no_influence(tmp_path: Path) -> None:
    """Masking what cannot choose changes no loss."""
    model = queries_off(llama(), [(0, 1), (1, 2)])
    frame = scored((model, letters()), tmp_path, TEXTS).to_frame().dropna(subset=["influence"])
    assert len(frame) == 4
    np.testing.assert_allclose(frame["influence"], 0.0, atol=1e-6)


def test_long_documents_are_cut_and_counted(tmp_path: Path) -> None:
    """To the model's positions, or to max_tokens; a cut document scores as its beginning does."""
    model, long = (llama(), letters()), "abcdefghij" * 20
    found = scored(model, tmp_path, [long, "short text"])
    assert found.to_json()["documents"]["cut"] == 1
    assert any("1 of 2 documents were cut" in note for note in found.provenance.notes)
    first, second = found.to_frame().itertuples()
    assert (first.tokens, bool(first.cut), bool(second.cut)) == (128, True, False)
    shorter = scored(model, tmp_path, [long, "short text"], max_tokens=5).to_frame()
    whole = scored(model, tmp_path, [long[:5], "short"]).to_frame()
    assert list(shorter["cut"]) == [True, True]
    pd.testing.assert_series_equal(shorter["influence"], whole["influence"], rtol=1e-5, atol=1e-6)


def test_the_summary_is_that_of_the_table(tmp_path: Path) -> None:
    """Counts, means, quantiles and top documents, printed and saved alike."""
    found = scored((llama(), letters()), tmp_path, TEXTS, shard=2)
    record, frame = found.to_json(), found.to_frame()
    assert record["documents"] == {"total": 6, "scored": 4, "cut": 0, "unscored": {"fewer than 2 tokens": 2}}
    assert record["tokens"] == sum(map(len, TEXTS))
    assert record["shards"] == len(list((found.folder / "scores").iterdir())) == 3
    for name in ("base_loss", "masked_loss", "influence"):
        assert record[name]["mean"] == pytest.approx(frame[name].mean())
    for q, value in record["influence"]["quantiles"].items():
        assert value == pytest.approx(frame["influence"].quantile(float(q)))
    best = frame.dropna(subset=["influence"]).sort_values("influence", ascending=False)
    assert record["influence"]["top"] == [
        list(one) for one in best[["id", "influence"]].itertuples(index=False)
    ]
    assert json.loads((found.folder / "summary.json").read_text()) == record
    assert not (found.folder / "unfinished").exists()


def test_any_intervention_can_mask(tmp_path: Path) -> None:
    """As a spec or an instance, with heads of its own or none."""
    model = (llama(), letters())
    spec = scored(model, tmp_path, TEXTS, how="uniform_past:heads=L0.H1+L1.H2", heads=None)
    instance = scored(model, tmp_path, TEXTS, how=uniform_past(HEADS), heads=None)
    named = scored(model, tmp_path, TEXTS)
    pd.testing.assert_frame_equal(spec.to_frame(), named.to_frame())
    pd.testing.assert_frame_equal(instance.to_frame(), named.to_frame())
    skipped = scored(model, tmp_path, TEXTS, how=skip_layer(layers=[1]), heads=None)
    assert skipped.to_frame()["influence"].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"heads": ["L7.H0"]}, UsageError, "L7"),
        ({"heads": []}, UsageError, "list of heads"),
        ({"how": "uniform_pst"}, UnknownNameError, "uniform_past"),
        ({"how": "zero:heads=L0.H0"}, UsageError, "leave heads out"),
        ({"how": "uniform_past:phase=decode"}, UsageError, "one forward"),
        ({"shard": 0}, UsageError, "shard=0"),
        ({"share": 0.0}, UsageError, "share"),
        ({"max_tokens": 1}, UsageError, "max_tokens"),
        ({"out": None}, UsageError, "give out"),
        ({"workers": 2}, UsageError, "in memory"),
        ({"batches": 2}, UnknownNameError, "batch_tokens"),
        ({"heads": None}, UsageError, "--heads"),
    ],
)
def test_a_wrong_call_is_refused_and_leaves_nothing(
    change: dict, error: type[Exception], message: str, tmp_path: Path
) -> None:
    """By name, before a document is scored, and without a folder."""
    out = tmp_path / "out"
    call = {"heads": HEADS, "out": out, **change}
    with pytest.raises(error, match=message):
        probe.score((llama(), letters()), written(tmp_path, TEXTS), **call)
    assert not out.exists()


class _Rests:
    """Edits nothing although it could."""

    name = "rests"

    def attended(self, call: object, attended: object) -> object:
        return attended


def test_an_intervention_that_never_acts_is_told(tmp_path: Path) -> None:
    """Equal losses under it would say that the heads do not matter."""
    with pytest.raises(InterventionError, match="changed nothing"):
        scored((llama(), letters()), tmp_path, TEXTS, how=_Rests(), heads=None)
