"""Guided logits, held against two separate runs combined by hand, in every way of running a model."""

import inspect

import pytest
import torch
from small_models import bert, gpt2, llama, mistral, t5
from subjects.state import state

import probe
from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions import knockout, scale, skip_layer, skip_module, zero
from probe.interventions.guidance import guidance

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4, 6, 5, 9]])
PADDED = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.int64), IDS[:, :9]], 1), IDS])
MASK = (torch.arange(12)[None] >= torch.tensor([[3], [0]])).long()
EDITS = [zero(["L1.H2"]), scale(["L0.H1"], 3.0), skip_module("mlp", [1], queries=(2, 5))]
W = 1.5


def combined(model, ids, mask=None, edits=EDITS):
    """Logits of two whole forwards, combined by hand."""
    mask = torch.ones_like(ids) if mask is None else mask
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}
    with torch.no_grad():
        base = model(**inputs).logits
        with probe.edit(model, edits):
            other = model(**inputs).logits
    return base + W * (base - other)


@pytest.mark.parametrize("make", [llama, gpt2, mistral])
def test_one_forward_is_two_combined(make):
    """In a batch of 2 with left padding; a signature as before; the model's own forward afterwards."""
    model = make().double()
    before, signature = state(model), inspect.signature(model.forward)
    inputs = {"input_ids": PADDED, "attention_mask": MASK}
    inputs["position_ids"] = (MASK.cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        base = model(**inputs).logits
        with probe.edit(model, EDITS):
            other = model(**inputs).logits
        with probe.edit(model, [guidance(EDITS, W)]):
            assert inspect.signature(model.forward) == signature
            found = model(**inputs).logits
    real = MASK.bool()
    torch.testing.assert_close(found[real], (base + W * (base - other))[real])
    assert state(model) == before


def test_a_cached_continuation_is_the_whole_forward():
    """With a cache that the model made, with one that was given, and with one that was cut back."""
    from transformers import DynamicCache

    model = llama().double()
    edits = EDITS[:2]
    expected = combined(model, IDS, edits=edits)
    with probe.edit(model, [guidance(edits, W)]), torch.no_grad():
        for cache in (None, DynamicCache()):
            first = model(IDS[:, :7], past_key_values=cache, use_cache=True)
            kept = first.past_key_values
            second = model(IDS[:, 7:], past_key_values=kept).logits
            torch.testing.assert_close(torch.cat([first.logits, second], 1), expected)
            kept.crop(9 - kept.get_seq_length())
            torch.testing.assert_close(model(IDS[:, 9:], past_key_values=kept).logits, expected[:, 9:])


def by_hand(model, ids, mask, steps, pick):
    """Generation without a cache from hand-combined logits."""
    for _ in range(steps):
        ids = torch.cat([ids, pick(combined(model, ids, mask)[:, -1])[:, None]], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return ids


def test_greedy_and_sampled_generation_follow_the_guided_logits():
    """Left-padded batch of 2: the same tokens as a loop over hand-combined logits without any cache."""
    model = llama(eos_token_id=None).double()
    options = {"attention_mask": MASK, "max_new_tokens": 5, "pad_token_id": 0}
    with probe.edit(model, [guidance(EDITS, W)]):
        greedy = model.generate(PADDED, do_sample=False, **options)
        torch.manual_seed(3)
        drawn = model.generate(PADDED, do_sample=True, top_k=0, **options)
    assert torch.equal(greedy, by_hand(model, PADDED, MASK, 5, lambda logits: logits.argmax(-1)))
    torch.manual_seed(3)
    pick = lambda logits: torch.multinomial(logits.float().softmax(-1), 1)[:, 0]  # noqa: E731
    assert torch.equal(drawn, by_hand(model, PADDED, MASK, 5, pick))
    assert not torch.equal(greedy, model.generate(PADDED, do_sample=False, **options))


def test_beams_reorder_both_caches():
    """Beam scores are the guided log-probabilities of the sequences, recomputed without a cache."""
    model = llama(eos_token_id=None).double()
    with probe.edit(model, [guidance(EDITS[:2], W)]):
        found = model.generate(
            PADDED, attention_mask=MASK, num_beams=4, num_return_sequences=4, max_new_tokens=6, pad_token_id=0,
            do_sample=False, output_scores=True, return_dict_in_generate=True, length_penalty=0.0,
        )  # fmt: skip
        cached = model.generate(
            PADDED, attention_mask=MASK, num_beams=4, max_new_tokens=6, pad_token_id=0, do_sample=False,
            use_cache=False,
        )  # fmt: skip
    wide = MASK.repeat_interleave(4, 0)
    whole = torch.cat([wide, torch.ones(8, 6, dtype=torch.int64)], 1)
    logits = combined(model, found.sequences, whole, EDITS[:2])[:, 11:-1]
    scores = logits.log_softmax(-1).gather(-1, found.sequences[:, 12:, None])[..., 0].sum(1)
    torch.testing.assert_close(found.sequences_scores.double(), scores, atol=1e-4, rtol=1e-5)
    assert torch.equal(cached, found.sequences[::4])


def test_an_encoder_decoder_is_guided_in_its_decoder():
    """Decoder edits are combined; edits of the encoder are refused by name."""
    model = t5().double()
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}
    edits = [zero(layers=[1], tower="cross"), zero(["L0.H1"])]
    with torch.no_grad():
        base = model(**inputs).logits
        with probe.edit(model, edits):
            other = model(**inputs).logits
        with probe.edit(model, [guidance(edits, W)]):
            torch.testing.assert_close(model(**inputs).logits, base + W * (base - other))
            model.generate(IDS, max_new_tokens=3, num_beams=2)
    with (
        pytest.raises(InterventionError, match="edits the encoder too"),
        probe.edit(model, [guidance([zero()], W)]),
    ):
        pass


def test_the_edited_run_is_observed_and_what_stands_outside_edits_both():
    """Statistics are those of the edited pass; an intervention beside the guidance acts in both passes."""
    from small_models import letters

    pair = (llama().double(), letters())
    cut = knockout("all", (0, 1))
    report = probe.analyze(pair, "abcdefgh", ["sink"], [guidance([cut], W)])
    assert float(report["sink"].max()) == 0.0
    model, outside = pair[0], scale(["L1.H3"], 2.0)
    with torch.no_grad():
        with probe.edit(model, [outside]):
            base = model(IDS).logits
        with probe.edit(model, [outside, zero(["L1.H2"])]):
            other = model(IDS).logits
        with probe.edit(model, [outside, guidance([zero(["L1.H2"])], W)]):
            torch.testing.assert_close(model(IDS).logits, base + W * (base - other))


def test_minus_one_is_the_edited_run_and_guidance_nests():
    """w = -1 gives the edited logits; guidance around guidance is the formula twice."""
    model = llama().double()
    inner = [skip_layer([1])]
    with torch.no_grad():
        base = model(IDS).logits
        with probe.edit(model, inner):
            other = model(IDS).logits
        with probe.edit(model, [guidance(inner, -1.0)]):
            torch.testing.assert_close(model(IDS).logits, other)
        with probe.edit(model, [guidance([guidance(inner, 2.0)], W)]):
            guided = base + 2.0 * (base - other)
            torch.testing.assert_close(model(IDS).logits, base + W * (base - guided))


def test_bad_guidance_is_refused_by_name():
    """w = 0, nothing to guide away from, heads that are not there, no logits, labels, edits without effect."""
    for edits, w in (([zero()], 0), ([zero()], float("nan")), ([], 1.0), ("zero", 1.0), ([3], 1.0)):
        with pytest.raises(UsageError, match="guidance"):
            guidance(edits, w)
    model = llama()
    with (
        pytest.raises(UnknownNameError, match=r"L1\.H9"),
        probe.edit(model, [guidance([zero(["L1.H9"])], 1.0)]),
    ):
        pass
    with (
        pytest.raises(InterventionError, match="returned no logits"),
        probe.edit(bert(), [guidance([zero()], 1)]) as s,
    ):
        s.model(IDS)
    before = state(model)
    with pytest.raises(InterventionError, match="labels"), probe.edit(model, [guidance([zero()], 1)]):
        model(IDS, labels=IDS)
    assert state(model) == before
    idle = guidance([zero(phase="decode")], 1)
    with pytest.raises(InterventionError, match="changed nothing in 1 forwards"), probe.edit(model, [idle]):
        model(IDS)
    assert guidance([zero(["L0.H1"])], 2).control(0).interventions[0].target.control_seed == 0
