"""The verbs: analyze, observe, edit, capture and forecast."""

from probe.analysis.analyze import analyze
from probe.analysis.capture import capture
from probe.analysis.edit import edit
from probe.analysis.forecast import Forecast, forecast
from probe.analysis.observe import Run, observe
from probe.analysis.options import AnalyzeOptions

__all__ = ["AnalyzeOptions", "Forecast", "Run", "analyze", "capture", "edit", "forecast", "observe"]
