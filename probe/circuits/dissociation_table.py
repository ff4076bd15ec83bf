"""The table of a double dissociation: what two circuits, and random ones in their place, take from two tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.circuits.head_sets import HeadSet
from probe.circuits.reporting import labelled

BOUNDS = ("low", "high")
TASKS = ("a", "b")


def index_of(drop: np.ndarray) -> np.ndarray:
    """The smaller of the two differences, of drops ``[…, circuit, task]``."""
    own = drop[..., 0, 0] - drop[..., 1, 0], drop[..., 1, 1] - drop[..., 0, 1]
    return np.asarray(np.minimum(*own))


@dataclass(frozen=True)
class Table:
    """Drops by circuit and task: of the two circuits, of resampled pairs, and of random circuits."""

    drop: np.ndarray  # [circuit, task]
    resampled: np.ndarray  # [resample, circuit, task]
    random: np.ndarray  # [draw, circuit, task]
    accuracy: np.ndarray  # [circuit or none, task]

    @property
    def index(self) -> float:
        """The index of the two circuits."""
        return float(index_of(self.drop))

    @property
    def arrays(self) -> dict[str, Any]:
        """The labelled arrays of the table."""
        bounds = np.quantile(self.resampled, [0.025, 0.975], axis=0)
        axes = {"circuit": TASKS, "task": TASKS}
        made = {
            "drop": labelled(self.drop, **axes),
            "drop_interval": labelled(bounds, bound=BOUNDS, **axes),
            "index_interval": labelled(np.quantile(index_of(self.resampled), [0.025, 0.975]), bound=BOUNDS),
            "accuracy": labelled(self.accuracy, circuit=("none", *TASKS), task=TASKS),
        }
        if len(self.random):
            made["random"] = labelled(self.random, draw=range(len(self.random)), **axes)
            made["random_index"] = labelled(index_of(self.random), draw=range(len(self.random)))
        return made

    def said(self, names: Sequence[str], circuits: Sequence[HeadSet]) -> list[str]:
        """The table in words."""
        lines = []
        for task, name in enumerate(names):
            own, rival = self.drop[task, task], self.drop[1 - task, task]
            line = f"{name} ({TASKS[task]}): drops by {own:.2f} without its own heads, by {rival:.2f} without the "
            line += "other's"
            if len(self.random):
                line += f", by {self.random[:, task, task].mean():.2f} without as many random ones"
            lines.append(line)
        lines.append(f"the circuits share {len(circuits[0] & circuits[1])} of {len(circuits[0])} heads")
        if len(self.random):
            above = int((index_of(self.random) >= self.index).sum())
            lines.append(f"{above} of {len(self.random)} pairs of random circuits have an index as high")
        return lines


def drop_of(clean: np.ndarray, left: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(m - m_c) / m`` of means weighed by pair: ``[resample, set]``."""
    base = weights @ clean
    return np.asarray(1 - (weights @ left.T) / base[:, None])
