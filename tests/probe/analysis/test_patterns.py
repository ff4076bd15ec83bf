"""What patterns cost, number by number against dense float64 attention."""

import math

import numpy as np
import pytest
import tiny
import torch
from copier import copier
from planted import HEADS, planted, repeated_tokens, targets
from probe_kernels.select import PATTERNS, Selection, Site, make
from probe_kernels.visit import Visit
from small_models import gpt2, letters, llama, mistral
from torch import Tensor

import probe
from probe.analysis.patterning.fold import PatternFold
from probe.analysis.patterning.numbers import answers_of
from probe.analysis.patterning.whole import Wholes
from probe.prompts import Needle
from probe.report.pattern_costs import NUMBERS
from probe.seam.numbered import numbered
from probe.seam.session import Session
from probe.testing import Feeding, feed

TEXT = "the quick brown fox jumps over the lazy dog."
SPECS = ["sliding:window=6", "sink_recent:sinks=2,recent=4", "pooled_topk:block=4,k=3"]
EVERY = [
    "full", "sliding:window=6", "sink_recent:sinks=2,recent=4,middle=7", "power_of_two:block=4,local=1",
    "neighborhood:shape=4+11,window=3+5", "segment_graph:edges=0..9>9..20+20..30", "random_blocks:density=0.4,block=4",
    "per_head:default=sink_recent:sinks=1/recent=8,H1=full,L1.H2=pooled_topk:block=4/k=2",
    "vertical_slash:vertical=4,slash=5,last=4,first=2,local=3,block=4", "pooled_topk:block=4,k=3",
    "antidiagonal:block=4,stride=2,tau=0.6", "anchor_stripe:theta=2,block=4,step=2", "oracle_topk:k=5",
    "permuted_block:block=4,segment=8,tau=0.6", "persistent_topk:k=6,layers=0,block=4",
]  # fmt: skip
MODELS = {"gqa": llama, "sliding layers": mistral, "gpt2": gpt2}


