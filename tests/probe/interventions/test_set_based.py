"""Documents in parallel: the continuation is the same for any order of them, and is what it should be."""

import pytest
import torch
from documents import batch_of, prompt_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import bert, gpt2, llama, mistral, t5
from tiny import bloom, gemma3

import probe
from probe.errors import InputError, InterventionError, UnknownNameError, UsageError
from probe.interventions import make, set_based
from probe.prompts import Prompt

PREFIX, SUFFIX = [5, 6, 7], [21, 22, 23]
DOCS = [[11, 12, 13, 14], [15, 16], [17, 18, 19]]
MODELS = {"llama": llama, "gpt2": gpt2, "gemma3": lambda: gemma3(sliding_window=64)}
documents = st.lists(st.lists(st.integers(8, 12), min_size=1, max_size=4), min_size=2, max_size=4)


def logits(model, prompt, *more, n=3):
    """Logits of the last tokens of a prompt under set-based prompting."""
    with probe.edit(model, [set_based("doc"), *more], prompts=[prompt]), torch.no_grad():
        return model(torch.tensor([prompt.tokens])).logits[0, -n:]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """A model in double precision."""
    return MODELS[request.param]().double()


@settings(max_examples=10, deadline=None)
@given(docs=documents, data=st.data())
def test_the_order_of_documents_does_not_matter(model, docs, data):
    """Any permutation of the documents gives the suffix the same logits."""
    other = data.draw(st.permutations(docs))
    found = logits(model, prompt_of(PREFIX, docs, SUFFIX))
    torch.testing.assert_close(logits(model, prompt_of(PREFIX, other, SUFFIX)), found, atol=1e-5, rtol=1e-5)


def test_the_plain_model_tells_the_order(model):
    """Without the intervention a permutation moves the logits, so that the law could fail."""
    one, other = (prompt_of(PREFIX, docs, SUFFIX) for docs in (DOCS, DOCS[::-1]))
    with torch.no_grad():
        gap = (
            model(torch.tensor([one.tokens])).logits[0, -1]
            - model(torch.tensor([other.tokens])).logits[0, -1]
        )
    assert float(gap.abs().max()) > 1e-2


def test_it_is_a_mask_and_positions(model):
    """Every token's logits equal the model's own eager attention under an explicit mask and position ids."""
    prompt = prompt_of(PREFIX, DOCS, SUFFIX)
    block = torch.tensor([-1] * 3 + [0] * 4 + [1] * 2 + [2] * 3 + [-1] * 3)
    seen = (block[:, None] == block) | (block[:, None] < 0) | (block < 0)
    seen = seen.tril()
    mask = torch.zeros(1, 1, 15, 15, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 3, 4, 3, 4, 5, 7, 8, 9]])
    ids = torch.tensor([prompt.tokens])
    found = logits(model, prompt, n=15)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    given = (
        {"full_attention": mask, "sliding_attention": mask} if hasattr(model.config, "layer_types") else mask
    )
    given = given if model.config.model_type == "gemma3_text" else mask
    with torch.no_grad():
        expected = model(ids, attention_mask=given, position_ids=positions, use_cache=False).logits[0]
    model.set_attn_implementation(before)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_continuations_of_a_cache_keep_the_positions(model):
    """A prompt given in pieces, and generated tokens, are where they would be in one forward."""
    prompt = prompt_of(PREFIX, DOCS, [*SUFFIX, 24, 25])
    whole = logits(model, prompt, n=15)
    ids, parts = torch.tensor([prompt.tokens]), []
    with probe.edit(model, [set_based("doc")], prompts=[prompt]), torch.no_grad():
        cache = None
        for start, stop in ((0, 5), (5, 11), (11, 16), (16, 17)):
            out = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits[0])
    torch.testing.assert_close(torch.cat(parts)[-15:], whole, atol=1e-5, rtol=1e-5)


