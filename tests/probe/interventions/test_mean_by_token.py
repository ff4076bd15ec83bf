"""CAMA against conditional means and surgery by hand, in float64."""

import pytest
import torch
from small_models import gpt2, llama, mistral, t5
from swapped import exact, stream_changed, streams_of, z_changed, z_of
from tiny import gpt_oss

import probe
from probe.errors import InterventionError, UsageError
from probe.interventions import make, mean_by_token

DRAWN = torch.Generator().manual_seed(5)
OVER = torch.randint(5, 12, (4, 8), generator=DRAWN)  # seven different tokens
IDS = torch.randint(5, 12, (2, 8), generator=DRAWN)


def logits(model, *interventions, ids=IDS, **inputs):
    """Logits under interventions."""
    with probe.edit(model, list(interventions)), torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def by_hand(value, over, ids, *, positions=False):
    """E[value | token] at every row of `ids`; value is ``[batch, token, width]``; unseen keys take the whole mean."""
    made = value.new_zeros(*ids.shape, value.shape[-1])
    for row in range(ids.shape[0]):
        for at in range(ids.shape[1]):
            same = over == ids[row, at]
            if positions:
                same = same & (torch.arange(over.shape[1]) == at)
            made[row, at] = value[same].mean(0) if bool(same.any()) else value.flatten(0, 1).mean(0)
    return made


@pytest.mark.parametrize("make_model", [llama, mistral, gpt2, gpt_oss])
@pytest.mark.parametrize("positions", [False, True])
def test_the_stream_given_the_token(make_model, positions):
    """The state entering a layer is its mean over the reference's rows of the same token (at the same position)."""
    model, own, layer = make_model(), exact(make_model()), ("decoder", 1)
    value = by_hand(streams_of(own, input_ids=OVER)[layer], OVER, IDS, positions=positions)
    with torch.no_grad(), stream_changed(own, {layer: lambda _: value}):
        expected = own(IDS).logits.float()
    found = logits(model, mean_by_token(layers=[1], over=[OVER], by_position=positions))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tower", ["encoder", "cross"])
def test_z_given_the_token(tower):
    """In an encoder, and in cross-attention, rows are those of the text that asks."""
    model, own, layer = t5(), exact(t5()), (tower, 1)
    target = torch.randint(5, 12, (4, 5), generator=DRAWN)
    z = z_of(own, input_ids=OVER, decoder_input_ids=target)[layer]
    rows, ids = (OVER, IDS) if tower == "encoder" else (target, target[:2])
    value = by_hand(z[:, 2], rows, ids)

    def change(z):
        changed = z.clone()
        changed[:, 2] = value
        return changed

    with torch.no_grad(), z_changed(own, {layer: change}):
        expected = own(IDS, decoder_input_ids=target[:2]).logits.float()
    head = "enc.L1.H2" if tower == "encoder" else "cross.L1.H2"
    one = mean_by_token([head], node="z", over=[{"input_ids": OVER, "decoder_input_ids": target}])
    torch.testing.assert_close(
        logits(model, one, decoder_input_ids=target[:2]), expected, atol=1e-4, rtol=1e-4
    )


def test_unseen_tokens_take_the_whole_mean_and_are_counted():
    """Tokens that the reference never showed take the mean over all its rows, and a note says how many."""
    model, own, layer = llama(), exact(llama()), ("decoder", 0)
    ids = IDS.clone()
    ids[0, 3:5] = torch.tensor([40, 41])
    ids[1, 7] = 40
    value = by_hand(streams_of(own, input_ids=OVER)[layer], OVER, ids)
    with torch.no_grad(), stream_changed(own, {layer: lambda _: value}):
        expected = own(ids).logits.float()
    one = mean_by_token(layers=[0], over=[OVER])
    with probe.edit(model, [one]) as session, torch.no_grad():
        found = model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert "3 of 16 edited rows hold tokens that the reference never showed (2 different tokens)" in " ".join(
        session.notes
    )
    with probe.edit(model, [one]) as session, torch.no_grad():
        model(IDS)
    assert session.notes == []


def test_caches_and_padding():
    """A cached continuation and a left-padded row are edited as the whole forward is."""
    model, one = llama(), mean_by_token(layers=[1], over=[OVER], by_position=True)
    whole = logits(model, one)
    with probe.edit(model, [one]), torch.no_grad():
        first = model(IDS[:, :5], use_cache=True)
        rest = model(IDS[:, 5:], past_key_values=first.past_key_values).logits
        model.generate(IDS, max_new_tokens=2, do_sample=False, num_beams=2, eos_token_id=None)
    torch.testing.assert_close(rest, whole[:, 5:], atol=1e-4, rtol=1e-4)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), IDS], dim=1)
    mask = (torch.arange(11) >= 3).long()[None].expand(2, -1)
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    found = logits(model, one, ids=padded, attention_mask=mask, position_ids=places)[:, 3:]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_bad_choices_are_refused():
    """Heads of a stream, embeddings in place of tokens, and a reference without them."""
    model = llama()
    with pytest.raises(UsageError, match="a stream has none"):
        mean_by_token(["L0.H0"])
    with pytest.raises(UsageError, match="prepare"):
        make("mean_by_token:layers=1").live()
    embeds = model.model.embed_tokens(OVER).detach()
    with pytest.raises(InterventionError, match="no token ids"):
        logits(model, mean_by_token(over=[{"inputs_embeds": embeds}]))
    with (
        pytest.raises(InterventionError, match="not token ids"),
        probe.edit(model, [mean_by_token(over=[OVER])]),
    ):
        model(inputs_embeds=embeds)
