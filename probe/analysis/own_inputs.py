"""Metrics that have a better input than the shipped text: they are measured there when nobody gave prompts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from probe.analysis.forward import Runner
from probe.analysis.inputs import Inputs, Item
from probe.analysis.options import AnalyzeOptions
from probe.analysis.sweep import Found, Sweep
from probe.metrics.base import Metric


def has_own(metric: Metric) -> bool:
    """Whether a metric brings prompts: a method ``default_prompts(tokenizer, limit, seed)``."""
    return hasattr(metric, "default_prompts")


def run_own(
    runner: Runner, metric: Any, interventions: Sequence[Any], options: AnalyzeOptions, first: int
) -> tuple[Inputs, Found]:
    """Run one such metric on its own prompts, which are numbered from `first`; says so in a note."""
    loaded = runner.loaded
    prompts = metric.default_prompts(loaded.tokenizer, loaded.max_positions, options.seed)
    inputs = Inputs(tuple(Item(prompt) for prompt in prompts))
    bare = replace(options, keep="none", chunk=None, out=None)
    found = Sweep(Runner(loaded), inputs, [metric], interventions, bare).run(None)
    metric.cells = {key._replace(prompt=key.prompt + first): cell for key, cell in metric.cells.items()}
    names = f"{prompts[0].id} … {prompts[-1].id}"
    found.notes.append(f"{metric.spec} was measured on its own prompts, {names} ({inputs.n_tokens} tokens)")
    return inputs, found
