"""Clusters of heads: k-means on the standardised profile, their number chosen by silhouette."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from probe.errors import UsageError
from probe.report.taxonomy.profile import Profile

MOST = 10  # clusters that are tried, unless told otherwise
WEAK = 0.25  # silhouette below which groups are hardly apart (Kaufman and Rousseeuw 1990)


@dataclass(frozen=True)
class Clusters:
    """Which cluster each head is in.

    Attributes:
        labels: Axis (head,): 0 is the largest cluster.
        silhouette: Axis (head,), −1 to 1: how much closer a head is to its own cluster than to the next.
        by_count: Mean silhouette for every number of clusters that was tried.
        centres: Axes (cluster, metric): mean profile.
        notes: Lines the reader must see.
    """

    labels: xr.DataArray
    silhouette: xr.DataArray
    by_count: Mapping[int, float]
    centres: xr.DataArray
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.centres.sizes["cluster"])

    @property
    def score(self) -> float:
        """Mean silhouette over heads; NaN where there is one cluster."""
        return self.by_count.get(self.count, float("nan"))


def clusters_of(profile: Profile, count: int | None = None, *, most: int = MOST, seed: int = 0) -> Clusters:
    """k-means with ten restarts; of 2 … `most` clusters the number with the best mean silhouette, unless told.

    Silhouette of a head: (b − a) / max(a, b), a = mean distance to its own cluster, b = to the nearest other one.

    Raises:
        UsageError: fewer than two clusters, or as many as there are different heads.
    """
    # Here, not above: scikit-learn takes a second to import, and plots import this module.
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    values = profile.values.values
    room = len(np.unique(values, axis=0)) - 1  # a silhouette needs fewer clusters than different heads
    if count is not None and not 2 <= count <= room:
        raise UsageError(f"{count} clusters were asked; {room + 1} different heads allow 2 to {room}")
    if most < 2:
        raise UsageError(f"at most {most} clusters were asked; allowed is 2 or more")
    tried = [count] if count is not None else list(range(2, min(most, room) + 1))
    if not tried:
        return _made(
            profile, np.zeros(len(values), dtype=np.int64), {}, ("the heads do not differ: one cluster",)
        )
    found: dict[int, np.ndarray] = {}
    scores: dict[int, float] = {}
    for number in tried:
        found[number] = KMeans(number, n_init=10, random_state=seed).fit_predict(values)
        scores[number] = float(silhouette_score(values, found[number]))
    best = max(tried, key=lambda number: (round(scores[number], 12), -number))
    notes = [f"{best} clusters by k-means (seed {seed}), silhouette {scores[best]:.2f}"]
    if scores[best] < WEAK:
        notes.append(
            f"a silhouette below {WEAK}: the clusters are cuts through one cloud, not kinds of their own"
        )
    return _made(profile, _by_size(found[best]), scores, tuple(notes))


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Relabelled: the largest cluster is 0, ties by their first head."""
    names, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    place = {int(names[old]): new for new, old in enumerate(order)}
    return np.array([place[int(label)] for label in labels], dtype=np.int64)


def _made(
    profile: Profile, labels: np.ndarray, scores: Mapping[int, float], notes: tuple[str, ...]
) -> Clusters:
    from sklearn.metrics import silhouette_samples

    values = profile.values
    along = {name: one for name, one in values.coords.items() if one.dims == ("head",)}
    count = int(labels.max()) + 1
    each = silhouette_samples(values.values, labels) if count > 1 else np.full(len(labels), np.nan)
    centres = np.stack([values.values[labels == one].mean(axis=0) for one in range(count)])
    return Clusters(
        xr.DataArray(labels, dims=("head",), coords=along),
        xr.DataArray(each, dims=("head",), coords=along),
        scores,
        xr.DataArray(
            centres,
            dims=("cluster", "metric"),
            coords={"cluster": np.arange(count), "metric": values.coords["metric"].values},
        ),
        notes,
    )
