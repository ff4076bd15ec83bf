"""Credit by rhythm: a case worked out by hand, and laws for any signals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probe.errors import UnknownNameError, UsageError
from probe.experiments.rhythm_credit import Rule, change, credit, highest

NAN = np.nan
SIGNALS = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(0, 10)),
        arrays(np.float64, n, elements=st.one_of(st.just(NAN), st.floats(0, 1))),
    )
)


def test_worked_out_by_hand() -> None:
    """Ten tokens: two anchors, of which the second is dominated and shares its credit with the jump before it."""
    waad = np.array([5.0, 5.0, 5.0, 5.0, 5.0, 9.0, 1.0, 1.0, 5.0, 5.0])
    fai = np.array([0.1, 0.9, 0.2, 0.1, 0.2, 0.1, 0.1, 0.8, NAN, NAN])
    weights = credit(waad, fai, Rule(gain=3.0, share=0.25, a=0.25, k=2, tau_w=0.5, tau_delta=0.8))
    assert change(waad)[:-1].tolist() == [0, 0, 0, 0, 4, 8, 0, 4, 0]
    # Of nine changes two are taken: 8 at token 5, and the earlier of the two changes by 4.
    assert weights["local"].tolist() == [1, 1, 1, 1, 3, 3, 1, 1, 1, 1]
    assert weights["global"].tolist() == [1, 3, 1, 1, 1, 1, 1, 3, 1, 1]
    assert weights["coupled"].tolist() == [1, 3, 1, 1, 1, 1.5, 1, 2.5, 1, 1]


def test_an_anchor_that_is_not_near_or_has_no_jump_keeps_its_credit() -> None:
    """Without a jump in the k tokens before, or with a high WAAD, nothing is shared."""
    waad, fai = np.array([1.0, 9.0, 9.0, 9.0, 9.0, 1.0]), np.array([0, 0, 0, 0, 1.0, 0])
    rule = Rule(share=0.2, k=1, tau_delta=0.7)
    assert credit(waad, fai, rule)["coupled"].tolist() == credit(waad, fai, rule)["global"].tolist()


@given(SIGNALS, st.floats(0.05, 1.0), st.floats(0.0, 1.0), st.integers(1, 3))
def test_laws_of_the_weights(signals, share, a, k) -> None:
    """As many tokens are chosen as the share says; coupling moves credit between tokens and never makes more of it."""
    waad, fai = signals
    weights = credit(waad, fai, Rule(share=share, a=a, k=k))
    for kind, values in (("local", change(waad)), ("global", fai)):
        assert set(weights[kind]) <= {1.0, 1.5}
        assert (weights[kind] > 1).sum() == np.floor(share * (~np.isnan(values)).sum() + 1e-9)
    assert (weights["coupled"] >= 1).all()
    assert weights["coupled"].sum() <= weights["global"].sum() + 1e-9
    assert (credit(waad, fai, Rule(share=share, a=0.0, k=k))["coupled"] == weights["global"]).all()


@given(SIGNALS)
def test_chosen_are_never_below_the_others(signals) -> None:
    """Every chosen value is at least as high as every defined one that was not chosen; undefined ones never are."""
    _, values = signals
    chosen = highest(values, 0.4)
    assert not chosen[np.isnan(values)].any()
    if chosen.any():
        assert np.nanmax(values[~chosen], initial=-np.inf) <= values[chosen].min()


@given(SIGNALS, st.floats(0.1, 5.0))
def test_units_do_not_matter(signals, unit) -> None:
    """Weights depend on the order of the signals alone."""
    waad, fai = signals
    waad = np.round(waad, 3)
    for kind, values in credit(waad, fai).items():
        # Powers of two scale without rounding, so that ties stay ties.
        scaled = credit(waad * 2.0, fai * 2.0 ** np.floor(unit))[kind]
        assert (scaled == values).all()


def test_undefined_signals_choose_nothing() -> None:
    """Where a signal is nowhere defined, every weight is 1."""
    nothing = np.full(4, NAN)
    assert all((values == 1).all() for values in credit(nothing, nothing).values())
    assert all((values == 1).all() for values in credit(np.array([2.0]), np.array([NAN])).values())


@pytest.mark.parametrize(
    "wrong", ["gain=0", "share=0", "share=1.1", "a=2", "k=0", "k=1.5", "tau_w=-1", "peak=x", "a"]
)
def test_rules_out_of_range_are_refused(wrong: str) -> None:
    """Each part of a rule is refused by name."""
    with pytest.raises(UsageError, match=rf"rhythm: .*{wrong.partition('=')[0]}"):
        Rule.parse(wrong)


def test_rules_are_read_and_told() -> None:
    """A rule reads back what it tells, and an unknown part is refused with the known ones."""
    rule = Rule.parse("gain=2;k=3;share=.2")
    assert (rule.gain, rule.k, rule.share, rule.a) == (2.0, 3, 0.2, 0.5)
    assert Rule.parse(str(rule).replace(", ", ";")) == rule
    with pytest.raises(UnknownNameError, match="gain"):
        Rule.parse("gian=2")


def test_signals_of_different_lengths_are_refused() -> None:
    """Both shapes are named."""
    with pytest.raises(UsageError, match=r"\(3,\) and \(4,\)"):
        credit(np.zeros(3), np.zeros(4))
