"""Query-focused retrieval heads: scores by hand, equality with dense eager attention, ranking, your own prompts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_models import bert, letters, llama, mistral

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask, Experiment
from probe.experiments.qr_retrieval import QrRetrieval
from probe.experiments.qr_scores import document_scores, gold_rank, summed_scores
from probe.experiments.query_rows import Example, Suffix, document_attention
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.documents import document_prompts, documents
from probe.prompts.spans import Chars

# The two documents of the authors' README, and their question.
TOY = (
    "[1] Kushva\nKushva is the largest town in Nizhnyaya. It has a population of 1,000.",
    "[2] Levikha\nLevikha is a bustling town in Nizhnyaya. It has a population of 200,000.",
)
QUESTION = "Which town in Nizhnyaya has the largest population?"
NULL = tuple(letters()(" N/A", add_special_tokens=False)["input_ids"])


def toy(right: int = 1, **changes: object) -> Prompt:
    """Two documents, an instruction and a question, with their spans; `changes` replace spans, None removes one."""
    front, instruction = "\n\n".join(TOY) + "\n\n", "Find what is relevant.\n\nQuery: "
    text = front + instruction + QUESTION
    starts = (0, len(TOY[0]) + 2)
    spans: dict[str, object] = {
        f"doc:{at}": Chars((start, start + len(one)))
        for at, (start, one) in enumerate(zip(starts, TOY, strict=True))
    }
    spans["gold"] = spans[f"doc:{right}"]
    spans["query"] = Chars((len(front), len(text)))
    spans["question"] = Chars((len(front) + len(instruction), len(text)))
    spans = {name: span for name, span in {**spans, **changes}.items() if span is not None}
    return Prompt.of(text, letters(), spans=spans, id="toy")


def small(make: Callable[..., torch.nn.Module] = llama, **changes: object) -> LoadedModel:
    """A small random model in float64 that computes its attention eagerly."""
    model = make(**changes) if changes else make()
    model.set_attn_implementation("eager")
    return LoadedModel(model.double(), letters(), "small", ModelSource("given"))


def dense(loaded: LoadedModel, example: Example) -> np.ndarray:
    """The same from whole attention maps, without a cache: (layer, head, token)."""
    means = []
    for suffix in (example.asked, example.null):
        ids = torch.tensor([(*example.front, *suffix.tokens)])
        with torch.no_grad():
            maps = torch.stack(loaded.model(input_ids=ids, output_attentions=True).attentions)[:, 0]
        rows = len(example.front) + np.flatnonzero(suffix.rows)
        means.append(maps[:, :, torch.from_numpy(rows), : len(example.front)].mean(2).numpy())
    return means[0] - means[1]


@pytest.mark.parametrize("make", [lambda: llama(max_position_embeddings=512), mistral])
def test_equals_dense_eager_attention_in_float64(make: Callable[[], torch.nn.Module]) -> None:
    """Cached once and continued twice, rows give what whole maps of two separate prompts give, windows included."""
    loaded, example = small(make), Example.of(toy(), NULL)
    found = document_attention(loaded, example)
    np.testing.assert_allclose(
        np.stack([found[layer] for layer in sorted(found)]), dense(loaded, example), atol=1e-6
    )


def test_the_map_is_the_mean_over_examples_of_what_the_right_documents_get() -> None:
    """Worked out from dense maps: tokens below mean − 2 std are left out per head and document, the rest is summed."""
    loaded = small(max_position_embeddings=512)
    prompts = (toy(0), toy(1))
    (answer,) = QrRetrieval(heads=2).run(Ask(loaded, prompts))
    wanted = []
    for at, prompt in enumerate(prompts):
        example = Example.of(prompt, NULL)
        tokens = dense(loaded, example)[:, :, example.documents[at]]
        bound = tokens.mean(-1, keepdims=True) - 2 * tokens.std(-1, ddof=1, keepdims=True)
        wanted.append(np.where(tokens < bound, 0, tokens).sum(-1))
    np.testing.assert_allclose(answer.by_prompt, wanted, atol=1e-5)
    np.testing.assert_allclose(answer.head_map, np.mean(wanted, 0), atol=1e-5)
    assert answer.extra["documents"].dims == ("prompt", "document")
    assert answer.extra["documents"].coords["part"].values.tolist() == ["yours", "yours"]
    both = answer.extra["rank_all"].values
    order = answer.extra["documents_all"].values
    assert both.tolist() == [1.0 if order[at, at] > order[at, 1 - at] else 2.0 for at in (0, 1)]
    assert "the heads rank the prompts that they were found on" in answer.notes


def test_without_calibration_the_null_query_is_not_asked() -> None:
    """Uncalibrated attention is a mean of probabilities; the difference to the calibrated one is the null query's."""
    loaded, example = small(max_position_embeddings=512), Example.of(toy(), NULL)
    plain, less = (document_attention(loaded, example, calibrate=one) for one in (False, True))
    assert all(((one >= 0) & (one.sum(-1, keepdims=True) <= 1 + 1e-9)).all() for one in plain.values())
    assert max(np.abs(plain[layer] - less[layer]).max() for layer in plain) > 1e-3


