"""The routing difference of two groups of prompts, by ids and by spans."""

import numpy as np
import pytest
import tiny
from given import given
from subjects.catalogue import SUBJECTS

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask
from probe.experiments.expert_difference import ExpertDifference
from probe.experiments.folding import fold
from probe.metrics import answers
from probe.metrics.expert_routing import ExpertRouting
from probe.models import LoadedModel
from probe.prompts import Prompt

IDS = ("yes:0", "no:0", "yes:1", "other")


@pytest.fixture(scope="module")
def mixtral() -> LoadedModel:
    return given(SUBJECTS["mixtral"].model())


def prompts() -> tuple[Prompt, ...]:
    return tuple(
        Prompt.of_tokens(
            tiny.tokens(1, 8 + n, seed=n)[0].tolist(), id=name, spans={"front": (0, 3), "back": (5, 8)}
        )
        for n, name in enumerate(IDS)
    )


def shares(model: LoadedModel, span: str = "") -> np.ndarray:
    metric = ExpertRouting(span=span)
    fold(model, prompts(), [metric])
    found = answers(metric)[0].by_prompt
    assert found is not None
    return found.values


def test_groups_by_ids(mixtral: LoadedModel) -> None:
    """Mean of the prompts of a, less that of b, or of all the others."""
    each = shares(mixtral)
    answer = ExpertDifference(a="yes:", b="no:").run(Ask(mixtral, prompts()))[0]
    assert answer.head_map.dims == ("layer", "expert")
    np.testing.assert_allclose(answer.head_map, each[[0, 2]].mean(0) - each[1])
    np.testing.assert_allclose(answer.extra["a"] - answer.extra["b"], answer.head_map)
    np.testing.assert_allclose(answer.head_map.sum("expert"), 0.0, atol=1e-12)
    rest = ExpertDifference(a="yes:").run(Ask(mixtral, prompts()))[0]
    np.testing.assert_allclose(rest.head_map, each[[0, 2]].mean(0) - each[[1, 3]].mean(0))
    best = answer.head_map.argmax(...)
    assert f"more often in a: L{int(best['layer'])}.E{int(best['expert'])}" in answer.notes[1]


def test_groups_by_spans(mixtral: LoadedModel) -> None:
    """The same prompts, tokens of one span against those of another."""
    answer = ExpertDifference(a="front", b="back").run(Ask(mixtral, prompts()))[0]
    expected = shares(mixtral, "front").mean(0) - shares(mixtral, "back").mean(0)
    np.testing.assert_allclose(answer.head_map, expected)


def test_wrong_groups_are_refused(mixtral: LoadedModel) -> None:
    """No prompts, an empty other group, an unknown span, the same group twice: each says what there is."""
    with pytest.raises(InputError, match="--prompts"):
        ExpertDifference(a="yes:").run(Ask(mixtral))
    with pytest.raises(InputError, match="no:0"):
        ExpertDifference(a="yes:", b="maybe:").run(Ask(mixtral, prompts()))
    with pytest.raises(InputError, match="b is needed"):
        ExpertDifference(a="front").run(Ask(mixtral, prompts()))
    with pytest.raises(InputError, match="back"):
        ExpertDifference(a="front", b="middle").run(Ask(mixtral, prompts()))
    with pytest.raises(UsageError, match="two different groups"):
        ExpertDifference(a="yes:", b="yes:")


def test_a_model_without_experts_is_not_applicable() -> None:
    """No number, and the reason."""
    answer = ExpertDifference(a="yes:").run(Ask(given(tiny.llama()), prompts()))[0]
    assert np.isnan(answer.head_map).all()
    assert "no routed experts" in answer.notes[0]
