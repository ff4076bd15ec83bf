"""Every intervention on every architecture that can carry it, in every way of running a model, against dense float64.

Pairwise: every subject takes some interventions in some ways, so that every intervention meets every way and every
family. The full product is ``python docs/interventions.py``, which writes docs/interventions.md.
"""

from collections import Counter
from functools import cache

import pytest
from edited.cases import CASES
from edited.compare import applicable, compare
from edited.ways import ways_of
from subjects.catalogue import SUBJECTS
from subjects.subject import Subject

LOGITS = 1e-4
STATISTICS = 5e-6
EACH = 2  # (intervention, way) pairs per subject

SEEN = [subject for subject in SUBJECTS.values() if not subject.bypass]


@cache
def _pairs() -> dict[str, list[tuple[str, str]]]:
    """For every subject the pairs of intervention and way that were met least so far, so that all of them are met."""
    met: Counter[tuple[str, str]] = Counter()
    cases: Counter[str] = Counter()
    chosen: dict[str, list[tuple[str, str]]] = {}
    for subject in SEEN:
        able = [
            (case.name, way)
            for case in applicable(subject)
            for way in ways_of(subject)
            if case.phase == "both" or way != "forward"
        ]
        for _ in range(EACH):
            pair = min(able, key=lambda pair: (met[pair], cases[pair[0]]))
            met[pair] += 1
            cases[pair[0]] += 1
            chosen.setdefault(subject.name, []).append(pair)
    return chosen


@pytest.mark.parametrize("number", range(EACH))
@pytest.mark.parametrize("subject", SEEN, ids=str)
def test_edited_outputs_and_statistics_equal_dense_attention(subject: Subject, number: int) -> None:
    """Logits within 1e-4 and statistics within 5e-6 (relative) of attention written out in float64, edited by hand."""
    name, way = _pairs()[subject.name][number]
    found = compare(subject, name, way)
    assert found.outputs <= LOGITS, (name, way)
    assert found.statistics <= STATISTICS, (name, way)
    assert found.moved, (name, way)


@pytest.mark.parametrize("name", ["to_identity", "uniform_cached"])
def test_keys_that_an_indexer_left_out_stay_hidden(name: str) -> None:
    """In a batch with padding, where both are hidden by a bias of -inf."""
    found = compare(SUBJECTS["minimax-m3"], name, "greedy")
    assert found.outputs <= LOGITS
    assert found.statistics <= STATISTICS
    assert found.moved


def test_every_intervention_meets_every_way() -> None:
    """The chosen pairs leave out no intervention in no way of running a model."""
    met = {pair for pairs in _pairs().values() for pair in pairs}
    ways = {way for _, way in met}
    assert {
        (case.name, way) for case in CASES for way in ways if case.phase == "both" or way != "forward"
    } <= met
