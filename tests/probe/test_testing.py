"""The public check of metrics lets good ones pass and names the law that a bad one breaks."""

import doctest
import importlib
import math
import pkgutil

import numpy as np
import pytest
import torch
from probe_kernels.types import Attended, Want

import probe.metrics
import probe.testing
from probe.errors import ProbeError, UsageError
from probe.metrics import MetricInfo, RowMetric, make
from probe.metrics.entropy import Entropy
from probe.testing import LawBroken, check_metric, known_pattern, on_pattern

INFO = MetricInfo("bad", "A metric with a fault.", "none", "high", "nobody", "@misc{x}")
H16 = sum(1 / i for i in range(1, 17))


class CountsPadding(RowMetric):
    """Counts padded rows as well."""

    info = INFO
    need = Want(z=False, entropy=True)

    def score(self, call, attended: Attended):  # type: ignore[no-untyped-def]
        return attended.entropy

    def rows(self, call, attended: Attended):  # type: ignore[no-untyped-def]
        return torch.ones_like(call.query_real)


class ForgetsTheCache(RowMetric):
    """Takes the row's place in this call for its place in the prompt."""

    info = INFO
    need = Want(z=False, entropy=True)

    def score(self, call, attended: Attended):  # type: ignore[no-untyped-def]
        return attended.entropy * call.query_real.cumsum(1)[:, None]


class MixesHeads(RowMetric):
    """Weighs heads by their number."""

    info = INFO
    need = Want(z=False, entropy=True)

    def score(self, call, attended: Attended):  # type: ignore[no-untyped-def]
        return attended.entropy * torch.arange(call.n_heads)[:, None]


class KeepsOnlyTheLastBatch(RowMetric):
    """Forgets earlier prompts."""

    info = INFO
    need = Want(z=False, entropy=True)

    def score(self, call, attended: Attended):  # type: ignore[no-untyped-def]
        self.cells = {k: v for k, v in self.cells.items() if k.layer != call.place.layer or k.prompt == 2}
        return attended.entropy


class OverflowsInHalf(RowMetric):
    """Uses the range of bfloat16's precision as if it were exact."""

    info = INFO
    need = Want(z=False, entropy=True)

    def score(self, call, attended: Attended):  # type: ignore[no-untyped-def]
        rough = call.scores.query.dtype == torch.bfloat16
        return attended.entropy.masked_fill(torch.tensor(rough), torch.nan)

    def finite(self, values, call):  # type: ignore[no-untyped-def]
        return values


@pytest.mark.parametrize(
    ("metric", "law"),
    [
        (CountsPadding, "left padding changes nothing"),
        (ForgetsTheCache, "chunked and cached equals whole"),
        (MixesHeads, "permuting heads permutes the answer"),
        (KeepsOnlyTheLastBatch, "two batches equal one"),
        (OverflowsInHalf, "finite in bf16"),
    ],
)
def test_a_broken_law_is_named(metric: type[RowMetric], law: str) -> None:
    """Each planted fault is caught by the law made for it."""
    with pytest.raises(LawBroken, match=law) as broken:
        check_metric(metric)
    assert isinstance(broken.value, ProbeError)


def test_a_good_metric_with_known_answers_passes() -> None:
    """Uniform and one-hot patterns are checked against what the metric states."""
    check_metric(lambda: make("max_prob"), known={"uniform": H16 / 16, "first": 1.0, "self": 1.0})


def test_a_metric_itself_may_be_given() -> None:
    """A fresh metric will do in place of what makes one, and is left fresh."""
    metric = make("sink:n=2")
    check_metric(metric, known={"first": 1.0})
    assert not metric.cells


def test_a_wrong_known_answer_is_refused() -> None:
    """The message holds both numbers."""
    with pytest.raises(LawBroken, match=r"uniform pattern: stated 0\.5"):
        check_metric(Entropy, known={"uniform": 0.5})


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        ("entropy", {"uniform": sum(math.log(i) for i in range(1, 17)) / 16, "first": 0.0, "previous": 0.0}),
        ("entropy:normalized=true", {"uniform": 1.0, "self": 0.0}),
        ("sink", {"uniform": (H16 - 1) / 15, "first": 1.0, "self": 0.0, "previous": 1 / 15}),
        ("distance", {"uniform": 15 / 4, "first": 7.5, "self": 0.0, "previous": 15 / 16}),
        ("previous_token", {"uniform": (H16 - 1) / 15, "previous": 1.0, "self": 0.0}),
        ("duplicate_token", {"duplicate": 0.5, "self": 0.0, "induction": 0.0}),
        ("induction", {"induction": 0.5, "self": 0.0, "duplicate": 0.0}),
        ("effective_keys", {"uniform": 8.5, "first": 1.0, "self": 1.0}),
        ("waad", {"self": 0.0, "previous": 15 / 16}),
        ("span_mass:span=start", {"first": 1.0, "self": 0.0}),
        ("received", {"first": (1 - 6 * 15 / 256) / (15 / 256)}),
    ],
)
def test_known_answers_on_uniform_and_one_hot_patterns(spec: str, known: dict[str, float]) -> None:
    """What can be written down by hand comes out."""
    tokens = [*range(8), *range(8)]
    spans = {"start": [at < 2 for at in range(16)]}
    for name, value in known.items():
        found = on_pattern(make(spec), known_pattern(name), tokens=tokens, spans=spans)
        np.testing.assert_allclose(found, [value], atol=1e-4, err_msg=name)


def test_bad_patterns_are_refused() -> None:
    """A row that looks at nothing and an unknown name are errors."""
    with pytest.raises(UsageError, match="no visible key"):
        on_pattern(Entropy(), torch.zeros(1, 3, 3))
    with pytest.raises(UsageError, match="uniform"):
        known_pattern("flat")


@pytest.mark.parametrize("room", [probe.metrics, probe.testing], ids=lambda room: room.__name__)
def test_doctests(room: object) -> None:
    """Every example in the docstrings of metrics and of the check runs as printed."""
    ran = 0
    for entry in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):  # type: ignore[attr-defined]
        result = doctest.testmod(importlib.import_module(entry.name))
        assert result.failed == 0, entry.name
        ran += result.attempted
    assert ran > 0 or room is probe.testing
