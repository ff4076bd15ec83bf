"""Where a report's numbers came from: model, software, inputs, and what a reader must know to trust them."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from probe.errors import ReportError

_DISTRIBUTIONS = ("attention-probe", "torch", "transformers", "numpy", "xarray", "safetensors")


def software_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result, read without importing them."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second: the form of `Provenance.started` and `Provenance.ended`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class ModelRecord:
    """Which weights were looked at: one file under one name, and how it was held in memory."""

    name: str
    source: str | None = None  # wheel, hub id, path, or "in memory"
    revision: str | None = None
    sha256: str | None = None
    quantisation: str | None = None  # of the file, before it was de-quantised
    dtype: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Provenance:
    """How a report was made. All values are plain: strings, numbers, tuples and mappings of them."""

    model: ModelRecord
    mode: str = "fused"  # fused, shadow or eager
    kernels: str | None = None  # backend that computed the statistics
    tokens: int = 0  # real tokens over all prompts
    prompts: int = 0
    seed: int = 0
    deterministic: bool = False
    unseen_layers: tuple[str, ...] = ()  # module names of attention layers that were never seen
    fallback_layers: tuple[str, ...] = ()  # seen only through the weights that the model returned
    logit_drift: float | None = None  # largest difference from the native logits, on the first 64 tokens
    bos: str | None = None  # what the tokenizer put in front of the text
    command: str | None = None
    started: str | None = None  # ISO 8601, UTC
    ended: str | None = None
    versions: Mapping[str, str] = field(default_factory=software_versions)
    settings: Mapping[str, object] = field(default_factory=dict)  # further options by name; JSON values only
    notes: tuple[str, ...] = ()  # lines the reader must see

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entry: object) -> "Provenance":
        """Read the JSON form; unknown fields are ignored, a missing model is a `ReportError`."""
        if not isinstance(entry, dict) or not isinstance(entry.get("model"), dict):
            raise ReportError(
                "a report's provenance was asked; it names no model: the file is not a probe report"
            )
        if not isinstance(entry["model"].get("name"), str):
            raise ReportError("a report's model was asked; it has no name: the file is not a probe report")
        known = {item.name for item in fields(cls)}
        values: dict[str, Any] = {
            name: _frozen(value) for name, value in entry.items() if name in known and name != "model"
        }
        model = {item.name: entry["model"].get(item.name) for item in fields(ModelRecord)}
        return cls(model=ModelRecord(**model), **values)


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
