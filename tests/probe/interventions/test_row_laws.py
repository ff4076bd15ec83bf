"""Laws of the edits of rows: closed forms, sums, cached continuation, and what two of them do together."""

import math

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels import attend
from probe_kernels.mask import Mask, causal, rule, within
from probe_kernels.types import Layout, Scores, Want
from small_models import letters, llama
from transformers import DynamicCache

import probe
from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions import (
    boost,
    drop,
    graft,
    isolate,
    knockout,
    make,
    pattern,
    segment_graph,
    temperature,
    to_bos,
    to_identity,
    uniform_cached,
    uniform_past,
)
from probe.interventions.widening import Wider, joined, rehide, widen
from probe.seam.call import AttentionCall, Batch, Place

N = 9
CAUSAL = (causal(),)
RENORMALISED = {
    "uniform_past": uniform_past(),
    "to_bos": to_bos(),
    "to_identity": to_identity(0.4),
    "boost": boost((1, 4), 0.7, queries="all"),
    "temperature": temperature(beta=0.1),
    "isolate": isolate((2, 8), 2),
    "segment_graph": segment_graph("0..3>3..6+6..9"),
    "pattern": pattern("window=2+topk=2"),
    "linear": graft("linear", layers=[5]),
    "local": graft("local", 3, layers=[5]),
}


def a_call(seed=0, mask=CAUSAL, sinks=None, size=1.0):
    """A call of decoder layer 5 with random float64 queries, keys and values: 4 heads on 2 key heads."""
    drawn = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, N, 6, generator=drawn, dtype=torch.float64) * size
    k, v = (torch.randn(2, 2, N, 6, generator=drawn, dtype=torch.float64) for _ in range(2))
    at = torch.arange(N)[None]
    return AttentionCall(
        Place("layers.5.self_attn", "decoder", 5),
        Batch((0, 1), 0),
        "prefill",
        Scores(q, k, v, 0.4, sinks=sinks),
        Layout(Mask(mask), at, at),
        causal=True,
    )


def attended(call, *interventions, **want):
    """The call swept under interventions, as the seam does it."""
    for one in interventions:
        call = one.call(call) if hasattr(one, "call") else call
    edits = [one.edits(call) for one in interventions]
    return attend(call.scores, call.layout, Want(**want), edits=joined(*edits) if edits else None)


def rows_of(call, *interventions):
    """The whole pattern, float64, and the learned sink's mass."""
    out = attended(call, *interventions, rows={"all": lambda p, _r, keys: spread(p, keys)})
    return out.rows["all"], out.sink_mass


def spread(p, keys):
    """A block of rows over every key."""
    whole = p.new_zeros(*p.shape[:3], N)
    whole[..., keys] = p
    return whole


@given(seed=st.integers(0, 10**6), level=st.floats(-30, 300), size=st.floats(0, 30))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", RENORMALISED)
def test_rows_keep_their_sum(name, seed, level, size):
    """Keys and learned sink together hold 1 in every row, however strong the sink and the scores."""
    sinks = torch.full((4,), level, dtype=torch.float64)
    for call in (a_call(seed, size=size), a_call(seed, sinks=sinks, size=size)):
        p, sink = rows_of(call, RENORMALISED[name])
        total = p.sum(-1) if sink is None else p.sum(-1) + sink
        torch.testing.assert_close(total.double(), torch.ones(2, 4, N).double(), atol=1e-5, rtol=0)
        assert float(p.triu(1).abs().max()) == 0.0


