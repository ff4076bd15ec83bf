"""The seam against over a hundred architectures: equal outputs, equal statistics, nothing left behind.

Pairwise: each test covers every subject once, and mode, padding, batch and chunking alternate between neighbours. The
full product is ``python docs/architectures.py``, which writes docs/architectures.md.
"""

import re

import pytest
import torch
from subjects.cached import continued, together_error
from subjects.catalogue import SUBJECTS
from subjects.measure import Tally, drift, run, statistics_error
from subjects.oracle import Weights, eager_weights, returned_weights
from subjects.state import state
from subjects.subject import Subject

from probe.errors import UnseenLayersError, UnsupportedAttentionError
from probe.seam.session import Session

LOGITS = 1e-4
STATISTICS = 5e-6

ALL = list(SUBJECTS.values())
NUMBER = {subject.name: number for number, subject in enumerate(ALL)}
SEEN = [subject for subject in ALL if not subject.bypass]
BYPASSING = [subject for subject in ALL if subject.bypass]
CACHED = [subject for subject in SEEN if subject.cache]
GENERATING = [subject for subject in ALL if subject.generate][::2]


def _alternate(subject: Subject, bit: int) -> bool:
    return bool(NUMBER[subject.name] >> bit & 1)


def _mode(subject: Subject) -> str:
    return "fused" if _alternate(subject, 0) else "shadow"


@pytest.mark.parametrize("subject", SEEN, ids=str)
def test_fused_outputs_and_statistics_equal_the_models_own(subject: Subject) -> None:
    """Fused, batch 2, left padding: logits within 1e-4 of native, statistics within 5e-6 of eager weights."""
    model = subject.model()
    inputs = subject.inputs(model, 2, 12, left_padding=subject.padding)
    native = run(model, inputs)
    tally = Tally()
    fused = run(model, inputs, "fused", tally)
    assert drift(native, fused, subject, inputs) <= LOGITS
    assert statistics_error(tally.rows, eager_weights(model, inputs)) <= STATISTICS
    assert {row.tower for row in tally.rows} == set(subject.towers)
    assert tally.unseen == sorted(subject.unseen)


@pytest.mark.parametrize("subject", SEEN, ids=str)
def test_shadow_outputs_are_bit_exact(subject: Subject) -> None:
    """Shadow changes no bit of any output and sees the same statistics, at either batch size, padded or not."""
    model = subject.model()
    batch, padding = (2, subject.padding) if _alternate(subject, 0) else (1, False)
    inputs = subject.inputs(model, batch, 11, left_padding=padding)
    native = run(model, inputs)
    tally = Tally()
    shadow = run(model, inputs, "shadow", tally)
    assert all(torch.equal(native[name], shadow[name]) for name in native)
    assert statistics_error(tally.rows, eager_weights(model, inputs)) <= STATISTICS


@pytest.mark.parametrize("subject", CACHED, ids=str)
def test_cached_continuation_adds_up_to_one_whole_forward(subject: Subject) -> None:
    """Prefill and three decode steps give native's logits, and statistics that add up to one whole forward's."""
    model, mode = subject.model(), _mode(subject)
    padding = subject.padding and subject.cache_padding and _alternate(subject, 1)
    inputs = subject.inputs(model, 2, 12, left_padding=padding)
    length = inputs.get("decoder_input_ids", inputs.get("input_ids")).shape[1]
    native = continued(model, inputs, length - 3, None, Tally())
    parts, whole = Tally(), Tally()
    seen = continued(model, inputs, length - 3, mode, parts)
    assert float((native - seen).abs().max()) <= (LOGITS if mode == "fused" else 0.0)
    if subject.cache_exact:
        run(model, inputs, mode, whole)
        assert together_error(parts.rows, whole.rows) <= STATISTICS


@pytest.mark.parametrize("subject", GENERATING, ids=str)
def test_generate_works_and_everything_is_restored(subject: Subject) -> None:
    """generate() gives the same tokens while observed, and afterwards nothing of the model or registry differs."""
    model = subject.model()
    inputs = subject.inputs(model, 2, 12, left_padding=subject.padding)
    wanted = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    native = model.generate(**inputs, **wanted)
    before = state(model)
    tally = Tally()
    with Session(model, [tally], mode=_mode(subject)) as session:
        tokens = model.generate(**inputs, **wanted)
        seen = session.census
    assert torch.equal(native, tokens)
    assert bool(seen) == (subject.fallback != "none")
    if subject.cache:
        assert {row.phase for row in tally.rows} == {"prefill", "decode"}
    assert state(model) == before