def test_generated_text_does_not_depend_on_the_order(model):
    """Greedy text of two left-padded prompts with different documents is the same for every order, and as alone."""
    short = [[31, 32], [33, 34, 35]]
    texts = []
    for flip in (1, -1):
        prompts = [prompt_of(PREFIX, DOCS[::flip], SUFFIX), prompt_of(PREFIX[:2], short[::flip], SUFFIX)]
        with probe.edit(model, [set_based("doc")], prompts=prompts):
            made = model.generate(**batch_of(prompts), max_new_tokens=6, do_sample=False, pad_token_id=0)
        texts.append(made[:, -6:])
    torch.testing.assert_close(texts[0], texts[1])
    with probe.edit(model, [set_based("doc")], prompts=[prompts[1]]):
        alone = model.generate(
            torch.tensor([prompts[1].tokens]), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
    torch.testing.assert_close(alone[:, -6:], texts[1][1:])


def test_an_encoder_can_read_documents_in_parallel():
    """In a bidirectional encoder the states of the suffix are the same for every order."""
    model, states = bert().double(), []
    for docs in (DOCS, DOCS[::-1]):
        prompt = prompt_of(PREFIX, docs, SUFFIX)
        with probe.edit(model, [set_based("doc")], prompts=[prompt]), torch.no_grad():
            states.append(model(torch.tensor([prompt.tokens])).last_hidden_state[:, -3:])
    torch.testing.assert_close(states[0], states[1], atol=1e-5, rtol=1e-5)


def test_a_window_that_hides_documents_is_told():
    """Where a sliding window cuts the documents, the session's notes say that their order matters there."""
    prompt = prompt_of(PREFIX, DOCS, SUFFIX)
    with probe.edit(mistral(), [set_based("doc")], prompts=[prompt]) as session, torch.no_grad():
        session.model(torch.tensor([prompt.tokens]))
        assert any("sliding window hides parts" in line for line in session.notes)


@pytest.mark.parametrize("make_model", [t5, bloom])
def test_models_without_position_ids_are_refused(make_model):
    """A model that takes no positions is refused before its first forward, by name."""
    prompt = prompt_of(PREFIX, DOCS, SUFFIX)
    with (
        pytest.raises(InterventionError, match="takes no position_ids"),
        probe.edit(make_model(), [set_based("doc")], prompts=[prompt]),
    ):
        pass


def test_positions_of_ones_own_are_refused():
    """Position ids that the forward was given are not overwritten in silence."""
    prompt = prompt_of(PREFIX, DOCS, SUFFIX)
    ids = torch.tensor([prompt.tokens])
    with (
        pytest.raises(InterventionError, match="given others"),
        probe.edit(llama(), [set_based("doc")], prompts=[prompt]) as session,
    ):
        session.model(ids, position_ids=torch.arange(15)[None] * 2)


@pytest.mark.parametrize(
    ("spans", "asked", "error", "says"),
    [
        ({"doc:0": (1, 4), "doc:1": (3, 6)}, "doc", InputError, "overlap"),
        ({"doc:0": (1, 4), "doc:1": (5, 6)}, "doc", InputError, "gap"),
        ({"doc:0": [(1, 2), (3, 4)], "doc:1": (4, 6)}, "doc", InputError, "in pieces"),
        ({"doc:0": (1, 4), "doc:1": (4, 4)}, "doc", InputError, "holds no token"),
        ({"doc:0": (1, 4)}, "doc", InputError, "two or more"),
        ({"doc:0": (1, 4), "doc:1": (4, 6)}, "dog", UnknownNameError, "doc"),
    ],
)
def test_spans_that_are_no_documents_are_refused(spans, asked, error, says):
    """Spans must be there, whole, two or more, and side by side."""
    prompt = Prompt.of_tokens(range(3, 11), None, spans=spans)
    with pytest.raises(error, match=says), probe.edit(llama(), [set_based(asked)], prompts=[prompt]):
        pass


def test_what_cannot_be_is_refused():
    """No names, a name twice, no prompts, a control."""
    for spans in ("", [], "doc:0+doc:0"):
        with pytest.raises(UsageError):
            set_based(spans)
    with pytest.raises(InputError, match="prompts="), probe.edit(llama(), [set_based("doc")]):
        pass
    with pytest.raises(InterventionError, match="every head"):
        set_based("doc").control(0)


def test_specs_name_documents_one_by_one():
    """What is written as a spec is what the factory makes, and back."""
    one = make("set_based:spans=doc:0+doc:1")
    assert one == set_based(["doc:0", "doc:1"]) == make(one.name)
