"""Patterns of the kernels as an intervention: equal to a mask written out by hand, in prefill and decode."""

import pytest
import tiny
import torch
from probe_kernels.select import Selection, Site
from probe_kernels.select import make as made
from torch import Tensor

import probe
from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions import make, pattern
from probe.seam.numbered import numbered

IDS = tiny.tokens(2, 20)


def logits(model, *interventions, ids=IDS, **inputs) -> Tensor:
    """Logits under interventions."""
    with probe.edit(model, list(interventions)), torch.no_grad():
        return model(ids, **inputs).logits


def by_hand(spec: str):
    """The pattern's whole map as a rule of one's own."""

    def shown(call, rows, keys):
        layout, n_query, n_key = numbered(call), *call.size[1:]
        kept = made(spec).select(call.scores, layout, Site(call.place.layer))
        return kept.visible(layout, slice(0, n_query), slice(0, n_key), n_key)[:, :, rows, keys].expand(
            call.size[0], call.n_heads, -1, -1
        )

    return shown


@pytest.mark.parametrize("make_model", [tiny.llama, tiny.mistral, tiny.gpt_oss])
@pytest.mark.parametrize(
    "spec", ["sliding:window=4", "sink_recent:sinks=2,recent=3", "pooled_topk:block=2,k=2"]
)
def test_a_pattern_is_its_map_as_a_mask(make_model, spec: str) -> None:
    """With windows and sinks of the model's own."""
    model = make_model()
    expected = logits(model, pattern(by_hand(spec)))
    with torch.no_grad():
        assert not torch.allclose(expected, model(IDS).logits, atol=1e-2)
    torch.testing.assert_close(logits(model, pattern(spec)), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(logits(model, pattern(made(spec))), expected, atol=2e-5, rtol=0)


def test_a_pattern_and_a_rule_say_the_same() -> None:
    """The kernels' window is the rule ``window``, and so are sinks; on chosen heads alone, too."""
    model = tiny.llama()
    for spec, rules in (
        ("sliding:window=6", "window=6"),
        ("sink_recent:sinks=2,recent=4", "sink=2+window=4"),
    ):
        for heads in (None, ["L0.H1", "L1.H3"]):
            found, expected = (
                logits(model, pattern(spec, heads=heads)),
                logits(model, pattern(rules, heads=heads)),
            )
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("make_model", [tiny.llama, tiny.mistral])
@pytest.mark.parametrize("spec", ["sliding:window=6", "sink_recent:sinks=2,recent=4"])
def test_decode_steps_are_cut_like_rows_of_one_forward(make_model, spec: str) -> None:
    """Token by token over the cache, padded on the left or not."""
    model = make_model()
    mask = torch.ones_like(IDS)
    mask[0, :5] = 0
    for real in (torch.ones_like(IDS), mask):
        positions = (real.cumsum(1) - 1).clamp_min(0)
        whole = logits(model, pattern(spec), attention_mask=real, position_ids=positions)
        steps = []
        with probe.edit(model, [pattern(spec)]), torch.no_grad():
            cache = None
            for at in (slice(0, 12), *(slice(i, i + 1) for i in range(12, 20))):
                out = model(
                    IDS[:, at], attention_mask=real[:, : at.stop], position_ids=positions[:, at],
                    past_key_values=cache, use_cache=True,
                )  # fmt: skip
                cache = out.past_key_values
                steps.append(out.logits)
        shown = real.bool()
        torch.testing.assert_close(torch.cat(steps, 1)[shown], whole[shown], atol=5e-5, rtol=0)


def test_a_name_makes_the_intervention_again() -> None:
    """Inside a spec the parameters of a pattern are parted by semicolons; old rules read as before."""
    whole = pattern("sink_recent:sinks=2,recent=4", heads=["L1.H2"])
    assert whole.name == "pattern:heads=L1.H2,keep=sink_recent:sinks=2;recent=4"
    assert make(whole.name) == whole
    assert make("pattern:keep=window=128+sink=4").name == "pattern:keep=window=128+sink=4"
    assert make("pattern:keep=full").keep == pattern("full").keep


class _Counts:
    """Keeps all, and counts how often it is asked, and what it remembers."""

    learned = False
    name = "counts"

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def select(self, scores, layout, site):
        self.seen.append((site.layer, site.memory.get("layers", 0)))
        site.memory["layers"] = site.memory.get("layers", 0) + 1
        return Selection()


def test_a_selection_is_made_once_for_a_call_and_remembers_within_a_forward() -> None:
    """One ask per layer and forward; a forward starts with nothing remembered; keeping all is no error."""
    counts, model = _Counts(), tiny.llama()
    with probe.edit(model, [pattern(counts)]), torch.no_grad():
        model.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert counts.seen == [(0, 0), (1, 1)] * 3


def test_what_cannot_be_is_refused() -> None:
    """Unknown patterns, parameters out of range, shapes that do not fit, another sequence's keys."""
    with pytest.raises(UnknownNameError):
        make("pattern:keep=slidding:window=4")
    with pytest.raises(UsageError, match="window"):
        pattern("sliding:window=0")
    with pytest.raises(UsageError, match="cannot be applied"):
        logits(tiny.llama(), pattern("neighborhood:shape=3+7,window=3"))
    edit = probe.edit(tiny.t5(), [pattern("sliding:window=4")])
    with pytest.raises(InterventionError, match="another sequence"), edit:
        pass
