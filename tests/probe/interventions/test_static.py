"""Static maps against mean maps and attention written out by hand, in float64."""

import pytest
import torch
from small_models import bert, letters, llama, mistral, t5
from swapped import exact, z_changed
from tiny import gpt_oss

import probe
from probe.errors import InputError, InterventionError, UsageError
from probe.interventions import static
from probe.models import as_loaded
from probe.seam.session import Session

DRAWN = torch.Generator().manual_seed(17)
OVER = torch.randint(5, 50, (3, 10), generator=DRAWN)
IDS = torch.randint(5, 50, (2, 8), generator=DRAWN)


def logits(model, *interventions, ids=IDS, **inputs):
    """Logits under interventions."""
    with probe.edit(model, list(interventions)), torch.no_grad():
        return model(ids, **inputs).logits


def values(model, layer):
    """The values of a layer of `IDS`, repeated over the group of 2 heads: ``[batch, head, token, d_head]``."""
    attention, kept = model.model.layers[layer].self_attn, []
    handle = attention.v_proj.register_forward_hook(lambda _m, _a, out: kept.append(out))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    return kept[0].unflatten(-1, (2, 8)).transpose(1, 2).repeat_interleave(2, 1)


@pytest.mark.parametrize("make_model", [llama, mistral, gpt_oss])
def test_the_mean_map_is_put_in_place(make_model):
    """A head's z is its mean map over the reference times this run's values, learned sinks included."""
    model, own = make_model(), exact(make_model())
    with torch.no_grad():
        attention = own(OVER, output_attentions=True).attentions[1]
    mean = attention[..., :10].mean(0)[:, :8, :8]
    z = mean @ values(own, 1)

    def change(before):
        changed = before.clone()
        changed[:, [0, 3]] = z[:, [0, 3]]
        return changed

    with torch.no_grad(), z_changed(own, {("decoder", 1): change}):
        expected = own(IDS).logits.float()
    one = static(["L1.H0", "L1.H3"], over=[OVER], size=10)
    torch.testing.assert_close(logits(model, one), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make_model", [llama, gpt_oss])
def test_statistics_come_from_the_static_map(make_model):
    """Entropy, and the mass of a learned sink with it, is that of the mean map: the same for every text."""
    model, one = make_model(), static(over=[OVER], size=10)
    seen = []
    for ids in (IDS[:1], OVER[1:2, :8]):
        with probe.observe(model, ["entropy", "sink"], [one]) as run, torch.no_grad():
            model(ids)
        seen.append(run.report())
    for metric in ("entropy", "sink"):
        first, second = (torch.from_numpy(report[metric].values) for report in seen)
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_a_constant_map_changes_nothing():
    """A head whose map does not depend on the text (q = 0: uniform) is the same with its mean map."""
    model = llama()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[8:16] = 0
        native = model(IDS).logits
    one = static(["L1.H1"], over=[OVER], size=10)
    torch.testing.assert_close(logits(model, one), native, atol=2e-5, rtol=1e-5)
    other = logits(model, static(["L1.H2"], over=[OVER], size=10))
    assert float((other - native).abs().max()) > 1e-2


def test_one_reference_prompt_is_its_own_mean():
    """The only reference prompt is unchanged, in an encoder, in cross-attention, and in BERT."""
    model, target = t5(), IDS[:1, :5]
    with torch.no_grad():
        native = model(IDS[:1], decoder_input_ids=target).logits
    over = [{"input_ids": IDS[:1], "decoder_input_ids": target}]
    found = logits(model, static(over=over, size=8), ids=IDS[:1], decoder_input_ids=target)
    torch.testing.assert_close(found, native, atol=1e-5, rtol=1e-5)
    plain = bert()
    with probe.edit(plain, [static(over=[IDS[:1]], size=8)]), torch.no_grad():
        found = plain(IDS[:1]).last_hidden_state
        with pytest.raises(InterventionError, match="must have the reference's length"):
            plain(IDS[:1, :6])
    with torch.no_grad():
        torch.testing.assert_close(found, plain(IDS[:1]).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_caches_padding_and_generation():
    """Decode steps take their rows of the map; padding moves none; rows beyond the map are refused."""
    model, one = llama(), static(["L0.H1", "L1.H2"], over=[OVER], size=10)
    whole = logits(model, one)
    with probe.edit(model, [one]), torch.no_grad():
        first = model(IDS[:, :5], use_cache=True)
        rest = model(IDS[:, 5:], past_key_values=first.past_key_values).logits
        written = model.generate(IDS, max_new_tokens=3, do_sample=False, eos_token_id=None)
        again = model(written[:, :-1]).logits[:, 7:].argmax(-1)
        with pytest.raises(InterventionError, match="row 10 and its map has 10 rows"):
            model.generate(IDS, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(again, written[:, 8:])
    torch.testing.assert_close(rest, whole[:, 5:], atol=1e-4, rtol=1e-4)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), IDS], dim=1)
    mask = (torch.arange(11) >= 3).long()[None].expand(2, -1)
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    found = logits(model, one, ids=padded, attention_mask=mask, position_ids=places)[:, 3:]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_bad_choices_are_refused():
    """Sizes that are none, references that are too short, and announced prompts that are too long."""
    for size in (0, True):
        with pytest.raises(UsageError, match="size"):
            static(size=size)
    model = llama()
    with pytest.raises(InputError, match="exactly 11 are needed"):
        logits(model, static(over=[OVER], size=11))
    with pytest.raises(InterventionError, match="one length"):
        logits(model, static(over=[{"input_ids": OVER}, {"input_ids": OVER[:, :9]}], size=10))
    mask = torch.ones_like(OVER)
    mask[0, :3] = 0
    with pytest.raises(InterventionError, match="padding"):
        logits(model, static(over=[{"input_ids": OVER, "attention_mask": mask}], size=10))
    prompt = probe.Prompt.of("abcdefghijklm", letters())
    with pytest.raises(InterventionError, match="has 13 tokens"):
        static(over=[OVER], size=10).prepare(as_loaded(model), [prompt])
    with pytest.raises(UsageError, match="prepare"), Session(model, (), [static(size=10)]), torch.no_grad():
        model(IDS)