class Dense:
    """An observer that computes every number of every pattern with whole maps in float64."""

    def __init__(self, specs: list[str]) -> None:
        self.patterns = {spec: make(spec) for spec in specs}
        self.rows: dict[tuple[str, int], dict[str, list[Tensor]]] = {}
        self.memory: dict[str, dict] = {}

    def want(self, call):
        from probe_kernels.types import Want

        return Want(z=False)

    def update(self, call, attended) -> None:
        for spec, pattern in self.patterns.items():
            self.one(spec, pattern, call)

    def one(self, spec: str, pattern, call) -> None:
        scores, (batch, n_query, n_key) = call.scores, call.size
        heads, layout = call.n_heads, numbered(call)
        site = Site(call.place.layer, self.memory.setdefault(spec, {}))
        kept = pattern.select(scores, layout, site).visible(layout, slice(0, n_query), slice(0, n_key), n_key)
        seen = visible(call)[:, None].expand(batch, heads, n_query, n_key)
        kept = seen & kept
        s, value = logits(call), scores.value.double().repeat_interleave(heads // call.n_kv_heads, 1)
        whole, whole_out = attend(s, seen, value, scores.sinks)
        _, part_out = attend(s, kept, value, scores.sinks)
        mass = whole.masked_fill(~kept, 0.0).sum(-1) / whole.sum(-1)
        found = self.rows.setdefault((spec, call.place.layer), {})
        for row in range(batch):
            real = call.query_real[row]
            numbers = {
                "mass": mass[row][:, real], "kept": kept.double().sum(-1)[row][:, real],
                "seen": seen.double().sum(-1)[row][:, real],
                "error": (whole_out - part_out)[row][:, real], "out": whole_out[row][:, real],
            }  # fmt: skip
            for name, one in numbers.items():
                found.setdefault(name, []).append(one)

    def numbers(self, spec: str) -> dict[str, np.ndarray]:
        layers = sorted(layer for name, layer in self.rows if name == spec)
        table: dict[str, list[np.ndarray]] = {name: [] for name in NUMBERS}
        for layer in layers:
            one = {name: torch.cat(parts, 1) for name, parts in self.rows[spec, layer].items()}
            mass = one["mass"].numpy()
            table["density"].append((one["kept"].sum(1) / one["seen"].sum(1)).numpy())
            table["mass_kept"].append(mass.mean(1))
            table["mass_kept_p5"].append(np.percentile(mass, 5, axis=1))
            table["mass_kept_min"].append(mass.min(1))
            table["output_error"].append(
                (one["error"].norm(dim=(1, 2)) / one["out"].norm(dim=(1, 2))).numpy()
            )
        return {name: np.stack(rows) for name, rows in table.items()}


def visible(call) -> Tensor:
    """What the model's own mask shows, ``[batch, query, key]``, asked with storage positions."""
    from probe.interventions.editing import visible as own

    _, n_query, n_key = call.size
    return own(call, slice(0, n_query), slice(0, n_key)).expand(call.size)


def logits(call) -> Tensor:
    scores = call.scores
    key = scores.key.double().repeat_interleave(call.n_heads // call.n_kv_heads, 1)
    s = scores.query.double() @ key.transpose(2, 3) * scores.scale
    if scores.softcap is not None:
        s = torch.tanh(s / scores.softcap) * scores.softcap
    return s if scores.bias is None else s + scores.bias.double()


def attend(s: Tensor, shown: Tensor, value: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Probabilities of the keys and the output, a learned sink in the normaliser."""
    s = s.masked_fill(~shown, -math.inf)
    whole = s
    if sinks is not None:
        whole = torch.cat((s, sinks.double()[None, :, None, None].expand(*s.shape[:3], 1)), -1)
    p = torch.exp(s - whole.logsumexp(-1, keepdim=True)).nan_to_num(0.0)
    return p, p @ value


def compared(model, prompts, specs=SPECS, batch_inputs=None, **options):
    """The report on a model, and the same numbers computed densely on the same inputs."""
    report = probe.patterns(model, prompts, specs, control=False, **options)
    dense = Dense(specs)
    network = model[0] if isinstance(model, tuple) else model
    with Session(network, [dense], mode="fused"), torch.no_grad():
        for inputs in batch_inputs:
            dense.memory.clear()
            network(**inputs)
    return report, dense


def same(report, dense, specs=SPECS, tolerance=2e-5):
    for spec in specs:
        for name, expected in dense.numbers(spec).items():
            found = report[f"{spec}/{name}"].values
            assert np.isfinite(found).all()
            np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=f"{spec} {name}")


def ids_of(text: str) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([letters()(text)["input_ids"]])}


@pytest.mark.parametrize("name", MODELS)
def test_every_number_is_that_of_dense_attention(name: str) -> None:
    """Grouped queries, layers with a window, learned positions; several prompts count as their rows."""
    texts = [TEXT, "a fox."]
    model = (MODELS[name](), letters())
    report, dense = compared(model, texts, batch_inputs=[ids_of(text) for text in texts])
    same(report, dense)
    alone = probe.patterns(model, texts[1], SPECS, control=False)
    for spec in SPECS:
        by_prompt = report.answer(f"{spec}/mass_kept").by_prompt
        np.testing.assert_allclose(by_prompt.values[1], alone[f"{spec}/mass_kept"].values, atol=1e-6)


def test_every_pattern_of_the_table_is_priced_as_it_selects() -> None:
    """One forward, every pattern at once, lists of keys by head and masks, and what one layer leaves to the next."""
    assert {spec.partition(":")[0] for spec in EVERY} == set(PATTERNS)
    report, dense = compared((llama(), letters()), TEXT, EVERY, [ids_of(TEXT)])
    same(report, dense, EVERY)


def test_learned_sinks_have_no_part_in_the_mass_but_in_the_output() -> None:
    """A model with sinks and a window: the sum over kept keys is divided by that over all keys."""
    model, ids = tiny.gpt_oss(), tiny.tokens(1, 24)
    report, dense = compared(model, {"input_ids": ids}, batch_inputs=[{"input_ids": ids}])
    same(report, dense)


@pytest.mark.parametrize("make_model", [tiny.llama, tiny.mistral, tiny.gpt_oss])
def test_left_padding_changes_nothing(make_model) -> None:
    """Padded on the left, each prompt's numbers are those of the prompt alone; padding is in no sum."""
    model, ids = make_model(), tiny.tokens(2, 20)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    specs = ["sliding:window=6", "sink_recent:sinks=2,recent=4"]
    report, dense = compared(model, dict(inputs), specs, [inputs])
    same(report, dense, specs)
    alone = probe.patterns(model, {"input_ids": ids[:1, 7:]}, specs, control=False)
    for spec in specs:
        for name in NUMBERS:
            by_prompt = report.answer(f"{spec}/{name}").by_prompt
            np.testing.assert_allclose(by_prompt.values[0], alone[f"{spec}/{name}"].values, atol=2e-5)


def test_the_whole_pattern_costs_nothing() -> None:
    """Density 1, mass 1 in every row, no error; a window longer than the text is the same."""
    report = probe.patterns((llama(), letters()), TEXT, ["full", "sliding:window=999"])
    for spec in ("full", "sliding:window=999"):
        for name, value in (
            ("density", 1.0),
            ("mass_kept", 1.0),
            ("mass_kept_min", 1.0),
            ("output_error", 0.0),
        ):
            np.testing.assert_allclose(report[f"{spec}/{name}"].values, value, atol=2e-6)


def test_the_error_of_a_row_is_its_lost_mass_times_the_distance_of_both_outputs() -> None:
    """O − O_S = (1 − R)(O_C − O_S), C the keys left out (kernels without a learned sink)."""
    from probe_kernels import attend as kernel
    from probe_kernels.mask import Mask, causal, rule, within
    from probe_kernels.types import Layout, Scores, Want

    drawn = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 24, 8, generator=drawn) for _ in range(3))
    at, window = torch.arange(24)[None], 5
    far = rule("far", lambda t: t.query_pos - t.key_pos >= window)
    want = Want(z=True, lse=True)
    masks = (Mask((causal(),)), Mask((causal(), within(window))), Mask((causal(), far)))
    whole, part, rest = (kernel(Scores(q, k, v, 0.5), Layout(one, at, at), want) for one in masks)
    mass = torch.exp(part.lse - whole.lse)[..., None]
    assert (mass < 0.9).any()
    torch.testing.assert_close(whole.z - part.z, (1 - mass) * (rest.z - part.z), atol=1e-5, rtol=0)


def test_a_pattern_that_looks_at_scores_has_random_blocks_beside_it_as_dense_as_it_is() -> None:
    """Per head: density within a block's granularity, less mass than the pattern on average; and only if asked."""
    spec, model = "pooled_topk:block=4,k=3", (llama(), letters())
    report = probe.patterns(model, TEXT, [spec, "sliding:window=6"])
    density, random = (report[f"{spec}/{one}density"].values for one in ("", "control/"))
    assert np.abs(density - random).max() < 0.12
    assert report[f"{spec}/mass_kept"].values.mean() > report[f"{spec}/control/mass_kept"].values.mean()
    assert "sliding:window=6/control/density" not in report
    again = probe.patterns(model, TEXT, [spec])
    assert again[f"{spec}/control/mass_kept"].equals(report[f"{spec}/control/mass_kept"])
    assert not [key for key in probe.patterns(model, TEXT, [spec], control=False) if "control" in key]


class _Remembers:
    """Keeps the first two keys in layer 0, and in layer 1 what layer 0 left, or nothing but the first key."""

    learned = False
    name = "remembers"

    def select(self, scores, layout, site):
        n = scores.key.shape[2]
        count = 2 if site.layer == 0 else site.memory.get("count", 1)
        site.memory["count"] = count + 1 if site.layer == 0 else count
        index = torch.arange(min(count, n))[None, None, None].expand(1, 1, 1, -1)
        return Selection(visit=Visit(scores.query.shape[2], index))


def test_a_memory_lasts_for_one_forward() -> None:
    """The next prompt starts afresh, and a later layer finds what an earlier one left."""
    report = probe.patterns((llama(), letters()), [TEXT, TEXT], [_Remembers()])
    n = len(TEXT)
    pairs = n * (n + 1) / 2
    kept = [sum(min(i + 1, count) for i in range(n)) / pairs for count in (2, 3)]
    by_prompt = report.answer("remembers/density").by_prompt.values
    np.testing.assert_allclose(by_prompt, np.array(kept)[None, :, None].repeat(2, 0).repeat(4, 2), atol=1e-12)


TOKENS = repeated_tokens(12)


def test_a_head_that_looks_far_loses_its_mass_under_local_patterns_and_a_local_one_does_not() -> None:
    """Planted heads: what they keep is the share of rows whose one key is kept."""
    kept = {
        "sliding:window=4": lambda i, j: i - j < 4,
        "sink_recent:sinks=1,recent=2": lambda i, j: i - j < 2 or j < 1,
    }
    for spec, keeps in kept.items():
        fold = feed(PatternFold(spec, make(spec), Wholes()), [planted(TOKENS)], Feeding(pad=3))
        found = {one.name: one.head_map.values[0] for one in answers_of(fold)}
        for name, keys in targets(TOKENS).items():
            share = np.mean([keeps(i, j) for i, j in enumerate(keys)])
            assert found["mass_kept"][HEADS.index(name)] == pytest.approx(share, abs=1e-6)
        assert found["mass_kept"][HEADS.index("induction")] < 0.6
        assert found["mass_kept"][HEADS.index("local")] == 1
        assert found["mass_kept_min"][HEADS.index("induction")] < 1e-6


def test_a_retrieval_head_that_loses_is_told_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head that copies a needle from afar, on a model made of weights; without the scores nothing is said."""
    filler = ["stone", "river", "cloud", "grass", "bird", "lamp", "door", "road"]
    answer = ["amber", "kettle", "under", "violet", "bridge"]
    order = np.random.default_rng(0).integers(0, len(filler), size=400)
    hay = " ".join(filler[number] for number in order)
    needle = Needle("vault", f"vault needs {' '.join(answer)}.", "?", " ".join(answer))
    monkeypatch.setattr("probe.experiments.retrieval.haystack", lambda: hay)
    monkeypatch.setattr("probe.prompts.haystacks.haystack", lambda: hay)
    monkeypatch.setattr("probe.experiments.retrieval.needles", lambda: (needle,))
    detection = "retrieval:lengths=60,depths=0.1,needles=1"
    monkeypatch.setattr("probe.analysis.patterning.detection.DETECTION", detection)
    model, text = copier([*filler, *answer, "vault", "needs", "."]), " ".join(filler * 4)
    spec = "sliding:window=4"
    report = probe.patterns(model, text, spec, retrieval=True)
    assert report["retrieval"].values[1, 0] == 1
    notes = report.answer(f"{spec}/mass_kept").notes
    lost = 100 * (1 - float(report[f"{spec}/mass_kept"][1, 0]))
    assert f"L1.H0 loses {lost:.0f} % under {spec}; it is a retrieval head" in notes
    assert sum("retrieval head" in note for note in notes) == 1
    assert not any("retrieval" in note for note in probe.patterns(model, text, spec).answers[1].notes)


def test_an_interrupted_run_goes_on_with_the_prompts_that_are_left(tmp_path, monkeypatch) -> None:
    """The finished prompt is not run again, and the report is that of a run in one go."""
    from probe.analysis.forward import Runner

    model, texts = (llama(), letters()), [TEXT, "a fox.", "over the dog"]
    whole = probe.patterns(model, texts, SPECS)
    ran: list[int] = []
    run = Runner.run

    def stopping(self, inputs):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(inputs["input_ids"].shape[1])
        return run(self, inputs)

    monkeypatch.setattr(Runner, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        probe.patterns(model, texts, SPECS, out=tmp_path / "run")
    ran.clear()
    report = probe.patterns(model, texts, SPECS, out=tmp_path / "run")
    assert ran == [12]
    for key in whole:
        assert report[key].equals(whole[key])
    assert probe.open_report(tmp_path / "run").identical(report)
