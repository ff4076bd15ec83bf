"""What sparse patterns cost a model, head by head."""

from probe.analysis.patterning.options import PatternOptions
from probe.analysis.patterning.patterns import patterns

__all__ = ["PatternOptions", "patterns"]
