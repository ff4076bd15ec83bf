"""Interventions that cannot both act at the same heads and rows, and spans that are not there, before any forward."""

import pytest
import torch
from small_models import letters, llama

import probe
from probe import interventions as of
from probe.errors import InterventionError, UnknownNameError, UsageError

TEXT = "the quick brown fox jumps."
MODEL = llama()
PROMPT = probe.Prompt.of(TEXT, letters(), spans={"a": (1, 4), "b": (3, 6), "c": (6, 9)})
IDS = torch.tensor([PROMPT.tokens])
OVER = [IDS[0, :9]]
RUN = of.recording(MODEL, [IDS[0]])


def opened(edits: list[object], prompts: list[probe.Prompt] | None = None) -> None:
    """Open an edit and run the prompt under it."""
    with probe.edit(MODEL, edits, prompts=prompts), torch.no_grad():
        MODEL(IDS)


def refused(edits: list[object]) -> Exception:
    """The error that an edit ends with, of a model that has not run by then."""
    probe.verify(MODEL)
    ran = []
    handle = MODEL.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(UsageError) as caught:
            opened(edits, [PROMPT])
    finally:
        handle.remove()
    assert not ran
    return caught.value


H, G = ["L0.H1"], ["L0.H2"]
TOGETHER = {
    "two values of z": lambda: [of.zero(H), of.mean(H, over=OVER)],
    "all heads and one": lambda: [of.zero(layers=[0]), of.patch(RUN, heads=H)],
    "in either order": lambda: [of.resample(H, over=OVER), of.zero(H)],
    "two means": lambda: [of.mean(H, over=OVER), of.mean(H, over=[IDS[0, :5]])],
    "two patterns": lambda: [of.uniform_past(H), of.to_bos(H)],
    "one of them at decode": lambda: [of.to_bos(H), of.uniform_cached(H)],
    "a whole identity": lambda: [of.to_identity(1.0, H), of.static(H, over=OVER, size=9)],
    "a linear graft": lambda: [of.graft("linear", heads=H), of.patch(RUN, "pattern", heads=H)],
    "two streams": lambda: [of.patch(RUN, "resid", layers=[1]), of.mean(node="resid", layers=[1], over=OVER)],
    "rows that overlap": lambda: [of.zero(H, queries=(0, 5)), of.mean(H, over=OVER, queries=(4, 8))],
    "spans that overlap": lambda: [of.zero(H, queries="a"), of.mean(H, over=OVER, queries="b")],
    "a span and rows": lambda: [of.zero(H, queries="a"), of.mean(H, over=OVER, queries=(0, 2))],
    "the last row": lambda: [of.zero(H, queries="last"), of.mean(H, over=OVER, queries=(len(PROMPT) - 1, 99))],
    "inside guidance": lambda: [of.guidance([of.zero(H), of.mean(H, over=OVER)], 2.0)],
    "three in a list": lambda: [of.scale(H, 2.0), of.zero(H), of.knockout("all", (0, 1), H), of.mean(H, over=OVER)],
}  # fmt: skip
COMPOSED = {
    "other heads": lambda: [of.zero(H), of.mean(G, over=OVER)],
    "other layers": lambda: [of.zero(layers=[0]), of.mean(layers=[1], over=OVER)],
    "rows apart": lambda: [of.zero(H, queries=(0, 4)), of.mean(H, over=OVER, queries=(4, 8))],
    "spans apart": lambda: [of.zero(H, queries="a"), of.mean(H, over=OVER, queries="c")],
    "the same twice": lambda: [of.zero(H), of.zero([*H, *G])],
    "a pattern and z": lambda: [of.uniform_past(H), of.zero(H)],
    "a change and a value": lambda: [of.scale(H, 2.0), of.zero(H), of.scale(H, 3.0)],
    "a part of an identity": lambda: [of.to_bos(H), of.to_identity(0.5, H)],
}


@pytest.mark.parametrize("name", TOGETHER)
def test_two_values_for_one_thing_are_refused(name: str) -> None:
    """Both are named, and what they disagree about; nothing runs."""
    edits = TOGETHER[name]()
    error = refused(edits)
    assert isinstance(error, InterventionError)
    assert "asked together; each settles the " in str(error)
    asked = edits[0].interventions if name == "inside guidance" else edits
    assert sum(one.name in str(error) for one in asked) == 2


@pytest.mark.parametrize("name", COMPOSED)
def test_what_can_be_done_both_is_done(name: str) -> None:
    """Edits of other heads or rows, edits that change what they find, and equal values compose."""
    opened(COMPOSED[name](), [PROMPT])


def test_phases_that_never_meet_compose() -> None:
    """One at prefill, the other at decode; both act in a generation."""
    edits = [of.zero(H, phase="prefill"), of.mean(H, over=OVER, phase="decode")]
    with probe.edit(MODEL, edits), torch.no_grad():
        MODEL.generate(IDS, max_new_tokens=2, do_sample=False, eos_token_id=None)
    with (
        pytest.raises(InterventionError, match=r"L0\.H1"),
        probe.edit(MODEL, [edits[0], of.mean(H, over=OVER)]),
    ):
        pytest.fail("opened")


def test_an_edit_inside_another_is_held_to_it_too() -> None:
    """Nested blocks compose, so what contradicts in a list contradicts there."""
    with probe.edit(MODEL, [of.zero(H)]), torch.no_grad():
        with pytest.raises(InterventionError, match="asked together"):
            opened([of.patch(RUN, heads=H)])
        opened([of.patch(RUN, heads=G)])
        MODEL(IDS)


def test_documents_and_experts() -> None:
    """Documents stand in one way only, and an expert is on or off."""
    docs = {"doc:0": (1, 4), "doc:1": (4, 7)}
    prompt = probe.Prompt.of(TEXT, letters(), spans=docs)
    for other in (of.bidirectional_segments(["doc"]), of.position_by_importance(["doc"])):
        with (
            pytest.raises(InterventionError, match="document"),
            probe.edit(MODEL, [of.set_based(["doc"]), other], prompts=[prompt]),
        ):
            pytest.fail("opened")
    both = [of.expert_off(["L1.E2", "L1.E0"]), of.expert_on(["L1.E2"])]
    with pytest.raises(InterventionError, match=r"choice of L1\.E2"), probe.edit(MODEL, both):
        pytest.fail("opened")


def test_controls_are_drawn_and_not_asked_for() -> None:
    """Two controls may draw the same head: that is no contradiction of the user's."""
    edits = [
        one.control(seed) for seed in range(6) for one in (of.zero(["L0.H0"]), of.mean(["L0.H1"], over=OVER))
    ]
    opened(edits)


@pytest.mark.parametrize(
    "one",
    [
        lambda: of.zero(H, queries="needle"),
        lambda: of.knockout("last", "needle"),
        lambda: of.knockout("needle", "a"),
        lambda: of.drop("a", "needle"),
        lambda: of.boost("needle", 0.5),
        lambda: of.isolate("needle", 2),
        lambda: of.redistribute("needle", "a"),
        lambda: of.redistribute("a", "needle"),
        lambda: of.segment_graph("a>needle"),
        lambda: of.guidance([of.knockout("last", "needle")], 1.0),
        lambda: of.skip_layer([1], queries="needle"),
        lambda: of.reinforce("needle"),
        lambda: of.set_based(["needle"]),
    ],
)
def test_a_span_that_is_not_there_is_refused_before_the_first_forward(one: object) -> None:
    """The span, the prompt and the spans that it has are named."""
    error = refused([one()])
    assert isinstance(error, UnknownNameError)
    assert "'needle'" in str(error)
    assert "a, b" in str(error)
