"""Patching against the laws it must obey, and against surgery by hand in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import gpt2, letters, llama, mistral, t5
from swapped import exact, with_heads, z_changed, z_of
from tiny import gpt_oss

import probe
from probe.errors import InterventionError, ProbeError, UnknownNameError, UsageError
from probe.interventions import patch, recording, scale
from probe.models import as_loaded

DRAWN = torch.Generator().manual_seed(23)
CLEAN = torch.randint(5, 50, (2, 9), generator=DRAWN)
CORRUPT = torch.randint(5, 50, (2, 9), generator=DRAWN)
NODES = ("z", "resid", "resid_post", "pattern")
DECODERS = [llama, mistral, gpt2, gpt_oss]


def inputs(model, ids):
    """Keyword inputs; an encoder-decoder's decoder reads the first five tokens backwards."""
    seq2seq = bool(getattr(model.config, "is_encoder_decoder", False))
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, :5].flip(1)} if seq2seq else {})}


def record(model, ids, **more):
    """A recording, each sequence by itself."""
    rows = [inputs(model, row[None]) for row in ids]
    return recording(model, rows, **{"what": NODES, **more})


def logits(model, *interventions, ids=CLEAN, **more):
    """Logits under interventions (without any: under scaling by 1, which runs the same kernels)."""
    with probe.edit(model, list(interventions) or [scale(alpha=1.0)]), torch.no_grad():
        return model(**inputs(model, ids), **more).logits


LLAMA = llama()
OWN, SOURCE = record(LLAMA, CLEAN), record(LLAMA, CORRUPT)
PLAIN = logits(LLAMA)


