"""Retrieval scores of the heads that patterns are measured on."""

from probe.analysis.patterning.plan import Plan
from probe.experiments.base import Ask
from probe.metrics.making import make
from probe.report import Answer
from probe.report.pattern_costs import RETRIEVAL

# Small enough to run beside: see the experiment's own defaults for the whole protocol.
DETECTION = f"{RETRIEVAL}:lengths=500,depths=0.1+0.5+0.9,needles=2"


def detected(plan: Plan) -> Answer:
    """The score of every head: the share of a hidden needle's answer that it copies, 0 to 1."""
    plan.options.report_progress(0, 0, "detecting retrieval heads")
    found: list[Answer] = make(DETECTION).run(Ask(plan.loaded, seed=plan.options.seed))
    return found[0]
