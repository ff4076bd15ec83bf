"""A method's answers as a report, with the pairs and how they were measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from probe_kernels import chosen_backend
from torch import Tensor

from probe.analysis.inputs import Item
from probe.analysis.records import bos_of, model_record, prompt_records
from probe.circuits.study import Study
from probe.report import Report
from probe.report.answer import Answer
from probe.report.provenance import Provenance, utc_now


@dataclass(frozen=True)
class Told:
    """What a reader must know of an answer: its key, one sentence with unit and range, better end, paper."""

    spec: str
    summary: str
    unit: str
    paper: str
    bibtex: str = ""
    better: Literal["high", "low"] = "high"

    def answer(
        self,
        head_map: xr.DataArray,
        by_prompt: xr.DataArray | None = None,
        extra: Mapping[str, xr.DataArray] | None = None,
        notes: Sequence[str] = (),
    ) -> Answer:
        """The answer for the decoder."""
        name = self.spec.partition(":")[0]
        return Answer(
            self.spec, name, self.summary, self.unit, self.better, self.paper, self.bibtex, "decoder", head_map,
            by_prompt, {}, dict(extra or {}), tuple(notes),
        )  # fmt: skip


def make_report(
    study: Study, answers: Sequence[Answer], settings: Mapping[str, Any], notes: Sequence[str] = ()
) -> Report:
    """The report of one method; its prompts are the clean ones, then the corrupt ones."""
    options = study.options
    items = [Item(pair.clean) for pair in study.pairs] + [Item(pair.corrupt) for pair in study.pairs]
    provenance = Provenance(
        model=model_record(study.loaded),
        mode="fused",
        kernels="+".join(study.engine.session.backends) or chosen_backend(None, study.loaded.device),
        tokens=sum(len(pair) for pair in study.pairs) * 2,
        prompts=len(items),
        seed=options.seed,
        unseen_layers=tuple(study.engine.session.unseen_layers),
        bos=bos_of(items),
        started=study.started,
        ended=utc_now(),
        settings={
            "task": study.pairs.task,
            "pairs": len(study.pairs),
            "measure": study.measure.name,
            "min_accuracy": options.min_accuracy,
            "accuracy": study.accuracy,
            **settings,
        },
        notes=tuple(dict.fromkeys([*study.notes, *notes])),
    )
    return Report(answers, provenance, prompt_records(items))


def labelled(values: Tensor | np.ndarray, **axes: Sequence[Any] | np.ndarray) -> xr.DataArray:
    """An array with its axes in the order given, each with its labels."""
    data = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return xr.DataArray(data, dims=tuple(axes), coords={name: list(labels) for name, labels in axes.items()})
