"""The table of metrics: built-in names, and those that installed packages add. Imports no torch until one is used.

A package adds a metric by an entry point: ``[project.entry-points."probe.metrics"]`` with ``my_metric = "pkg:Class"``.
"""

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from probe.errors import MetricError, UnknownNameError

GROUP = "probe.metrics"
PARTS = ("info", "want", "update", "head", "token")

BUILT_IN = {
    "entropy": "probe.metrics.entropy:Entropy",
    "sink": "probe.metrics.sink:Sink",
    "received": "probe.metrics.received:Received",
    "future_influence": "probe.metrics.future_influence:FutureInfluence",
    "waad": "probe.metrics.waad:Waad",
    "distance": "probe.metrics.distance:Distance",
    "local_global": "probe.metrics.local_global:LocalGlobal",
    "previous_token": "probe.metrics.previous_token:PreviousToken",
    "duplicate_token": "probe.metrics.duplicate_token:DuplicateToken",
    "induction": "probe.metrics.induction:Induction",
    "max_prob": "probe.metrics.max_prob:MaxProb",
    "effective_keys": "probe.metrics.effective_keys:EffectiveKeys",
    "span_mass": "probe.metrics.span_mass:SpanMass",
    "source_share": "probe.metrics.source_share:SourceShare",
    "head_output_norm": "probe.metrics.head_output_norm:HeadOutputNorm",
    "value_norm": "probe.metrics.value_norm:ValueNorm",
    "effective_rank": "probe.metrics.effective_rank:EffectiveRank",
    "qk_shift": "probe.metrics.qk_shift:QkShift",
    "entropy_query_norm": "probe.metrics.entropy_query_norm:EntropyQueryNorm",
    "key_mass": "probe.metrics.key_mass:KeyMass",
    "sink_heads": "probe.metrics.sink_heads:SinkHeads",
    "sink_logit_gap": "probe.metrics.sink_logit_gap:SinkLogitGap",
    "column_entropy": "probe.metrics.column_entropy:ColumnEntropy",
    "value_drain": "probe.metrics.value_drain:ValueDrain",
    "residual_peak": "probe.metrics.residual_peak:ResidualPeak",
    "massive_activation": "probe.metrics.massive_activation:MassiveActivation",
    "entropy_state": "probe.metrics.entropy_state:EntropyState",
    "head_diversity": "probe.metrics.head_diversity:HeadDiversity",
    "concentration": "probe.metrics.concentration:Concentration",
    "local_focus": "probe.metrics.local_focus:LocalFocus",
    "entropy_bound": "probe.metrics.entropy_bound:EntropyBound",
    "cls_attention": "probe.metrics.cls_attention:ClsAttention",
    "hiprune": "probe.metrics.hiprune:Hiprune",
    "cascade_importance": "probe.metrics.cascade_importance:CascadeImportance",
    "head_importance": "probe.metrics.head_importance:HeadImportance",
    "block_change": "probe.metrics.block_change:BlockChange",
    "void": "probe.metrics.void:Void",
    "expert_routing": "probe.metrics.expert_routing:ExpertRouting",
}


class MetricTable(Mapping[str, type[Any]]):
    """Metric classes by name; each is imported when first looked up.

    Raises `UnknownNameError` for a name that is not there, `MetricError` naming an entry point that cannot be loaded.
    """

    def __init__(self, built_in: Mapping[str, str], group: str, parts: tuple[str, ...] = PARTS) -> None:
        self._built_in = dict(built_in)
        self._group = group
        self._parts = parts  # what an entry of another package must have
        self._loaded: dict[str, type[Any]] = {}

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self._group):
            if point.name in self._built_in:
                raise MetricError(
                    f"{_named(point)} uses a name that probe has itself; rename the entry point"
                )
            if point.name in found and found[point.name].value != point.value:
                raise MetricError(
                    f"{_named(point)} and {_named(found[point.name])} share a name; uninstall one"
                )
            found[point.name] = point
        return found

    def __getitem__(self, name: str) -> type[Any]:
        if name in self._loaded:
            return self._loaded[name]
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            loaded = getattr(importlib.import_module(module), attribute)
        elif name in self._added:
            loaded = _load(self._added[name], self._parts)
        else:
            raise UnknownNameError.of("metric", name, self)
        self._loaded[name] = loaded
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._added

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self._added

    def __len__(self) -> int:
        return len(self._built_in) + len(self._added)

    def __repr__(self) -> str:
        return f"MetricTable({', '.join(self)})"


def _load(point: EntryPoint, parts: tuple[str, ...]) -> type[Any]:
    try:
        loaded = point.load()
    except Exception as error:  # another package's import may fail in any way
        raise MetricError(
            f"{_named(point)} cannot be loaded ({error!r}); repair or uninstall that package"
        ) from error
    missing = [part for part in parts if not hasattr(loaded, part)]
    if not isinstance(loaded, type) or missing:
        raise MetricError(
            f"{_named(point)} is not a metric class (missing: {', '.join(missing) or 'it is no class'}); "
            "derive it from probe.metrics.RowMetric or TokenMetric"
        )
    return loaded


def _named(point: EntryPoint) -> str:
    owner = point.dist.name if point.dist is not None else "an unknown package"
    return f"metric {point.name!r} = {point.value!r} of {owner}"


METRICS = MetricTable(BUILT_IN, GROUP)
