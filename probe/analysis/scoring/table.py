"""The table of scores: one row per document, as Parquet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe.analysis.scoring.arrow import arrow, parquet

# Column -> its type in pyarrow.
COLUMNS = {
    "index": "int64",
    "id": "string",
    "tokens": "int64",
    "base_loss": "float64",
    "masked_loss": "float64",
    "influence": "float64",
    "cut": "bool_",
    "reason": "string",
}
_KEY = b"probe"  # of the file's metadata that holds the shard's notes


@dataclass(frozen=True)
class Scored:
    """What was found of one document; losses in nats per token.

    Attributes:
        index: Place of the document in the data, from 0.
        id: Its name.
        tokens: Tokens that the model was given.
        base_loss: Mean loss of the tokens after the first, by the model as it is; None where it is undefined.
        masked_loss: The same with the heads masked.
        influence: (masked_loss − base_loss) / base_loss.
        cut: Whether the document had more tokens than were given.
        reason: Why nothing is known, where that is so.
    """

    index: int
    id: str
    tokens: int
    base_loss: float | None = None
    masked_loss: float | None = None
    influence: float | None = None
    cut: bool = False
    reason: str | None = None


def to_parquet(rows: Sequence[Scored], notes: Mapping[str, Any]) -> bytes:
    """A shard as the bytes of a Parquet file; `notes` go into its metadata."""
    pa = arrow()
    schema = pa.schema(
        [(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()],
        metadata={_KEY: json.dumps(notes).encode()},
    )
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    out = pa.BufferOutputStream()
    parquet().write_table(pa.table(columns, schema=schema), out)
    content: bytes = out.getvalue().to_pybytes()
    return content


def notes_of(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """What `to_parquet` put into a file's metadata; raises `ValueError` or `KeyError` where it is not there."""
    found: dict[str, Any] = json.loads((metadata or {})[_KEY])
    return found
