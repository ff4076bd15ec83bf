"""Numbers, rows and findings: what they say, and that a file gives back what was put in."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from probe.replay import Estimate, Finding, Row, Table, not_asked

words = st.text(max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
estimates = st.builds(
    Estimate, numbers, numbers, numbers, st.sampled_from(("interval", "range")), st.integers(0, 4)
)
findings = st.builds(
    Finding,
    holds=st.sampled_from((True, False, None)),
    brief=words,
    rows=st.lists(st.builds(Row, words, estimates | words, words, estimates | words), max_size=3).map(tuple),
    found=st.lists(words, max_size=3).map(tuple),
    but=words,
    tables=st.lists(
        st.builds(Table, words, st.tuples(words, words), st.lists(st.tuples(words, words)).map(tuple)),
        max_size=2,
    ).map(tuple),
    how=st.lists(words, max_size=2).map(tuple),
    heads=st.lists(words, max_size=2).map(tuple),
)


@given(findings)
def test_json_gives_the_finding_back(finding: Finding) -> None:
    """A finding survives being written as JSON and read again, number by number."""
    assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding


def test_an_undefined_number_is_said() -> None:
    """NaN is told as undefined and comes back as NaN from the null that JSON has for it."""
    row = Row("share", Estimate(math.nan, math.nan, math.nan))
    assert str(row.ours) == "undefined"
    again = Finding.from_dict({**not_asked("no head").to_dict(), "rows": [{**_row(), "ours": _nulls()}]})
    assert math.isnan(again.rows[0].ours.value)  # type: ignore[union-attr]


def _row() -> dict[str, object]:
    return {"what": "share", "paper": "–", "control": "–"}


def _nulls() -> dict[str, object]:
    return {"value": None, "low": None, "high": None, "kind": "interval", "digits": 2}


def test_the_verdict_says_what_it_is_about() -> None:
    """Three verdicts, each with what follows it."""
    assert Finding(True, "", but=" for recall").verdict == "holds for recall"
    assert Finding(False, "").verdict == "does not hold"
    assert not_asked("it has one layer").verdict == "was not asked"
    assert not_asked("it has one layer").brief == "it has one layer"
