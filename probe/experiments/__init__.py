"""Experiments: they run the model themselves, on prompts of their own or on yours, and answer in the same report."""

import importlib
from typing import TYPE_CHECKING

from probe.metrics.table import MetricTable

if TYPE_CHECKING:
    from probe.experiments.base import Experiment
    from probe.experiments.carve import GENERAL_INSTRUCTION, Carve, Carved
    from probe.experiments.retrieval import Retrieval

BUILT_IN = {
    "retrieval": "probe.experiments.retrieval:Retrieval",
    "json_retrieval": "probe.experiments.json_retrieval:JsonRetrieval",
    "mqar": "probe.experiments.mqar:Mqar",
    "qr_retrieval": "probe.experiments.qr_retrieval:QrRetrieval",
    "recalled_loss": "probe.experiments.recalled_loss:RecalledLoss",
    "context_gain": "probe.experiments.context_gain:ContextGain",
    "jacobian_range": "probe.experiments.jacobian_range:JacobianRange",
    "choice_mass": "probe.experiments.choice_mass:ChoiceMass",
    "rhythm": "probe.experiments.rhythm:Rhythm",
    "thought_anchors": "probe.experiments.thought_anchors:ThoughtAnchors",
    "sink_tokens": "probe.experiments.sink_tokens:SinkTokens",
    "head_divergence": "probe.experiments.head_divergence:HeadDivergence",
    "row_similarity": "probe.experiments.row_similarity:RowSimilarity",
    "stability": "probe.experiments.stability:Stability",
    "static_share": "probe.experiments.static_share:StaticShare",
    "topk_overlap": "probe.experiments.topk_overlap:TopkOverlap",
    "active_dormant": "probe.experiments.active_dormant:ActiveDormant",
    "redundancy": "probe.experiments.redundancy:Redundancy",
    "heterogeneous_heads": "probe.experiments.heterogeneous_heads:HeterogeneousHeads",
    "rollout": "probe.experiments.rollout:Rollout",
    "gradient_attention": "probe.experiments.gradient_attention:GradientAttention",
    "attention_saliency": "probe.experiments.attention_saliency:AttentionSaliency",
    "expert_difference": "probe.experiments.expert_difference:ExpertDifference",
}

EXPERIMENTS = MetricTable(BUILT_IN, "probe.experiments", ("info", "run"))

__all__ = ["EXPERIMENTS", "GENERAL_INSTRUCTION", "Carve", "Carved", "Experiment", "Retrieval"]

_WHERE = {
    "Experiment": "base",
    "GENERAL_INSTRUCTION": "carve",
    "Carve": "carve",
    "Carved": "carve",
    "Retrieval": "retrieval",
}


def __getattr__(name: str) -> object:
    """Import a torch-bound name on first use."""
    if name not in _WHERE:
        raise AttributeError(
            f"module 'probe.experiments' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f"probe.experiments.{_WHERE[name]}"), name)
