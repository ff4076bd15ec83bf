"""What a page shows already is not drawn again, and what it may not show is."""

import dash
import pytest
from hypothesis import given
from hypothesis import strategies as st
from probe_app.redraw import Redraw


def test_a_part_is_drawn_once_and_again_when_it_changes() -> None:
    """The browser sends back what an answer said it would show."""
    first = Redraw()
    assert first.part("map", ("run", 3), lambda: "drawn") == "drawn"
    second = Redraw(first.drawn)
    assert second.part("map", ("run", 3), lambda: pytest.fail("it was drawn")) is dash.no_update
    assert second.parts("map", ("run", 4), lambda: ("a", "b"), 2) == ("a", "b")


def test_an_answer_that_was_dropped_is_drawn_by_the_next() -> None:
    """Only what has arrived counts as shown."""
    before = Redraw()
    before.part("map", 1, str)
    Redraw(before.drawn).part("map", 2, str)  # this answer never arrives
    assert Redraw(before.drawn).parts("map", 2, lambda: ("two",), 1) == ("two",)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
    )
)
def test_whatever_the_browser_says_is_no_error(said: object) -> None:
    """It decides on nothing but what is left out."""
    redraw = Redraw(said)
    assert redraw.fields("?report=a") == {"report": "a"}
    assert redraw.part("map", [1], lambda: 5) == 5 or (isinstance(said, dict) and said.get("map") == "[1]")


def test_the_address_is_written_by_choices_alone() -> None:
    """Going back must not add to the history, and neither must a control that repeats what is shown."""
    shown = {"address": "?report=a"}
    assert Redraw(shown).address("?report=b", "own", "own") is dash.no_update
    assert Redraw(shown).address("?report=a", "control", "own") is dash.no_update
    assert Redraw(shown).address("?report=b", "control", "own") == "?report=b"
    assert Redraw(shown).fields("?head=L0.H1") == {"report": "a", "head": "L0.H1"}
    assert Redraw(shown).fields("?report=c") == {"report": "c"}
