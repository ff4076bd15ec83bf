"""``probe taxonomy``: what kinds of heads saved reports tell of. Needs no torch."""

from pathlib import Path
from typing import Annotated

import typer


def taxonomy(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of saved reports.")],
    near: Annotated[
        str | None,
        typer.Option("--near", metavar="HEAD", help="The heads most like this one, such as L18.H6."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="SPEC", help="Use only this metric; may be repeated."),
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option("--clusters", metavar="K", help="So many clusters, not those of the best silhouette."),
    ] = None,
    scale: Annotated[
        str, typer.Option("--scale", metavar="z|rank", help="Standardise by mean and deviation, or by rank.")
    ] = "z",
    tower: Annotated[str, typer.Option("--tower", metavar="T", help="Whose heads.")] = "decoder",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the clusters.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Group the heads of saved reports by all their numbers, and find heads that are alike."""
    from probe.cli.taxonomy_view import show_taxonomy
    from probe.cli.view import console, print_json
    from probe.report import open_report
    from probe.report.taxonomy import taxonomy as group

    reports = [open_report(folder) for folder in folders]
    found = group(reports, metrics=metric or None, tower=tower, scale=scale, clusters=clusters, seed=seed)
    nearest = None if near is None else found.near(near)
    if as_json:
        beside = {} if nearest is None else {"near": {"head": near, "heads": nearest.to_dict("records")}}
        print_json({**found.to_json(), **beside})
    else:
        show_taxonomy(found, near, nearest, console())
