"""``probe ablate``: what heads are worth to a model's predictions. The flags; the work is in `probe.cli.ablating`."""

from pathlib import Path
from typing import Annotated

import typer

from probe.cli.flags import Device, Dtype, File, Json, MaxTokens, Model, NewTokens, Prompts, Seed, Text
from probe.cli.typed import typed

_Heads = Annotated[
    str | None,
    typer.Option("--heads", metavar="L18.H6,...", help="The heads to edit, joined by a comma or +."),
]
_How = Annotated[
    list[str],
    typer.Option(
        "--how",
        metavar="NAME[:k=v,...]",
        help="zero, mean, uniform, scale=2.0 or any intervention; several apply in order.",
    ),
]
_Controls = Annotated[
    int,
    typer.Option(
        "--control-seeds", metavar="N", min=0, help="Random controls: as many other heads of each layer."
    ),
]
_Stepwise = Annotated[
    bool,
    typer.Option("--stepwise", help="Score token by token, so that edits of decode steps act."),
]
_Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Save ablation.json here.")]


def ablate(
    how: _How,
    model: Model = "smollm2-135m",
    heads: _Heads = None,
    text: Text = None,
    file: File = None,
    prompts: Prompts = None,
    control_seeds: _Controls = 3,
    new_tokens: NewTokens = 20,
    stepwise: _Stepwise = False,
    max_tokens: MaxTokens = None,
    out: _Out = None,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
) -> None:
    """Edit heads and measure loss, divergence and text, beside the model as it is and random controls."""
    from probe.cli.inputs import read_input

    source = read_input(text, file, prompts)
    # Everything cheap is checked before the imports below, which load torch.
    from probe.cli.ablating import Request, run

    options = {
        "controls": control_seeds,
        "new_tokens": new_tokens,
        "stepwise": stepwise,
        "max_tokens": max_tokens,
        "out": out,
        "seed": seed,
        "command": typed(),
    }
    run(Request(model, source, how, heads, device, dtype, options), as_json=as_json)
