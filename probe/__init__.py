"""What the attention heads of any Hugging Face model do, at any length, and how to change what they do.

Names are loaded on first use, so that ``import probe`` and ``probe --help`` cost neither torch nor transformers.
"""

import importlib

__version__ = "0.1.0"

_WHERE = {
    "ProbeError": "probe.errors",
    "HeadId": "probe.terms",
    "load": "probe.models",
    "fetch": "probe.models",
    "LoadedModel": "probe.models",
    "Prompt": "probe.prompts",
    "analyze": "probe.analysis",
    "observe": "probe.analysis",
    "edit": "probe.analysis",
    "verify": "probe.seam",
    "capture": "probe.analysis",
    "forecast": "probe.analysis",
    "open_capture": "probe.analysis.captured",
    "METRICS": "probe.metrics",
    "Report": "probe.report",
    "open_report": "probe.report",
}

__all__ = sorted([*_WHERE, "__version__"])  # noqa: PLE0605 -- one list of names, kept in one place


def __getattr__(name: str) -> object:
    """Import a public name from its room on first use."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in {"interventions", "metrics", "prompts", "testing", "plots", "experiments", "report"}:
        return importlib.import_module(f"probe.{name}")
    raise AttributeError(f"module 'probe' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
