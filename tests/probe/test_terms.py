"""The glossary: heads and specs as they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UsageError
from probe.terms import TOWER_PREFIX, HeadId, Spec

WORDS = st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters=",="), min_size=1).filter(
    lambda t: t == t.strip()
)


@given(st.sampled_from(sorted(TOWER_PREFIX)), st.integers(0, 200), st.integers(0, 200))
def test_a_head_reads_back_what_it_writes(tower: str, layer: int, head: int) -> None:
    """In every tower."""
    assert HeadId.parse(str(HeadId(tower, layer, head))) == HeadId(tower, layer, head)


def test_the_decoder_has_no_prefix() -> None:
    """As in papers."""
    assert str(HeadId("decoder", 18, 6)) == "L18.H6"
    assert HeadId.parse(" cross.L3.H1 ") == HeadId("cross", 3, 1)


@pytest.mark.parametrize(
    "text", ["", "L1", "18.6", "L1.H", "l1.h2", "L1.H2.H3", "L-1.H2", "L1.H2\nL2.H3", "x y.L1.H2"]
)
def test_anything_else_is_no_head(text: str) -> None:
    """The message shows how heads are written."""
    with pytest.raises(UsageError, match="written like"):
        HeadId.parse(text)


@given(WORDS, st.dictionaries(WORDS, VALUES, max_size=4))
def test_a_spec_reads_back_its_parameters(name: str, params: dict[str, str]) -> None:
    """Names and values are as typed."""
    text = name + (":" + ",".join(f"{key}={value}" for key, value in params.items()) if params else "")
    spec = Spec.parse(text)
    assert (spec.text, spec.name, spec.params) == (text, name, params)


@pytest.mark.parametrize(
    "text", ["", ":n=4", "sink:", "sink:n", "sink:n=", "sink:=4", "sink:n=4,", "sink:n=4,n=5"]
)
def test_a_malformed_spec_is_refused(text: str) -> None:
    """The message shows the spec and how to write it."""
    with pytest.raises(UsageError, match="was asked"):
        Spec.parse(text)
