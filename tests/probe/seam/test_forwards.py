"""Forwards number prompts, follow caches and tell prefill from decoding."""

import gc
import weakref

import tiny
import torch
from probe_kernels.types import Want

from probe.seam import Session
from probe.seam.forwards import UNKNOWN_TOKEN


class Batches:
    """Keeps batch, phase and spans of each forward's first call."""

    def __init__(self):
        self.seen = []

    def want(self, call):
        """Nothing."""
        return Want(z=False)

    def update(self, call, attended):
        """Keep the first layer's view."""
        if call.place.layer == 0:
            self.seen.append((call.batch, call.phase))


def test_each_new_sequence_takes_the_next_number():
    """Two forwards of two prompts are prompts 0 to 3."""
    model = tiny.llama()
    with torch.no_grad(), Session(model, [watch := Batches()]):
        model(tiny.tokens())
        model(tiny.tokens())
    assert [batch.prompts for batch, _ in watch.seen] == [(0, 1), (2, 3)]


def test_a_prompt_fed_in_chunks_is_prefill():
    """Continuations count as prefill while the session says so, and as decoding otherwise."""
    model, ids = tiny.llama(), tiny.tokens(1, 9)
    with torch.no_grad(), Session(model, [watch := Batches()]) as session:
        with session.prefilling():
            cache = model(ids[:, :4], use_cache=True).past_key_values
            cache = model(ids[:, 4:8], past_key_values=cache).past_key_values
        model(ids[:, 8:], past_key_values=cache)
    assert [phase for _, phase in watch.seen] == ["prefill", "prefill", "decode"]
    assert [batch.prompts for batch, _ in watch.seen] == [(0,)] * 3
    assert torch.equal(watch.seen[-1][0].tokens, ids)


def test_two_caches_are_two_prompts():
    """Interleaved continuations keep to their own cache."""
    model, ids = tiny.llama(), tiny.tokens(2, 6)
    with torch.no_grad(), Session(model, [watch := Batches()]):
        one = model(ids[:1, :5], use_cache=True).past_key_values
        two = model(ids[1:, :5], use_cache=True).past_key_values
        model(ids[:1, 5:], past_key_values=one)
        model(ids[1:, 5:], past_key_values=two)
    assert [batch.prompts for batch, _ in watch.seen] == [(0,), (1,), (0,), (1,)]
    assert [batch.step for batch, _ in watch.seen] == [0, 0, 1, 1]


def test_announced_spans_go_with_the_next_sequences():
    """Spans are attached to the prompts they were announced for, and stay through decoding."""
    model, ids = tiny.llama(), tiny.tokens(1, 6)
    needle = torch.tensor([False, True, True, False, False, False])
    with torch.no_grad(), Session(model, [watch := Batches()]) as session:
        session.announce([{"needle": needle}])
        model.generate(ids, max_new_tokens=3, do_sample=False, min_new_tokens=3)
        model(ids)
    spans = [batch.spans for batch, _ in watch.seen]
    assert all(torch.equal(one[0]["needle"], needle) for one in spans[:3])
    assert spans[3] == ()


def test_padding_is_known_and_full_masks_are_not_padding():
    """An attention mask of ones says nothing; zeros mark what is not real."""
    model, ids = tiny.llama(), tiny.tokens(2, 5)
    mask = torch.ones(2, 5, dtype=torch.int64)
    padded = mask.clone()
    padded[0, :2] = 0
    with torch.no_grad(), Session(model, [watch := Batches()], mode="fused"):
        model(ids, attention_mask=mask)
        model(ids, attention_mask=padded)
    assert watch.seen[0][0].real is None
    assert torch.equal(watch.seen[1][0].real, padded.bool())


def test_a_cache_filled_before_the_session_is_a_new_prompt_that_decodes():
    """Nothing is known of its earlier tokens, but positions go on where they stand."""
    model, ids = tiny.llama(), tiny.tokens(1, 6)
    with torch.no_grad():
        cache = model(ids[:, :5], use_cache=True).past_key_values
        with Session(model, [watch := Batches()], mode="fused"):
            model(ids[:, 5:], past_key_values=cache)
    batch, phase = watch.seen[0]
    assert batch.prompts == (0,)
    assert phase == "decode"


def test_a_cropped_cache_forgets_the_tokens_that_it_lost():
    """Rejected drafts (assisted generation) leave no token ids behind, so that token matches stay true."""
    model, ids = tiny.llama(), tiny.tokens(1, 9)
    with torch.no_grad(), Session(model, [watch := Batches()]):
        cache = model(ids[:, :6], use_cache=True).past_key_values
        cache.crop(-2)
        model(ids[:, 6:], past_key_values=cache)
    batch, _ = watch.seen[1]
    assert torch.equal(batch.tokens, torch.cat([ids[:, :4], ids[:, 6:]], dim=1))
    assert batch.reordered


def test_rows_that_beams_swap_take_their_tokens_with_them():
    """After a cache was reordered, each row's tokens are those whose keys it now holds."""
    model, ids = tiny.llama(), tiny.tokens(2, 6)
    with torch.no_grad(), Session(model, [watch := Batches()]):
        cache = model(ids[:, :5], use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([1, 1]))
        model(ids[:, 5:], past_key_values=cache)
    batch, _ = watch.seen[1]
    assert torch.equal(batch.tokens, torch.cat([ids[[1, 1], :5], ids[:, 5:]], dim=1))
    assert batch.reordered


def test_a_session_keeps_no_cache_alive():
    """Many continuations under one session cost the memory of one."""
    model, ids = tiny.llama(), tiny.tokens(1, 6)
    with torch.no_grad(), Session(model, [Batches()]):
        cache = model(ids, use_cache=True).past_key_values
        seen = weakref.ref(cache)
        del cache
        gc.collect()
        assert seen() is None


def test_tokens_of_a_cache_that_was_filled_unseen_are_unknown():
    """Token ids lie at their storage positions; what was never seen is no token, rather than another's."""
    model, ids = tiny.llama(), tiny.tokens(1, 6)
    with torch.no_grad():
        cache = model(ids[:, :5], use_cache=True).past_key_values
        with Session(model, [watch := Batches()]):
            model(ids[:, 5:], past_key_values=cache)
    batch, _ = watch.seen[0]
    assert batch.tokens.tolist() == [[UNKNOWN_TOKEN] * 5 + [int(ids[0, 5])]]
