"""Metrics find the heads that were planted, and score them as their definitions say."""

import numpy as np
import pytest
from planted import HEADS, known_scores, planted, repeated_tokens, targets

from probe.metrics import answers, make
from probe.testing import feed

TOKENS = repeated_tokens(12)


def heads(spec: str) -> np.ndarray:
    return answers(feed(make(spec), [planted(TOKENS)]))[0].head_map.values[0]


@pytest.mark.parametrize("spec", known_scores(TOKENS))
def test_planted_heads_score_as_known(spec: str) -> None:
    """Each planted head has the score that the definition gives it."""
    found = heads(spec)
    for name, value in known_scores(TOKENS)[spec].items():
        assert found[HEADS.index(name)] == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize(
    ("spec", "head"),
    [
        ("previous_token", "previous"),
        ("duplicate_token", "duplicate"),
        ("induction", "induction"),
        ("sink", "sink"),
    ],
)
def test_the_planted_head_is_the_top_head(spec: str, head: str) -> None:
    """The head that does it beats all others clearly."""
    found = heads(spec)
    order = np.argsort(found)
    assert HEADS[order[-1]] == head
    assert found[order[-1]] > found[order[-2]] + 0.3


def test_received_is_peaked_where_one_token_is_read() -> None:
    """The sink head's tokens receive 1 and nothing; its kurtosis is that of one success in n."""
    n = len(TOKENS)
    p = 1 / n
    assert heads("received")[HEADS.index("sink")] == pytest.approx(
        (1 - 6 * p * (1 - p)) / (p * (1 - p)), abs=1e-4
    )


def test_received_divides_by_the_queries_that_see_the_token() -> None:
    """The local head's tokens receive 1 from themselves alone, out of all queries that see them."""
    n = len(TOKENS)
    answer = answers(feed(make("received"), [planted(TOKENS)]))[0]
    expected = 1 / np.arange(n, 0, -1)
    np.testing.assert_allclose(answer.token_maps[0].values[0, HEADS.index("local")], expected, atol=1e-6)


def test_future_influence_counts_only_its_horizon() -> None:
    """The induction head reads each token of the first half `half - 1` tokens later: inside or outside the horizon."""
    n, half = len(TOKENS), len(TOKENS) // 2
    inside = heads(f"future_influence:lo={half - 1},hi={half - 1}")[HEADS.index("induction")]
    keys = targets(TOKENS)["induction"]
    hits = [keys[j + half - 1] == j for j in range(n - half + 1)]
    assert inside == pytest.approx(np.mean(hits), abs=1e-6)
    # Nearer than that, only the rows of the first half are left, and they look at the first token.
    outside = heads(f"future_influence:lo=1,hi={half - 3}")[HEADS.index("induction")]
    assert outside == pytest.approx(1 / (n - 1), abs=1e-6)


def test_local_and_global_heads_are_told_apart() -> None:
    """The head on itself is local, the head on the first token is global."""
    groups = heads("local_global")
    assert groups[HEADS.index("local")] == -1
    assert groups[HEADS.index("sink")] == 1
