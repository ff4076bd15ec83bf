"""Mean ablation against means and surgery by hand, in float64."""

import pytest
import torch
from small_models import gpt2, letters, llama, mistral, t5
from subjects.catalogue import SUBJECTS
from swapped import exact, stream_changed, streams_of, with_heads, z_changed, z_of
from tiny import gpt_oss

import probe
from probe.errors import InterventionError, ProbeError, UnknownNameError, UsageError
from probe.interventions import make, mean, zero
from probe.interventions.reference import windows
from probe.models import as_loaded
from probe.prompts.corpus import held_out_text, train_text

DRAWN = torch.Generator().manual_seed(7)
OVER = [torch.randint(5, 50, (2, 9), generator=DRAWN), torch.randint(5, 50, (6,), generator=DRAWN)]
IDS = torch.randint(5, 50, (2, 8), generator=DRAWN)
DECODERS = [llama, mistral, gpt2, gpt_oss]


def logits(model, *interventions, **inputs):
    """Logits under interventions."""
    with probe.edit(model, list(interventions)), torch.no_grad():
        return model(**{"input_ids": IDS, **inputs}).logits


def hand_mean(model, read, layer):
    """The mean over every token of the reference, ``[head, width]`` or ``[width]``."""
    rows = []
    for ids in OVER:
        value = read(model, input_ids=ids if ids.ndim == 2 else ids[None])[layer]
        rows.append(value.transpose(-2, -3).flatten(0, 1) if value.ndim == 4 else value.flatten(0, 1))
    return torch.cat(rows).mean(0)


@pytest.mark.parametrize("make_model", DECODERS)
def test_mean_of_z_equals_surgery(make_model):
    """Chosen heads write their mean over every token of the reference, whatever the lengths of its prompts."""
    model, own = make_model(), exact(make_model())
    value = hand_mean(own, z_of, ("decoder", 1))
    with torch.no_grad(), z_changed(own, {("decoder", 1): with_heads(value[None, :, None], [0, 2])}):
        expected = own(IDS).logits.float()
    found = logits(model, mean(["L1.H0", "L1.H2"], over=OVER))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make_model", DECODERS)
def test_mean_of_the_stream_equals_surgery(make_model):
    """The stream entering a layer is its mean, at the chosen rows only."""
    model, own = make_model(), exact(make_model())
    value = hand_mean(own, streams_of, ("decoder", 1))

    def change(stream):
        changed = stream.clone()
        changed[:, 2:5] = value
        return changed

    with torch.no_grad(), stream_changed(own, {("decoder", 1): change}):
        expected = own(IDS).logits.float()
    found = logits(model, mean(node="resid", over=OVER, layers=[1], queries=(2, 5)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("tower", "layer", "heads"), [("encoder", 1, "enc.L1.H1"), ("cross", 0, "cross.L0.H1")]
)
def test_towers_of_an_encoder_decoder(tower, layer, heads):
    """An encoder's and a cross-attention's heads take their own means."""
    model, own = t5(), exact(t5())
    target = torch.randint(5, 50, (2, 5), generator=torch.Generator().manual_seed(1))
    value = z_of(own, input_ids=OVER[0], decoder_input_ids=target)[tower, layer].mean((0, 2))
    with torch.no_grad(), z_changed(own, {(tower, layer): with_heads(value[None, :, None], [1])}):
        expected = own(IDS, decoder_input_ids=target).logits.float()
    over = [{"input_ids": OVER[0], "decoder_input_ids": target}]
    found = logits(model, mean([heads], over=over), decoder_input_ids=target)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_text_for_an_encoder_decoder_is_noted():
    """Means of a decoder that saw its start token alone are told as such."""
    with probe.edit(t5(), [mean(over=OVER)]) as session, torch.no_grad():
        session.model(IDS, decoder_input_ids=IDS)
    assert "start token alone" in " ".join(session.notes)


def test_means_per_position():
    """With `by_position` row i takes the mean of the reference's rows i."""
    model, own = llama(), exact(llama())
    over = [torch.randint(5, 50, (3, 8), generator=torch.Generator().manual_seed(2))]
    value = z_of(own, input_ids=over[0])["decoder", 0].mean(0, keepdim=True)
    with torch.no_grad(), z_changed(own, {("decoder", 0): with_heads(value, [3])}):
        expected = own(IDS).logits.float()
    found = logits(model, mean(["L0.H3"], over=over, by_position=True))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("node", ["z", "resid"])
def test_caches_padding_and_generation(node):
    """A cached continuation, a left-padded row and `generate` are edited as the whole forward is."""
    model, one = llama(), mean(node=node, over=OVER, layers=[1], queries=(3, 40))
    whole = logits(model, one)
    with probe.edit(model, [one]), torch.no_grad():
        first = model(IDS[:, :5], use_cache=True)
        rest = model(IDS[:, 5:], past_key_values=first.past_key_values).logits
        written = model.generate(IDS, max_new_tokens=3, do_sample=False, eos_token_id=None)
        again = model(written[:, :-1]).logits[:, 7:].argmax(-1)
    torch.testing.assert_close(rest, whole[:, 5:], atol=1e-4, rtol=1e-4)
    assert torch.equal(again, written[:, 8:])
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), IDS], dim=1)
    mask = (torch.arange(11) >= 3).long()[None].expand(2, -1)
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    found = logits(model, one, input_ids=padded, attention_mask=mask, position_ids=places)[:, 3:]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_same_reference_same_numbers():
    """Two preparations have bit-equal means, a prepared one is not run again, and the model is left as it was."""
    model = llama()
    model.model.layers[1].train()
    loaded = as_loaded(model)
    first, second = (mean(["L1.H0"], over=OVER).prepare(loaded) for _ in range(2))
    (one,), (two,) = first.means.tables.values(), second.means.tables.values()
    assert torch.equal(one.mean, two.mean)
    assert first.prepare(loaded).means is first.means
    assert first.control(1).means is None
    assert model.model.layers[1].training
    assert not model.model.layers[0].training


