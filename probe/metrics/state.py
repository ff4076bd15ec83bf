"""A metric's cells as named arrays: an unfinished run is saved and resumed, no prompt lost or counted twice."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from probe.metrics.base import Cell, CellKey, Metric


def state(metric: Metric) -> Iterator[tuple[str, np.ndarray]]:
    """The cells, each array under ``prompt/tower/layer/name``."""
    for key, cell in metric.cells.items():
        for name, value in cell.items():
            yield f"{key.prompt}/{key.tower}/{key.layer}/{name}", value.numpy()


def restore(metric: Metric, arrays: Mapping[str, np.ndarray]) -> None:
    """Put saved cells back; prompts already there are replaced, never added twice."""
    fresh: dict[CellKey, Cell] = {}
    for path, value in arrays.items():
        prompt, tower, layer, name = path.split("/", 3)
        fresh.setdefault(CellKey(int(prompt), tower, int(layer)), {})[name] = torch.from_numpy(
            np.array(value)
        )
    metric.cells.update(fresh)
