"""Head divergence and reinforcement, held against native forwards of each row alone, in float64."""

import contextlib

import pytest
import torch
from small_models import bert, gpt2, letters, llama, t5
from subjects.catalogue import SUBJECTS

import probe
from probe.errors import InputError, InterventionError, UnknownNameError, UsageError
from probe.interventions import make, reinforce
from probe.interventions.divergence import divergent_heads, head_divergence
from probe.models import as_loaded
from probe.seam.session import Session

HEADS, WIDTH = 4, 8


@contextlib.contextmanager
def louder(layers, chosen, alpha, first):
    """Native hooks: z of the chosen heads times alpha from row `first` of a prompt on, and in every decode step."""

    def hook(heads):
        def change(module, args):
            z = args[0].clone().view(*args[0].shape[:-1], -1, WIDTH)
            rows = slice(first, None) if z.shape[1] > 1 else slice(None)
            z[:, rows, list(heads)] *= alpha
            return (z.flatten(-2),)

        return change

    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(hook(chosen[n]))
        for n, layer in enumerate(layers)
        if chosen.get(n)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_z(model, layers, number, inputs):
    """z of a layer at the last position, [head, d_head], from one native forward."""
    kept = {}
    handle = layers[number].self_attn.o_proj.register_forward_pre_hook(
        lambda module, args: kept.__setitem__("z", args[0][0, -1].view(-1, WIDTH).double())
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return kept["z"]


def selected_by_hand(model, layers, whole, without, alpha, in_order=True):
    """Layer by layer from native forwards of each row alone; `in_order` False reinforces no earlier layer."""
    chosen = {}
    for number in range(len(layers)):
        z = []
        for inputs in (whole, without):
            rows = inputs["input_ids"].shape[1] - 1
            with louder(layers, chosen if in_order else {}, alpha, rows):
                z.append(last_z(model, layers, number, inputs))
        vhd, text = (z[0] - z[1]).norm(dim=-1), z[1].square().sum(-1)
        high = [one.mean() + one.std(correction=0) for one in (vhd, text)]
        vhd = torch.where((vhd > high[0]) & (text > high[1]), 0.0, vhd)
        order = vhd.sort().values
        chosen[number] = tuple((vhd > (order[1] + order[2]) / 2).nonzero()[:, 0].tolist())
    return chosen


def prompt_of(text, span=(2, 5)):
    """A prompt with a span called doc."""
    return probe.Prompt.of(text, letters(), spans={"doc": span})


def ready(model, one, *prompts):
    """The intervention with its selections."""
    return one.prepare(as_loaded((model, letters())), list(prompts))


def ids_of(tokens):
    """One row."""
    return {"input_ids": torch.tensor([list(tokens)])}


def test_heads_are_selected_layer_by_layer():
    """The selection is that of native forwards with earlier layers reinforced, and the order of layers matters."""
    model = llama(num_hidden_layers=4)
    layers, differs = model.model.layers, 0
    for text in ("abcdefghij", "the cat sat", "zyxwvutsrq", "hello world"):
        prompt = prompt_of(text)
        without = prompt.tokens[:2] + prompt.tokens[5:]
        found = ready(model, reinforce("doc", 4.0), prompt).chosen[prompt.tokens]
        expected = selected_by_hand(model, layers, ids_of(prompt.tokens), ids_of(without), 4.0)
        assert found == expected
        at_once = selected_by_hand(model, layers, ids_of(prompt.tokens), ids_of(without), 4.0, in_order=False)
        differs += at_once != expected
    assert differs


def test_a_planted_reader_of_the_span_is_found():
    """The one head whose value reads what only the span's token holds is selected, and no other."""
    model = llama(num_hidden_layers=1, num_key_value_heads=4)
    token = letters().convert_tokens_to_ids("Z")
    with torch.no_grad():
        table, value = model.get_input_embeddings().weight, model.model.layers[0].self_attn.v_proj.weight
        table[:, 7] = 0.0
        table[token] = 0.0
        table[token, 7] = 3.0
        value.zero_()
        value[2 * WIDTH : 3 * WIDTH, 7] = 1.0
    prompt = prompt_of("abZdefgh", (2, 3))
    one = ready(model, reinforce("doc"), prompt)
    assert one.chosen[prompt.tokens] == {0: (2,)}
    assert reinforce("doc", heads=["L0.H1"]).prepare(as_loaded((model, letters())), [prompt]).may_rest
    drawn = one.control(3)
    with Session(model, (), (drawn,)) as session, torch.no_grad():
        logits = model(**ids_of(prompt.tokens)).logits
        assert session.notes == [f"{drawn.name}: prompt 0: 1 heads were selected (L0.H2)"]
    with torch.no_grad():  # the other heads' values are 0: making one of them louder moves nothing
        torch.testing.assert_close(logits, model(**ids_of(prompt.tokens)).logits, atol=1e-4, rtol=1e-4)


def test_outliers_are_left_out_and_at_most_half_is_selected():
    """A head that is large in both measures counts as 0; ties and one head select none."""
    vhd, text = torch.tensor([1.0, 2.0, 3.0, 100.0]), torch.tensor([1.0, 1.0, 1.0, 50.0])
    assert divergent_heads(vhd, text).tolist() == [False, True, True, False]
    assert divergent_heads(vhd, torch.ones(4)).tolist() == [False, False, True, True]
    assert not bool(divergent_heads(torch.ones(4), text).any())
    assert not bool(divergent_heads(torch.ones(1), torch.ones(1)).any())
    z = torch.randn(3, 5, dtype=torch.float64)
    far, activation = head_divergence(z, torch.zeros_like(z))
    torch.testing.assert_close(far, z.norm(dim=-1))
    assert float(activation.sum()) == 0.0


@pytest.mark.parametrize("beams", [1, 3])
def test_generate_is_what_hooks_by_hand_give(beams):
    """generate() with a cache, a left-padded batch of two and beams equals native generation with z made louder."""
    model = llama()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    prompts = [prompt_of("abcdefgh"), prompt_of("xyzhello the")]
    one = ready(model, reinforce("doc", 3.0), *prompts)
    width = max(len(p.tokens) for p in prompts)
    ids = torch.tensor([[0] * (width - len(p.tokens)) + list(p.tokens) for p in prompts])
    mask = (ids != 0).long()
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    with probe.edit(model, [one], prompts=prompts):
        made = model.generate(ids, attention_mask=mask, **settings)
    for row, prompt in enumerate(prompts):
        chosen = one.chosen[prompt.tokens]
        inputs = ids_of(prompt.tokens)
        with louder(model.model.layers, chosen, 3.0, len(prompt.tokens) - 1):
            alone = model.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), **settings)
        assert made[row, width:].tolist() == alone[0, len(prompt.tokens) :].tolist()
        plain = model.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), **settings)
        assert plain.tolist() != alone.tolist()


