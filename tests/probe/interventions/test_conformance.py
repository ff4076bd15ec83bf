"""Every intervention on every architecture that can carry it, in every way of running a model, against dense float64.

Pairwise: every subject takes some interventions in some ways, so that every intervention meets every way and every
family. The full product is ``python docs/interventions.py``, which writes docs/interventions.md.
"""

import pytest
from edited.cases import CASES
from edited.compare import applicable, compare
from edited.ways import ways_of
from subjects.catalogue import SUBJECTS
from subjects.subject import Subject

LOGITS = 1e-4
STATISTICS = 5e-6
EACH = 3  # (intervention, way) pairs per subject

SEEN = [subject for subject in SUBJECTS.values() if not subject.bypass]


def _pairs(number: int, subject: Subject) -> list[tuple[str, str]]:
    cases, ways = applicable(subject), ways_of(subject)
    start = number * EACH
    return [
        (cases[n % len(cases)].name, ways[(n + n // len(cases)) % len(ways)])
        for n in range(start, start + EACH)
    ]


PAIRS = [(subject, *pair) for number, subject in enumerate(SEEN) for pair in _pairs(number, subject)]


@pytest.mark.parametrize(("subject", "name", "way"), PAIRS, ids=str)
def test_edited_outputs_and_statistics_equal_dense_attention(subject: Subject, name: str, way: str) -> None:
    """Logits within 1e-4 and statistics within 5e-6 of attention written out in float64, edited by hand."""
    found = compare(subject, name, way)
    assert found.outputs <= LOGITS
    assert found.statistics <= STATISTICS
    assert found.moved


def test_every_intervention_meets_every_way() -> None:
    """The chosen pairs leave out no intervention in no way of running a model."""
    met = {(name, way) for _, name, way in PAIRS}
    ways = {way for _, _, way in PAIRS}
    assert {
        (case.name, way) for case in CASES for way in ways if case.phase == "both" or way != "forward"
    } <= met
