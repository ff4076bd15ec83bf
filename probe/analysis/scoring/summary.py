"""What a scoring run found: counts, means, quantiles, the documents of most influence, and where the scores lie."""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.analysis.files import replace_file
from probe.analysis.scoring.arrow import parquet
from probe.analysis.scoring.table import notes_of
from probe.report.json_form import SCHEMA, finite
from probe.report.provenance import Provenance

FILE = "summary.json"
TOP = 10
QUANTILES = (0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)


@dataclass(frozen=True)
class Tally:
    """What the shards of a run hold, read once, one file at a time.

    Attributes:
        documents: All of them.
        tokens: Tokens that the model was given, over all documents.
        cut: Documents that had more tokens than were given.
        unscored: Reason -> documents without an influence.
        losses: Mean over scored documents, by name: ``base_loss``, ``masked_loss``, in nats per token.
        influence: One value per scored document, ascending: 8 bytes each.
        top: The documents of most influence, (id, influence).
        notes: Lines that the shards hold.
    """

    documents: int
    tokens: int
    cut: int
    unscored: Mapping[str, int]
    losses: Mapping[str, float]
    influence: np.ndarray = field(repr=False)
    top: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]


def tally(paths: Sequence[Path]) -> Tally:
    """Read the files of a run, one after another."""
    documents = tokens = cut = 0
    unscored, notes = Counter[str](), dict[str, None]()
    sums, values = {"base_loss": 0.0, "masked_loss": 0.0}, list[np.ndarray]()
    best: list[tuple[float, int, str]] = []
    for frame, told in _frames(paths):
        documents, tokens = documents + len(frame), tokens + int(frame["tokens"].sum())
        cut += int(frame["cut"].sum())
        unscored.update(frame["reason"].dropna())
        notes |= dict.fromkeys(told)
        scored = frame[frame["influence"].notna()]
        for name in sums:
            sums[name] += float(scored[name].sum())
        values.append(scored["influence"].to_numpy(np.float64))
        rows = zip(scored["influence"], -scored["index"], scored["id"], strict=True)
        best = heapq.nlargest(TOP, [*best, *rows])
    influence = np.sort(np.concatenate(values)) if values else np.zeros(0)
    means = {name: total / len(influence) if len(influence) else float("nan") for name, total in sums.items()}
    top = tuple((name, float(value)) for value, _, name in best)
    return Tally(documents, tokens, cut, dict(sorted(unscored.items())), means, influence, top, tuple(notes))


def _frames(paths: Sequence[Path]) -> Iterator[tuple[pd.DataFrame, list[str]]]:
    for path in paths:
        with parquet().ParquetFile(path) as file:
            told = notes_of(file.schema_arrow.metadata)["notes"]
            yield file.read().to_pandas(), told


@dataclass(frozen=True)
class Scores:
    """The scores of documents, as files in `folder`, and their summary.

    Attributes:
        folder: Where ``scores/part-*.parquet`` and ``summary.json`` lie.
        intervention: What masked the heads, by name.
        heads: The heads by name; empty where the intervention has none of its own.
        tally: Counts, means and quantiles.
        shards: Number of Parquet files.
        provenance: Where the numbers came from, and lines that their reader must see.
    """

    folder: Path
    intervention: str
    heads: tuple[str, ...]
    tally: Tally = field(repr=False)
    shards: int
    provenance: Provenance = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """All scores in the order of the data: index, id, tokens, base_loss, masked_loss, influence, cut, reason."""
        paths = sorted((self.folder / "scores").glob("part-*.parquet"))
        return pd.concat([frame for frame, _ in _frames(paths)], ignore_index=True)

    def to_json(self) -> dict[str, Any]:
        """One JSON object, schema 1: counts, means, quantiles, top documents, provenance; undefined values null."""
        record, found = self.provenance.to_dict(), self.tally
        values = found.influence
        quantiles = {f"{q:g}": float(np.quantile(values, q)) if len(values) else None for q in QUANTILES}
        return dict(
            finite(
                {
                    "schema": SCHEMA,
                    "model": record["model"],
                    "intervention": self.intervention,
                    "heads": list(self.heads),
                    "documents": {
                        "total": found.documents,
                        "scored": len(values),
                        "cut": found.cut,
                        "unscored": dict(found.unscored),
                    },
                    "tokens": found.tokens,
                    "base_loss": {"unit": "nats per token", "mean": found.losses["base_loss"]},
                    "masked_loss": {"unit": "nats per token", "mean": found.losses["masked_loss"]},
                    "influence": {
                        "unit": "share of the base loss",
                        "mean": float(values.mean()) if len(values) else None,
                        "quantiles": quantiles,
                        "top": [list(one) for one in found.top],
                    },
                    "shards": self.shards,
                    "notes": list(self.provenance.notes),
                    "provenance": record,
                }
            )
        )

    def save(self) -> Path:
        """Write ``summary.json`` beside the scores, whole or not at all."""
        text = json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False, indent=1)
        replace_file(self.folder / FILE, (text + "\n").encode())
        return self.folder / FILE
