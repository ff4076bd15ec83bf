"""``probe score``: what masking heads costs each document. The flags; the work is in `probe.cli.scoring`."""

from pathlib import Path
from typing import Annotated

import typer

from probe.cli.flags import Device, Dtype, Json, Model, Seed
from probe.cli.typed import typed

_Data = Annotated[
    Path,
    typer.Option("--data", metavar="FILE", help="Documents: .jsonl or .parquet with text, and maybe id."),
]
_Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Save the scores here; an interrupted run resumes.")
]
_Heads = Annotated[
    str | None,
    typer.Option(
        "--heads",
        metavar="L18.H6,...",
        help="The heads to mask, joined by a comma or +; default: the best retrieval heads, found first.",
    ),
]
_Share = Annotated[
    float, typer.Option("--share", metavar="X", help="Share of all heads to mask where none are named.")
]
_Detect = Annotated[
    str, typer.Option("--detect", metavar="json|needles", help="What retrieval heads are found on.")
]
_How = Annotated[
    str, typer.Option("--how", metavar="NAME[:k=v,...]", help="What masks them; any intervention.")
]
_MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", metavar="N", min=2, help="Keep the first N tokens of every document."),
]
_BatchTokens = Annotated[
    int, typer.Option("--batch-tokens", metavar="N", min=1, help="Most tokens of one forward.")
]
_Shard = Annotated[int, typer.Option("--shard", metavar="N", min=1, help="Documents per Parquet file.")]
_Workers = Annotated[
    int, typer.Option("--workers", metavar="N", min=0, help="Score in N processes, through Ray.")
]
_RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="A", help="A running Ray cluster, such as auto or HOST:6379."),
]


def score(
    data: _Data,
    out: _Out,
    model: Model = "smollm2-135m",
    heads: _Heads = None,
    share: _Share = 0.05,
    detect: _Detect = "json",
    how: _How = "uniform_past",
    max_tokens: _MaxTokens = None,
    batch_tokens: _BatchTokens = 4096,
    shard: _Shard = 128,
    workers: _Workers = 0,
    ray_address: _RayAddress = None,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    seed: Seed = 0,
) -> None:
    """Score documents by how much worse they are predicted with heads masked (AttentionInfluence)."""
    # The import below loads torch.
    from probe.cli.scoring import Request, run

    choices = {
        "out": out,
        "share": share,
        "detect": detect,
        "max_tokens": max_tokens,
        "batch_tokens": batch_tokens,
        "shard": shard,
        "workers": workers,
        "ray_address": ray_address,
        "device": device,
        "dtype": dtype,
        "seed": seed,
        "command": typed(),
    }
    run(Request(model, data, how, heads, choices), as_json=as_json)
