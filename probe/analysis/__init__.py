"""The verbs: analyze, observe, edit, capture and forecast."""

import importlib

from probe.analysis.analyze import analyze
from probe.analysis.edit import edit
from probe.analysis.forecast import Forecast, forecast
from probe.analysis.observe import Run, observe
from probe.analysis.options import AnalyzeOptions

__all__ = ["AnalyzeOptions", "Forecast", "Run", "analyze", "capture", "edit", "forecast", "observe"]


def __getattr__(name: str) -> object:
    """Import `capture` on first use."""
    if name == "capture":
        return importlib.import_module("probe.analysis.capture").capture
    raise AttributeError(f"module 'probe.analysis' has no attribute {name!r}; it has {', '.join(__all__)}")
