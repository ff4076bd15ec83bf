"""Linear probes on head outputs: a planted head carries the label, the others do not, noise carries nothing."""

import numpy as np
import pytest
import torch
from copier import copier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_models import bert, letters, llama

import probe
from probe.analysis import head_probes
from probe.errors import InputError, UnknownNameError, UsageError
from probe.models import LoadedModel
from probe.prompts import Prompt

WORDS = [f"{a}{b}" for a in "bdfgk" for b in "aeiou"]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """L0.H0 carries the token before; L1.H0 what followed the token's earlier occurrence; H1 carry nothing."""
    return copier(WORDS)


def texts(count: int = 60, seed: int = 0) -> tuple[list[str], list[str]]:
    """Five random words each, and the one before the last."""
    random = np.random.default_rng(seed)
    rows = random.choice(WORDS[:6], size=(count, 5))
    return [" ".join(row) for row in rows], [str(row[-2]) for row in rows]


def test_the_head_that_carries_a_label_is_found(model: LoadedModel) -> None:
    """The label is whether the token before the last is one of three: read from L0.H0 alone, far above its control."""
    prompts, before = texts()
    report = head_probes(model, prompts, labels=[word in WORDS[:3] for word in before])
    accuracy, selectivity = report["probe_accuracy"], report["probe_selectivity"]
    assert accuracy.sel(layer=0, head=0) == 1.0
    assert accuracy.sel(head=1).max() < 0.7
    assert selectivity.sel(layer=0, head=0) > 0.3
    assert report.top("probe_selectivity", 1)[["layer", "head"]].to_numpy().tolist() == [[0, 0]]
    low, high = report.intervals("probe_accuracy").sel(layer=0, head=0).values
    assert low == high == 1.0
    assert any("chance: 0." in note for note in report.answer("probe_accuracy").notes)


def test_nothing_is_read_from_random_labels(model: LoadedModel) -> None:
    """Over draws of labels, the accuracy of every head is chance and its selectivity is none."""
    prompts, _ = texts(100)
    found = []
    for seed in range(4):
        labels = np.random.default_rng(seed).permutation([i % 2 for i in range(100)]).tolist()
        report = head_probes(model, prompts, labels=labels, seed=seed, folds=3, penalty=10.0)
        found.append((report["probe_accuracy"].values, report["probe_selectivity"].values))
    accuracy, selectivity = np.mean(found, axis=0)
    assert np.abs(accuracy - 0.5).max() < 0.08
    assert np.abs(selectivity).max() < 0.1


def test_a_control_that_memory_solves_takes_selectivity_away(model: LoadedModel) -> None:
    """Where the label is a function of the type and every type is seen often, the control is as easy as the task."""
    prompts, before = texts(80)
    report = head_probes(model, prompts, labels=[word in WORDS[:3] for word in before], types=before)
    assert report["probe_accuracy"].sel(layer=0, head=0) == 1.0
    assert report.answer("probe_accuracy").extra["control"].sel(layer=0, head=0) == 1.0
    assert report["probe_selectivity"].sel(layer=0, head=0) == 0.0


