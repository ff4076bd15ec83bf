"""``probe patterns``: what sparse patterns cost each head. The flags; the work is in `probe.cli.patterning`."""

from pathlib import Path
from typing import Annotated

import typer

from probe.cli.flags import Device, Dtype, File, Json, MaxTokens, Model, NoText, Prompts, Seed, Text
from probe.cli.typed import typed

_Pattern = Annotated[
    list[str] | None,
    typer.Option(
        "--pattern", metavar="NAME[:k=v,...]", help="A pattern, such as sliding:window=256; may be repeated."
    ),
]
_Apply = Annotated[
    bool,
    typer.Option("--apply", help="Also put each pattern into the model: loss, perplexity, KL, answers."),
]
_Retrieval = Annotated[
    bool, typer.Option("--retrieval", help="Also detect retrieval heads, and say which of them lose.")
]
_Control = Annotated[
    bool,
    typer.Option(
        "--control/--no-control", help="Random blocks at the density of each pattern that looks at scores."
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Save the report here; an interrupted run resumes."),
]


def patterns(
    model: Model = "smollm2-135m",
    pattern: _Pattern = None,
    text: Text = None,
    file: File = None,
    prompts: Prompts = None,
    apply: _Apply = False,
    retrieval: _Retrieval = False,
    control: _Control = True,
    max_tokens: MaxTokens = None,
    out: _Out = None,
    no_text: NoText = False,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
) -> None:
    """Say what sparse patterns would cost each head: attention mass kept, error of its output."""
    from probe.cli.inputs import read_input

    source = read_input(text, file, prompts)
    # Everything cheap is checked before the imports below, which load torch.
    from probe.cli.patterning import Request, run

    choices = {
        "apply": apply,
        "retrieval": retrieval,
        "control": control,
        "max_tokens": max_tokens,
        "device": device,
        "dtype": dtype,
        "text": not no_text,
        "seed": seed,
        "command": None if no_text else typed(),
    }
    run(Request(model, source, pattern or [], out, choices), as_json=as_json)
