"""What was asked of a scoring run, checked before anything is scored, and what identifies it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from probe import __version__
from probe.analysis.ablation.ablate import require_next_token
from probe.analysis.fingerprint import weights_digest
from probe.analysis.first_use import drift_of
from probe.analysis.ready import require_places
from probe.analysis.records import model_record
from probe.analysis.resume import check_output
from probe.analysis.scoring.arrow import parquet
from probe.analysis.scoring.documents import DataRecord, Source
from probe.analysis.scoring.masking import make_mask, read_names
from probe.analysis.scoring.options import ScoreOptions
from probe.analysis.scoring.ray_cluster import import_ray
from probe.analysis.scoring.reading import open_documents
from probe.errors import InputError, UsageError
from probe.interventions.making import wants_heads
from probe.models import LoadedModel, load
from probe.report.provenance import ModelRecord, utc_now


@dataclass(frozen=True)
class Subject:
    """Which model is scored with: what stays known of it when its weights are let go."""

    record: ModelRecord
    digest: str  # of its weights
    drift: float | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Subject":
        """The record of a loaded model."""
        drift = drift_of(loaded.model, "fused")
        return cls(model_record(loaded), model_digest(loaded), drift, loaded.notes)


@dataclass(frozen=True)
class Plan:
    """Everything that was asked, checked; `heads` None: they are still to be found."""

    subject: Subject
    source: Source
    data: DataRecord
    how: Any
    heads: tuple[str, ...] | None
    options: ScoreOptions
    started: str = field(default_factory=utc_now)

    @property
    def finds_heads(self) -> bool:
        """Whether the heads are found by the run itself."""
        return self.heads is None and wants_heads(self.how)

    @property
    def n_shards(self) -> int:
        """How many Parquet files the scores make."""
        return -(-self.data.documents // self.options.shard)

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the numbers, by name. How many processes compute them is no part of it."""
        options, record = self.options, self.subject.record
        found = [options.detect, options.share, options.seed]
        return {
            "score": 1,
            "model": [record.name, record.revision, self.subject.digest, record.dtype],
            "device": str(record.device).partition(":")[0],
            "data": [self.data.sha256, self.data.documents],
            "how": self.how if isinstance(self.how, str) else repr(self.how),
            "heads": found if self.finds_heads else self.heads,
            "options": {
                name: getattr(options, name) for name in ("shard", "batch_tokens", "max_tokens", "seed")
            },
            "versions": {"probe": __version__, "torch": torch.__version__},
        }


def prepare(
    model: object, data: object, how: object, heads: object, options: ScoreOptions
) -> tuple[Plan, LoadedModel]:
    """Check everything that can be checked without scoring, cheapest first.

    Raises:
        UsageError: the call was wrong; nothing was run and nothing written.
    """
    names = read_names(heads)
    mask = None if names is None and wants_heads(how) else make_mask(how, names)
    check_output(options.folder)
    parquet()
    _check_workers(model, options)
    source = open_documents(data)
    options.report_progress(0, 0, f"checking {data}")
    record = source.check()
    options.report_progress(0, 0, "loading the model")
    loaded = load(model, device=options.device, dtype=options.dtype)
    require_next_token(loaded)
    if loaded.tokenizer is None:
        raise InputError(
            f"documents were to be scored with {loaded.name}; it has no tokenizer: give (model, tokenizer)"
        )
    if mask is not None:
        require_places([mask], loaded)
    return Plan(Subject.of(loaded), source, record, how, names, options), loaded


def model_digest(loaded: LoadedModel) -> str:
    """What tells a model's weights from others."""
    return loaded.source.sha256 or weights_digest(loaded.model)


def _check_workers(model: object, options: ScoreOptions) -> None:
    if not options.distributed:
        return
    if not isinstance(model, str | Path):
        raise UsageError(
            f"several workers were asked for a {type(model).__name__} in memory; each loads the model by itself: give "
            "its name or folder, or leave workers and ray_address out"
        )
    import_ray()
