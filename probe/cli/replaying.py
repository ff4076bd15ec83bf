"""``probe replay``: measures, writes pages, and prints what was found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probe.cli.progress import progress_bar
from probe.cli.replay_view import result_json, show
from probe.cli.view import console, print_json
from probe.replay.files import default_folder
from probe.replay.pages import write_pages
from probe.replay.run import replay
from probe.replay.table import CLAIMS


def run(claims: Sequence[str], models: Sequence[str], choices: dict[str, Any], *, as_json: bool) -> None:
    """Replay claims on models and print what they gave."""
    with progress_bar() as tell:
        found = replay(claims, models, **choices, tell=lambda what: tell(0, 0, what))
    folder: Path | None = choices["out"] or (None if choices["small"] else default_folder())
    if as_json:
        print_json(
            {
                "schema": 1,
                "results": [result_json(one) for one in found],
                "pages": [] if folder is None else [str(folder / f"{name}.md") for name in claims],
            }
        )
        return
    out = console()
    for one in found:
        show(one, out)
    if folder is not None:
        for name in claims:
            out.print(f"written to {folder / name}.md")


def render_pages(out: Path | None, *, as_json: bool) -> None:
    """Rewrite the pages of stored results."""
    written = write_pages(CLAIMS, out or default_folder())
    if as_json:
        print_json({"schema": 1, "pages": [str(path) for path in written]})
        return
    for path in written:
        console().print(str(path), soft_wrap=True)
