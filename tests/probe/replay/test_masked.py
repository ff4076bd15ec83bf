"""What masking gave, in numbers and words: the stored finding follows from the stored numbers."""

from pathlib import Path

import numpy as np
import pytest

from probe.interventions import zero
from probe.prompts import Prompt
from probe.replay.masked import PAPER, SEEDS, Continued, Kind, Masked, Recalled, finding
from probe.replay.masked_tables import tables
from probe.replay.ordinary import Losses
from probe.replay.stored import Stored

RESULT = Path(__file__).parents[3] / "docs" / "claims" / "results" / "masking" / "smollm2-135m.json"


@pytest.fixture(scope="module")
def stored() -> Stored:
    """What was measured on SmolLM2."""
    return Stored.read(RESULT)


def _masked(stored: Stored, swap: bool = False) -> Masked:
    """The numbers as the claim has them; `swap` takes the first control for the top heads and the other way round."""
    order = list(range(1 + 2 * (1 + SEEDS)))
    if swap:
        for first in (1, 2 + SEEDS):
            order[first], order[first + 1] = order[first + 1], order[first]
    needles = {key: value for key, value in stored.measured.items() if key.startswith("needle:")}
    by_run = np.asarray(list(needles.values())).T[:, order]  # what, run, prompt
    loss, choice = (
        np.asarray([value for key, value in stored.measured.items() if key.startswith(kind)])[:, order]
        for kind in ("passage", "choice")
    )
    cuts = [slice(1, 2 + SEEDS), slice(2 + SEEDS, None)]
    kinds = tuple(Kind(name, zero(["L0.H0"]), (), None) for name in ("zero", PAPER))
    by_choice = choice.transpose(1, 0, 2)
    return Masked(
        tuple(Prompt.of_tokens([1], id=name) for name in needles),
        kinds,
        Recalled(by_run[0, :1], by_run[1, :1]),
        tuple(Recalled(by_run[0, cut], by_run[1, cut]) for cut in cuts),
        Losses(loss[:, 0], tuple(loss.T[cut] for cut in cuts), 512),
        Continued.of(by_choice[:, :, 0], by_choice.argmin(2) == 0, len(kinds)),
    )


def test_the_stored_finding_follows_from_its_numbers(stored: Stored) -> None:
    """Rows, tables, words and verdict are those that were written when it was measured."""
    masked = _masked(stored)
    found = finding(masked, tables(masked), stored.finding.how, stored.finding.heads)
    assert found.rows == stored.finding.rows
    assert found.tables == stored.finding.tables
    assert found.found == stored.finding.found
    assert (found.holds, found.but, found.brief) == (
        stored.finding.holds,
        stored.finding.but,
        stored.finding.brief,
    )


def test_random_heads_in_place_of_the_top_do_not_pass(stored: Stored) -> None:
    """With a control's numbers given out as the top heads' the claim does not hold."""
    masked = _masked(stored, swap=True)
    found = finding(masked, tables(masked), (), ())
    assert found.holds is False
    assert found.but == ""
