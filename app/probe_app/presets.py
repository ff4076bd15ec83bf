"""Published interventions as starting points of the form."""

from dataclasses import dataclass

HOW = (
    "zero", "mean", "uniform_past", "uniform_cached:phase=decode", "to_bos", "to_identity", "scale:alpha=2",
    "temperature:t=2", "knockout:queries=all,keys=span", "drop:queries=all,keys=span", "boost:span=span,a=0.7",
    "reinforce:span=span,alpha=2", "redistribute:source=bos,target=span,fraction=0.6",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """One published intervention: its spec, and what must still be chosen."""

    title: str
    spec: str
    about: str


PRESETS = {
    "retrieval": Preset(
        "Retrieval-head masking (Wu et al. 2024)",
        "uniform_cached:phase=decode",
        "Masked heads attend uniformly to all cached keys, in decode steps alone. Take the top heads by retrieval.",
    ),
    "var": Preset(
        "Attention redistribution, VAR (Kang et al. 2025)",
        "redistribute:source=bos,target=span,fraction=0.6",
        "Moves 60 % of the sink's mass to the span, row by row. Name the span's words; without heads: in all.",
    ),
    "vhr": Preset(
        "Head reinforcement, VHR (He et al. 2025)",
        "reinforce:span=span,alpha=2",
        "Doubles the output of the heads that diverge most without the span; it chooses them itself. Name its words.",
    ),
    "knockout": Preset(
        "Attention knockout (Geva et al. 2023)",
        "knockout:queries=all,keys=span",
        "No query sees the span's keys any more. Name the span's words below; without heads it acts in all of them.",
    ),
    "influence": Preset(
        "AttentionInfluence masking (2025)",
        "uniform_past",
        "Masked heads attend uniformly to the past, in every phase. Take the top heads by retrieval.",
    ),
}