@given(seed=st.integers(0, 10**6), start=st.integers(0, N - 1), u=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_closed_forms(seed, start, u):
    """drop = z - z_g, knockout = (z - z_g) / (1 - m_g), identity = (1-u)z + u·v, first key = v_0."""
    call = a_call(seed)
    groups = torch.where(torch.arange(N) >= start, 0, -1).to(torch.int16)[None]
    plain = attended(call, key_groups={"g": groups}, parts=frozenset({"g"}))
    z_g, m_g = plain.parts["g"][:, :, :, 0].double(), plain.key_groups["g"].double()
    dropped = attended(call, drop("all", (start, N))).z
    torch.testing.assert_close(dropped, plain.z - z_g, atol=1e-5, rtol=1e-5)
    rest = (1 - m_g[..., 0]) > 1e-2
    cut = attended(call, knockout("all", (start, N))).z
    torch.testing.assert_close(cut[rest], (dropped / (1 - m_g))[rest], atol=1e-4, rtol=1e-4)
    v = call.scores.value.repeat_interleave(2, 1)
    torch.testing.assert_close(attended(call, to_identity(u)).z, (1 - u) * plain.z + u * v)
    torch.testing.assert_close(attended(call, to_bos()).z, v[:, :, :1].expand_as(v))


def test_uniform_past_is_a_query_of_zero():
    """Without bias and learned sinks, uniform rows are those of q := 0, and of temperature 0."""
    call = a_call(3, mask=(causal(), within(4)))
    blank = Scores(torch.zeros_like(call.scores.query), call.scores.key, call.scores.value, 0.4)
    expected = attend(blank, call.layout, Want()).z
    torch.testing.assert_close(attended(call, uniform_past()).z, expected)
    torch.testing.assert_close(attended(call, temperature(0)).z, expected)


def test_extremes_of_the_identity():
    """u = 0 changes nothing; u = 1 is hiding every other key, and a sparse pattern of window 1."""
    call, v = a_call(4), a_call(4).scores.value.repeat_interleave(2, 1)
    torch.testing.assert_close(attended(call, to_identity(0)).z, attended(call).z)
    for one in (to_identity(), pattern("window=1"), graft("local", 1, layers=[5]), isolate("all", 1)):
        torch.testing.assert_close(attended(call, one).z, v)


def test_equal_patterns_are_equal_edits():
    """A rule as text, as a predicate, as a mask and as a function hides the same keys; left padding is not counted."""
    call = a_call(5)

    def near(call, rows, keys):
        return (call.query_index[:, rows, None] - call.key_index[:, None, keys]) < 3

    expected = attended(call, pattern("window=3")).z
    for keep in (within(3), Mask((causal(), within(3))), near, ["window=2", near]):
        torch.testing.assert_close(attended(call, pattern(keep)).z, expected)
    torch.testing.assert_close(attended(call, graft("local", 3, layers=[5])).z, expected)
    with pytest.raises(UsageError, match="bool tensor"):
        attended(call, pattern(lambda call, rows, keys: torch.ones(1)))
    with pytest.raises(UsageError, match=r"shape \(2, 3, 3\)"):
        attended(call, pattern(lambda call, rows, keys: torch.ones(2, 3, 3, dtype=torch.bool)))


def test_linear_attention_is_the_recurrence():
    """The grafted rows equal linear attention computed as a running sum of phi(k) v, in constant memory per token."""
    call = a_call(6, size=5.0)
    phi = [
        torch.nn.functional.elu(x) + 1 for x in (call.scores.query, call.scores.key.repeat_interleave(2, 1))
    ]
    v = call.scores.value.repeat_interleave(2, 1)
    state, norm, expected = torch.zeros(2, 4, 6, 6).double(), torch.zeros(2, 4, 6).double(), []
    for i in range(N):
        state = state + phi[1][:, :, i, :, None] * v[:, :, i, None]
        norm = norm + phi[1][:, :, i]
        top = torch.einsum("bhd,bhde->bhe", phi[0][:, :, i], state)
        expected.append(top / (phi[0][:, :, i] * norm).sum(-1, keepdim=True))
    found = attended(call, graft("linear", layers=[5])).z
    torch.testing.assert_close(found, torch.stack(expected, dim=2))


def test_temperatures_follow_their_heads():
    """Several t go to the heads that they were given with, in any order; a control's heads take them over."""
    one = temperature([3.0, 0.5], ["L5.H2", "L5.H0"])
    call = a_call(7)
    for head, t in ((0, 0.5), (1, 1.0), (2, 3.0), (3, 1.0)):
        expected = attended(call, temperature(t)).z[:, head]
        torch.testing.assert_close(attended(call, one).z[:, head], expected)
    moved = attended(call, one.control(0)).z
    torch.testing.assert_close(moved[:, 1], attended(call, temperature(0.5)).z[:, 1])
    torch.testing.assert_close(moved[:, 3], attended(call, temperature(3.0)).z[:, 3])


def test_widening_opens_keys_to_the_chosen_alone():
    """Two widenings open different keys to different heads; the rest sees the model's mask, whatever edits it."""
    call = a_call(8, mask=(causal(), within(3)))
    before = call.layout
    full = a_call(8)
    cached = uniform_cached(["L5.H1"], phase="both", queries=(4, 8))
    far = widen(cached.call(call), rule("first", lambda t: t.key_pos == 0), heads=(2,))
    assert isinstance(far.layout, Wider)
    assert call.layout is before
    assert before.mask.names == ("causal", "within(3)")
    edits = to_bos(["L5.H2", "L5.H3"]).edits(far)
    z = attend(far.scores, far.layout, Want(), edits=joined(edits, cached.edits(far), rehide(far))).z
    plain, v = attended(call).z, call.scores.value.repeat_interleave(2, 1)
    torch.testing.assert_close(z[:, 0], plain[:, 0])
    torch.testing.assert_close(z[:, 1, 4:8], attended(full, uniform_past()).z[:, 1, 4:8])
    torch.testing.assert_close(z[:, 1, :4], plain[:, 1, :4])
    torch.testing.assert_close(z[:, 2], v[:, 2, :1].expand(-1, N, -1))
    torch.testing.assert_close(z[:, 3], v[:, 3, [0, 0, 0, 1, 2, 3, 4, 5, 6]])


CONTINUED = {
    **{name: one for name, one in RENORMALISED.items() if name not in ("linear", "local", "boost")},
    "linear": graft("linear", layers=[1]),
    "local": graft("local", 3, layers=[1]),
    "drop": drop("all", (1, 6)),
    "uniform_cached": uniform_cached(phase="both"),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    # A sliding cache has dropped what the whole forward still has: `uniform_cached` is compared without one.
    [
        (n, k)
        for n in CONTINUED
        for k in ("llama", "mistral", "gpt_oss")
        if n != "uniform_cached" or k == "llama"
    ],
)
def test_a_cached_continuation_equals_the_whole_forward(name, kind):
    """Token by token after a cached prompt, sliding caches included, logits are those of one forward."""
    model, ids = getattr(tiny, kind)(), tiny.tokens(1, 14)
    with probe.edit(model, [CONTINUED[name]]), torch.no_grad():
        whole = model(ids).logits
        step = model(ids[:, :9], use_cache=True)
        found = [step.logits]
        for i in range(9, 14):
            step = model(ids[:, i : i + 1], past_key_values=step.past_key_values, use_cache=True)
            found.append(step.logits)
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=2e-4, rtol=2e-4)


