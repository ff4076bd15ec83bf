"""Position-invariant inference: any order of the documents gives the same continuation, as written out row by row."""

import pytest
import torch
from documents import batch_of, prompt_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import gpt2, llama, mistral, t5
from tiny import gemma3
from transformers import AttentionInterface

import probe
from probe.errors import InputError, InterventionError, UnknownNameError, UsageError
from probe.interventions import bidirectional_segments, knockout, make, position_by_importance, set_based
from probe.prompts import Prompt

PREFIX, SUFFIX = [5, 6, 7], [21, 22, 23]
DOCS = [[11, 12, 13, 14], [15, 16], [17, 18, 19]]
MODELS = {"llama": llama, "gemma3": lambda: gemma3(sliding_window=64)}
PINE = (bidirectional_segments("doc"), position_by_importance("doc"))
# Few letters, so that documents of the same words in another order, or more of them, are drawn often.
documents = st.lists(st.lists(st.integers(8, 10), min_size=1, max_size=4), min_size=2, max_size=4)


def logits(model, prompt, interventions=PINE, n=3):
    """Logits of the last tokens of a prompt under interventions."""
    with probe.edit(model, list(interventions), prompts=[prompt]), torch.no_grad():
        return model(torch.tensor([prompt.tokens])).logits[0, -n:]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """A model in double precision."""
    return MODELS[request.param]().double()