WAYS = {
    "beams": {"num_beams": 2},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "no cache": {"use_cache": False},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "prefill in chunks": {"prefill_chunk_size": 5},
    "two answers": {"num_return_sequences": 2, "num_beams": 2},
}


GENERATED = [
    *(("llama", way) for way in WAYS),
    *(("gpt-oss", way) for way in WAYS),
    *(("mistral-window", way) for way in ("beams", "static cache", "prefill in chunks")),
    *(("deepseek-v3", way) for way in ("static cache", "prompt lookup")),
    *(("t5gemma", way) for way in ("beams", "no cache", "two answers")),
]


@pytest.mark.parametrize(("name", "way"), GENERATED)
def test_every_way_to_generate_gives_the_same_tokens(name: str, way: str) -> None:
    """Beams, static caches, assisted decoding and chunked prefill all reach the seam and come out unchanged."""
    subject = SUBJECTS[name]
    model = subject.model()
    inputs = subject.inputs(
        model, 1 if way == "prompt lookup" else 2, 12, left_padding=way != "prompt lookup"
    )
    wanted = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **WAYS[way]}
    native, before = model.generate(**inputs, **wanted), state(model)
    for mode in ("fused", "shadow"):
        tally = Tally()
        with Session(model, [tally], mode=mode):
            assert torch.equal(native, model.generate(**inputs, **wanted))
        assert tally.rows
    assert state(model) == before


@pytest.mark.parametrize("subject", ALL[::9], ids=str)
@pytest.mark.parametrize("mode", ["fused", "shadow"])
def test_an_error_in_an_observer_leaves_nothing_behind(subject: Subject, mode: str) -> None:
    """An observer that fails stops the user's forward with its own error; the model answers as before."""

    class Broken(Tally):
        def update(self, call: object, attended: object) -> None:
            raise ZeroDivisionError("broken observer")

    model = subject.model()
    inputs = subject.inputs(model, 1, 9)
    native, before = run(model, inputs), state(model)
    with pytest.raises(ZeroDivisionError, match="broken observer"):
        run(model, inputs, mode, Broken())
    assert state(model) == before
    after = run(model, inputs)
    assert all(torch.equal(native[name], after[name]) for name in native)


@pytest.mark.parametrize("subject", BYPASSING, ids=str)
def test_bypassing_models_fall_back_or_name_the_layers(subject: Subject) -> None:
    """A model beside the registry is read through its returned weights; layers out of sight are named."""
    model = subject.model()
    inputs = subject.inputs(model, 2, 12, left_padding=subject.padding)
    native = run(model, inputs)
    run(
        model, {**inputs, "output_attentions": True}
    )  # lets transformers install the hooks that it never removes
    before, tally = state(model), Tally()
    with Session(model, [tally], mode=_mode(subject)) as session, torch.no_grad():
        observed = model(**inputs)
        unseen, seen = session.unseen_layers, session.census
        if subject.fallback == "none":
            with pytest.raises(UnseenLayersError, match=re.escape(unseen[0])):
                session.require_seen()
        else:
            session.require_seen()
    assert {"all": (False, True), "some": (True, True), "none": (True, False)}[subject.fallback] == (
        bool(unseen),
        bool(seen),
    )
    assert drift(native, {name: observed[name] for name in native}, subject, inputs) <= LOGITS
    assert state(model) == before
    if subject.fallback == "all":
        returned = returned_weights(model, inputs)
        truth = [Weights(row.module, w.pattern) for row, w in zip(tally.rows, returned, strict=True)]
        assert statistics_error(tally.rows, truth) <= STATISTICS


@pytest.mark.parametrize("subject", [s for s in BYPASSING if s.fallback != "some"][::3], ids=str)
def test_interventions_on_bypassing_models_are_refused(subject: Subject) -> None:
    """An edit that could not take effect is an error, never a silent run without it."""

    class Nothing:
        name = "nothing"

        def attended(self, call: object, attended: object) -> object:
            return attended

    model = subject.model()
    with pytest.raises(UnsupportedAttentionError), Session(model, [], [Nothing()]):
        model(**subject.inputs(model, 1, 9))


def test_the_catalogue_is_as_wide_as_promised() -> None:
    """At least 45 architectures, of them at least six that bypass the registry."""
    assert len(SEEN) >= 45
    assert len(BYPASSING) >= 6