def test_scores_are_those_of_scikit_learn() -> None:
    """Accuracy and R² of captured z, by scikit-learn's own pipelines on the same folds."""
    model, random = (llama(), letters()), np.random.default_rng(0)
    prompts = ["".join(random.choice(list("abcdef"), size=7)) for _ in range(40)]
    labels = [text[2] < "d" for text in prompts]
    targets = random.normal(size=40) + np.array([len(set(text)) for text in prompts])
    z = np.stack([probe.capture(model, text, "z", queries=[-1])["z"].values for text in prompts]).squeeze()
    how = {"folds": 4, "seed": 2, "penalty": 0.5}
    accuracy = head_probes(model, prompts, labels, **how)["probe_accuracy"]
    r2 = head_probes(model, prompts, targets=targets.tolist(), **how)["probe_r2"]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=2.0, max_iter=1000))
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=0.5))
    for layer, head in np.ndindex(2, 4):
        x, at = z[:, layer, head].astype(float), {"layer": layer, "head": head}
        folds = StratifiedKFold(4, shuffle=True, random_state=2)
        right = cross_val_predict(classifier, x, np.array(labels, dtype=int), cv=folds) == labels
        assert accuracy.sel(at) == pytest.approx(right.mean())
        guess = cross_val_predict(ridge, x, targets, cv=KFold(4, shuffle=True, random_state=2))
        share = 1 - ((guess - targets) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()
        assert r2.sel(at) == pytest.approx(share, abs=1e-4)


def test_rows_are_those_that_were_asked(model: LoadedModel) -> None:
    """A span is averaged; tokens are examples of their own, and stay with their prompt."""
    prompts, _ = texts(60)
    spans = {"middle": (1, 3)}
    marked = [Prompt.of(text, model.tokenizer, spans=spans, id=str(i)) for i, text in enumerate(prompts)]
    first = [WORDS[0] in text.split()[:2] for text in prompts]
    at_span = head_probes(model, marked, labels=first, at="middle", folds=3)
    assert at_span["probe_accuracy"].sel(layer=0, head=0) > 0.95  # rows 1 and 2 look at words 0 and 1
    per_token = [[None, *(word in WORDS[:3] for word in text.split()[:-1])] for text in prompts]
    at_tokens = head_probes(model, prompts, labels=per_token, at="tokens", folds=3)
    assert at_tokens["probe_accuracy"].sel(layer=0, head=0) == 1.0
    by_prompt = at_tokens.answer("probe_accuracy").by_prompt
    assert by_prompt.sizes["prompt"] == 60
    assert by_prompt.coords["weight"].values.tolist() == [4.0] * 60


def test_one_type_has_no_control_and_says_so(model: LoadedModel) -> None:
    """Undefined, with the reason; shuffled labels are offered instead."""
    prompts = [f"{a} {b} {WORDS[9]}" for a in WORDS[:5] for b in WORDS[:4]]
    labels = [i % 4 < 2 for i in range(20)]
    report = head_probes(model, prompts, labels)
    assert report["probe_accuracy"].sel(layer=0, head=0) == 1.0
    assert report["probe_selectivity"].isnull().all()
    assert any("one type" in note for note in report.answer("probe_selectivity").notes)
    shuffled = head_probes(model, prompts, labels, control="shuffle")
    assert shuffled["probe_selectivity"].sel(layer=0, head=0) > 0.2


def test_other_architectures_answer() -> None:
    """Grouped queries and an encoder: a label per head, under the tower's name."""
    prompts = [f"{a}{b} cat" for a in "abcdef" for b in "xyz"]
    labels = [text[1] == "x" for text in prompts]
    for made, tower in ((llama(), "decoder"), (bert(), "encoder")):
        report = head_probes((made.eval(), letters()), prompts, labels, folds=3)
        assert report.answer("probe_accuracy").tower == tower
        assert report["probe_accuracy"].shape == (2, 4)
        assert bool(np.isfinite(report["probe_accuracy"]).all())
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, UsageError, "labels or targets"),
        ({"labels": [1] * 8, "targets": [1.0] * 8}, UsageError, "one of the two"),
        ({"labels": [1, 0]}, InputError, "2 labels were given for 8 prompts"),
        ({"labels": [1] * 8}, InputError, "every label is '1'"),
        ({"labels": [1] * 6 + [0] * 2}, InputError, "'0' stands in 2 prompts; 3 folds"),
        ({"targets": ["a"] * 8}, InputError, "no numbers"),
        ({"targets": [2.0] * 8}, InputError, "all alike"),
        ({"labels": [0, 1] * 4, "at": "fact"}, InputError, "'fact' was asked"),
        ({"labels": [0, 1] * 4, "at": "tokens"}, InputError, "one for each of its 2 tokens"),
        ({"labels": [0, 1] * 4, "folds": 9}, InputError, "8 examples were given for 9 folds"),
        ({"labels": [0, 1] * 4, "types": ["a"]}, InputError, "1 types were given for 8 prompts"),
        ({"labels": [0, 1] * 4, "control": "none"}, UsageError, "type or shuffle"),
        ({"labels": [0, 1] * 4, "penalty": 0.0}, UsageError, "above 0"),
        ({"labels": [0, 1] * 4, "fold": 2}, UnknownNameError, "did you mean 'folds'"),
    ],
)
def test_bad_calls_say_what_is_wrong(
    given: dict[str, object], error: type[Exception], words: str, model: LoadedModel
) -> None:
    """Before any forward."""
    prompts = [f"{word} {WORDS[0]}" for word in WORDS[:8]]
    with pytest.raises(error, match=words):
        head_probes(model, prompts, **{"folds": 3, **given})
