"""``probe generate``: what a model writes as it is and edited, side by side."""

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from probe.cli.flags import Device, Dtype, Json, Model, NewTokens, Seed
from probe.cli.typed import typed

_Prompt = Annotated[str, typer.Option("--prompt", metavar="T", help="The text to continue.")]
_Do = Annotated[
    list[str],
    typer.Option(
        "--do",
        metavar="NAME:k=v,...",
        help="An intervention, such as scale:heads=L18.H6,alpha=2; several apply in order.",
    ),
]
_Control = Annotated[
    bool, typer.Option("--control", help="Also edit as many other heads of each layer, drawn at random.")
]
_Sample = Annotated[bool, typer.Option("--sample", help="Sample tokens instead of taking the likeliest.")]
_Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="X", help="Of sampling; default 1.")
]


def generate(
    prompt: _Prompt,
    do: _Do,
    model: Model = "smollm2-135m",
    control: _Control = False,
    new_tokens: NewTokens = 40,
    sample: _Sample = False,
    temperature: _Temperature = None,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
) -> None:
    """Continue a text with the model as it is and with edited heads, side by side."""
    from probe.cli.inputs import checked_text
    from probe.errors import UsageError

    checked_text(prompt, "--prompt")
    if temperature is not None and not sample:
        raise UsageError(f"--temperature {temperature} was asked without --sample; give both, or neither")
    # Everything cheap is checked before the imports below, which load torch.
    from probe import models
    from probe.analysis.continuation import Decoding
    from probe.analysis.generation import generate as generate_texts
    from probe.cli.edits import read_how
    from probe.cli.generation_view import show_generations
    from probe.cli.progress import progress_bar
    from probe.cli.view import console, print_json

    edits = read_how(do, None)
    decoding = Decoding(new_tokens, (1.0 if temperature is None else temperature) if sample else None)
    command = typed()
    # A library that prints would spoil the one object on standard output.
    with redirect_stdout(sys.stderr), progress_bar() as report:
        report(0, 0, f"loading {model}")
        loaded = models.load(model, device=device, dtype=dtype)
        report(0, 0, f"{loaded.name} writes")
        found = generate_texts(
            loaded, prompt, edits, decoding=decoding, control=control, seed=seed, command=command
        )
    if as_json:
        print_json(found.to_json())
    else:
        show_generations(found, console())
