"""Head divergence against native forwards, for text and for images; positions; and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import bert, gpt2, letters, llama, mistral, t5
from subjects.catalogue import SUBJECTS

import probe
from probe.errors import InputError, UsageError
from probe.experiments.base import Ask
from probe.experiments.head_divergence import HeadDivergence
from probe.experiments.head_pairs import common_ends
from probe.interventions.divergence import without_outliers
from probe.metrics import make
from probe.models import as_loaded

SPAN = (3, 7)


def prompt_of(text="the cat sat on a mat", **spans):
    """A prompt with a span called doc, and others."""
    return probe.Prompt.of(text, letters(), spans={"doc": SPAN, **spans})


def ask_of(model, *prompts):
    """The model on these prompts."""
    return Ask(as_loaded((model, letters())), prompts)


def native(model, projections, inputs, rows):
    """Head outputs [layer, head, row, d_head] of the last rows, from hooks in front of the output projections."""
    kept = []
    handles = [
        one.register_forward_pre_hook(lambda _, args: kept.append(args[0][0, -rows:].double()))
        for one in projections
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return torch.stack([z.view(rows, 4, -1).transpose(0, 1) for z in kept])


def by_hand(whole, cut):
    """VHD with the outlier rule, layer by layer and row by row, [layer, head, row]; and the raw distance."""
    raw, text = (whole - cut).norm(dim=-1), cut.square().sum(-1)
    out = raw.clone()
    for layer in range(raw.shape[0]):
        for row in range(raw.shape[2]):
            a, b = raw[layer, :, row], text[layer, :, row]
            large = (a > a.mean() + a.std(correction=0)) & (b > b.mean() + b.std(correction=0))
            out[layer, large, row] = 0.0
    return out, raw


def projections_of(model):
    """The output projections of a decoder's layers."""
    if hasattr(model, "transformer"):
        return [block.attn.c_proj for block in model.transformer.h]
    inner = model.model
    return [layer.self_attn.o_proj for layer in getattr(inner, "language_model", inner).layers]


