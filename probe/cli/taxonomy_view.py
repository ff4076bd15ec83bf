"""A head taxonomy on the terminal: how much the map shows, a line or two per cluster, and the nearest heads."""

import pandas as pd
from rich.console import Console
from rich.text import Text

from probe.cli.view import clean, number
from probe.report.taxonomy import Taxonomy


def show_taxonomy(found: Taxonomy, near: str | None, nearest: pd.DataFrame | None, out: Console) -> None:
    """Print clusters, largest first, and the neighbours of a head where one was asked."""
    heads, metrics = found.profile.values.shape
    shares = " and ".join(f"{share:.0%}" for share in found.explained.values)
    facts = f"{heads} heads · {metrics} metrics · two components hold {shares} of the variance"
    models = dict.fromkeys(map(str, found.map.coords["model"].values))
    out.print(Text(clean(", ".join(models)), style="bold"), Text(f"  {facts}"))
    for note in found.notes:
        out.print(f"note: {clean(note)}")
    for cluster in range(found.clusters.count):
        members = found.members(cluster)
        marks = "   ".join(f"{clean(name)} {value:+.1f}" for name, value in found.marks(cluster))
        shown = "   ".join(members[:8]) + (f"   and {len(members) - 8} more" if len(members) > 8 else "")
        silhouette = float(found.clusters.silhouette.values[found.clusters.labels.values == cluster].mean())
        out.print()
        out.print(
            Text(f"cluster {cluster}", style="bold"),
            Text(f"{len(members)} heads, silhouette {number(silhouette)}: {marks}"),
        )
        out.print(f"  {clean(shown)}")
    if near is not None and nearest is not None:
        pairs = zip(nearest["head"], nearest["distance"].to_numpy(dtype=float).tolist(), strict=True)
        listed = "   ".join(f"{head} {number(distance)}" for head, distance in pairs)
        out.print()
        out.print(Text(f"nearest to {clean(near)}", style="bold"), Text(clean(listed)))
