"""The map of dormant heads equals the authors' test on the eager weights, and the causal check is the loss itself."""

import numpy as np
import pytest
import torch
from small_models import bert, letters, llama

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask
from probe.experiments.forwards import losses
from probe.interventions import zero
from probe.metrics.making import make
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.domains import domain_texts

TEXTS = {"calm:0": "the cat sat on the mat", "calm:1": "a line of words", "odd:0": "x.y,z.x,y.z"}
ROW, COLUMN = 0.8, 0.9


def loaded(model: torch.nn.Module | None = None) -> LoadedModel:
    return LoadedModel(model or llama(attn_implementation="eager"), letters(), "small", ModelSource("given"))


def prompts(tokenizer: object, texts: dict[str, str] = TEXTS) -> tuple[Prompt, ...]:
    return tuple(Prompt.of(text, tokenizer, id=name) for name, text in texts.items())


def by_authors(model: torch.nn.Module, prompt: Prompt) -> tuple[np.ndarray, np.ndarray]:
    """Dormant or not, and the mass on key 0, of every head: dense, float64."""
    with torch.no_grad():
        weights = model(torch.tensor([prompt.tokens]), output_attentions=True).attentions
    dormant, sink = [], []
    for p in weights:
        p = p[0].double()
        n = p.shape[-1]
        rows = -torch.special.xlogy(p, p).sum(-1)[:, 1:] / torch.arange(2, n + 1).log()
        column = p / p.sum(-2, keepdim=True)
        columns = -torch.special.xlogy(column, column).sum(-2)[:, :-1] / torch.arange(n, 1, -1).log()
        dormant.append(((rows.mean(-1) < ROW) & (columns.amax(-1) > COLUMN)).numpy())
        sink.append(p[:, :, 0].mean(-1).numpy())
    return np.stack(dormant), np.stack(sink)


def test_the_map_is_the_authors_test_by_domain() -> None:
    """Domains come from ids; a head is dormant in one where most of its texts say so; sinks are means over texts."""
    model = loaded()
    given = prompts(model.tokenizer)
    answer = make(f"active_dormant:row={ROW},column={COLUMN},heads=1").run(Ask(model, given))[0]
    flags, sinks = zip(*(by_authors(model.model, one) for one in given), strict=True)
    dormant = np.stack([np.mean(flags[:2], 0) > 0.5, flags[2]])
    assert 0 < dormant.mean() < 1
    np.testing.assert_array_equal(answer.extra["dormant"].values, dormant)
    np.testing.assert_allclose(answer.head_map.values, dormant.mean(0))
    sink = np.stack([np.mean(sinks[:2], 0), sinks[2]])
    np.testing.assert_allclose(answer.extra["sink"].values, sink, rtol=1e-4)
    np.testing.assert_allclose(answer.extra["switch"].values, np.ptp(sink, axis=0), rtol=1e-3, atol=1e-6)
    assert answer.extra["sink"].domain.values.tolist() == ["calm", "odd"]


def test_the_causal_check_is_the_loss_without_the_head() -> None:
    """The head that switches most is zeroed; its change and the controls' are those of losses taken by hand."""
    model = loaded()
    given = prompts(model.tokenizer)
    answer = make("active_dormant:heads=1").run(Ask(model, given, seed=3))[0]
    switch = answer.extra["switch"].values
    layer, head = np.unravel_index(switch.argmax(), switch.shape)
    change, control = answer.extra["loss_change"], answer.extra["control_change"]
    assert change.checked.values.tolist() == [f"L{layer}.H{head}"]

    def loss(prompt: Prompt, *edits: object) -> float:
        return float(losses(model, prompt, edits).nanmean())

    edit = zero(heads=[f"L{layer}.H{head}"])
    odd = loss(given[2], edit) - loss(given[2])
    assert float(change.sel(domain="odd")[0]) == pytest.approx(odd, abs=1e-6)
    assert abs(odd) > 1e-4
    others = np.mean([loss(given[2], edit.control(3 + draw)) for draw in range(2)]) - loss(given[2])
    assert float(control.sel(domain="odd")[0]) == pytest.approx(others, abs=1e-6)
    assert any(f"L{layer}.H{head} zeroed" in line for line in answer.notes)


def test_one_domain_gives_a_map_and_says_that_nothing_is_compared() -> None:
    """No head switches where there is nothing to switch between."""
    model = loaded()
    answer = make("active_dormant").run(
        Ask(model, prompts(model.tokenizer, {"a:0": "the cat", "a:1": "sat"}))
    )[0]
    assert "loss_change" not in answer.extra
    assert any("one domain only" in line for line in answer.notes)
    assert np.isfinite(answer.head_map.values).all()


def test_the_shipped_domains_are_used_where_nobody_gave_prompts() -> None:
    """Four domains of one text each, cut to the tokens asked."""
    answer = make("active_dormant:texts=1,tokens=9,heads=0").run(Ask(loaded()))[0]
    assert answer.extra["dormant"].domain.values.tolist() == ["prose", "code", "json", "lists"]
    assert set(map(len, domain_texts().values())) == {8}
    assert min(len(text) for texts in domain_texts().values() for text in texts) > 300


def test_what_cannot_be_asked_is_refused() -> None:
    """Thresholds that are no shares, and texts of one token."""
    with pytest.raises(UsageError, match="row was 2"):
        make("active_dormant:row=2")
    with pytest.raises(UsageError, match="tokens was 1"):
        make("active_dormant:tokens=1")
    model = loaded()
    with pytest.raises(InputError, match="'a:0' has one token"):
        make("active_dormant").run(Ask(model, prompts(model.tokenizer, {"a:0": "t"})))


def test_without_a_decoder_it_says_so() -> None:
    """An encoder has no number and a reason, so that a suite still runs on it."""
    model = loaded(bert())
    answer = make("active_dormant").run(Ask(model, prompts(model.tokenizer)))[0]
    assert np.isnan(answer.head_map.values).all()
    assert any("not applicable: the model has no decoder" in line for line in answer.notes)
