"""The object that ``--json`` prints."""

import json

import numpy as np
from made_reports import made_answer, made_map, made_report

from probe.report import ModelRecord, Provenance, Report


def test_it_has_the_fields_of_schema_1() -> None:
    """Readers written today can read it tomorrow."""
    found = made_report().to_json()
    assert list(found) == ["schema", "model", "tokens", "mode", "unseen_layers", "metrics", "provenance"]
    assert (found["schema"], found["tokens"], found["mode"], found["unseen_layers"]) == (1, 12, "fused", [])
    entry = found["metrics"]["entropy"]
    assert entry["unit"] == "nats"
    assert entry["axes"] == ["layer", "head"]
    assert entry["layers"] == [0, 3]
    assert entry["values"] == [[0.1, 0.9, 0.5], [0.3, None, 0.7]]
    assert entry["top"][0] == ["L0.H1", 0.9]
    assert entry["tower"] == "decoder"


def test_it_is_strict_json() -> None:
    """No NaN and no infinity, wherever they were."""
    odd = made_answer(head_map=made_map([[np.nan, np.inf, -np.inf]]))
    report = Report(
        [odd], Provenance(ModelRecord("m"), logit_drift=float("nan"), settings={"x": [float("inf")]})
    )
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["metrics"]["entropy"]["values"] == [[None, None, None]]
    assert found["provenance"]["logit_drift"] is None
    assert found["provenance"]["settings"] == {"x": [None]}


def test_infinity_is_not_a_top_score() -> None:
    """A head map never holds one, but the JSON must survive it."""
    found = made_report(made_answer(head_map=made_map([[np.inf, 1.0]]))).to_json()
    json.dumps(found, allow_nan=False)
    assert ["L0.H1", 1.0] in found["metrics"]["entropy"]["top"]


def test_ragged_rows_are_cut() -> None:
    """A layer has as many values as heads."""
    answer = made_answer(head_map=made_map([[1, 2], [3, np.nan]], n_heads=[2, 1]))
    assert made_report(answer).to_json()["metrics"]["entropy"]["values"] == [[1.0, 2.0], [3.0]]


def test_each_tower_has_its_own_entry() -> None:
    """The decoder has the bare key, other towers a suffix."""
    metrics = made_report(made_answer(tower="encoder"), made_answer()).to_json()["metrics"]
    assert {key: entry["tower"] for key, entry in metrics.items()} == {
        "entropy@encoder": "encoder",
        "entropy": "decoder",
    }
    assert metrics["entropy@encoder"]["top"][0][0] == "enc.L0.H1"