@pytest.mark.parametrize("at", ["last", "after"])
@pytest.mark.parametrize("positions", ["shift", "keep"])
@pytest.mark.parametrize("make_model", [llama, gpt2, mistral])
def test_divergence_is_that_of_two_native_forwards(make_model, positions, at):
    """VHD, T-VHD and token map equal hooks on two plain forwards; kept positions move what closed gaps do not."""
    model, prompt = make_model(), prompt_of()
    rows = 1 if at == "last" else len(prompt) - SPAN[1]
    left = [i for i in range(len(prompt)) if not SPAN[0] <= i < SPAN[1]]
    cut = {"input_ids": torch.tensor([[prompt.tokens[i] for i in left]])}
    cut["attention_mask"] = torch.ones_like(cut["input_ids"])
    if positions == "keep":
        cut["position_ids"] = torch.tensor([left])
    ends = projections_of(model)
    z = [native(model, ends, one, rows) for one in ({"input_ids": torch.tensor([prompt.tokens])}, cut)]
    vhd, raw = by_hand(*z)
    answer = HeadDivergence("doc", at=at, positions=positions, k=2).run(ask_of(model, prompt))[0]
    np.testing.assert_allclose(answer.head_map, vhd.mean(-1), rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(answer.extra["raw"], raw.mean(-1), rtol=2e-4, atol=2e-4)
    two = vhd.sort(1, descending=True).values[:, :2].sum(1).mean(-1)
    np.testing.assert_allclose(answer.extra["t_vhd_by_layer"].values[0], two, rtol=2e-4, atol=2e-4)
    assert float(answer.extra["t_vhd"][0]) == pytest.approx(float(two.sum()), rel=2e-4)
    assert any(f"positions={positions}" in note for note in answer.notes)
    if at == "after":
        found = answer.token_maps[0].values
        np.testing.assert_allclose(found[..., SPAN[1] :], vhd, rtol=3e-4, atol=3e-4)
        assert np.isnan(found[..., : SPAN[1]]).all()
    other = HeadDivergence("doc", at=at, positions="keep" if positions == "shift" else "shift")
    assert not np.allclose(other.run(ask_of(model, prompt))[0].extra["raw"], answer.extra["raw"], rtol=1e-2)


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
@pytest.mark.parametrize("at", ["last", "after"])
def test_images_are_compared_with_the_text_alone(name, at):
    """With an image and without it: the distance is that of native runs of both inputs."""
    subject = SUBJECTS[name]
    model = subject.model()
    inputs = subject.inputs(model, batch=1)
    ids = inputs["input_ids"]
    image = ids[0] == model.config.image_token_id
    text = {"input_ids": ids[:, ~image], "attention_mask": torch.ones_like(ids[:, ~image])}
    if "mm_token_type_ids" in inputs:
        text["mm_token_type_ids"] = torch.zeros_like(text["input_ids"], dtype=torch.int32)
    answer = HeadDivergence("image", at=at).run_pair(model, inputs, text)[0]
    rows = 1 if at == "last" else ids.shape[1] - 1 - int(image.nonzero()[-1])
    vhd, raw = by_hand(*(native(model, projections_of(model), one, rows) for one in (inputs, text)))
    np.testing.assert_allclose(answer.head_map, vhd.mean(-1), rtol=3e-4, atol=3e-4)
    assert float(raw.min()) > 1e-3
    assert f"taken out: {int(image.sum())} of {ids.shape[1]} tokens" in answer.notes[0]
    with pytest.raises(InputError, match="ending in the same tokens"):
        HeadDivergence("image").run_pair(model, text, inputs)
    if name == "qwen2-vl":
        with pytest.raises((UsageError, InputError), match="positions=shift"):
            HeadDivergence("image", positions="keep").run_pair(model, inputs, text)
    else:
        kept = HeadDivergence("image", at=at, positions="keep").run_pair(model, inputs, text)[0]
        where = torch.arange(ids.shape[1])[None, ~image]
        z = [
            native(model, projections_of(model), one, rows)
            for one in (inputs, {**text, "position_ids": where})
        ]
        np.testing.assert_allclose(kept.extra["raw"], by_hand(*z)[1].mean(-1), rtol=3e-4, atol=3e-4)


def test_the_head_that_reads_the_span_is_found():
    """The planted head whose value reads what only the span's token holds diverges, and no other."""
    model = llama(num_hidden_layers=1, num_key_value_heads=4)
    token = letters().convert_tokens_to_ids("Z")
    with torch.no_grad():
        table, value = model.get_input_embeddings().weight, model.model.layers[0].self_attn.v_proj.weight
        table[:, 7] = 0.0
        table[token] = 0.0
        table[token, 7] = 3.0
        value.zero_()
        value[16:24, 7] = 1.0
    prompts = [
        probe.Prompt.of(text, letters(), spans={"doc": (2, 3)}) for text in ("abZdefgh", "xyZ the cat")
    ]
    report = probe.analyze((model, letters()), prompts, ["head_divergence:span=doc"])
    values = report["head_divergence"].values[0]
    assert values[2] > 0.1
    np.testing.assert_allclose(np.delete(values, 2), 0.0, atol=1e-6)
    assert report.answer("head_divergence:span=doc").by_prompt.sizes["prompt"] == 2


def test_several_spans_are_taken_out_together():
    """`a+b` is the union of both; spans that overlap, are empty or are not there are refused by name."""
    model, prompt = llama(), prompt_of(note=(9, 11), over=(6, 9), none=(2, 2))
    both = probe.Prompt.of("the cat sat on a mat", letters(), spans={"doc": [SPAN, (9, 11)]})
    one = make("head_divergence:span=doc+note").run(ask_of(model, prompt))[0]
    two = HeadDivergence("doc").run(ask_of(model, both))[0]
    np.testing.assert_allclose(one.head_map, two.head_map, atol=1e-6)
    for span, said in (
        ("doc+over", "'over'.*overlaps"), ("none", "'none'.*is empty"), ("docs", "'docs'.*is none of"),
        ("last", "holds the last token"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            HeadDivergence(span).run(ask_of(model, prompt))


@given(seed=st.integers(0, 999), heads=st.integers(1, 6), rows=st.integers(1, 4))
def test_outliers_are_judged_row_by_row(seed, heads, rows):
    """A head is set to 0 in a row iff both of its numbers stand out there; nothing else changes."""
    draw = torch.Generator().manual_seed(seed)
    vhd, text = (torch.rand(heads, rows, generator=draw, dtype=torch.float64) ** 4 + 0.01 for _ in range(2))
    found = without_outliers(vhd, text)
    for row in range(rows):
        high = [x[:, row].mean() + x[:, row].std(correction=0) for x in (vhd, text)]
        for head in range(heads):
            out = bool(vhd[head, row] > high[0]) and bool(text[head, row] > high[1])
            assert float(found[head, row]) == (0.0 if out else float(vhd[head, row]))


@given(front=st.lists(st.integers(0, 3), max_size=5), span=st.lists(st.integers(4, 6), min_size=1, max_size=4),
       back=st.lists(st.integers(0, 3), min_size=1, max_size=5))  # fmt: skip
def test_common_ends_are_what_surrounds_a_span(front, span, back):
    """Tokens that only the span has tell where it lies."""
    whole, cut = torch.tensor(front + span + back), torch.tensor(front + back)
    assert common_ends(whole, cut) == (len(front), len(back))


def test_what_cannot_be_compared_is_told():
    """No prompts, models that predict no next token, wrong parameters."""
    with pytest.raises(InputError, match="no spans"):
        HeadDivergence("doc").run(ask_of(llama()))
    for model in (t5(), bert()):
        answer = HeadDivergence("doc").run(ask_of(model, prompt_of()))[0]
        assert np.isnan(answer.head_map).all()
        assert answer.notes[0].startswith("not applicable")
    for wrong, said in (
        ("span=a+a", "different"),
        ("span=a,k=-1", "k was"),
        ("span=a,at=first", "at was"),
        ("k=1", "span"),
    ):
        with pytest.raises(UsageError, match=said):
            make(f"head_divergence:{wrong}")
    keep = HeadDivergence("doc", outliers="keep").run(ask_of(llama(), prompt_of()))[0]
    np.testing.assert_array_equal(keep.head_map, keep.extra["raw"])
