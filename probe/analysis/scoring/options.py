"""How documents are scored: every choice beside the model, the data, the intervention and its heads."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from probe.analysis.choices import Choices
from probe.analysis.scoring.retrieval_heads import SPECS
from probe.errors import UsageError

_LEAST = {"shard": 1, "batch_tokens": 1, "workers": 0, "seed": 0}


@dataclass(frozen=True)
class ScoreOptions(Choices):
    """Choices of one scoring run.

    Attributes:
        out: Folder of the scores; needed. A run that is interrupted resumes from it.
        share: Share of all heads that is masked where no heads are named, the best retrieval heads first; above 0, at
            most 1. The paper's is 0.05.
        detect: What retrieval heads are found on where no heads are named: ``json`` lookups, as in the paper, or
            ``needles`` in prose.
        shard: Documents per Parquet file; a run that is killed does at most the shards in work again.
        batch_tokens: Most tokens of one forward, padding included; a longer document goes alone.
        max_tokens: Keep the first so many tokens of every document; None: as many as the model has positions.
        workers: Processes that score, through Ray from 2 on; fewer score here, without Ray.
        ray_address: A running Ray cluster to use, such as ``auto`` or ``10.0.0.1:6379``; None with several workers:
            a cluster of this machine's own.
        seed: Seed of everything random.
        device: Where a model that is loaded here runs, such as ``cuda``.
        dtype: What a model that is loaded here computes in, such as ``bfloat16``.
        command: The command line, for the record.
        progress: Called with (done, total, what) as documents are finished.
    """

    verb: ClassVar[str] = "score"

    out: str | Path | None = None
    share: float = 0.05
    detect: str = "json"
    shard: int = 128
    batch_tokens: int = 4096
    max_tokens: int | None = None
    workers: int = 0
    ray_address: str | None = None
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name}={value!r} was asked; it must be a whole number from {least}")
        if self.detect not in SPECS:
            raise UsageError(f"detect={self.detect!r} was asked; there are {' and '.join(SPECS)}")
        if not 0.0 < self.share <= 1.0:
            raise UsageError(f"share={self.share!r} was asked; write a number above 0 up to 1, such as 0.05")
        if self.max_tokens is not None and self.max_tokens < 2:
            raise UsageError(
                f"max_tokens={self.max_tokens} was asked; a loss needs at least 2 tokens of a document"
            )

    @property
    def folder(self) -> Path:
        """`out` as a path; raises `UsageError` where none was given."""
        if self.out is None:
            raise UsageError("documents were to be scored; no folder for the scores was given: give out")
        return Path(self.out)

    @property
    def distributed(self) -> bool:
        """Whether the documents are scored through Ray."""
        return self.workers > 1 or self.ray_address is not None
