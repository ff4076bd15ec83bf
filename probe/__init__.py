"""What the attention heads of any Hugging Face model do, at any length, and how to change what they do.

Names are loaded on first use, so that ``import probe`` and ``probe --help`` cost neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING

# For editors and type checkers; at run time `__getattr__` imports each name when it is used.
if TYPE_CHECKING:
    from probe import circuits as circuits
    from probe import experiments as experiments
    from probe import interventions as interventions
    from probe import metrics as metrics
    from probe import plots as plots
    from probe import prompts as prompts
    from probe import report as report
    from probe import testing as testing
    from probe.analysis.ablation import ablate
    from probe.analysis.analyze import analyze
    from probe.analysis.capture import capture
    from probe.analysis.captured import open_capture
    from probe.analysis.edit import edit
    from probe.analysis.forecast import forecast
    from probe.analysis.generation import generate
    from probe.analysis.lens import from_lens
    from probe.analysis.observe import observe
    from probe.analysis.patterning.patterns import patterns
    from probe.analysis.scoring.score import score
    from probe.analysis.sweeping.sweep import sweep
    from probe.errors import ProbeError
    from probe.metrics import METRICS
    from probe.models import LoadedModel, fetch, load
    from probe.prompts import Prompt
    from probe.report import Report, open_report
    from probe.report.taxonomy import taxonomy
    from probe.seam import verify
    from probe.terms import HeadId

__version__ = "0.1.0"

__all__ = [
    "METRICS", "HeadId", "LoadedModel", "ProbeError", "Prompt", "Report", "__version__", "ablate", "analyze", "capture",
    "edit", "fetch", "forecast", "from_lens", "generate", "load", "observe", "open_capture", "open_report", "patterns",
    "score", "sweep", "taxonomy", "verify",
]  # fmt: skip

_WHERE = {
    "ProbeError": "probe.errors",
    "HeadId": "probe.terms",
    "load": "probe.models",
    "fetch": "probe.models",
    "LoadedModel": "probe.models",
    "Prompt": "probe.prompts",
    "ablate": "probe.analysis",
    "analyze": "probe.analysis",
    "observe": "probe.analysis",
    "edit": "probe.analysis",
    "verify": "probe.seam",
    "capture": "probe.analysis",
    "forecast": "probe.analysis",
    "from_lens": "probe.analysis.lens",
    "generate": "probe.analysis",
    "patterns": "probe.analysis.patterning",
    "score": "probe.analysis.scoring",
    "sweep": "probe.analysis.sweeping",
    "open_capture": "probe.analysis.captured",
    "METRICS": "probe.metrics",
    "Report": "probe.report",
    "open_report": "probe.report",
    "taxonomy": "probe.report.taxonomy",
}


def __getattr__(name: str) -> object:
    """Import a public name from its room on first use."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in {
        "circuits",
        "interventions",
        "metrics",
        "prompts",
        "testing",
        "plots",
        "experiments",
        "report",
    }:
        return importlib.import_module(f"probe.{name}")
    raise AttributeError(f"module 'probe' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
