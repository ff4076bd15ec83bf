"""``probe sweep``: what each head or layer is worth to a task. The flags; the work is in `probe.cli.sweeping`."""

from pathlib import Path
from typing import Annotated

import typer

from probe.cli.flags import Device, Dtype, File, Json, MaxTokens, Model, NoText, Prompts, Seed, Text
from probe.cli.typed import typed

_How = Annotated[
    str,
    typer.Option(
        "--how",
        metavar="NAME[:k=v,...]",
        help="The intervention; its heads= or layers=, where given, are those that are swept.",
    ),
]
_Over = Annotated[str, typer.Option("--over", metavar="heads|layers", help="What is edited, one at a time.")]
_Task = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="loss|needle|ioi[:k=v,...]",
        help="What is measured; without --text, --file or --prompts on prompts of its own.",
    ),
]
_Queries = Annotated[
    str | None, typer.Option("--queries", metavar="SPAN", help="Edit these rows alone: last, a span, 3..9.")
]
_Phase = Annotated[
    str | None,
    typer.Option("--phase", metavar="P", help="Edit in this phase alone: prefill, decode or both."),
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Save the report here; a killed sweep goes on from it."),
]


def sweep(
    model: Model = "smollm2-135m",
    how: _How = "zero",
    over: _Over = "heads",
    task: _Task = "loss",
    text: Text = None,
    file: File = None,
    prompts: Prompts = None,
    queries: _Queries = None,
    phase: _Phase = None,
    max_tokens: MaxTokens = None,
    out: _Out = None,
    no_text: NoText = False,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
) -> None:
    """Edit every head (or layer), one after another, and say what each is worth to a task."""
    from probe.cli.inputs import read_input

    source = read_input(text, file, prompts)
    # Everything cheap is checked before the imports below, which load torch.
    from probe.cli.sweeping import Request, run

    choices = {
        "queries": queries,
        "phase": phase,
        "max_tokens": max_tokens,
        "text": not no_text,
        "seed": seed,
        "command": None if no_text else typed(),
    }
    run(Request(model, source, (how, over, task), out, device, dtype, choices), as_json=as_json)
