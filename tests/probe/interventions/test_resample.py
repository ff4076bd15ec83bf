"""Resample ablation against surgery by hand, and its draws."""

import pytest
import torch
from small_models import gpt2, llama, mistral, t5
from swapped import exact, stream_changed, streams_of, with_heads, z_changed, z_of
from tiny import gpt_oss

import probe
from probe.errors import BudgetError, InterventionError, UsageError
from probe.interventions import resample
from probe.models import as_loaded

DRAWN = torch.Generator().manual_seed(11)
OVER = torch.randint(5, 50, (5, 8), generator=DRAWN)
IDS = torch.randint(5, 50, (2, 8), generator=DRAWN)


def logits(model, *interventions, ids=IDS, **inputs):
    """Logits under interventions."""
    with probe.edit(model, list(interventions)), torch.no_grad():
        return model(ids, **inputs).logits


@pytest.mark.parametrize("make_model", [llama, mistral, gpt2, gpt_oss])
@pytest.mark.parametrize("node", ["z", "resid"])
def test_resampling_equals_surgery(make_model, node):
    """With one reference prompt there is nothing to draw: its values stand at the same positions."""
    model, own, layer = make_model(), exact(make_model()), ("decoder", 1)
    if node == "z":
        change = {layer: with_heads(z_of(own, input_ids=OVER[:1])[layer], [1, 2])}
        with torch.no_grad(), z_changed(own, change):
            expected = own(IDS).logits.float()
        one = resample(["L1.H1", "L1.H2"], over=[OVER[0]])
    else:
        value = streams_of(own, input_ids=OVER[:1])[layer]
        with torch.no_grad(), stream_changed(own, {layer: value.expand_as}):
            expected = own(IDS).logits.float()
        one = resample(node="resid", layers=[1], over=[OVER[0]])
    torch.testing.assert_close(logits(model, one), expected, atol=1e-4, rtol=1e-4)


def test_an_encoder_is_resampled():
    """Heads of an encoder take another text's z."""
    model, own, layer = t5(), exact(t5()), ("encoder", 0)
    with (
        torch.no_grad(),
        z_changed(
            own, {layer: with_heads(z_of(own, input_ids=OVER[:1], decoder_input_ids=IDS[:1])[layer], [3])}
        ),
    ):
        expected = own(IDS, decoder_input_ids=IDS).logits.float()
    found = logits(model, resample(["enc.L0.H3"], over=[OVER[0]]), decoder_input_ids=IDS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_draws_depend_on_seed_and_sequence_alone():
    """The k-th sequence draws the same prompt in a batch, alone, in pieces and padded; seeds draw others."""
    model, one = llama(), resample(["L1.H1", "L0.H2"], over=list(OVER), seed=4)
    whole = logits(model, one)
    with probe.edit(model, [one]), torch.no_grad():
        alone = torch.cat([model(row[None]).logits for row in IDS])
    with probe.edit(model, [one]), torch.no_grad():
        first = model(IDS[:, :5], use_cache=True)
        rest = model(IDS[:, 5:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(alone, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rest, whole[:, 5:], atol=1e-4, rtol=1e-4)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), IDS], dim=1)
    mask = (torch.arange(11) >= 3).long()[None].expand(2, -1)
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    found = logits(model, one, ids=padded, attention_mask=mask, position_ids=places)[:, 3:]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
    assert torch.equal(whole, logits(model, one))
    others = [logits(model, resample(["L1.H1", "L0.H2"], over=list(OVER), seed=seed)) for seed in range(4)]
    assert any(float((other - whole).abs().max()) > 1e-2 for other in others)


def test_sequences_draw_apart():
    """Two sequences of one text differ under some seed: each draws for itself."""
    twice = IDS[:1].expand(2, -1)
    gaps = []
    for seed in range(4):
        a, b = logits(llama(), resample(over=list(OVER), seed=seed), ids=twice)
        gaps.append(float((a - b).abs().max()))
    assert max(gaps) > 1e-2


def test_beams_of_announced_prompts_share_their_draw():
    """Rows that generation copies for beams are one sequence where their prompts are announced."""
    model = llama()
    prompts = [probe.Prompt.of_tokens(row.tolist()) for row in IDS]
    for seed in range(3):
        one = resample(["L0.H1"], over=list(OVER), seed=seed)
        with probe.edit(model, [one], prompts=prompts) as session, torch.no_grad():
            model.generate(IDS, max_new_tokens=2, num_beams=2, do_sample=False, eos_token_id=None)
            drawn = session.running[0].values
        assert set(drawn.order._seen.values()) == {0, 1}


def test_short_reference_prompts_wrap_and_are_noted():
    """Positions beyond the drawn prompt take its values from position 1 on again; a note counts them."""
    model, own, layer = llama(), exact(llama()), ("decoder", 1)
    short = z_of(own, input_ids=OVER[:1, :4])[layer]
    wrapped = short[:, :, [0, 1, 2, 3, 1, 2, 3, 1]]
    with torch.no_grad(), z_changed(own, {layer: with_heads(wrapped, [0])}):
        expected = own(IDS).logits.float()
    with probe.edit(model, [resample(["L1.H0"], over=[OVER[0, :4]])]) as session, torch.no_grad():
        found = model(IDS).logits
        generated = model.generate(IDS, max_new_tokens=2, do_sample=False, eos_token_id=None)
        notes = " ".join(session.notes)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert generated.shape == (2, 10)
    assert "18 tokens lie beyond" in notes  # 2 · 4, then as many again and one more per row
    with pytest.raises(InterventionError, match="single row"):
        logits(model, resample(["L1.H0"], over=[OVER[0, :1]]))


def test_bad_choices_are_refused(monkeypatch):
    """A seed that is no number, a reference that would not fit, and use before `prepare`."""
    with pytest.raises(UsageError, match="whole number"):
        resample(seed=True)
    with pytest.raises(UsageError, match="prepare"):
        resample(over=[OVER]).live()
    monkeypatch.setattr("probe.interventions.reference.LIMIT", 100)
    with pytest.raises(BudgetError, match="name fewer heads"):
        resample(over=[OVER]).prepare(as_loaded(llama()))
