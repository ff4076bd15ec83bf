"""Labelled raw arrays of a model's attention and residual stream: only what was asked, in memory or on the disk."""

from probe.analysis.captured.ondisk import CapturedOnDisk
from probe.analysis.captured.result import Captured

__all__ = ["Captured", "CapturedOnDisk"]
