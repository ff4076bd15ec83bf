"""Relevance patching (RelP): attribution patching with relevance in the place of the gradient."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from probe.circuits.attribution import attribute, require_direction, several
from probe.circuits.gradients import Backward, require_gradients, require_slope
from probe.circuits.nodes import TOLD
from probe.circuits.patching import Direction, sides
from probe.circuits.reporting import Told, make_report
from probe.circuits.rules import Rule, applied, require_rules, rules_of
from probe.circuits.study import CircuitOptions, Pairs, study
from probe.circuits.where import Where
from probe.models import LoadedModel, as_loaded
from probe.report import Report

DEFAULT: tuple[Rule, ...] = ("ln", "identity", "half")

BIBTEX = """@article{jafari2025relp,
  title={RelP: Faithful and Efficient Circuit Discovery in Language Models via Relevance Patching},
  author={Jafari, Farnoush Rezaei and Eberle, Oliver and Khakzar, Ashkan and Nanda, Neel},
  journal={arXiv preprint arXiv:2508.21258},
  year={2025}
}"""


def relp(
    model: object,
    pairs: Pairs = "ioi",
    nodes: str | Sequence[str] = "z",
    *,
    at: str = "all",
    direction: Direction = "denoise",
    rules: str | Sequence[str] = DEFAULT,
    layers: Sequence[int] | None = None,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """What activation patching would find, by relevance: two forwards and one backward for all heads and layers.

    ``score = (a_to - a_from) · ρ / (m_to - m_from)``, where ρ is dM/da in the run that is patched (from), through a
    backward pass changed by rules: ``ln`` (a norm's scale is a constant), ``identity`` (an activation function is its
    input times a constant), ``half`` (each factor of a gated product gets half), ``attention`` (patterns are
    constants). As in the paper the first three are on; with all four, in a model without biases, ``Σ x · ρ`` over the
    stream entering block 0 is M itself. Arguments, answers and errors are those of `attribution_patching`; besides:

    Args:
        model: A decoder, not quantised.
        pairs: A task, or pairs.
        nodes: One or several, such as ``z`` or ``z+mlp_out``.
        at: ``all``, a mark, ``marks`` or ``tokens``.
        direction: ``denoise`` (relevance in the corrupt run, as in the paper) or ``noise`` (in the clean run).
        rules: Which rules; ``none`` of them is attribution patching.
        layers: Only these layers.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer per node, ``relp:nodes=…``.

    Raises:
        UsageError: an unknown rule.
        CaptureError: a rule whose place in the model cannot be told.
    """
    asked = CircuitOptions.of(options, changes)
    kinds, chosen = several(nodes), rules_of(rules)
    require_direction(direction)
    loaded = as_loaded(model)
    require_gradients(loaded, "relp")
    require_slope(asked, "relp", sides(direction)[1])
    require_rules(loaded, chosen)
    with study(loaded, pairs, asked) as case:
        where = Where.of(at, case.pairs)
        effects = attribute(case, kinds, where, direction, layers, ruled(loaded, chosen))
        named = "+".join(chosen) or "none"
        key = f"at={at},direction={direction},rules={named}"
        answers = [
            Told(
                f"relp:nodes={kind},{key}",
                f"Share of the {asked.measure} difference that {TOLD[kind]} would carry when patched ({direction}), by "
                "relevance; 1 is all",
                "share of the difference", "Jafari et al. 2025 (arXiv:2508.21258)", BIBTEX,
            ).answer(found.map, found.by_prompt, found.extra)
            for kind, found in effects.items()
        ]  # fmt: skip
        settings = {
            "method": "relp",
            "nodes": "+".join(kinds),
            "at": at,
            "direction": direction,
            "rules": named,
        }
        return make_report(case, answers, settings)


def ruled(loaded: LoadedModel, rules: Sequence[Rule], *, keep: bool = False) -> Backward:
    """A backward pass under rules."""
    return Backward(partial(applied, loaded, tuple(rules)), held="attention" in rules, keep=keep)