@settings(max_examples=10, deadline=None)
@given(docs=documents, data=st.data())
def test_the_order_of_documents_does_not_matter(model, docs, data):
    """Any permutation of the documents gives the suffix the same logits, documents of the same words included."""
    other = data.draw(st.permutations(docs))
    found = logits(model, prompt_of(PREFIX, docs, SUFFIX))
    torch.testing.assert_close(logits(model, prompt_of(PREFIX, other, SUFFIX)), found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("half", [[], PINE[:1], PINE[1:]], ids=["plain", "mask", "positions"])
def test_neither_half_is_enough(model, half):
    """The plain model, and either half alone, tell the order, so that the law could fail."""
    one, other = (prompt_of(PREFIX, docs, SUFFIX) for docs in (DOCS, DOCS[::-1]))
    if half:
        gap = logits(model, one, half) - logits(model, other, half)
    else:
        with torch.no_grad():
            gap = model(torch.tensor([one.tokens])).logits - model(torch.tensor([other.tokens])).logits
    assert float(gap.abs().max()) > 1e-2


def rotated(x, position, rotary):
    """One vector turned to a position, by the model's own rotary embedding."""
    cos, sin = rotary(x[None, None], torch.tensor([[position]]))
    half = torch.cat((-x[len(x) // 2 :], x[: len(x) // 2]))
    return x * cos[0, 0] + half * sin[0, 0]


def written_out(rotary, documents, prefix):
    """Attention of PINE for one sequence, head by head and row by row, keys turned one by one."""

    def place(weights, own, lengths):
        """Where each document begins, by ascending weight, the row's own last."""
        order = sorted((d for d in range(len(lengths)) if d != own), key=lambda d: weights[d])
        order += [] if own is None else [own]
        starts, at = {}, prefix
        for document in order:
            starts[document], at = at, at + lengths[document]
        return starts

    def attention(module, query, key, value, attention_mask, scaling, **more):
        group, n = query.shape[1] // key.shape[1], query.shape[2]
        lengths = [len(one) for one in documents]
        member = [None] * prefix + [d for d, one in enumerate(documents) for _ in one]
        local = list(range(prefix)) + [t for one in documents for t in range(len(one))]
        member += [None] * (n - len(member))
        local += list(range(len(local), n))
        out = torch.zeros_like(query)
        for h in range(query.shape[1]):
            q = [rotated(query[0, h, i], -i, rotary) for i in range(n)]
            k = [rotated(key[0, h // group, j], -j, rotary) for j in range(n)]
            sees = [
                [j for j in range(n) if j <= i or (member[i] is not None and member[j] is not None)]
                for i in range(n)
            ]
            free = torch.zeros(n, n, dtype=query.dtype)
            for i in range(n):
                free[i, sees[i]] = torch.stack([scaling * q[i] @ k[j] for j in sees[i]]).softmax(0)
            mean = torch.stack(
                [free[:, [m == d for m in member]].sum(1) / length for d, length in enumerate(lengths)],
                1,
            )
            for i in range(n):
                own = member[i]
                rows = [i] if own is None else [r for r in range(n) if member[r] == own]
                starts = place(mean[rows].sum(0).tolist(), own, lengths)
                at = [local[j] + (0 if member[j] is None else starts[member[j]]) for j in range(n)]
                turned = rotated(q[i], at[i], rotary)
                scores = torch.stack([scaling * turned @ rotated(k[j], at[j], rotary) for j in sees[i]])
                out[0, h, i] = scores.softmax(0) @ value[0, h // group, sees[i]]
        return out.transpose(1, 2), None

    return attention


def test_it_is_what_the_paper_says():
    """Every token's logits equal PINE written out with explicit loops in double precision."""
    model = llama().double()
    prompt = prompt_of(PREFIX, DOCS, SUFFIX)
    found = logits(model, prompt, n=15)
    AttentionInterface.register("written_out", written_out(model.model.rotary_emb, DOCS, len(PREFIX)))
    model.set_attn_implementation("written_out")
    with torch.no_grad():
        expected = model(torch.tensor([prompt.tokens]), use_cache=False).logits[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_continuations_of_a_cache_are_as_in_one_forward(model):
    """The suffix given after the documents, in pieces, has the logits that it has in one forward."""
    prompt = prompt_of(PREFIX, DOCS, [*SUFFIX, 24, 25])
    whole = logits(model, prompt, n=5)
    ids, parts, cache = torch.tensor([prompt.tokens]), [], None
    with probe.edit(model, list(PINE), prompts=[prompt]), torch.no_grad():
        for start, stop in ((0, 13), (13, 16), (16, 17)):
            out = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits[0])
    torch.testing.assert_close(torch.cat(parts)[-5:], whole, atol=1e-5, rtol=1e-5)


def test_generated_text_does_not_depend_on_the_order(model):
    """Greedy text of two left-padded prompts with different documents is the same for every order, and as alone."""
    short = [[31, 32], [33, 34, 35]]
    texts = []
    for flip in (1, -1):
        prompts = [prompt_of(PREFIX, DOCS[::flip], SUFFIX), prompt_of(PREFIX[:2], short[::flip], SUFFIX)]
        with probe.edit(model, list(PINE), prompts=prompts):
            made = model.generate(**batch_of(prompts), max_new_tokens=6, do_sample=False, pad_token_id=0)
        texts.append(made[:, -6:])
    torch.testing.assert_close(texts[0], texts[1])
    ids = torch.tensor([prompts[1].tokens])
    with probe.edit(model, list(PINE), prompts=[prompts[1]]):
        alone = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    torch.testing.assert_close(alone[:, -6:], texts[1][1:])


@pytest.mark.parametrize(
    "how", [{"num_beams": 3, "do_sample": False}, {"do_sample": True}], ids=["beams", "sampled"]
)
@pytest.mark.parametrize("whole", [PINE, (set_based("doc"),)], ids=["pine", "set_based"])
def test_beams_and_samples_do_not_depend_on_the_order(whole, how):
    """Beam search and sampling with a seed choose the same text for every order, two prompts at once."""
    model, texts = llama().double(), []
    for flip in (1, -1):
        prompts = [prompt_of(PREFIX, DOCS[::flip], SUFFIX), prompt_of(PREFIX[:2], DOCS[:2][::flip], SUFFIX)]
        torch.manual_seed(0)
        with probe.edit(model, list(whole), prompts=prompts):
            texts.append(model.generate(**batch_of(prompts), max_new_tokens=5, pad_token_id=0, **how)[:, -5:])
    torch.testing.assert_close(texts[0], texts[1])


def test_padding_moves_nothing(model):
    """A left-padded prompt without position ids has the logits that it has alone."""
    prompts = [prompt_of(PREFIX, [*DOCS, [8, 9]], SUFFIX), prompt_of(PREFIX, DOCS, SUFFIX)]
    with probe.edit(model, list(PINE), prompts=prompts), torch.no_grad():
        found = model(**batch_of(prompts)).logits[1, -3:]
    torch.testing.assert_close(found, logits(model, prompts[1]), atol=1e-5, rtol=1e-5)


def test_documents_see_one_another_both_ways():
    """Hiding a later document changes an earlier one's states only under the wider mask."""
    model, prompt = llama(), prompt_of(PREFIX, DOCS, SUFFIX)
    ids, later = (
        torch.tensor([prompt.tokens]),
        torch.tensor([[*PREFIX, *DOCS[0], *DOCS[1], 31, 32, 33, *SUFFIX]]),
    )
    with probe.edit(model, [PINE[0]], prompts=[prompt, prompt]), torch.no_grad():
        one, other = model(torch.cat([ids, later])).logits
    assert float((one[3:7] - other[3:7]).abs().max()) > 1e-3
    torch.testing.assert_close(one[:3], other[:3])


def test_a_window_holds_both_ways_and_is_told():
    """In a sliding-window model documents see each other within the window only, and the notes say what it hides."""
    model, prompt = mistral(), prompt_of(PREFIX, [list(range(8, 17)), list(range(17, 26))], SUFFIX)
    ids = torch.tensor([prompt.tokens]).repeat(2, 1)
    ids[1, 12] = (
        40  # nine tokens after the first document's first: out of its window of 8, in that of the others
    )
    with probe.edit(model, [PINE[0]], prompts=[prompt, prompt]), torch.no_grad():
        states = model.model(ids[:, :], use_cache=False, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(states[0, 3], states[1, 3])
    assert float((states[0, 6] - states[1, 6]).abs().max()) > 1e-4
    with probe.edit(model, list(PINE), prompts=[prompt]) as session, torch.no_grad():
        model(ids[:1])
        assert any("sliding window hides parts" in line for line in session.notes)


def test_chosen_heads_alone_are_placed():
    """With one head named, the other heads' patterns stay those of the wider mask."""
    prompt, patterns = prompt_of(PREFIX, DOCS, SUFFIX), []
    for more in ([], [position_by_importance("doc", ["L0.H1"])]):
        with probe.edit(model := llama(), [PINE[0], *more], prompts=[prompt]), torch.no_grad():
            patterns.append(model(torch.tensor([prompt.tokens]), output_attentions=True).attentions[0][0])
    gap = (patterns[0] - patterns[1]).abs().amax((1, 2))
    assert float(gap[1]) > 1e-3
    assert float(gap[[0, 2, 3]].max()) < 1e-6


def test_it_composes_with_a_knockout():
    """What a later knock-out hides stays hidden."""
    prompt, model = prompt_of(PREFIX, DOCS, SUFFIX), llama()
    with probe.edit(model, [*PINE, knockout("last", "doc:1")], prompts=[prompt]), torch.no_grad():
        pattern = model(torch.tensor([prompt.tokens]), output_attentions=True).attentions[0][0]
    assert float(pattern[:, -1, 7:9].max()) == 0.0
    torch.testing.assert_close(pattern.sum(-1), torch.ones(4, 15))


@pytest.mark.parametrize(
    ("make_model", "says"), [(gpt2, "do not turn with their position"), (t5, "takes no position_ids")]
)
def test_models_without_rotary_positions_are_refused(make_model, says):
    """A model whose keys do not turn is refused before its first forward, and the reason is named."""
    prompt = prompt_of(PREFIX, DOCS, SUFFIX)
    with pytest.raises(InterventionError, match=says), probe.edit(make_model(), [PINE[1]], prompts=[prompt]):
        pass


def test_documents_in_pieces_are_refused():
    """A forward that brings a part of the documents cannot show them to one another."""
    prompt = prompt_of(PREFIX, DOCS, SUFFIX)
    for one in PINE:
        with (
            pytest.raises(InterventionError, match="in one piece"),
            probe.edit(llama(), [one], prompts=[prompt]) as session,
        ):
            session.model(torch.tensor([prompt.tokens[:5]]))


def test_what_cannot_be_is_refused():
    """Spans that are not there or overlap, no prompts, another tower, a control of the mask."""
    overlap = Prompt.of_tokens(range(3, 11), None, spans={"doc:0": (1, 4), "doc:1": (3, 6)})
    for factory in (bidirectional_segments, position_by_importance):
        with (
            pytest.raises(InputError, match="overlap"),
            probe.edit(llama(), [factory("doc")], prompts=[overlap]),
        ):
            pass
        with pytest.raises(UnknownNameError), probe.edit(llama(), [factory("dog")], prompts=[overlap]):
            pass
        with pytest.raises(InputError, match="prompts="), probe.edit(llama(), [factory("doc")]):
            pass
        with pytest.raises(UsageError):
            factory([])
    with pytest.raises(UsageError, match="decoder"):
        position_by_importance("doc", tower="encoder")
    with pytest.raises(InterventionError, match="every head"):
        PINE[0].control(0)


def test_specs_and_controls():
    """What is written as a spec is what the factory makes, and back; a control places other heads."""
    one = make("position_by_importance:spans=doc,heads=L0.H1")
    assert one == position_by_importance(["doc"], ["L0.H1"]) == make(one.name)
    assert one.control(3).target.control_seed == 3
    assert make(PINE[0].name) == PINE[0]
