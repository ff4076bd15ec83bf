"""The dormancy test of heads on texts of several domains, and what heads are worth where: the loss without them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from probe.experiments.base import Ask
from probe.experiments.folding import fold
from probe.experiments.forwards import losses
from probe.interventions import zero
from probe.metrics.answering import answers
from probe.metrics.column_entropy import ColumnEntropy
from probe.metrics.entropy import Entropy
from probe.metrics.key_mass import KeyMass
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.terms import HeadId

_CONTROLS = 2  # draws of another head of the same layer


@dataclass(frozen=True)
class Dormancy:
    """What each text gave, arrays (prompt, layer, head), and the domain of each text."""

    rows: xr.DataArray
    columns: xr.DataArray
    sink: xr.DataArray
    dormant: xr.DataArray
    domains: Sequence[str]

    def _by_domain(self, values: xr.DataArray) -> xr.DataArray:
        names = list(dict.fromkeys(self.domains))
        label = np.array(self.domains)
        parts = [values.isel(prompt=np.flatnonzero(label == name)).mean("prompt") for name in names]
        return xr.concat(parts, dim="domain", coords="minimal", compat="override").assign_coords(domain=names)

    def maps(self) -> dict[str, xr.DataArray]:
        """Maps (domain, layer, head), and how far the sink mass ranges over domains (layer, head)."""
        sink = self._by_domain(self.sink)
        return {
            "dormant": (self._by_domain(self.dormant) > 0.5).astype(np.float64),
            "sink": sink,
            "row_entropy": self._by_domain(self.rows),
            "column_entropy": self._by_domain(self.columns),
            "switch": sink.max("domain") - sink.min("domain"),
        }

    def switchers(self) -> list[HeadId]:
        """Heads by how far their sink mass ranges over domains, the widest first."""
        switch = self.maps()["switch"]
        order = np.argsort(-switch.fillna(-1.0).values, axis=None, kind="stable")
        layers, heads = np.unravel_index(order, switch.shape)
        return [
            HeadId("decoder", int(switch.layer[layer]), int(switch["head"][head]))
            for layer, head in zip(layers, heads, strict=True)
            if np.isfinite(switch.values[layer, head])
        ]

    def told(self, head: HeadId) -> str:
        """A head's sink mass by domain, in words."""
        sink = self.maps()["sink"].sel(layer=head.layer, head=head.head)
        return f"{head} " + ", ".join(
            f"{float(sink.sel(domain=d)):.2f} {str(d)!r}" for d in sink.domain.values
        )


def dormancy(
    ask: Ask, prompts: Sequence[Prompt], domains: Sequence[str], row: float, column: float, what: str
) -> tuple[Dormancy | None, list[str]]:
    """Run every text once and test every head on it (None: no decoder); also the lines that a reader must see."""
    metrics = (Entropy(normalized=True), ColumnEntropy(), KeyMass())
    notes = fold(ask.model, prompts, metrics, tell=lambda n: ask.tell(n, len(prompts), what))
    ask.tell(len(prompts), len(prompts), what)
    found = []
    for metric in metrics:
        decoder = next((one for one in answers(metric, tokens=False) if one.tower == "decoder"), None)
        if decoder is None or decoder.by_prompt is None:
            return None, notes
        found.append(decoder.by_prompt.drop_vars("weight", errors="ignore"))
    rows, columns, sink = found
    dormant = ((rows < row) & (columns > column)).astype(np.float64).where(rows.notnull())
    return Dormancy(rows, columns, sink, dormant, domains), notes


@dataclass(frozen=True)
class CausalCheck:
    """Change of loss, nats per token, by head and domain: that of the head zeroed, and of controls."""

    heads: Sequence[HeadId]
    domains: Sequence[str]
    change: np.ndarray  # [head, domain]
    control: np.ndarray

    def maps(self) -> dict[str, xr.DataArray]:
        """Both, with axes (checked, domain)."""
        coords = {"checked": [str(head) for head in self.heads], "domain": list(self.domains)}
        return {
            name: xr.DataArray(values, dims=("checked", "domain"), coords=coords)
            for name, values in (("loss_change", self.change), ("control_change", self.control))
        }

    def told(self) -> list[str]:
        """One line per head."""
        return [
            f"{head} zeroed: loss {_signed(self.domains, change)} nats per token; another head of its layer "
            f"{_signed(self.domains, control)}"
            for head, change, control in zip(self.heads, self.change, self.control, strict=True)
        ]


def causal_check(
    ask: Ask, by_domain: Mapping[str, Sequence[Prompt]], heads: Sequence[HeadId], what: str
) -> CausalCheck:
    """Zero heads one at a time, and as a control other heads of the same layer drawn with the seed."""
    base = {domain: _loss(ask.model, texts) for domain, texts in by_domain.items()}
    shape = (len(heads), len(by_domain))
    change, control = np.zeros(shape), np.zeros(shape)
    for at, head in enumerate(heads):
        ask.tell(at, len(heads), f"{what}: zeroing {head}")
        edit = zero(heads=[head])
        others = [edit.control(ask.seed + draw) for draw in range(_CONTROLS)]
        for column, (domain, texts) in enumerate(by_domain.items()):
            change[at, column] = _loss(ask.model, texts, edit) - base[domain]
            control[at, column] = np.mean([_loss(ask.model, texts, one) for one in others]) - base[domain]
    ask.tell(len(heads), len(heads), what)
    return CausalCheck(heads, list(by_domain), change, control)


def _loss(loaded: LoadedModel, prompts: Sequence[Prompt], *edits: object) -> float:
    """Mean over texts of the mean loss of their tokens."""
    return float(np.mean([float(losses(loaded, prompt, edits).nanmean()) for prompt in prompts]))


def _signed(domains: Sequence[str], values: np.ndarray) -> str:
    return ", ".join(f"{value:+.3f} {domain!r}" for domain, value in zip(domains, values, strict=True))
