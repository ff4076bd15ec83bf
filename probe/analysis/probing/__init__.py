"""Linear probes on head outputs: what a label or a number can be read from, head by head, against a control task."""

from probe.analysis.probing.head_probes import head_probes
from probe.analysis.probing.options import HeadProbeOptions

__all__ = ["HeadProbeOptions", "head_probes"]
