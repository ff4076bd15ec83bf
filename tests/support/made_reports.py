"""Reports made by hand, for tests that need one but no model."""

from typing import Literal

import numpy as np
import xarray as xr

from probe.report import Answer, ModelRecord, PromptRecord, Provenance, Report

VERSIONS = {"python": "3.11.9", "attention-probe": "0.1.0"}


def made_map(
    values: object, layers: list[int] | None = None, n_heads: list[int] | None = None
) -> xr.DataArray:
    """A head map of these values."""
    grid = np.asarray(values, dtype=np.float64)
    coords: dict[str, object] = {
        "layer": np.asarray(layers if layers is not None else range(grid.shape[0])),
        "head": np.arange(grid.shape[1]),
        "n_heads": ("layer", np.asarray(n_heads if n_heads is not None else [grid.shape[1]] * grid.shape[0])),
    }
    return xr.DataArray(grid, coords, ("layer", "head"))


def made_answer(
    spec: str = "entropy",
    head_map: xr.DataArray | None = None,
    *,
    tower: str = "decoder",
    better: Literal["high", "low"] = "high",
    by_prompt: xr.DataArray | None = None,
) -> Answer:
    """An answer of that spec, over two layers of three heads unless a map is given."""
    name = spec.partition(":")[0]
    if head_map is None:
        head_map = made_map([[0.1, 0.9, 0.5], [0.3, np.nan, 0.7]], layers=[0, 3])
    return Answer(
        spec=spec,
        name=name,
        summary=f"What {name} measures, in [0, 1].",
        unit="nats",
        better=better,
        paper="Somebody 2024",
        bibtex="@article{somebody2024, title={Heads}}",
        tower=tower,
        head_map=head_map,
        by_prompt=by_prompt,
    )


def made_report(*answers: Answer, name: str = "tiny") -> Report:
    """A report of these answers (one of entropy if none is given), with the same provenance each time."""
    provenance = Provenance(
        model=ModelRecord(name, source="path", dtype="float32", device="cpu"),
        tokens=12,
        prompts=2,
        logit_drift=4e-05,
        command="probe analyze tiny --text 'a secret'",
        versions=VERSIONS,
        notes=("cut to 12 tokens",),
    )
    prompts = [
        PromptRecord("a", "a secret", (1, 2), ("a", " secret"), {"last": ((1, 2),)}),
        PromptRecord("b", "b"),
    ]
    return Report(answers or (made_answer(),), provenance, prompts)
