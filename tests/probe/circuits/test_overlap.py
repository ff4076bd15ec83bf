"""Two tasks on one model: which heads they share, beside chance, and a task that is repaired by looking elsewhere."""

import numpy as np
import pytest
import tiny
from movers import ASK_A, ASK_B, Fetch, fetch_pairs, mover
from support_pairs import random_pairs

from probe.circuits.overlap import circuit_overlap, overlap
from probe.circuits.reporting import labelled
from probe.circuits.transfer import circuit_transfer
from probe.errors import UnknownNameError, UsageError
from probe.prompts import Prompt
from probe.prompts.pairs import Pair

APART = (Fetch(1, 0, 3, ASK_A), Fetch(2, 1, 4, ASK_B))


def test_tasks_of_different_heads_share_none_and_a_task_shares_all_with_itself() -> None:
    model = mover(APART)
    one, other = fetch_pairs(3, ASK_A), fetch_pairs(4, ASK_B)
    answer = circuit_overlap(model, one, other, top=1).answers[0]
    numbers = answer.extra["overlap"]
    assert numbers.sel(number="shared") == 0
    assert numbers.sel(number="chance") == 1
    assert answer.head_map.values.sum() == answer.head_map.sel(layer=1, head=0) + answer.head_map.sel(
        layer=2, head=1
    )
    report = circuit_overlap(model, one, fetch_pairs(3, ASK_A, seed=1), top=1)
    same = report.answers[0].extra["overlap"]
    assert same.sel(number="share") == 1
    assert same.sel(number="chance") == pytest.approx(1 / 6)
    assert same.sel(number="chance_in_layers") == pytest.approx(1 / 2, abs=0.05)
    assert report.answers[0].head_map.sel(layer=1, head=0) == 2
    assert len(report.prompts) == report.provenance.prompts == 32


def test_chance_in_layers_counts_layers() -> None:
    like = labelled(np.zeros((2, 4)), layer=[0, 1], head=list(range(4)))
    numbers = overlap([{0: (0, 1), 1: (0,)}, {0: (0, 1), 1: (2,)}], [like, like])
    assert numbers["shared"] == 2
    assert numbers["expected"] == pytest.approx(9 / 8)
    assert numbers["expected_in_layers"] == pytest.approx(2 * 2 / 4 + 1 / 4, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"top": 0}, UsageError, "top=0"),
        ({"top": 99}, UsageError, "top=99"),
        ({"by": "guessing"}, UnknownNameError, "guessing"),
    ],
)
def test_what_cannot_be_asked(changes: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        circuit_overlap(
            (tiny.llama(), None), random_pairs(64), random_pairs(64, seed=1), min_accuracy=0.0, **changes
        )


def unsolved(count: int = 6) -> list[Pair]:
    """The model says what stands at 3; right is what stands at 4. They have changed places in the corrupt one."""
    made = []
    for pair in fetch_pairs(4, ASK_A, count):
        words = list(pair.clean.tokens)
        if words[3] != words[4]:
            corrupt = Prompt.of_tokens([*words[:3], words[4], words[3], *words[5:]], id=f"{pair.id}:corrupt")
            made.append(
                Pair(pair.id, pair.clean, corrupt, (words[4],), (words[3],), {"wanted": 4, "other": 5})
            )
    return made


def test_a_task_is_repaired_by_the_head_that_looks_elsewhere() -> None:
    model = mover([Fetch(1, 0, 3)])
    answer = circuit_transfer(model, unsolved(), heads=["L1.H0"], to=["wanted"]).answers[0]
    accuracy = answer.extra["accuracy"]
    assert accuracy.sel(run="before") == 0
    assert accuracy.sel(run="edited") == 1
    assert accuracy.values[2:].max() == 0, "the other head of the layer does nothing"
    assert answer.head_map.sel(layer=1, head=0) == answer.head_map.values.sum() == 1


def test_looking_at_several_options_is_shared_equally() -> None:
    model = mover([Fetch(1, 0, 3)])
    pairs = unsolved()
    logit = (
        circuit_transfer(model, pairs, heads=["L1.H0"], to=["wanted", "other"]).answers[0].extra["measure"]
    )
    full = circuit_transfer(model, pairs, heads=["L1.H0"], to=["wanted"]).answers[0].extra["measure"]
    assert 0 < logit.sel(run="edited") < full.sel(run="edited")


def test_transfers_that_cannot_be_asked() -> None:
    model = mover([Fetch(1, 0, 3)])
    with pytest.raises(UsageError, match="lack the marks nowhere"):
        circuit_transfer(model, unsolved(), heads=["L1.H0"], to=["nowhere"])
    with pytest.raises(UnknownNameError, match=r"L9\.H0"):
        circuit_transfer(model, unsolved(), heads=["L9.H0"], to=["wanted"])
