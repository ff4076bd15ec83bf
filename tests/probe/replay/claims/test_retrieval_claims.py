"""Claims on retrieval heads: verdicts follow from planted numbers, both ways."""

import numpy as np
import pytest
from copier import copier

from probe.experiments.repeats import recalled
from probe.interventions import zero
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay import intervals
from probe.replay.claims import (
    length_heads,
    recall_gap,
    sparse_density,
    sparse_heads,
    universal_heads,
    window_layers,
)
from probe.replay.copied import Copied
from probe.replay.kept import Kept
from probe.replay.work import Work

WORDS = [f"w{number}" for number in range(30)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of a few resamples: verdicts here do not hang on them."""
    monkeypatch.setattr(intervals, "DRAWS", 60)


@pytest.fixture(scope="module")
def built() -> LoadedModel:
    """The hand-built induction circuit."""
    return copier(WORDS)


@pytest.fixture
def work(built: LoadedModel, tmp_path) -> Work:
    """Keeps numbers in a folder of the test."""
    return Work(built, Kept(tmp_path / "kept", "x"), shared=Kept(tmp_path / "shared", "x"))


def _tests(scores: np.ndarray, count: int = 8) -> Copied:
    """`count` tests, two per needle, in which every head has about its score."""
    noise = np.random.default_rng(0).uniform(0.9, 1.0, (count, *scores.shape))
    return Copied(tuple(f"n{at // 2}" for at in range(count)), np.ones(count, dtype=bool), scores * noise)


def _heads(strong: int) -> np.ndarray:
    """Ten layers of ten heads, of which `strong` copy well, half of the layers holding them all."""
    scores = np.zeros((10, 10))
    scores.ravel()[np.arange(strong) * 7 % 100] = np.linspace(0.9, 0.3, strong)
    return scores


@pytest.mark.parametrize(("strong", "holds"), [(4, True), (5, False), (40, False)])
def test_heads_are_sparse_where_they_are_few(work: Work, monkeypatch, strong: int, holds: bool) -> None:
    """Four of a hundred heads are few, five are active too often for the paper's bound; shares add up."""
    monkeypatch.setattr(sparse_heads, "copied", lambda *_: _tests(_heads(strong)))
    found = sparse_heads.measure(work)
    assert found.holds is holds
    zero_share, weak, strong_share = (found.rows[at].ours.value for at in (1, 2, 0))
    assert zero_share + weak + strong_share == pytest.approx(1.0)
    assert strong_share == pytest.approx(strong / 100)
    assert found.rows[-1].ours.value > found.rows[-1].control.value


def test_a_model_that_finds_nothing_is_not_asked(work: Work, monkeypatch) -> None:
    """Where no needle is found there is no verdict."""
    none = Copied(("n0",), np.zeros(1, dtype=bool), np.zeros((1, 2, 2)))
    for claim in (sparse_heads, length_heads, universal_heads):
        monkeypatch.setattr(claim, "copied", lambda *_: none)
        assert claim.measure(work).holds is None


@pytest.mark.parametrize("same", [True, False])
def test_heads_are_universal_where_variants_agree(work: Work, monkeypatch, same: bool) -> None:
    """The same heads in all variants hold; another task with other heads of the same layers does not."""
    scores = _heads(8)
    other = scores if same else scores[:, ::-1]
    monkeypatch.setattr(universal_heads, "copied", lambda *_: _tests(scores))
    names = {f"L{layer}.H{head}": float(other[layer, head]) for layer in range(10) for head in range(10)}
    monkeypatch.setattr(Work, "scores", lambda *_: names)
    found = universal_heads.measure(work)
    assert found.holds is same
    assert ("L0.H0" in found.found[0]) is same


@pytest.mark.parametrize("same", [True, False])
def test_heads_stay_at_longer_context(work: Work, monkeypatch, same: bool) -> None:
    """The same heads at both lengths hold; other heads of their layers at the longer one do not."""
    scores = _heads(10)
    parts = {500: scores, 2000: scores if same else scores[:, ::-1]}
    monkeypatch.setattr(length_heads, "copied", lambda _, hidden: _tests(parts[hidden.length]))
    found = length_heads.measure(work)
    assert found.holds is same
    assert len(found.heads) == 10


def test_loss_is_added_where_the_circuit_copied(built: LoadedModel) -> None:
    """Without its copying head the circuit loses on the repeated half alone; sums are those of the tokens' losses."""
    half = (np.random.default_rng(0).permutation(20) + 2).tolist()
    prompt = Prompt.of_tokens([*half, *half], built.tokenizer)
    base, edited = np.array(recall_gap._sums(built, prompt, [zero(["L1.H0"])]))
    told = recalled(prompt.tokens, 2)[1:]
    assert base[2] == told.sum() == 19
    assert base[2] + base[3] == len(prompt) - 1
    added = np.concatenate([(edited - base)[None, :2], base[None, 2:]], axis=1)
    assert recall_gap._added_share(added) > 0.9
    assert recall_gap._token_share(added) == pytest.approx(19 / 39)
    assert np.isnan(recall_gap._added_share(np.array([[-1.0, 0.5, 3.0, 3.0]])))


@pytest.mark.parametrize(
    ("recall", "loss", "holds"), [(0.4, 3.02, True), (1.0, 3.02, False), (0.4, 3.4, False)]
)
def test_loss_must_stay_and_recall_must_go(recall: float, loss: float, holds: bool) -> None:
    """The verdict asks both of the half of the layers."""
    even = ["3 of 10", "5 of 10", "7 of 10", "10 of 10"]
    runs = {"none": (1.0, 3.0), **dict.fromkeys(even, (recall, loss)), "5 of 10, drawn": (0.5, 3.1)}
    rest = np.linspace(-0.01, 0.01, 6)
    found = window_layers._finding(
        {name: (one + rest, two + rest) for name, (one, two) in runs.items()},
        even,
        {"5 of 10": (1, 2)},
        "300 to 500",
    )
    assert found.holds is holds
    assert found.rows[2].control.value == pytest.approx(0.5)
    assert found.rows[6].control.value == pytest.approx(0.1)


def test_layers_with_a_window_are_evenly_spread() -> None:
    """The shares are those of the claim: 8, 15, 22 and all of 30; of 18 layers as many in proportion."""
    assert [len(one) for one in window_layers._even(30)] == [8, 15, 22, 30]
    assert [len(one) for one in window_layers._even(18)] == [5, 9, 13, 18]
    assert all(max(np.diff(one)) - min(np.diff(one)) <= 1 for one in window_layers._even(30))


@pytest.mark.parametrize(
    ("more", "law", "holds"), [(0.1, True, True), (-0.1, True, False), (0.1, False, False)]
)
def test_patterns_are_compared_at_the_first_ones_density(more: float, law: bool, holds: bool) -> None:
    """Coarse patterns keep twice their density here, fine ones `more` than that; a broken law never holds."""
    fine = {one for one, _ in sparse_density.PAIRS.values()}
    density = np.linspace(0.2, 0.4, len(sparse_density.SPECS))
    mass = np.array(
        [
            2 * d + (more if spec in fine else 0.0)
            for spec, d in zip(sparse_density.SPECS, density, strict=True)
        ]
    )
    points = np.stack([np.stack([density, mass], axis=1)] * 3)
    found = sparse_density._finding(points, law, {"full attention": np.ones(3)})
    assert found.holds is holds
    assert found.rows[2].ours.value == pytest.approx(more, abs=0.02)


def test_powers_of_two_reach_and_windows_do_not() -> None:
    """The law that the claim asks for holds of the kernels' patterns."""
    assert sparse_density._reaches()
