"""Labelled raw arrays of a model's attention and residual stream: only what was asked, in memory or on the disk."""

from probe.analysis.captured.ondisk import CapturedOnDisk, open_capture
from probe.analysis.captured.result import Captured

__all__ = ["Captured", "CapturedOnDisk", "open_capture"]