def test_shipped_reference():
    """Without `over` the reference is 64 windows of the train part, the same every time, none of it held out."""
    loaded = as_loaded((llama(max_position_embeddings=32), letters()))
    prompts = windows(loaded, 32)
    assert [prompt.tokens for prompt in prompts] == [prompt.tokens for prompt in windows(loaded, 32)]
    assert (len(prompts), {len(prompt) for prompt in prompts}) == (64, {32})
    assert all(prompt.text in train_text() for prompt in prompts)
    assert len(train_text()) > 4e5
    assert not any(prompt.text in held_out_text() for prompt in prompts)
    ready = mean(["L1.H0"]).prepare(loaded)
    (table,) = ready.means.tables.values()
    assert table.count.tolist() == [64 * 32]  # the model's positions


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: make("mean:node=mlp"),
        lambda: mean(["L0.H0"], node="resid"),
        lambda: mean(node="resid", tower="cross"),
        lambda: mean(over="a text"),
        lambda: mean(over=[]),
        lambda: make(mean(over=OVER).name),
        lambda: mean().live(),
    ],
)
def test_wrong_choices_are_refused_at_once(wrong):
    """What cannot be meant is a UsageError when it is written."""
    with pytest.raises(UsageError):
        wrong()


@pytest.mark.parametrize(
    ("one", "match"),
    [
        (mean(), "no tokenizer"),
        (mean(over=["abc"]), "no tokenizer"),
        (mean(over=[3]), "holds int"),
        (mean(over=[torch.ones(1, 200, dtype=torch.int64)]), "128 positions"),
        (mean(over=OVER, by_position=True), "several lengths"),
        (mean(over=OVER[:1], by_position=True), "exactly 9 positions"),
        (mean(["L5.H0"], over=OVER), "L5.H0"),
        (mean(over=[{"a": 1}]), "batch axis"),
    ],
)
def test_what_a_model_cannot_have_is_refused(one, match):
    """A reference that cannot be run, or that does not fit, is an error that says so."""
    with pytest.raises(ProbeError, match=match):
        logits(llama(), one)


def test_known_prompts_are_checked_before_the_forward():
    """Per position, an announced prompt of another length is refused in `prepare`."""
    prompt = probe.Prompt.of("abcd", letters())
    with pytest.raises(InterventionError, match="has 4 tokens, the reference's have 9"):
        mean(over=OVER[:1], by_position=True).prepare(as_loaded(llama()), [prompt])


def test_references_are_not_run_under_other_edits():
    """Inside another edit a reference would be edited too: refused, unless prepared before."""
    model, one = llama(), mean(["L1.H0"], over=OVER)
    with probe.edit(model, [zero(["L0.H0"])]), torch.no_grad():
        model(IDS)
        with pytest.raises(UsageError, match="outermost"):
            logits(model, one)
    ready = one.prepare(as_loaded(model))
    with probe.edit(model, [zero(["L0.H0"])]):
        logits(model, ready)


def test_unknown_layers_of_a_stream():
    """A layer that is not there is named."""
    with pytest.raises(UnknownNameError, match="layer '7'"):
        logits(llama(), mean(node="resid", layers=[7], over=OVER))


def test_a_model_of_two_towers_has_no_one_embedding():
    """Where transformers knows no input embeddings, the reference still runs."""
    subject = SUBJECTS["clip"]
    model = subject.model()
    inputs = subject.inputs(model, 1, 9)
    with pytest.raises(NotImplementedError):
        model.get_input_embeddings()
    with probe.edit(model, [mean(layers=[0], over=[inputs])]) as session, torch.no_grad():
        model(**inputs)
        assert not session.idle