def test_uniform_at_decoding_is_over_what_is_cached():
    """By default prompts are left alone; a full cache is uniform all over, a sliding one over what it kept."""
    assert uniform_cached().name == "uniform_cached:phase=decode"
    for kind in ("llama", "mistral"):
        model, ids = getattr(tiny, kind)(), tiny.tokens(1, 10)
        with torch.no_grad(), probe.edit(model, [uniform_cached()]):
            first = model(ids[:, :9], use_cache=True)
            second = model(ids[:, 9:], past_key_values=first.past_key_values)
        with torch.no_grad():
            native = model(ids[:, :9], use_cache=True)
            with probe.edit(model, [uniform_past()]):
                expected = model(ids[:, 9:], past_key_values=native.past_key_values).logits
        torch.testing.assert_close(first.logits, native.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(second.logits, expected, atol=1e-4, rtol=1e-4)


def test_windows_are_ignored_where_the_cache_kept_more():
    """A layer with a window and a cache without one: the chosen row is uniform over all, as in one whole forward."""
    model, ids = tiny.mistral(), tiny.tokens(1, 10)
    with torch.no_grad(), probe.edit(model, [uniform_cached(["L1.H2"])]):
        first = model(ids[:, :9], past_key_values=DynamicCache())
        found = model(ids[:, 9:], past_key_values=first.past_key_values).logits[:, -1]
    for one, equal in (
        (uniform_cached(["L1.H2"], phase="both", queries=(9, 10)), True),
        (uniform_past(["L1.H2"], queries=(9, 10)), False),
    ):
        with torch.no_grad(), probe.edit(model, [one]):
            whole = model(ids).logits[:, -1]
        assert torch.allclose(found, whole, atol=1e-4) == equal


def test_a_boost_follows_the_row_that_predicts():
    """At decoding the last row of the prompt and every later one are boosted, as if they had been named."""
    model, ids = tiny.llama(), tiny.tokens(1, 12)
    with torch.no_grad(), probe.edit(model, [boost((1, 4), 0.7)]):
        step = model(ids[:, :9], use_cache=True)
        found = [step.logits[:, -1]]
        for i in range(9, 12):
            step = model(ids[:, i : i + 1], past_key_values=step.past_key_values, use_cache=True)
            found.append(step.logits[:, -1])
    with torch.no_grad(), probe.edit(model, [boost((1, 4), 0.7, queries=(8, 99))]):
        whole = model(ids).logits[:, 8:]
    torch.testing.assert_close(torch.stack(found, 1), whole, atol=2e-4, rtol=2e-4)


def test_statistics_are_of_the_edited_rows():
    """Metrics see a uniform row's entropy, a first key's whole mass, and what a drop took away."""
    model, text = (llama(), letters()), "abcdefgh"
    flat = probe.analyze(model, text, ["entropy"], [uniform_past()])["entropy"]
    expected = sum(math.log(i + 1) for i in range(8)) / 8
    assert abs(float(flat.min()) - expected) < 1e-5
    assert abs(float(flat.max()) - expected) < 1e-5
    first = probe.analyze(model, text, ["entropy", "sink"], [to_bos()])
    assert float(first["entropy"].max()) == 0.0
    assert float(first["sink"].min()) == 1.0
    assert float(probe.analyze(model, text, ["sink"], [drop("all", (0, 1))])["sink"].max()) == 0.0


@pytest.mark.parametrize(
    "one", [to_identity(), isolate("all", 2), pattern("window=2"), graft("local", 2, layers=[0])]
)
def test_cross_attention_is_refused_before_it_runs(one):
    """What compares places needs one axis: refused by the modules' names, and accepted with a tower."""
    model = tiny.t5()
    with pytest.raises(InterventionError, match=r"EncDecAttention.*tower=decoder"), probe.edit(model, [one]):
        raise AssertionError("opened")
    pattern("sink=2").require({"x": Place("x", "cross", 0)}, {})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: to_identity(1.5),
        lambda: to_identity(float("nan")),
        lambda: boost("needle", float("inf")),
        lambda: boost("", 1.0),
        lambda: drop("all", (3, 1)),
        temperature,
        lambda: temperature(1.0, beta=1.0),
        lambda: temperature(-1.0),
        lambda: temperature([1.0, 2.0]),
        lambda: temperature([1.0, 2.0], ["L0.H1", "L0.H1"]),
        lambda: temperature(beta=float("nan")),
        lambda: isolate("all", 0),
        lambda: segment_graph("a"),
        lambda: segment_graph("a>b>c"),
        lambda: segment_graph({"a": "b"}),
        lambda: segment_graph({"a": [(4, 2)]}),
        lambda: pattern("window"),
        lambda: pattern("window=0"),
        lambda: pattern("ring=4"),
        lambda: pattern("dilated=4"),
        lambda: pattern([]),
        lambda: graft("linear"),
        lambda: graft("linear", 4, layers=[1]),
        lambda: graft("local", layers=[1]),
        lambda: make("graft:layers=1,kind=global"),
        lambda: graft("linear", layers=[1]).control(0),
        lambda: uniform_cached(phase="never"),
    ],
)
def test_wrong_parameters_are_refused_at_once(wrong):
    """What cannot be meant is a UsageError when it is written."""
    with pytest.raises(UsageError):
        wrong()


