"""``probe circuits``: which heads cause the answer. The flags; the work is in `probe.cli.circuiting`."""

from pathlib import Path
from typing import Annotated

import typer

from probe.cli.flags import Device, Dtype, Json, Model, NoText
from probe.cli.inputs import read_text
from probe.cli.typed import typed

_Task = Annotated[
    str | None,
    typer.Option("--task", metavar="NAME", help="The task that pairs are made for; default: the method's."),
]
_Method = Annotated[
    str, typer.Option("--method", metavar="NAME[:k=v,...]", help="How parts are told; --list has them all.")
]
_Nodes = Annotated[
    str | None,
    typer.Option(
        "--nodes",
        metavar="N",
        help="heads (z), mlp (mlp_out), resid (resid_pre), attn (attn_out), q, k, v, pattern, resid_mid, resid_post.",
    ),
]
_At = Annotated[
    str | None,
    typer.Option("--at", metavar="all|end|marks|tokens", help="At which positions; a mark has its own name."),
]
_Direction = Annotated[
    str | None,
    typer.Option("--direction", metavar="denoise|noise", help="Clean values into the corrupt run, or back."),
]
_Measure = Annotated[
    str | None,
    typer.Option(
        "--measure",
        metavar="M",
        help="What is asked of the logits: logit_difference, probability_difference, kl or accuracy.",
    ),
]
_Count = Annotated[int | None, typer.Option("--count", metavar="N", min=1, help="Make N pairs of the task.")]
_Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", min=0, help="Seed of the pairs and of every control.")
]
_Pairs = Annotated[
    Path | None, typer.Option("--pairs", metavar="F.jsonl", help="Pairs of your own in place of a task's.")
]
_MinAccuracy = Annotated[
    float | None,
    typer.Option(
        "--min-accuracy",
        metavar="X",
        min=0,
        max=1,
        help="Refuse a model that is right on fewer clean prompts.",
    ),
]
_Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Save the report here.")]
_List = Annotated[bool, typer.Option("--list", help="List methods and tasks with their papers, and stop.")]


def circuits(
    model: Model = "smollm2-135m",
    task: _Task = None,
    method: _Method = "relp",
    nodes: _Nodes = None,
    at: _At = None,
    direction: _Direction = None,
    measure: _Measure = None,
    count: _Count = None,
    seed: _Seed = None,
    pairs: _Pairs = None,
    min_accuracy: _MinAccuracy = None,
    out: _Out = None,
    listed: _List = False,
    no_text: NoText = False,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Find the heads, MLPs and paths that cause a model's answer: attribution, patching and circuits."""
    if listed:
        from probe.cli.circuits_list import show_list

        show_list(as_json=as_json)
        return
    _check_names(method, task, pairs)
    flags = {
        "nodes": nodes,
        "at": at,
        "direction": direction,
        "measure": measure,
        "count": count,
        "seed": seed,
        "min_accuracy": min_accuracy,
    }
    given = {name: str(value) for name, value in flags.items() if value is not None}
    # Everything cheap is checked before the import below, which loads torch.
    from probe.cli.circuiting import Request, run

    command = None if no_text else typed()
    run(Request(model, (method, given), task or pairs, out, (device, dtype), command), as_json=as_json)


def _check_names(method: str, task: str | None, pairs: Path | None) -> None:
    """Refuse names that are not there and files that cannot be read, before anything heavy is imported."""
    from probe.circuits.table import full_name
    from probe.errors import UnknownNameError, UsageError
    from probe.prompts.pairs.table import PAIR_TASKS

    full_name(method.partition(":")[0].strip())
    if task is not None and task not in PAIR_TASKS:
        raise UnknownNameError.of("task", task, PAIR_TASKS)
    if task is not None and pairs is not None:
        raise UsageError("--task and --pairs were asked; a run takes its pairs from one of them: give one")
    if pairs is not None:
        read_text(pairs)
