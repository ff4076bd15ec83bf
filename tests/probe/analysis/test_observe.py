"""`probe.observe` and `probe.edit` around whatever a user does with a model, `generate()` included."""

import threading

import numpy as np
import pytest
import torch
from probe_kernels import Want
from small_models import letters, llama, mistral

import probe
from probe.errors import ModelInUseError, ReportError, UnknownNameError, UnseenLayersError, UsageError
from probe.metrics import MetricInfo, RowMetric

IDS = torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8, 4, 6, 5, 9]])


def generated(model, count=6, ids=IDS, **changes):
    """Greedy continuation."""
    mask = torch.ones_like(ids)
    return model.generate(
        ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, **changes
    )


def dense(model, ids):
    """The model's own eager weights, [layer, head, query, key]."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(ids, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    return np.stack([layer[0].numpy() for layer in maps])


@pytest.mark.parametrize("build", [llama, mistral])
def test_rows_and_tiles_inside_generate(build):
    """Rows seen during generation are those of one whole forward over prompt and answer."""
    model = build()
    with probe.observe(model, ["entropy"], keep="qk") as run:
        out = generated(model)
    expected = dense(model, out[:, :-1])[1, 2]
    rows = run.rows(1, 2, slice(None))
    assert rows.dims == ("query_pos", "key_pos")
    assert list(rows.query_pos) == list(range(out.shape[1] - 1))
    np.testing.assert_allclose(rows, expected, atol=8e-3)
    tile = run.tile(1, 2, slice(4, 12), slice(0, 8), shape=(2, 2))
    np.testing.assert_allclose(tile, expected[4:12, :8].reshape(2, 4, 2, 4).mean((1, 3)), atol=8e-3)
    assert list(tile.query_pos) == [4, 8]


def test_observing_changes_nothing():
    """Without interventions the model's own output stands, bit by bit, and the model is as before."""
    model = llama()
    expected = generated(model)
    native = model(IDS).logits
    with probe.observe(model) as run:
        assert torch.equal(generated(model), expected)
        assert torch.equal(model(IDS).logits, native)
    assert run.report().provenance.mode == "shadow"
    assert torch.equal(model(IDS).logits, native)


def test_report_pools_what_was_seen():
    """The report covers every forward of the block, with values per sequence, and can be asked for in between."""
    model = llama()
    with probe.observe(model, ["entropy"], mode="fused") as run:
        model(IDS)
        first = run.report()["entropy"]
        model(IDS[:, :6])
    report = run.report()
    assert report.provenance.tokens == 18
    assert report.provenance.prompts == 2
    np.testing.assert_allclose(report.answers[0].by_prompt[0], first)
    np.testing.assert_allclose(
        report["entropy"], (first * 12 + report.answers[0].by_prompt[1] * 6) / 18, atol=1e-6
    )
    np.testing.assert_allclose(
        first, probe.analyze(model, {"input_ids": IDS}, ["entropy"])["entropy"], atol=1e-6
    )


def test_phases_are_told_apart():
    """`phase` keeps the prompt's rows or those of the answer; together they are everything."""
    model, reports = llama(), {}
    for phase in ("prefill", "decode", None):
        with probe.observe(model, ["entropy"], phase=phase) as run:
            generated(model, 4)
        reports[phase] = run.report()["entropy"]
    n_prompt, n_answer = 12, 3  # the last token is never fed back
    pooled = (reports["prefill"] * n_prompt + reports["decode"] * n_answer) / (n_prompt + n_answer)
    np.testing.assert_allclose(reports[None], pooled, atol=1e-6)


def test_nested_and_repeated_use():
    """Observations nest in one thread, each with its own answers, and can follow each other."""
    model = llama()
    with probe.observe(model, ["entropy"]) as outer:
        model(IDS)
        with probe.observe(model, ["max_prob"]) as inner:
            model(IDS)
    assert outer.report().provenance.prompts == 2
    assert inner.report().provenance.prompts == 1
    assert list(inner.report()) == ["max_prob"]
    with probe.observe(model, ["entropy"]) as again:
        model(IDS)
    np.testing.assert_allclose(again.report()["entropy"], outer.report()["entropy"], atol=1e-6)


def test_generate_in_another_thread_is_seen():
    """A model that is observed here and run in a worker thread is seen and edited all the same."""
    model = llama()
    base = generated(model)
    with probe.observe(model, ["entropy"], [probe.interventions.zero()]) as run:
        found = []
        worker = threading.Thread(target=lambda: found.append(generated(model)))
        worker.start()
        worker.join()
    assert run.report().provenance.tokens == 12 + 5
    assert not torch.equal(found[0], base)


