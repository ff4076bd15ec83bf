"""Metrics: what is computed per head, one file each. Names are loaded on first use, so that listing costs no torch."""

import importlib
from typing import TYPE_CHECKING

from probe.metrics.making import make, metric_infos, names
from probe.metrics.table import METRICS

if TYPE_CHECKING:
    from probe.metrics.answering import answers, reordered
    from probe.metrics.base import Cell, CellKey, FoldMetric, Metric, MetricInfo
    from probe.metrics.point_metric import LayerMetric, PointMetric
    from probe.metrics.row_metric import RowMetric
    from probe.metrics.state import restore, state
    from probe.metrics.token_metric import TokenMetric, TokenSums

__all__ = [
    "METRICS", "Cell", "CellKey", "FoldMetric", "LayerMetric", "Metric", "MetricInfo", "PointMetric", "RowMetric",
    "TokenMetric", "TokenSums", "answers", "make", "metric_infos", "names", "reordered", "restore", "state",
]  # fmt: skip

_WHERE = {
    "Cell": "base",
    "CellKey": "base",
    "FoldMetric": "base",
    "Metric": "base",
    "MetricInfo": "base",
    "LayerMetric": "point_metric",
    "PointMetric": "point_metric",
    "RowMetric": "row_metric",
    "TokenMetric": "token_metric",
    "TokenSums": "token_metric",
    "answers": "answering",
    "reordered": "answering",
    "restore": "state",
    "state": "state",
}


def __getattr__(name: str) -> object:
    """Import a torch-bound name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'probe.metrics' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"probe.metrics.{_WHERE[name]}"), name)