@pytest.mark.parametrize(
    "spec",
    [
        "uniform_past:heads=L1.H0",
        "uniform_cached:heads=L1.H0,phase=both",
        "to_bos:layers=1",
        "to_identity:u=0.5",
        "drop:queries=last,keys=0..4",
        "boost:queries=last,span=needle,a=0.7",
        "temperature:heads=L0.H0+L1.H1,t=2+0.5",
        "temperature:beta=1.5",
        "isolate:span=haystack,window=8",
        "segment_graph:edges=0..4>needle+0..4>8..9+question",
        "pattern:layers=1,keep=window=128+sink=4+dilated=4x2",
        "graft:layers=3+4,kind=linear",
        "graft:layers=3,kind=local,window=16",
    ],
)
def test_names_read_back(spec):
    """The name in a report, typed as a spec, is the same intervention."""
    assert make(spec).name == spec
    assert make(make(spec).name) == make(spec)


def test_unknown_segments_are_named():
    """A segment that the prompt does not have is an error that offers those it has."""
    model, tokenizer = llama(), letters()
    prompt = probe.Prompt.of("abcd", tokenizer, spans={"a": [(0, 2)]})
    with (
        pytest.raises(UnknownNameError, match="nodes"),
        probe.edit(model, [segment_graph("a>nodes")], prompts=[prompt]),
        torch.no_grad(),
    ):
        model(torch.tensor([prompt.tokens]))
