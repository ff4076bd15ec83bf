"""From the numbers of every unit to a report: head maps of what the edit changed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from probe_kernels import chosen_backend
from torch import Tensor

from probe.analysis.first_use import drift_of
from probe.analysis.inputs import Item
from probe.analysis.records import bos_of, model_record, prompt_records
from probe.analysis.sweeping.plan import Plan
from probe.report import Answer, Report
from probe.report.provenance import Provenance, utc_now

_PAPER = "Michel et al. 2019"
_BIBTEX = """@inproceedings{michel2019sixteen,
  title={Are Sixteen Heads Really Better than One?},
  author={Michel, Paul and Levy, Omer and Neubig, Graham},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019}
}"""


def make_report(
    plan: Plan,
    base: Float[Tensor, "number case"],
    edited: Mapping[str, Float[Tensor, "number case"]],
    notes: Sequence[str],
) -> Report:
    """A head map per number and tower: edited minus base, mean over cases; values per case are kept."""
    towers = list(dict.fromkeys(unit.place.tower for unit in plan.units))
    answers = [
        _answer(plan, number, tower, base, edited)
        for number in range(len(plan.task.numbers))
        for tower in towers
    ]
    items = [Item(case.prompt) for case in plan.cases]
    provenance = Provenance(
        model=model_record(plan.loaded),
        mode="fused",
        kernels=chosen_backend(None, plan.loaded.device),
        logit_drift=drift_of(plan.loaded.model, "fused"),
        tokens=sum(len(case.tokens) for case in plan.cases),
        prompts=len(plan.cases),
        seed=plan.options.seed,
        bos=bos_of(items),
        command=plan.options.command,
        started=plan.started,
        ended=utc_now(),
        settings={"sweep": {"how": plan.asked.name, "over": plan.over, "task": repr(plan.task)}},
        notes=(*plan.loaded.notes, *notes),
    )
    report = Report(answers, provenance, prompt_records(items))
    return report if plan.options.text else report.without_text()


def _answer(plan: Plan, number: int, tower: str, base: Tensor, edited: Mapping[str, Tensor]) -> Answer:
    what = plan.task.numbers[number]
    by_case = _by_case(plan, number, tower, base, edited)
    scored = f"{plan.asked.name}, task {plan.task.name}: base {float(base[number].mean()):.4g} {what.unit}"
    notes = [scored + f" over {len(plan.cases)} prompts"]
    if plan.over == "layers":
        notes.append("every value is that of a whole layer: H0 stands for all heads")
    if plan.phase == "decode":
        notes.append(
            "rows from the last token of the prompt on were edited (what comes before it is one prefill)"
        )
    return Answer(
        spec=what.key,
        name=what.key,
        summary=what.summary,
        unit=what.unit,
        better=what.better,
        paper=_PAPER,
        bibtex=_BIBTEX,
        tower=tower,
        head_map=by_case.mean("prompt", skipna=False),
        by_prompt=by_case,
        extra={
            "base": xr.DataArray(
                base[number].numpy(), {"prompt": by_case.coords["prompt"].values}, ("prompt",)
            )
        },
        notes=tuple(notes),
    )


def _by_case(plan: Plan, number: int, tower: str, base: Tensor, edited: Mapping[str, Tensor]) -> xr.DataArray:
    units = [unit for unit in plan.units if unit.place.tower == tower]
    layers = sorted({unit.place.layer for unit in units})
    width = max((unit.head or 0) for unit in units) + 1
    values = np.full((len(plan.cases), len(layers), width), np.nan)
    counts = dict.fromkeys(layers, 0)
    for unit in units:
        change: Tensor = edited[unit.name][number] - base[number]
        values[:, layers.index(unit.place.layer), unit.head or 0] = change.to("cpu", torch.float64).numpy()
        counts[unit.place.layer] = max(counts[unit.place.layer], (unit.head or 0) + 1)
    coords: dict[str, Any] = {
        "prompt": [case.id for case in plan.cases],
        "layer": np.array(layers, dtype=np.int64),
        "head": np.arange(width, dtype=np.int64),
        "n_heads": ("layer", np.array([counts[layer] for layer in layers], dtype=np.int64)),
    }
    return xr.DataArray(values, coords, ("prompt", "layer", "head"))
