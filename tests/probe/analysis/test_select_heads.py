"""The greedy search for heads, held against planted objectives and an exhaustive first round."""

from itertools import combinations

import pytest
import torch
from small_models import letters, llama
from subjects.state import state

import probe
from probe.analysis.select_heads import SelectOptions, select_heads
from probe.errors import InterventionError, MetricError, UnknownNameError, UsageError
from probe.interventions import guidance, zero
from probe.terms import HeadId

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8]])
PLANTED = (HeadId("decoder", 0, 2), HeadId("decoder", 1, 1))


def gap(model):
    """How far the logits are from those of a model without the planted heads: 0 if both are zeroed."""
    with torch.no_grad():
        return float((model(IDS).logits - gap.wanted).pow(2).mean())


@pytest.fixture
def model():
    """A small decoder; `gap` is told its logits without the planted heads."""
    made = llama().double()
    with probe.edit(made, [zero(PLANTED)]), torch.no_grad():
        gap.wanted = made(IDS).logits
    return made


def test_planted_heads_are_found_in_two_rounds(model):
    """Zeroing both planted heads gives 0; every candidate of every round was judged beside those chosen before."""
    seen, before = [], state(model)
    found = select_heads(
        model,
        lambda heads: [zero(heads)],
        gap,
        rounds=2,
        better="low",
        progress=lambda *told: seen.append(told),
    )
    assert set(found.heads) == set(PLANTED)
    assert found.rounds[1].objective[found.heads[1]] == pytest.approx(0, abs=1e-20)
    assert found.base == pytest.approx(gap(model))
    assert [len(one.objective) for one in found.rounds] == [8, 7]
    assert [told[:2] for told in seen] == [(done, 15) for done in range(1, 16)]
    assert state(model) == before
    with probe.edit(model, [zero([found.heads[0]])]):
        assert found.rounds[0].objective[found.heads[0]] == pytest.approx(gap(model))


def test_rounds_keep_the_best_and_ties_go_to_the_first_head(model):
    """With a constant objective the first heads win; the table holds every evaluation."""
    calls = []

    def same(edited):
        edited(IDS)
        calls.append(1)
        return 1

    found = select_heads(model, zero, same, candidates=["L1.H3", "L0.H1", "L1.H0"], keep=2)
    assert found.heads == (HeadId("decoder", 0, 1), HeadId("decoder", 1, 0))
    assert len(calls) == 4
    table = found.to_pandas()
    assert list(table["head"][table["kept"]]) == ["L0.H1", "L1.H0"]
    assert set(table.columns) == {"round", "head", "tower", "layer", "objective", "kept"}


def test_objectives_of_outputs_are_means_over_prompts(model):
    """With prompts the objective sees each output under the edit; guidance works like any intervention."""
    pair, texts = (model, letters()), ["abcdef", "hgfedcbaab"]

    def loudness(output):
        return output.logits.abs().mean()

    found = select_heads(
        pair, lambda heads: [guidance([zero(heads)], 2.0)], loudness, texts, candidates=["L1.H2"]
    )
    expected = []
    for text in texts:
        ids = torch.tensor([letters()(text)["input_ids"]])
        with torch.no_grad():
            base = model(ids).logits
            with probe.edit(model, [zero(["L1.H2"])]):
                expected.append((base + 2 * (base - model(ids).logits)).abs().mean())
    value = found.rounds[0].objective[HeadId("decoder", 1, 2)]
    assert value == pytest.approx(float(sum(expected) / 2))


def test_sampled_objectives_are_repeatable_and_leave_the_random_state(model):
    """Every evaluation starts from the same seed; the caller's random state is as before."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    def noisy(edited):
        return gap(edited) + float(torch.rand(()))

    runs = [select_heads(model, lambda heads: [zero(heads)], noisy, seed=3, keep=2) for _ in range(2)]
    assert runs[0] == runs[1]
    plain = select_heads(model, lambda heads: [zero(heads)], gap)
    pairs = combinations(plain.rounds[0].objective, 2)
    for one, other in pairs:
        shift = runs[0].rounds[0].objective[one] - runs[0].rounds[0].objective[other]
        assert shift == pytest.approx(
            plain.rounds[0].objective[one] - plain.rounds[0].objective[other], abs=1e-6
        )
    assert torch.equal(torch.rand(3), expected)


def test_bad_searches_are_refused_by_name(model):
    """Unknown heads, too few of them, options that cannot be, objectives that are no number or NaN, idle edits."""

    def search(objective=gap, **options):
        return select_heads(model, lambda heads: [zero(heads)], objective, **options)

    with pytest.raises(UnknownNameError, match=r"L9\.H0"):
        search(candidates=["L9.H0"])
    with pytest.raises(UsageError, match="3 rounds of 3 heads"):
        search(rounds=3, keep=3)
    with pytest.raises(UnknownNameError, match="round"):
        search(round=2)
    with pytest.raises(UsageError, match="keep=0"):
        SelectOptions(keep=0)
    with pytest.raises(UsageError, match="give a list"):
        search(candidates="L0.H1")
    with pytest.raises(UsageError, match="must return one number"):
        search(lambda edited: "good")
    base = gap(model)
    with pytest.raises(MetricError, match=r"heads L0\.H0 was NaN"):
        search(lambda edited: 1.0 if gap(edited) == pytest.approx(base) else float("nan"))
    with pytest.raises(InterventionError, match="changed nothing"):
        select_heads(model, lambda heads: [zero(heads, phase="decode")], gap)
