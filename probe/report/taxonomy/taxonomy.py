"""The taxonomy itself: profile, map and clusters of a model's heads, and the neighbours of any one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from probe.errors import UnknownNameError
from probe.report.json_form import SCHEMA, finite
from probe.report.report import Report
from probe.report.taxonomy.clusters import MOST, Clusters, clusters_of
from probe.report.taxonomy.profile import Profile, head_profile


@dataclass(frozen=True)
class Taxonomy:
    """What kinds of heads there are.

    Attributes:
        profile: The standardised numbers that everything rests on.
        map: Axes (head, component): the heads in two principal components of the profile.
        explained: Axis (component,): share of the profile's variance that a component holds, 0 to 1.
        loadings: Axes (component, metric): the direction of a component.
        clusters: The cluster of each head.
    """

    profile: Profile
    map: xr.DataArray
    explained: xr.DataArray
    loadings: xr.DataArray
    clusters: Clusters

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines the reader must see: metrics used and left out, undefined values, how clear the clusters are."""
        return (*self.profile.notes, *self.clusters.notes)

    def frame(self) -> pd.DataFrame:
        """One row per head: head (its name), model, layer, number, cluster, silhouette, x, y."""
        along = self.map.coords
        return pd.DataFrame(
            {
                "head": self.profile.heads,
                "model": along["model"].values,
                "layer": along["layer"].values,
                "number": along["number"].values,
                "cluster": self.clusters.labels.values,
                "silhouette": self.clusters.silhouette.values,
                "x": self.map.values[:, 0],
                "y": self.map.values[:, 1],
            }
        )

    def near(self, head: str, n: int = 10) -> pd.DataFrame:
        """The `n` heads whose profiles are nearest: columns head, distance (Euclidean, in deviations), cluster.

        Raises:
            UnknownNameError: no such head; the message offers the nearest name.
        """
        heads = self.profile.heads
        if head not in heads:
            raise UnknownNameError.of("head of this taxonomy", head, heads)
        values = self.profile.values.values
        distance = np.linalg.norm(values - values[heads.index(head)], axis=1)
        frame = pd.DataFrame({"head": heads, "distance": distance, "cluster": self.clusters.labels.values})
        others = frame[frame["head"] != head]
        return others.sort_values("distance", kind="stable", ignore_index=True).head(max(0, n))

    def marks(self, cluster: int, n: int = 3) -> list[tuple[str, float]]:
        """The `n` metrics by which a cluster differs most from all heads: name and mean profile."""
        centre = self.clusters.centres.sel(cluster=cluster)
        order = np.argsort(-np.abs(centre.values), kind="stable")[:n]
        return [(str(centre.coords["metric"].values[i]), float(centre.values[i])) for i in order]

    def members(self, cluster: int) -> list[str]:
        """The heads of a cluster, those at its centre first."""
        values, labels = self.profile.values.values, self.clusters.labels.values
        centre = self.clusters.centres.sel(cluster=cluster).values
        inside = np.flatnonzero(labels == cluster)
        order = np.argsort(np.linalg.norm(values[inside] - centre, axis=1), kind="stable")
        return [self.profile.heads[i] for i in inside[order]]

    def to_json(self) -> dict[str, Any]:
        """The object that ``probe taxonomy --json`` prints; undefined values are null."""
        centres = self.clusters.centres
        return {
            "schema": SCHEMA,
            "metrics": self.profile.metrics,
            "left_out": dict(self.profile.left_out),
            "filled": dict(self.profile.filled),
            "explained_variance": self.explained.values.tolist(),
            "loadings": self.loadings.values.tolist(),
            "silhouettes": {str(count): score for count, score in self.clusters.by_count.items()},
            "clusters": [
                {
                    "cluster": one,
                    "profile": dict(zip(self.profile.metrics, centres.values[one].tolist(), strict=True)),
                    "heads": self.members(one),
                }
                for one in range(self.clusters.count)
            ],
            "heads": finite(self.frame().to_dict("records")),
            "notes": list(self.notes),
        }


def taxonomy(
    reports: Report | Sequence[Report],
    *,
    metrics: Sequence[str] | None = None,
    tower: str = "decoder",
    scale: str = "z",
    clusters: int | None = None,
    most: int = MOST,
    seed: int = 0,
) -> Taxonomy:
    """Profile, two-dimensional map and clusters of the heads of one or several reports.

    The map is a principal component analysis of the standardised profile. Clusters are those of k-means on the whole
    profile, not on the map; their number is the one with the best mean silhouette unless told.

    Args:
        reports: As for `head_profile`.
        metrics: As for `head_profile`.
        tower: As for `head_profile`.
        scale: As for `head_profile`.
        clusters: How many; None: chosen by silhouette from 2 to `most`.
        most: The largest number that is tried.
        seed: Of k-means.

    Raises:
        ReportError: no metric can be used, or fewer than three heads are left.
        UnknownNameError: a metric that the reports do not hold.
        UsageError: a number of clusters that the heads do not allow.
    """
    from sklearn.decomposition import PCA  # takes a second, and plots import this module

    profile = head_profile(reports, metrics=metrics, tower=tower, scale=scale)
    values = profile.values
    parts = min(2, *values.shape)
    fitted = PCA(parts, svd_solver="full").fit(values.values)
    along = {name: one for name, one in values.coords.items() if one.dims == ("head",)}

    def padded(array: np.ndarray) -> np.ndarray:
        """With components of zero where one metric alone spans the profile."""
        return np.concatenate([array, np.zeros((2 - parts, *array.shape[1:]))])

    component = {"component": np.arange(1, 3)}
    places = padded(fitted.transform(values.values).T).T
    return Taxonomy(
        profile,
        xr.DataArray(places, dims=("head", "component"), coords={**along, **component}),
        xr.DataArray(padded(fitted.explained_variance_ratio_), dims=("component",), coords=component),
        xr.DataArray(
            padded(fitted.components_),
            dims=("component", "metric"),
            coords={**component, "metric": values.coords["metric"].values},
        ),
        clusters_of(profile, clusters, most=most, seed=seed),
    )
