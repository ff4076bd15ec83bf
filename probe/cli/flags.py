"""Flags that commands which run a model have in common, with the same words in all of them."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(metavar="[MODEL]", help="A known model, a hub id or a local path.")]
File = Annotated[Path | None, typer.Option("--file", metavar="F", help="Read the text of this UTF-8 file.")]
Prompts = Annotated[
    Path | None, typer.Option("--prompts", metavar="F.jsonl", help="Read prompts: one JSON object per line.")
]
Text = Annotated[str | None, typer.Option("--text", metavar="T", help="Read this text.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[str | None, typer.Option("--device", metavar="D", help="Where to run, such as cuda.")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="T", help="What to compute in, such as bfloat16.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", metavar="N", min=1, help="Keep the first N tokens of every prompt."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of everything random.")]
NewTokens = Annotated[
    int,
    typer.Option("--new-tokens", "--tokens", metavar="N", min=0, help="Continue the text by N tokens."),
]
NoText = Annotated[bool, typer.Option("--no-text", help="Save no prompt text: a report to share.")]