@given(
    node=st.sampled_from(NODES),
    heads=st.sets(st.sampled_from([f"L{i}.H{h}" for i in range(2) for h in range(4)]), min_size=1),
    layers=st.sets(st.sampled_from([0, 1]), min_size=1),
    rows=st.tuples(st.integers(0, 8), st.integers(1, 9)).filter(lambda pair: pair[0] < pair[1]),
    frozen=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_run_patched_into_itself_is_unchanged(node, heads, layers, rows, frozen):
    """Whatever node, heads, layers and rows, and with every other head frozen: at most 1e-6 of the logits."""
    where = {"layers": sorted(layers)} if node.startswith("resid") else {"heads": sorted(heads)}
    one = patch(OWN, node, queries=rows, base=OWN if frozen else None, **where)
    assert float((logits(LLAMA, one) - PLAIN).abs().max()) <= 1e-6 * float(PLAIN.abs().max())


@pytest.mark.parametrize("make_model", [mistral, gpt2, gpt_oss, t5])
def test_other_models_patched_into_themselves(make_model):
    """The same law over towers, windows, learned sinks and position bias."""
    model = make_model()
    # One sequence, as recorded: products of matrices round otherwise for two.
    own, plain = record(model, CLEAN[:1]), logits(model, ids=CLEAN[:1])
    for node in NODES:
        found = logits(model, patch(own, node), ids=CLEAN[:1])
        assert float((found - plain).abs().max()) <= 1e-6 * max(1.0, float(plain.abs().max())), node


@pytest.mark.parametrize("make_model", [llama, *DECODERS[1:]])
@pytest.mark.parametrize(("node", "layer"), [("resid", 0), ("resid", 1), ("resid_post", 1)])
def test_a_whole_stream_is_the_other_run(make_model, node, layer):
    """With every position of one layer's stream patched, the logits are the other run's."""
    model = make_model()
    found = logits(model, patch(record(model, CORRUPT, what=[node]), node, layers=[layer]))
    torch.testing.assert_close(found, logits(model, ids=CORRUPT), atol=2e-5, rtol=1e-5)


def test_streams_of_both_towers_are_the_other_run():
    """An encoder's last stream and a decoder's first, from the other run, give its logits."""
    model = t5()
    source = record(model, CORRUPT)
    edits = [
        patch(source, "resid_post", tower="encoder", layers=[1]),
        patch(source, "resid", tower="decoder", layers=[0]),
    ]
    torch.testing.assert_close(logits(model, *edits), logits(model, ids=CORRUPT), atol=2e-5, rtol=1e-5)


def test_all_z_and_the_first_stream_are_the_other_run():
    """Every head of every layer and the first stream: nothing of this run is left."""
    found = logits(LLAMA, patch(SOURCE), patch(SOURCE, "resid", layers=[0]))
    torch.testing.assert_close(found, logits(LLAMA, ids=CORRUPT), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("make_model", DECODERS)
def test_patched_z_equals_surgery(make_model):
    """Chosen heads write, at the chosen tokens, what they wrote in the other run."""
    model, own, layer = make_model(), exact(make_model()), ("decoder", 0)
    value = z_of(own, input_ids=CORRUPT)[layer]

    def change(z):
        changed = z.clone()
        changed[:, [1, 3], 2:7] = value[:, [1, 3], 2:7]
        return changed

    with torch.no_grad(), z_changed(own, {layer: change}):
        expected = own(CLEAN).logits.float()
    one = patch(record(model, CORRUPT, what=["z"]), heads=["L0.H1", "L0.H3"], queries=(2, 7))
    torch.testing.assert_close(logits(model, one), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make_model", [llama, mistral, gpt_oss])
def test_a_patched_pattern_attends_to_this_runs_values(make_model):
    """z is the other run's pattern (its sink's mass left out) times this run's values."""
    model, own, layer = make_model(), exact(make_model()), ("decoder", 1)
    with torch.no_grad():
        pattern = own(CORRUPT, output_attentions=True).attentions[1][..., :9]
    kept = []
    handle = own.model.layers[1].self_attn.v_proj.register_forward_hook(lambda _m, _a, out: kept.append(out))
    with torch.no_grad():
        own(CLEAN)
    handle.remove()
    v = kept[0].unflatten(-1, (2, 8)).transpose(1, 2).repeat_interleave(2, 1)
    with torch.no_grad(), z_changed(own, {layer: with_heads(pattern @ v, [2])}):
        expected = own(CLEAN).logits.float()
    source = record(model, CORRUPT, what=["pattern"])
    found = logits(model, patch(source, "pattern", heads=["L1.H2"]))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_patched_pattern_is_what_statistics_see():
    """The entropy, and a learned sink's mass in it, under a patched pattern is the other run's."""
    model = gpt_oss()
    one = patch(record(model, CORRUPT, what=["pattern"]), "pattern", layers=[1])
    with probe.observe(model, ["entropy"], [one]) as patched, torch.no_grad():
        model(CLEAN)
    with probe.observe(model, ["entropy"]) as plain, torch.no_grad():
        model(CORRUPT)
    found, expected = (torch.from_numpy(run.report()["entropy"].values[1]) for run in (patched, plain))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("freeze", ["others", ["L1.H0", "L1.H1", "L1.H2", "L1.H3"]])
def test_path_patching_equals_surgery(freeze):
    """The sender comes from the corrupted run while frozen heads keep their clean z; what they wrote is told."""
    own = exact(LLAMA)
    clean, corrupt = z_of(own, input_ids=CLEAN), z_of(own, input_ids=CORRUPT)
    sent = clean["decoder", 0].clone()
    sent[:, 2] = corrupt["decoder", 0][:, 2]
    changes = {("decoder", 0): lambda _: sent, ("decoder", 1): lambda _: clean["decoder", 1]}
    with torch.no_grad(), z_changed(own, changes):
        expected = own(CLEAN).logits.float()
    one = patch(SOURCE, heads=["L0.H2"], base=OWN, freeze=freeze)
    torch.testing.assert_close(logits(LLAMA, one), expected, atol=1e-4, rtol=1e-4)
    seen = recording(LLAMA, list(CLEAN), what=["z"], interventions=[one])
    assert torch.equal(seen.values("z", 1), OWN.values("z", 1))
    assert torch.equal(seen.values("z", 0)[:, 2], SOURCE.values("z", 0)[:, 2])
    unfrozen = recording(LLAMA, list(CLEAN), what=["z"], interventions=[patch(SOURCE, heads=["L0.H2"])])
    assert float((unfrozen.values("z", 1) - OWN.values("z", 1)).abs().max()) > 1e-3


@pytest.mark.parametrize("node", ["resid", "pattern"])
def test_heads_are_frozen_around_every_node(node):
    """With a stream or a pattern patched, the frozen heads write their clean z."""
    where = {"layers": [0]} if node == "resid" else {"heads": ["L0.H1"]}
    one = patch(SOURCE, node, base=OWN, **where)
    seen = recording(LLAMA, list(CLEAN), what=["z"], interventions=[one])
    assert torch.equal(seen.values("z", 1), OWN.values("z", 1))
    still = [0, 1, 2, 3] if node == "resid" else [0, 2, 3]
    assert torch.equal(seen.values("z", 0)[:, still], OWN.values("z", 0)[:, still])
    assert float((logits(LLAMA, one) - PLAIN).abs().max()) > 1e-3


@pytest.mark.parametrize("node", NODES)
def test_padding_and_caches(node):
    """Tokens are counted without padding, and a cached continuation takes its own rows."""
    one = patch(SOURCE, node, layers=[1], queries=(2, 9))
    whole = logits(LLAMA, one)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), CLEAN], dim=1)
    mask = (torch.arange(12) >= 3).long()[None].expand(2, -1)
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    found = logits(LLAMA, one, ids=padded, attention_mask=mask, position_ids=places)[:, 3:]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
    with probe.edit(LLAMA, [one]), torch.no_grad():
        first = LLAMA(CLEAN[:, :6], use_cache=True)
        rest = LLAMA(CLEAN[:, 6:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(rest, whole[:, 6:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_goes_on_from_the_patched_prompt(node, beams):
    """The prompt is patched, generated tokens are left alone; under beams every row takes its own prompt's values."""
    one, how = patch(SOURCE, node, layers=[1]), {"max_new_tokens": 4, "do_sample": False, "num_beams": beams}
    with probe.edit(LLAMA, [one]), torch.no_grad():
        written = LLAMA.generate(CLEAN, eos_token_id=None, **how)
    with probe.edit(LLAMA, [patch(SOURCE, node, layers=[1], queries=(0, 9))]), torch.no_grad():
        again = LLAMA(written[:, :-1]).logits[:, 8:].argmax(-1)
    assert written.shape == (2, 13)
    if beams == 1:
        assert torch.equal(again, written[:, 9:])


def test_one_recorded_sequence_serves_all_and_several_go_in_order():
    """A single recording is used for every sequence; several are met in order, in one batch or one by one."""
    one = record(LLAMA, CORRUPT[:1], what=["z"])
    found = logits(LLAMA, patch(one))
    torch.testing.assert_close(found[:1], logits(LLAMA, patch(SOURCE))[:1], atol=1e-5, rtol=1e-5)
    with probe.edit(LLAMA, [patch(SOURCE)]), torch.no_grad():
        alone = torch.cat([LLAMA(row[None]).logits for row in CLEAN])
    torch.testing.assert_close(alone, logits(LLAMA, patch(SOURCE)), atol=1e-5, rtol=1e-5)


def test_a_recording_grows_with_tokens_and_not_with_their_square():
    """Nothing in it is as large as a pattern of the run."""
    model = llama()
    kept = recording(model, [torch.randint(5, 50, (120,), generator=DRAWN)])
    tensors = [one.values for layers in kept.rows.values() for one in layers.values()]
    tensors += [t for layers in kept.patterns.values() for one in layers for t in vars(one.scores).values()]
    sizes = [one.numel() for one in tensors if isinstance(one, torch.Tensor)]
    assert max(sizes) <= 120 * 32 < 120 * 120


def test_controls_patch_other_heads():
    """A control takes as many other heads of the layer from the same run."""
    one = patch(SOURCE, heads=["L1.H2"])
    assert one.name == "patch:heads=L1.H2,source=<recording>"
    seen = recording(LLAMA, list(CLEAN), what=["z"], interventions=[one.control(1)])
    same = [torch.equal(seen.values("z", 1)[:, h], SOURCE.values("z", 1)[:, h]) for h in range(4)]
    assert same.count(True) == 1
    assert not same[2]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: patch(SOURCE, "resid", heads=["L0.H0"]),
        lambda: patch(SOURCE, freeze="others"),
        lambda: patch(SOURCE, heads=["L0.H0"], base=OWN, freeze=["L0.H0"]),
        lambda: patch(SOURCE, queries=(3, 3)),
        lambda: recording(LLAMA, "a text"),
        lambda: recording(LLAMA, []),
        lambda: recording(LLAMA, list(CLEAN), what=[]),
        lambda: recording(LLAMA, list(CLEAN), heads=["L7.H0"]),
        lambda: recording(LLAMA, [{"input_ids": CLEAN}], what=["pattern"]),
        lambda: recording(LLAMA, list(CLEAN), interventions=[patch(SOURCE, "pattern")]),
        lambda: OWN.values("mlp", 0),
        lambda: OWN.values("z", 5),
    ],
)
def test_wrong_choices_are_refused_at_once(wrong):
    """What cannot be meant is a UsageError when it is written."""
    with pytest.raises(UsageError):
        wrong()


def _part(**more):
    return recording(LLAMA, list(CORRUPT), **more)


@pytest.mark.parametrize(
    ("one", "match"),
    [
        (lambda: patch(_part(what=["z"]), "pattern"), "record it with 'pattern' too"),
        (lambda: patch(_part(what=["z"], layers=[0])), "layer 1 of the decoder was left out"),
        (lambda: patch(_part(what=["z"], heads=["L0.H1"]), heads=["L0.H2"]), "holds only L0.H1"),
        (lambda: patch(SOURCE, heads=["L0.H1"], base=_part(what=["resid"])), "record it with 'z' too"),
        (lambda: patch(SOURCE, heads=["L0.H4"]), "L0.H4"),
        (lambda: patch(record(llama(), CORRUPT)), "a model that is gone|another LlamaForCausalLM"),
        (lambda: patch(record(LLAMA, CORRUPT[:, :7])), "9, 9. tokens, .7, 7. were recorded"),
        (lambda: patch(record(LLAMA, CORRUPT[:, :7]), "pattern"), "9, 9. tokens, .7, 7. were recorded"),
        (lambda: patch(record(LLAMA, CORRUPT.repeat(2, 1)[:3])), None),
    ],
)
def test_runs_that_do_not_match_are_refused(one, match):
    """Nodes, layers, heads, models and lengths that were not recorded are named; more recorded runs are no error."""
    if match is None:
        logits(LLAMA, one())
        return
    with pytest.raises(ProbeError, match=match):
        logits(LLAMA, one())


def test_mismatched_prompts_are_refused_before_the_forward():
    """Announced prompts are counted and measured in `prepare`; so is a batch that is wider than the recording."""
    loaded = as_loaded(LLAMA)
    prompts = [probe.Prompt.of(text, letters()) for text in ("abcdefghi", "abcdef")]
    with pytest.raises(InterventionError, match="has 6 tokens, its recorded run 9"):
        patch(SOURCE).prepare(loaded, prompts)
    with pytest.raises(InterventionError, match="1 prompts; the recording holds 2"):
        patch(SOURCE).prepare(loaded, prompts[:1])
    with pytest.raises(InterventionError, match="3 sequences, 2 were recorded"):
        logits(LLAMA, patch(SOURCE), ids=CLEAN.repeat(2, 1)[:3])
    with pytest.raises(UnknownNameError):
        patch(SOURCE, foo=1)
