"""All prompts through the model, batch by batch, with every metric watching; each finished batch is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from probe.analysis.forward import Runner, out_of_memory
from probe.analysis.guard import FiniteGuard
from probe.analysis.inputs import Inputs, Item
from probe.analysis.keep_map import MapKeeper
from probe.analysis.keep_qk import QkKeeper, to_folder
from probe.analysis.numbering import Numbering
from probe.analysis.options import AnalyzeOptions, mode_of
from probe.analysis.ready import require_edited, require_effect
from probe.analysis.resume import Unfinished
from probe.errors import UnseenLayersError
from probe.metrics.base import Cell, CellKey, Metric
from probe.seam.session import Session


@dataclass
class Found:
    """What the sessions of a run said besides the numbers."""

    mode: str = ""
    unseen: list[str] = field(default_factory=list)
    fallback: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)  # sequences per tower
    backends: list[str] = field(default_factory=list)

    def add(self, noted: dict[str, Any]) -> None:
        """Take what one batch noted, from this run or from one before."""
        self.finished = noted["finished"]
        said = Found(noted["mode"], noted["unseen"], noted["fallback"], noted["notes"])
        said.backends = noted.get("backends", [])
        self.merge(said)

    def merge(self, other: "Found") -> None:
        """Take what another session said, each line once."""
        self.mode = self.mode or other.mode
        for name in ("unseen", "fallback", "notes", "backends"):
            known: list[str] = getattr(self, name)
            known += [line for line in getattr(other, name) if line not in known]


class Sweep:
    """One pass over the inputs."""

    def __init__(
        self,
        runner: Runner,
        inputs: Inputs,
        metrics: Sequence[Metric],
        interventions: Sequence[Any],
        options: AnalyzeOptions,
    ) -> None:
        self.runner, self.inputs, self.options = runner, inputs, options
        self.metrics, self.interventions = tuple(metrics), tuple(interventions)
        self.numbering = Numbering()
        self.maps = MapKeeper() if options.keep != "none" else None
        self.parts = None
        if options.keep == "qk" and options.folder is not None:
            self.parts = QkKeeper(to_folder(options.folder, self._numbered))

    def run(self, store: Unfinished | None) -> Found:
        """Run what is not finished yet, fold every metric, and say what was seen."""
        found = Found()
        batches = self.inputs.batches(self.options.batch_size)
        before = store.done() if store is not None else []
        for noted in before:
            found.add(noted)
        self.numbering = Numbering(found.finished)
        done = sum(item.n_prompts for batch in batches[: len(before)] for item in batch)
        finished: list[dict[CellKey, Cell]] = [{} for _ in self.metrics]
        if len(before) < len(batches):
            observers = [FiniteGuard(), *self.metrics, *(k for k in (self.maps, self.parts) if k is not None)]
            options = self.options
            with Session(
                self.runner.model,
                observers,
                self.interventions,
                mode=mode_of(options.mode),
                kernels=options.kernels,
            ) as session:
                for number, batch in enumerate(batches[len(before) :], len(before)):
                    options.report_progress(done, self.inputs.n_prompts, "prompts")
                    self._one(session, batch)
                    noted = self._collect(session, finished, store, number)
                    found.add(noted)
                    done += sum(item.n_prompts for item in batch)
                require_effect(session)
        if store is not None:
            store.restore(self.metrics, len(before))
        for metric, cells in zip(self.metrics, finished, strict=True):
            metric.cells.update(cells)
        self.options.report_progress(self.inputs.n_prompts, self.inputs.n_prompts, "prompts")
        return found

    def _numbered(self, key: CellKey) -> CellKey:
        return self.numbering(key)

    def _one(self, session: Session, batch: Sequence[Item]) -> None:
        spans = [_spans(item) for item in batch]
        n_tokens = sum(item.n_tokens for item in batch)
        with out_of_memory(f"a forward of {self.runner.loaded.name}", n_tokens):
            inputs = self.runner.tensors(batch)
            if batch[0].prompt is not None:
                session.announce(spans)
            if self.options.chunk is not None:
                with session.prefilling():
                    self.runner.run(inputs)
            else:
                self.runner.run(inputs)
        session.require_seen()
        require_edited(self.interventions, session)
        if session.unseen_layers and self.options.on_unseen == "error":
            names = session.unseen_layers
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            raise UnseenLayersError(
                f"an analysis of {self.runner.loaded.name} was asked; the attention of {len(names)} layers never "
                f"reached the seam ({shown}): on_unseen='note' lists them in the report instead"
            )

    def _collect(
        self, session: Session, finished: list[dict[CellKey, Cell]], store: Unfinished | None, number: int
    ) -> dict[str, Any]:
        """Move the batch's cells under their numbers in the whole run, and keep them on disk."""
        keys: set[CellKey] = set()
        for metric, cells in zip(self.metrics, finished, strict=True):
            metric.cells = {self.numbering(key): cell for key, cell in metric.cells.items()}
            keys |= metric.cells.keys()
            cells |= metric.cells
        if self.maps is not None and self.options.folder is not None:
            renamed = {key: self.numbering(key) for key in self.maps.maps}
            keys |= set(renamed.values())
            self.maps.save(self.options.folder, renamed)
        if self.parts is not None:
            keys |= {self.numbering(key) for key in self.parts.forget()}
        self.numbering.finish(keys)
        noted = {
            "mode": session.mode,
            "unseen": session.unseen_layers,
            "fallback": session.fallback_layers,
            "notes": session.notes,
            "finished": self.numbering.next,
            "backends": session.backends,
        }
        if store is not None:
            store.save(number, self.metrics, noted)
        for metric in self.metrics:
            metric.cells = {}
        return noted


def _spans(item: Item) -> dict[str, torch.Tensor]:
    if item.prompt is None:
        return {}
    return {name: torch.from_numpy(flags.copy()) for name, flags in item.prompt.spans.items()}
