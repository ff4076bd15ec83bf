"""For those who write a metric: the laws it must keep, and attention calls to try it on without a model."""

from probe.testing.feeding import Feeding, Sample, feed, samples
from probe.testing.laws import LAWS, LawBroken, check_metric
from probe.testing.patterns import PATTERNS, known_pattern, on_pattern

__all__ = [
    "LAWS", "PATTERNS", "Feeding", "LawBroken", "Sample", "check_metric", "feed", "known_pattern", "on_pattern",
    "samples",
]  # fmt: skip
