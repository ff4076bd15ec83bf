"""``probe analyze``: what the heads of a model do on a text. The flags; the work is in `probe.cli.running`."""

from pathlib import Path
from typing import Annotated

import typer

from probe.cli.flags import Device, Dtype, MaxTokens, Model, NoText, Seed
from probe.cli.typed import typed

_Text = Annotated[str | None, typer.Option("--text", metavar="T", help="Analyze this text.")]
_File = Annotated[
    Path | None, typer.Option("--file", metavar="F", help="Analyze the text of this UTF-8 file.")
]
_Prompts = Annotated[
    Path | None,
    typer.Option("--prompts", metavar="F.jsonl", help="Analyze prompts: one JSON object per line."),
]
_Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME[:k=v,...]",
        help="A metric, may be repeated; all = every one (see probe metrics).",
    ),
]
_Suite = Annotated[
    list[str] | None,
    typer.Option(
        "--suite", metavar="NAME", help="A group of metrics, may be repeated: retrieval, sinks, …; or all."
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Save the report here; an interrupted run resumes."),
]
_Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else; save only with --out.")
]
_Chunk = Annotated[
    int | None,
    typer.Option("--chunk", metavar="N", min=1, help="Prefill N tokens at a time, to save memory."),
]
_Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="map|qk",
        help="Also save pooled maps (with --out), or those and queries and keys; or none.",
    ),
]
_Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline", metavar="untrained", help="Also measure the same model with re-initialised weights."
    ),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell tokens, bytes and minutes.")]


def analyze(
    model: Model = "smollm2-135m",
    text: _Text = None,
    file: _File = None,
    prompts: _Prompts = None,
    metric: _Metric = None,
    suite: _Suite = None,
    out: _Out = None,
    as_json: _Json = False,
    device: Device = None,
    dtype: Dtype = None,
    max_tokens: MaxTokens = None,
    chunk: _Chunk = None,
    keep: _Keep = None,
    baseline: _Baseline = None,
    no_text: NoText = False,
    seed: Seed = 0,
    dry_run: _DryRun = False,
) -> None:
    """Measure what every attention head does, and save the report."""
    from probe.cli.inputs import read_input

    source = read_input(text, file, prompts)
    # Everything cheap is checked before the imports below, which load torch.
    from probe.cli.running import Request, run

    request = Request(
        model=model,
        source=source,
        metrics=[*(metric or ()), *(f"suite:{name}" for name in suite or ())],
        out=out,
        choices={
            "keep": keep or ("map" if out else "none"),
            "device": device,
            "dtype": dtype,
            "max_tokens": max_tokens,
            "chunk": chunk,
            "text": not no_text,
            "seed": seed,
            "baseline": baseline,
            "command": None if no_text else typed(),
        },
    )
    run(request, as_json=as_json, dry_run=dry_run)
