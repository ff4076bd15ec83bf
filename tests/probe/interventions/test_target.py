"""Which heads an intervention means, how it is named, and its random control."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probe_kernels.mask import Mask
from probe_kernels.types import Layout, Scores

from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions import knockout, scale, zero
from probe.interventions.target import Target
from probe.seam.call import AttentionCall, Batch, Place


def a_call(n_heads: int) -> AttentionCall:
    """A call of decoder layer 5 with so many heads."""
    q = torch.zeros(1, n_heads, 1, 2)
    at = torch.zeros(1, 1, dtype=torch.int64)
    place = Place("layers.5.self_attn", "decoder", 5)
    return AttentionCall(
        place, Batch((0,), 0), "prefill", Scores(q, q, q, 1.0), Layout(Mask(), at, at), causal=True
    )


def test_names_tell_everything():
    """An intervention's name holds its parameters, so that a report says what was done."""
    assert zero().name == "zero"
    assert zero(["L3.H1", "L2.H0"], phase="decode").name == "zero:heads=L2.H0+L3.H1,phase=decode"
    assert zero(["L3.H1"]).control(4).name == "zero:heads=L3.H1,control=4"
    assert scale(["L3.H1"], 2).name == "scale:heads=L3.H1,alpha=2"
    assert scale(alpha=0.5).name == "scale:alpha=0.5"
    assert knockout("last", (0, 4), layers=[2]).name == "knockout:layers=2,queries=last,keys=0..4"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: zero([]),
        lambda: zero("L1.H1"),
        lambda: zero(["H1"]),
        lambda: zero(layers=[]),
        lambda: zero(phase="always"),
        lambda: zero(select="per_step"),
        lambda: zero(foo=1),
        lambda: zero().control(0),
        lambda: scale(["L1.H1"], float("nan")),
        lambda: scale(["L1.H1"], float("inf")),
        lambda: knockout((3, 3), "all"),
        lambda: knockout("all", (-1, 2)),
        lambda: knockout("", "all"),
    ],
)
def test_wrong_choices_are_refused_at_once(wrong):
    """What cannot be meant is a UsageError when it is written, not when it is run."""
    with pytest.raises(UsageError):
        wrong()


def test_missing_layers_and_towers_are_named():
    """A layer or tower that the model does not have is refused before anything runs."""
    there = {f"layers.{n}": Place(f"layers.{n}", "decoder", n) for n in range(3)}
    Target.of(["L2.H0"], {"layers": [2], "tower": "decoder"}).require(there, {})
    for heads, layers, tower in (
        (["L3.H0"], None, None),
        (None, [3], None),
        (None, None, "vision"),
        (["enc.L0.H0"], None, None),
    ):
        with pytest.raises(UnknownNameError):
            Target.of(heads, {"layers": layers, "tower": tower}).require(there, {})
    with pytest.raises(UnknownNameError, match=r"L2\.H4"):
        Target.of(["L2.H4"]).require(there, {"layers.2": 4})
    with pytest.raises(InterventionError, match="no layer has all"):
        Target.of(["L2.H0"], {"layers": [1]}).require(there, {})


@given(seed=st.integers(0, 10**6), n_heads=st.integers(2, 16), data=st.data())
def test_controls_match_in_count_and_share_no_head(seed, n_heads, data):
    """A control draws as many heads per layer as were chosen, none of them chosen, the same for the same seed."""
    chosen = data.draw(st.sets(st.integers(0, n_heads - 1), min_size=1, max_size=n_heads // 2))
    target = Target.of([f"L5.H{head}" for head in chosen]).control(seed)
    call = a_call(n_heads)
    drawn = target.heads_of(call)
    assert len(drawn) == len(chosen)
    assert not chosen & set(drawn)
    assert drawn == target.heads_of(call)


def test_a_control_needs_heads_to_draw_from():
    """A control for more than half of a layer's heads is refused with the numbers."""
    target = Target.of(["L5.H0", "L5.H1"]).control(0)
    with pytest.raises(UsageError, match="only 1 other"):
        target.heads_of(a_call(3))
