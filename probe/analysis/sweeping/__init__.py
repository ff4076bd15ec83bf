"""The effect of every head or layer on a task, one edit after another."""

from probe.analysis.sweeping.options import SweepOptions
from probe.analysis.sweeping.sweep import sweep

__all__ = ["SweepOptions", "sweep"]
