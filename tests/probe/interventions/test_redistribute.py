"""Redistribution and VAR's choice of heads, held against rows rewritten by hand in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels.types import Attended, Want
from small_models import gpt2, letters, llama, t5

import probe
from probe.errors import InterventionError, UsageError
from probe.interventions import make, redistribute
from probe.interventions.sink_tokens import pick_dims, ratios
from probe.seam.session import Session

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4, 6, 5, 9]])
SINK_DIM, TAU = 5, 4.0


class Seen:
    """An observer of z, of every row's sum and of the pattern's rows."""

    def __init__(self):
        self.z, self.p, self.v = {}, {}, {}

    def want(self, call):
        return Want(
            z=True,
            rows={"p": lambda p, rows, keys: torch.nn.functional.pad(p, (0, call.size[2] - p.shape[-1]))},
        )

    def update(self, call, attended: Attended):
        layer = call.place.layer
        self.z.setdefault(layer, []).append(attended.z)
        self.p.setdefault(layer, []).append(attended.rows["p"])
        self.v[layer] = call.scores.value.repeat_interleave(call.n_heads // call.n_kv_heads, 1)


def seen(model, interventions, ids=IDS, **more):
    """Patterns, z and values of every layer, and the logits."""
    watch = Seen()
    with Session(model, (watch,), tuple(interventions)), torch.no_grad():
        logits = model(ids, **more).logits
    return watch, logits


def moved(p, source, span, fraction):
    """Rows rewritten by hand, float64: p [..., key]; source and span are bool over keys."""
    p = p.double().clone()
    taker = span & ~source
    m_s, m_t = p[..., source].sum(-1, keepdim=True), p[..., taker].sum(-1, keepdim=True)
    ok = (m_t > 0).squeeze(-1)
    new = p.clone()
    new[..., source] *= 1 - fraction
    new[..., taker] += fraction * m_s * p[..., taker] / torch.where(m_t > 0, m_t, 1.0)
    return torch.where(ok[..., None], new, p)


def flags(*spans, n=12):
    """Bool over keys, True in the spans."""
    made = torch.zeros(n, dtype=torch.bool)
    for start, stop in spans:
        made[start:stop] = True
    return made


@settings(max_examples=10)
@given(
    source=st.tuples(st.integers(0, 4), st.integers(5, 7)),
    target=st.tuples(st.integers(2, 7), st.integers(8, 12)),
    fraction=st.floats(0.05, 1.0),
)
def test_rows_keep_their_sum_and_are_the_closed_form(source, target, fraction):
    """Rows sum to 1 and z is z_rest + (1-f) z_S + (1 + f m_S/m_T) z_T (spans may overlap: S wins)."""
    model = llama(num_hidden_layers=1)
    base, _ = seen(model, [])
    after, _ = seen(model, [redistribute(source, target, fraction)])
    p, v = base.p[0][0].double(), base.v[0].double()
    s, t = flags(source), flags(target) & ~flags(source)
    parts = {name: (p * one) @ v for name, one in (("s", s), ("t", t), ("rest", ~(s | t)))}
    m_s, m_t = p[..., s].sum(-1, keepdim=True), p[..., t].sum(-1, keepdim=True)
    closed = parts["rest"] + (1 - fraction) * parts["s"] + (1 + fraction * m_s / m_t) * parts["t"]
    expected = torch.where(m_t > 0, closed, sum(parts.values()))
    torch.testing.assert_close(after.p[0][0].sum(-1), torch.ones(1, 4, 12), atol=1e-6, rtol=0)
    torch.testing.assert_close(after.z[0][0].double(), expected, atol=1e-5, rtol=1e-4)


def test_fraction_is_the_share_removed():
    """The source keeps 1 - fraction: the paper's p = fraction; its code's multiplier 0.6 is fraction 0.4."""
    model = llama(num_hidden_layers=1)
    base, _ = seen(model, [])
    for fraction, keeps in ((0.6, 0.4), (0.4, 0.6)):
        after, _ = seen(model, [redistribute((0, 2), (4, 8), fraction)])
        rows = slice(5, None)
        torch.testing.assert_close(after.p[0][0][:, :, rows, :2], keeps * base.p[0][0][:, :, rows, :2])


def test_var_selects_heads_and_rows():
    """With rho only rows after the span are edited, with enough mass on it, most of it beside the source."""
    model = llama(num_hidden_layers=1)
    base, _ = seen(model, [])
    source, span, rho, floor = flags((0, 1), (4, 5)), flags((3, 7)), 0.7, 0.2
    one = redistribute((4, 5), (3, 7), 0.6, rho=rho, floor=floor)
    after, _ = seen(model, [one])
    source = flags((4, 5))
    p = base.p[0][0].double()
    mass, kept = p[..., span].sum(-1), p[..., span & ~source].sum(-1)
    chosen = (mass >= floor) & (kept >= rho * mass) & (torch.arange(12) > 6)
    assert 0 < int(chosen.sum()) < 4 * 5
    expected = torch.where(chosen[..., None], moved(p, source, span, 0.6), p)
    torch.testing.assert_close(after.p[0][0].double(), expected, atol=1e-6, rtol=1e-5)


def with_a_sink(model, tokens=(5,)):
    """Plant massive activations: the embeddings of some tokens get one large dimension."""
    with torch.no_grad():
        for token in tokens:
            model.get_input_embeddings().weight[token, SINK_DIM] = 60.0
    return model


def sinks_by_hand(model, ids, tau=TAU):
    """phi >= tau at every layer's input, float64, from the model's own hidden states."""
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states[:-1]
    found = []
    for x in hidden:
        x = x.double()
        phi = x[..., SINK_DIM].abs() / (x.square().mean(-1) + 1e-6).sqrt()
        found.append(phi >= tau)
    return found


def test_sinks_are_found_at_each_layers_input():
    """Sinks are the tokens whose planted dimension is massive; BOS-like and inside the span alike give mass."""
    model = with_a_sink(llama())
    one = redistribute("sinks", (3, 7), 0.6, tau=TAU, dims=[SINK_DIM], layers=[0])
    expected_sinks = sinks_by_hand(model, IDS)[0][0]
    assert expected_sinks.tolist() == (IDS[0] == 5).tolist()
    base, _ = seen(model, [])
    after, _ = seen(model, [one])
    expected = moved(base.p[0][0], expected_sinks, flags((3, 7)), 0.6)
    torch.testing.assert_close(after.p[0][0].double(), expected, atol=1e-6, rtol=1e-5)


def test_the_sink_dimension_is_found_by_itself():
    """One planted massive dimension at the first token is found; models without one, or with one everywhere, refuse."""
    tokenizer = letters()
    model = llama(num_hidden_layers=4)
    loaded = probe.models.as_loaded((model, tokenizer))
    one = redistribute("sinks", (3, 7), tau=TAU)
    with pytest.raises(InterventionError, match=r"the largest is dimension \d+ with"):
        one.prepare(loaded, None)
    handle = model.model.layers[0].register_forward_pre_hook(first_is_massive, with_kwargs=True)
    assert one.prepare(loaded, None).dims == (SINK_DIM,)
    with probe.edit((model, tokenizer), [one]), torch.no_grad():
        model(IDS)
    handle.remove()
    with torch.no_grad():
        model.get_input_embeddings().weight[:, SINK_DIM] = 60.0
    with pytest.raises(InterventionError, match="tells no sink"):
        one.prepare(loaded, None)


def first_is_massive(module, args, kwargs):
    """Add a massive activation to the first token of each sequence."""
    hidden = args[0].clone()
    hidden[:, 0, SINK_DIM] = 60.0
    return (hidden, *args[1:]), kwargs


def test_picking_dimensions_keeps_two_at_most():
    """The largest that agree over texts are kept; one that varies between texts is not."""
    first = torch.ones(3, 8)
    first[:, 2], first[:, 6], first[:, 4] = 7.0, 6.0, 5.5
    first[0, 1] = 9.0
    others = [torch.ones(5, 8)] * 3
    assert pick_dims(list(first), others, 5.0)[0] == (2, 6)
    assert pick_dims(list(first), others, 8.0)[0] == ()
    assert float(ratios(torch.eye(8)[0] * 3).max()) == pytest.approx(8**0.5, rel=1e-4)


def greedy(model, ids, one, steps):
    """Greedy decoding without a cache: every step is one whole forward under the edit."""
    for _ in range(steps):
        with probe.edit(model, [one]), torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


@pytest.mark.parametrize("rho", [None, 0.3])
def test_generate_is_a_loop_by_hand(rho):
    """generate() with a cache, left padding and a batch gives the tokens of whole forwards, each prompt alone."""
    model = with_a_sink(llama(), tokens=(5, 9))
    model.generation_config.eos_token_id = None
    one = redistribute("sinks", (2, 5), 0.9, rho=rho, floor=0.05, tau=TAU, dims=[SINK_DIM])
    short = IDS[:, :8]
    wide = torch.cat([torch.cat([torch.zeros(1, 4, dtype=torch.int64), short], 1), IDS])
    mask = torch.ones_like(wide)
    mask[0, :4] = 0
    with probe.edit(model, [one]):
        made = model.generate(wide, attention_mask=mask, max_new_tokens=5, do_sample=False)
    assert made[0, 4:].tolist() == greedy(model, short, one, 5)[0].tolist()
    assert made[1].tolist() == greedy(model, IDS, one, 5)[0].tolist()
    plain = model.generate(IDS, max_new_tokens=5, do_sample=False)
    assert made[1].tolist() != plain[0].tolist()


def test_beams_look_at_the_prompts_sinks_and_say_so():
    """With beams the edit takes effect, and the notes tell that generated tokens were no sinks."""
    model = with_a_sink(llama(), tokens=(5, 9))
    model.generation_config.eos_token_id = None
    one = redistribute("sinks", (2, 5), 0.9, tau=TAU, dims=[SINK_DIM])
    with probe.edit(model, [one]) as session:
        model.generate(IDS, max_new_tokens=8, num_beams=3, do_sample=False)
        notes = session.notes
    assert any("beams swapped rows" in line for line in notes)


def test_a_choice_that_finds_nothing_is_noted():
    """No sink, or no head above the thresholds: nothing is edited, and the notes say so."""
    model = llama()
    plain = seen(model, [])[1]
    for one, said in (
        (redistribute("sinks", (2, 5), tau=TAU, dims=[SINK_DIM]), "no sink token"),
        (redistribute((0, 1), (2, 5), rho=1.0, floor=1.0), "no head was selected"),
    ):
        with probe.edit(model, [one]) as session, torch.no_grad():
            torch.testing.assert_close(model(IDS).logits, plain, atol=1e-4, rtol=1e-4)
            notes = session.notes
        assert any(said in line for line in notes)
    with (
        pytest.raises(InterventionError, match="changed nothing"),
        probe.edit(model, [redistribute((20, 21), (2, 5))]),
    ):
        model(IDS)


def test_a_cache_that_was_filled_before_is_refused():
    """Sinks among tokens whose layer inputs were never seen are not guessed."""
    model = with_a_sink(llama())
    with torch.no_grad():
        cache = model(IDS, use_cache=True).past_key_values
        with (
            pytest.raises(InterventionError, match="filled before"),
            probe.edit(model, [redistribute("sinks", (2, 5), tau=TAU, dims=[SINK_DIM])]),
        ):
            model(IDS[:, :1], past_key_values=cache)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: redistribute((0, 1), (2, 3), 0.0),
        lambda: redistribute((0, 1), (2, 3), 1.1),
        lambda: redistribute((0, 1), (2, 3), float("nan")),
        lambda: redistribute((0, 1), (2, 3), rho=1.5),
        lambda: redistribute((0, 1), (2, 3), floor=-0.1),
        lambda: redistribute("sinks", (2, 3), tau=0.0),
        lambda: redistribute((0, 1), (2, 3), dims=[1]),
        lambda: redistribute("sinks", (2, 3), dims=[]),
        lambda: redistribute("sinks", "sinks"),
        lambda: redistribute((0, 1), "sinks"),
        lambda: redistribute((2, 3), (2, 3)),
        lambda: redistribute((0, 1), (2, 3), select="per_step"),
    ],
)
def test_wrong_parameters_are_refused_at_once(wrong):
    """What cannot be meant is a UsageError when it is written."""
    with pytest.raises(UsageError):
        wrong()


def test_models_that_cannot_carry_it_refuse_by_name():
    """Sinks of cross-attention, dimensions that are not there and text-less models are refused."""
    with (
        pytest.raises(InterventionError, match="self-attention"),
        probe.edit(t5(), [redistribute("sinks", (0, 2), dims=[1], tower="cross")]),
    ):
        pass
    with (
        pytest.raises(InterventionError, match="32 dimensions"),
        probe.edit(llama(), [redistribute("sinks", (0, 2), dims=[40])]),
    ):
        pass
    with (
        pytest.raises(InterventionError, match="reads no text here"),
        probe.edit(gpt2(), [redistribute("sinks", (0, 2))]),
    ):
        pass


def test_names_read_back():
    """A spec holds every parameter, the convention's fraction and the dimensions included."""
    for one in (
        redistribute("sinks", (2, 5), 0.4, rho=0.5, dims=[1415, 2533], heads=["L1.H0"]),
        redistribute("needle", "image", phase="decode"),
    ):
        assert make(one.name) == one