def test_the_null_query_replaces_the_question_alone() -> None:
    """The instruction stays in both queries; all of the query is replaced where no question is named."""
    named, whole = Example.of(toy(), NULL), Example.of(toy(question=None), NULL)
    asked = len(QUESTION)
    assert named.null.tokens == (*named.asked.tokens[:-asked], *NULL)
    assert whole.null.tokens == NULL
    assert named.null.rows.all()
    assert named.gold == (1,)
    assert [int(one.sum()) for one in named.documents] == [len(one.replace("\n", "")) + 1 for one in TOY]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gold": None}, "'gold'"),
        ({"query": None, "question": None}, "'query'"),
        ({"doc:0": None, "doc:1": None, "gold": Chars((0, 3))}, "0 documents"),
        ({"gold": Chars((len(TOY[0]), len(TOY[0]) + 2))}, "touches none"),
        ({"question": Chars((0, 6))}, "must lie in the query"),
        ({"query": Chars((100, 110)), "question": None}, "before the span 'query'"),
    ],
)
def test_prompts_without_the_spans_are_refused_by_name(changes: dict, why: str) -> None:
    """What is missing or lies on the wrong side is named, with the prompt."""
    with pytest.raises(InputError, match=why) as error:
        Example.of(toy(**changes), NULL)
    assert "'toy'" in str(error.value)


@settings(max_examples=50)
@given(arrays(np.float64, (2, 9), elements=st.floats(-1, 1, width=32)))
def test_laws_of_document_scores(values: np.ndarray) -> None:
    """Without dropping a score is a plain sum; dropping never takes the largest token; heads are independent."""
    docs = [np.arange(9) < 4, np.arange(9) == 5, np.arange(9) > 5]
    plain, dropped = document_scores(values, docs, 0.0), document_scores(values, docs, 2.0)
    np.testing.assert_allclose(plain, [values[:, one].sum(-1) for one in docs])
    np.testing.assert_allclose(dropped[1], values[:, 5])
    # Four tokens cannot lie two standard deviations off: (n − 1)/√n is the most.
    np.testing.assert_allclose(dropped[0], plain[0])
    np.testing.assert_allclose(dropped[:, 0], document_scores(values[0], docs, 2.0))


def test_outliers_are_dropped_after_heads_are_summed() -> None:
    """For a ranking, tokens are judged by the sum over heads; a head's own outlier may then stay."""
    values = np.zeros((2, 8))
    values[:, 1:] = 1.0
    values[0, 0], values[1, 0] = -30.0, 32.0
    none = Suffix((), np.zeros(0, dtype=bool))
    example = Example("x", (0,) * 8, none, none, (np.ones(8, dtype=bool),), (0,))
    assert document_scores(values[0], example.documents)[0] == 7.0
    assert summed_scores({0: values}, [(0, 0), (0, 1)], example, 2.0)[0] == 16.0


def test_ranks() -> None:
    """The best right document counts; others with the same score stand before it."""
    assert gold_rank(np.array([0.1, 0.9, 0.5]), [1]) == 1
    assert gold_rank(np.array([0.1, 0.9, 0.5]), [0, 2]) == 2
    assert gold_rank(np.array([0.5, 0.5]), [0]) == 2


def test_shipped_documents_are_two_parts_that_share_nothing() -> None:
    """Twelve of each; every prompt has one right document, among others of its own part, wherever the seed puts it."""
    train, held_out = documents("train"), documents("held_out")
    assert len(train) == len(held_out) == 12
    assert len({one.id for one in train + held_out}) == len({one.text for one in train + held_out}) == 24
    places = set()
    for part, known in (("train", train), ("held_out", held_out)):
        for number, prompt in enumerate(document_prompts(letters(), part, count=6, size=4, seed=1)):
            gold = np.flatnonzero(prompt.spans["gold"])
            start, stop = prompt.offsets[gold[0]][0], prompt.offsets[gold[-1]][1]
            assert prompt.text[start:stop].endswith(known[number].text)
            shown = [one.id for one in train + held_out if one.text in prompt.text]
            assert len(shown) == 4
            assert set(shown) <= {one.id for one in known}
            assert prompt.text.endswith(f"Query: {known[number].question}")
            places |= {at for at in range(4) if (prompt.spans[f"doc:{at}"] & prompt.spans["gold"]).any()}
    assert places == set(range(4))
    with pytest.raises(UsageError, match="13 prompts"):
        document_prompts(letters(), "train", count=13)


@pytest.mark.parametrize(
    ("model", "tokenizer", "why"),
    [(bert, letters, "generates"), (llama, lambda: None, "tokenizer"), (llama, letters, "128 positions")],
)
def test_models_that_cannot_be_asked(model, tokenizer, why) -> None:
    """An encoder, a model without tokenizer and one with too few positions get NaN for every head and a reason."""
    loaded = LoadedModel(model(), tokenizer(), "small", ModelSource("given"))
    (answer,) = QrRetrieval(examples=1, documents=2).run(Ask(loaded))
    assert answer.head_map.isnull().all()
    assert why in answer.notes[0]


def test_wrong_parameters_are_refused_and_it_is_an_experiment() -> None:
    """Parameters out of range are refused by name, shipped sizes before anything runs."""
    for name, value in {"heads": 0, "documents": 1, "examples": 0, "drop": -1.0, "null": " "}.items():
        with pytest.raises(UsageError, match=f"qr_retrieval: .*{name}"):
            QrRetrieval(**{name: value})
    with pytest.raises(UsageError, match="each part has 12 documents"):
        QrRetrieval(examples=13).run(Ask(small()))
    assert isinstance(QrRetrieval(), Experiment)


def test_right_documents_come_first_on_real_weights(smollm2: LoadedModel) -> None:
    """On SmolLM2 the best heads, found on two examples, put the right one of four documents first in two held out."""
    (answer,) = QrRetrieval(examples=2, documents=4).run(Ask(smollm2))
    held_out = answer.extra["rank"].coords["part"] == "held_out"
    assert (answer.extra["rank"][held_out] == 1).all()
    assert float(answer.head_map.max()) > 0.1
