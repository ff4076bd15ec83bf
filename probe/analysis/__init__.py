"""The verbs: analyze, observe, edit, ablate, generate, capture and forecast."""

from probe.analysis.ablation import AblateOptions, Ablation, ablate
from probe.analysis.analyze import analyze
from probe.analysis.capture import capture
from probe.analysis.edit import edit
from probe.analysis.forecast import Forecast, forecast
from probe.analysis.generation import Generations, generate
from probe.analysis.observe import Run, observe
from probe.analysis.options import AnalyzeOptions
from probe.analysis.probing import HeadProbeOptions, head_probes

__all__ = [
    "AblateOptions",
    "Ablation",
    "AnalyzeOptions",
    "Forecast",
    "Generations",
    "HeadProbeOptions",
    "Run",
    "ablate",
    "analyze",
    "capture",
    "edit",
    "forecast",
    "generate",
    "head_probes",
    "observe",
]
