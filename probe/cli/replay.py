"""``probe replay``: claims of papers on real weights. The flags; the work is in `probe.cli.replaying`."""

from pathlib import Path
from typing import Annotated

import typer

from probe.cli.flags import Json, Seed
from probe.errors import UsageError

_Claims = Annotated[list[str] | None, typer.Argument(metavar="[CLAIM]...", help="Claims, by name.")]
_Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="NAME", help="Replay on this model (repeatable); default: the claim's own."
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder of results and pages; an interrupted run resumes."),
]
_Small = Annotated[bool, typer.Option("--small", help="A smoke check: few prompts, kept apart from results.")]
_Kept = Annotated[
    bool, typer.Option("--kept", help="Take the numbers of the stored result; measure only what it lacks.")
]
_List = Annotated[bool, typer.Option("--list", help="List every claim and stop.")]
_Render = Annotated[bool, typer.Option("--render", help="Only rewrite the pages, from stored results.")]


def replay(
    claims: _Claims = None,
    models: _Models = None,
    out: _Out = None,
    small: _Small = False,
    kept: _Kept = False,
    list_all: _List = False,
    render: _Render = False,
    as_json: Json = False,
    seed: Seed = 0,
) -> None:
    """Replay a paper's claim on real weights: its number beside ours, an interval and a random control."""
    if list_all:
        from probe.cli.replay_view import show_list

        show_list(as_json=as_json)
        return
    if not claims and not render:
        raise UsageError(
            "no claim was named; `probe replay --list` lists them, `probe replay masking` runs one"
        )
    # The import below loads torch.
    from probe.cli.replaying import render_pages, run

    if render:
        render_pages(out, as_json=as_json)
        return
    choices = {"out": out, "small": small, "kept": kept, "seed": seed}
    run(claims or [], models or [], choices, as_json=as_json)
