"""Copies of one token are the same at every position where positions are relative, and not where they are absolute."""

import pytest
from small_models import gpt2, llama, mistral

from probe.models import LoadedModel, ModelSource
from probe.replay.claims.no_position import LIMIT, _differs

COPIES = [7] * 24


def differs(model: object, ids: list[int]) -> list[float]:
    return _differs(LoadedModel(model, None, "small", ModelSource("given")), ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [llama, mistral], ids=lambda build: build.__name__)
def test_rotary_positions_alone_cannot_be_seen(build: object) -> None:
    """Residual stream and z are equal to rounding, although rows are far from uniform; a token in front breaks it."""
    resid, z, uneven = differs(build(), COPIES)  # type: ignore[operator]
    assert max(resid, z) < LIMIT
    assert uneven > 0.1
    assert differs(build(), [9, *COPIES])[0] > 100 * LIMIT  # type: ignore[operator]


def test_learned_positions_can_be_seen() -> None:
    """The claim can fail: with a vector per position copies differ."""
    assert differs(gpt2(), COPIES)[0] > 100 * LIMIT
