"""Token detectors equal TransformerLens's head detector."""

import pytest
import torch

from probe.metrics import answers, make
from probe.testing import feed, on_pattern, samples

detector = pytest.importorskip("transformer_lens.head_detector", reason="needs the extra 'lens'")

TARGETS = {
    "previous_token": detector.get_previous_token_head_detection_pattern,
    "duplicate_token": detector.get_duplicate_token_head_detection_pattern,
    "induction": detector.get_induction_head_detection_pattern,
}


def mul(pattern: torch.Tensor, target: torch.Tensor) -> float:
    return detector.compute_head_attention_similarity_score(
        pattern, target, exclude_bos=False, exclude_current_token=False, error_measure="mul"
    )


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_detector(name: str, seed: int) -> None:
    """Scores equal `mul` with nothing excluded; previous_token leaves row 0 out, which `mul` counts."""
    n = 17
    random = torch.Generator().manual_seed(seed)
    pattern = torch.rand(3, n, n, generator=random).pow(4).add(1e-3).tril()
    pattern = pattern / pattern.sum(-1, keepdim=True)
    tokens = torch.randint(0, 5, (n,), generator=random)
    target = TARGETS[name](tokens[None])
    expected = [mul(head, target) * (n / (n - 1) if name == "previous_token" else 1.0) for head in pattern]
    assert on_pattern(make(name), pattern, tokens=tokens.tolist()) == pytest.approx(expected, abs=1e-5)


def test_coverage_is_the_ceiling_of_the_score() -> None:
    """`coverage` is the share of rows with anything on the detector's target."""
    sample = samples((15,))[0]
    for name in ("duplicate_token", "induction"):
        answer = answers(feed(make(name), [sample]))[0]
        rows = TARGETS[name](sample.tokens[None]).any(-1).double().mean().item()
        assert answer.extra["coverage"].values == pytest.approx([rows, rows])
        assert (answer.head_map.values <= rows).all()
        assert any("coverage" in line for line in answer.notes)