def test_two_models_in_two_threads():
    """Two models are observed at once from two threads, each with its own numbers."""
    models, found = [llama(), llama(num_hidden_layers=1)], {}

    def work(number):
        with probe.observe(models[number], ["entropy"]) as run:
            generated(models[number])
        found[number] = run.report()["entropy"]

    workers = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found[0].shape == (2, 4)
    assert found[1].shape == (1, 4)


def test_a_model_observed_elsewhere_is_refused():
    """A second thread that observes the same model gets an error, not the first one's numbers."""
    model, errors = llama(), []

    def work():
        try:
            with probe.observe(model):
                model(IDS)
        except ModelInUseError as error:
            errors.append(error)

    with probe.observe(model):
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    assert len(errors) == 1


def test_edit_moves_generation_and_ends_with_its_block():
    """An edit changes what is generated, and nothing of it stays."""
    model = llama()
    base = generated(model)
    with probe.edit(model, [probe.interventions.zero()]):
        edited = generated(model)
    assert not torch.equal(edited, base)
    assert torch.equal(generated(model), base)


def test_edit_is_undone_after_an_error():
    """An error inside the block restores the model."""
    model = llama()
    native = model(IDS).logits
    with pytest.raises(ZeroDivisionError), probe.edit(model, [probe.interventions.zero()]):
        raise ZeroDivisionError
    assert torch.equal(model(IDS).logits, native)


def test_announced_spans_reach_interventions():
    """Named spans of announced prompts are what a knockout hides."""
    model, tokenizer = llama(), letters()
    prompt = probe.Prompt.of("abcdefgh", tokenizer, spans={"middle": (2, 4)})
    cut = probe.interventions.knockout(queries="last", keys="middle")
    with probe.observe(model, ["entropy"], [cut], keep="map") as run:
        run.announce([prompt])
        model(torch.tensor([prompt.tokens]))
    shown = run.map(0)
    assert float(shown[:, -1, 2:4].max()) == 0
    assert float(shown[:, -2, 2:4].min()) > 0


def test_wrong_use_says_what_to_do():
    """Experiments, unknown choices, empty reports and rows that were not kept are errors with advice."""
    model = llama()
    with pytest.raises(UsageError, match="use probe"):
        probe.observe(model, ["retrieval"])
    with pytest.raises(UsageError, match="keep"):
        probe.observe(model, keep="all")
    with pytest.raises(UsageError, match="phase"):
        probe.observe(model, phase="both")
    with pytest.raises(UnknownNameError):
        probe.observe(model, interventions=[probe.interventions.zero(heads=["L5.H0"])])
    with pytest.raises(UsageError, match="at least one"), probe.edit(model, []):
        pass
    run = probe.observe(model)
    with pytest.raises(UsageError, match="inside the with block"):
        run.report()
    with run:
        model(IDS)
    with pytest.raises(UsageError, match="make another"), run:
        pass
    with pytest.raises(ReportError, match="keep='qk'"):
        run.rows(0, 0, [1])
    with pytest.raises(ReportError, match="keep='map'"):
        run.map(0)
    with probe.observe(model, keep="qk") as kept:
        model(IDS)
    with pytest.raises(ReportError, match="layers \\[0, 1\\]"):
        kept.rows(5, 0, [1])
    with pytest.raises(ReportError, match="1 were seen"):
        kept.rows(0, 0, [1], prompt=3)


def unseen_in_the_middle():
    """A model whose second layer computes its attention by itself."""
    model = llama()
    attention = model.model.layers[1].self_attn
    attention.forward = lambda hidden_states, **_: (attention.o_proj(attention.q_proj(hidden_states)), None)
    return model


def test_an_edit_of_a_layer_that_bypasses_the_seam_is_not_lost_silently():
    """The block ends with an error that names the layer; edits of layers that are seen go through."""
    model = unseen_in_the_middle()
    for target, lost in ({"heads": ["L1.H0"]}, True), ({"heads": ["L0.H0"]}, False), ({}, True):
        edits = [probe.interventions.zero(**target)]
        if not lost:
            with probe.edit(model, edits):
                model(IDS)
            continue
        with pytest.raises(UnseenLayersError, match=r"model.layers.1.self_attn"), probe.edit(model, edits):
            model(IDS)
        with pytest.raises(UnseenLayersError, match="not edited"), probe.observe(model, ["entropy"], edits):
            model(IDS)


def test_a_phase_lets_activations_of_that_phase_through():
    """A metric that also looks at the residual stream sees it in the phase that was asked."""
    seen = []

    class Both(RowMetric):
        info = MetricInfo("both", "Nothing.", "nats", "high", "", "")
        need = Want(z=False, entropy=True)
        points = frozenset({"resid_post"})

        def score(self, call, attended):
            return attended.entropy

        def activation(self, one):
            seen.append(one.phase)

    model = llama()
    with probe.observe(model, [Both()], phase="decode"):
        generated(model, count=3)
    assert set(seen) == {"decode"}
