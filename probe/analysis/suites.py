"""Suites: metrics and experiments that belong together, run by one name."""

from collections.abc import Mapping

from probe.errors import UnknownNameError

PREFIX = "suite:"

SUITES: Mapping[str, tuple[str, ...]] = {
    "retrieval": ("retrieval", "json_retrieval", "qr_retrieval", "mqar"),
    "sinks": (
        "sink",
        "key_mass",
        "sink_heads",
        "sink_logit_gap",
        "column_entropy",
        "value_norm",
        "value_drain",
        "value_drain:of=head_out",
        "head_output_norm",
        "residual_peak",
        "massive_activation",
        "sink_tokens",
        "active_dormant:heads=0",
    ),
    "rhythm": ("waad", "future_influence", "local_global", "rhythm"),
    "anchors": ("received", "thought_anchors"),
    "entropy": (
        "entropy",
        "entropy:normalized=true",
        "entropy_state",
        "entropy_bound",
        "effective_keys",
        "max_prob",
        "concentration",
        "local_focus",
        "head_diversity",
    ),
    "importance": (
        "received",
        "cls_attention",
        "hiprune",
        "cascade_importance",
        "head_importance",
        "rollout",
        "gradient_attention",
        "attention_saliency",
    ),
    "redundancy": (
        "head_output_norm",
        "block_change",
        "void",
        "redundancy",
        "heterogeneous_heads",
        "expert_routing",
    ),
    "depends": (
        "distance",
        "previous_token",
        "duplicate_token",
        "induction",
        "effective_rank",
        "qk_shift",
        "entropy_query_norm",
        "recalled_loss",
        "context_gain",
        "jacobian_range",
        "choice_mass",
        "source_share",
        "row_similarity",
        "stability",
        "static_share",
        "topk_overlap",
    ),
}


def suites_with(name: str) -> list[str]:
    """The suites that hold a metric, whatever its parameters there.

    >>> suites_with("received")
    ['anchors', 'importance']
    """
    return [one for one, specs in SUITES.items() if any(spec.partition(":")[0] == name for spec in specs)]


def suite(name: str) -> list[str]:
    """The specs of a suite; ``all`` is every suite, each spec once. Raises `UnknownNameError`."""
    if name == "all":
        return list(dict.fromkeys(spec for specs in SUITES.values() for spec in specs))
    if name not in SUITES:
        raise UnknownNameError.of("suite", name, (*SUITES, "all"))
    return list(SUITES[name])