def test_only_rows_that_predict_are_reinforced():
    """A whole forward over prompt and continuation edits the rows from the prompt's last on, whatever the chunks."""
    model = llama()
    prompt = prompt_of("abcdefgh")
    one = ready(model, reinforce("doc", 3.0), prompt)
    longer = {"input_ids": torch.tensor([[*prompt.tokens, 5, 9, 3]])}
    with louder(model.model.layers, one.chosen[prompt.tokens], 3.0, 7), torch.no_grad():
        expected = model(**longer).logits
    with probe.edit(model, [one], prompts=[prompt]) as session, torch.no_grad():
        whole = model(**longer).logits
        cache = model(longer["input_ids"][:, :3], use_cache=True).past_key_values
        with session.prefilling():
            model(longer["input_ids"][:, 3:8], past_key_values=cache)
        rest = model(longer["input_ids"][:, 8:], past_key_values=cache).logits
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rest, expected[:, 8:], atol=1e-4, rtol=1e-4)


def test_learned_positions_close_up():
    """Where positions are learned, the row without the span counts its own tokens: left padding moves nothing."""
    model = gpt2()
    prompt = prompt_of("abcdefghij")
    without = prompt.tokens[:2] + prompt.tokens[5:]
    found = ready(model, reinforce("doc", 1.0), prompt).chosen[prompt.tokens]
    kept = []
    for tokens in (prompt.tokens, without):
        handles = [
            block.attn.c_proj.register_forward_pre_hook(
                lambda module, args: kept.append(args[0][0, -1].view(HEADS, WIDTH).double())
            )
            for block in model.transformer.h
        ]
        with torch.no_grad():
            model(**ids_of(tokens))
        for handle in handles:
            handle.remove()
    for layer in range(2):
        vhd, activation = head_divergence(kept[layer], kept[2 + layer])
        assert found[layer] == tuple(divergent_heads(vhd, activation).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
def test_images_are_taken_out_with_their_pixels(name):
    """For an image the row without it is the text alone: the selection is that of native runs with and without."""
    subject = SUBJECTS[name]
    model = subject.model()
    inputs = subject.inputs(model, batch=1)
    ids = inputs["input_ids"]
    keep = ids[0] != model.config.image_token_id
    text = {"input_ids": ids[:, keep], "attention_mask": torch.ones_like(ids[:, keep])}
    if "mm_token_type_ids" in inputs:
        text["mm_token_type_ids"] = torch.zeros_like(text["input_ids"], dtype=torch.int32)
    one = reinforce("image", 2.0, inputs=inputs).prepare(as_loaded(model), None)
    layers = model.model.language_model.layers
    expected = selected_by_hand(model, layers, inputs, text, 2.0)
    assert one.chosen[tuple(ids[0].tolist())] == expected
    with probe.edit(model, [one]), torch.no_grad():
        made = model(**inputs).logits
    with louder(layers, expected, 2.0, ids.shape[1] - 1), torch.no_grad():
        torch.testing.assert_close(made, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    words = reinforce((0, 2), 2.0, inputs=inputs).prepare(as_loaded(model), None)
    assert set(words.chosen[tuple(ids[0].tolist())]) == set(range(len(layers)))
    with pytest.raises(InputError, match="only some of the image"):
        reinforce((0, 6), inputs=inputs).prepare(as_loaded(model), None)
    prompt = probe.Prompt.of_tokens(ids[0].tolist(), letters(), spans={"doc": (0, 2)})
    with pytest.raises(InterventionError, match="a prompt has no pixels"):
        reinforce("doc").prepare(as_loaded(model), [prompt])


def test_what_cannot_be_compared_is_refused():
    """No prompts, spans that leave nothing to compare, prompts that cannot be told apart, models that do not fit."""
    model = llama()
    loaded = as_loaded((model, letters()))
    with pytest.raises(UsageError, match=r"prompts=\[\.\.\.\]"), probe.edit(model, [reinforce("doc")]):
        pass
    with pytest.raises(UnknownNameError, match="docs"):
        reinforce("docs").prepare(loaded, [prompt_of("abcdefgh")])
    for span, said in (((6, 8), "last token"), ((20, 24), "no token")):
        with pytest.raises(InputError, match=said):
            reinforce(span).prepare(loaded, [prompt_of("abcdefgh")])
    twins = [prompt_of("abcdefgh", span) for span in ((0, 1), (3, 6), (1, 7))]
    with pytest.raises(UsageError, match="same tokens"):
        reinforce("doc").prepare(loaded, twins)
    for other in (t5(), bert()):
        with (
            pytest.raises(InterventionError, match="decoder that reads"),
            probe.edit(other, [reinforce("doc")], prompts=[prompt_of("abcdefgh")]),
        ):
            pass
    one = ready(model, reinforce("doc"), prompt_of("abcdefgh"))
    with pytest.raises(InterventionError, match="does not begin with"), probe.edit(model, [one]):
        model(**ids_of([9, 9, 9, 9]))
    with pytest.raises(InterventionError, match="no token ids"), probe.edit(model, [one]):
        model(inputs_embeds=torch.zeros(1, 4, 32))


def test_wrong_parameters_are_refused_at_once():
    """What cannot be meant is a UsageError when it is written; a spec reads back."""
    for wrong in (
        lambda: reinforce("doc", float("nan")),
        lambda: reinforce((3, 3)),
        lambda: reinforce("doc", select="per_step"),
        lambda: reinforce("doc", queries="last"),
    ):
        with pytest.raises(UsageError):
            wrong()
    one = reinforce("doc", 2.0, layers=[1, 2])
    assert make(one.name) == one
