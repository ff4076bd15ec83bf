"""Reading a prompt once and running only what an edit changes gives what whole forwards give."""

from contextlib import nullcontext

import pytest
import small_models
import torch

import probe
from probe.interventions import knockout, uniform_past, zero
from probe.models import LoadedModel, as_loaded
from probe.replay.reading import Reading, under

TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(params=["llama", "mistral"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """A decoder in float64, with a window of 8 tokens or none."""
    model = getattr(small_models, request.param)().double().eval()
    return as_loaded((model, small_models.letters()))


def _ids(loaded: LoadedModel, text: str) -> list[int]:
    return list(loaded.tokenizer(text)["input_ids"])  # type: ignore[misc]


def _whole(loaded: LoadedModel, tokens: list[int], told: list[int], edits: list[object]) -> float:
    """The loss of `told` after `tokens` in one forward over both."""
    ids = torch.tensor([tokens + told])
    with torch.no_grad(), probe.edit(loaded.model, edits) if edits else nullcontext():
        logits = loaded.model(ids).logits[0, len(tokens) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(told)))


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("make", [lambda: zero(["L1.H1"]), lambda: uniform_past(["L1.H0", "L1.H3"])])
def test_an_answer_has_the_loss_of_a_whole_forward(loaded: LoadedModel, block: int, make: object) -> None:
    """Edited in prefill and decode, from whatever block may be touched on."""
    edit = make()  # type: ignore[operator]
    tokens, told = _ids(loaded, TEXT), _ids(loaded, " and")
    reading = Reading(loaded, tokens, block)
    assert reading.answer("and").loss == pytest.approx(_whole(loaded, tokens, told, []), abs=1e-9)
    assert reading.answer("and", [edit], 0).loss == pytest.approx(
        _whole(loaded, tokens, told, [edit]), abs=1e-9
    )
    # The unedited run is not spoilt by the edited ones.
    assert reading.answer("and").loss == pytest.approx(_whole(loaded, tokens, told, []), abs=1e-9)


def test_rows_before_an_edit_need_not_run(loaded: LoadedModel) -> None:
    """A knockout from row 20 on gives the same from its cache as whole; a window of 8 sees some of its keys."""
    edit = knockout((20, 10**6), (14, 18))
    tokens, told = _ids(loaded, TEXT), _ids(loaded, " and")
    wanted = _whole(loaded, tokens, told, [edit])
    for rows in (20, 0):
        found = Reading(loaded, tokens).answer("and", [edit], rows=rows)
        assert found.loss == pytest.approx(wanted, abs=1e-9)


def test_several_endings_at_once_are_each_alone(loaded: LoadedModel) -> None:
    """The losses of continuations in one batch are those of each by itself, edited and not."""
    tokens = _ids(loaded, TEXT)
    endings = [_ids(loaded, part) for part in (" and", " fox", "zzzz")]
    edit = zero(["L1.H1"])
    reading = Reading(loaded, tokens, 1)
    for edits, rows in (([], len(tokens) - 1), ([edit], 0)):
        found = reading.losses(endings, edits, rows)
        assert found == pytest.approx([_whole(loaded, tokens, one, edits) for one in endings], abs=1e-9)


def test_a_passage_is_decoded_as_it_is_read(loaded: LoadedModel) -> None:
    """Logits after one token of prefill are those of a forward over the whole passage."""
    tokens = _ids(loaded, TEXT)
    with under(loaded, ()):
        found = Reading(loaded, tokens).decoded()
    with torch.no_grad():
        wanted = loaded.model(torch.tensor([tokens])).logits[0, 1:-1]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_what_the_model_says_is_what_generate_says(loaded: LoadedModel) -> None:
    """The greedy response is that of `generate`, up to its own end."""
    tokens = _ids(loaded, TEXT)
    said = Reading(loaded, tokens).answer("and").response
    out = loaded.model.generate(torch.tensor([tokens]), max_new_tokens=8, do_sample=False)  # type: ignore[operator]
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.decode(out[0, len(tokens) :]).startswith(said)


def test_an_edit_that_changes_nothing_is_an_error(loaded: LoadedModel) -> None:
    """A decode-only edit under prefill alone changed nothing."""
    with (
        pytest.raises(probe.ProbeError, match="changed nothing"),
        under(loaded, [zero(["L1.H1"], phase="decode")]),
    ):
        loaded.model(torch.tensor([_ids(loaded, TEXT)]))
