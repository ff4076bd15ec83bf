"""The scores on disk: one Parquet file per shard, and what an unfinished run needs to go on.

``DIR/scores/part-000000.parquet`` holds shard 0. A file is written to a temporary name and renamed, so that it is there
as a whole or not at all; its metadata hold the digest of everything that decides its numbers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probe.analysis.files import replace_file
from probe.analysis.resume import Unfinished
from probe.analysis.scoring.arrow import arrow, parquet
from probe.analysis.scoring.retrieval_heads import ChosenHeads
from probe.analysis.scoring.scorer import ShardScores
from probe.analysis.scoring.table import notes_of, to_parquet
from probe.analysis.sweeping.log import digest_of
from probe.errors import OutputError

SCORES = "scores"


class ShardStore(Unfinished):
    """The finished shards of one scoring run."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], count: int) -> None:
        """Start a run of `count` shards, or take up the one that is there.

        Raises:
            OutputError: the folder holds an unfinished run of something else, or another process writes there.
        """
        super().__init__(folder, fingerprint)
        self.scores = folder / SCORES
        self.count = count
        self._mark = digest_of(fingerprint)
        self._heads = self.folder / "heads.json"
        for leftover in self.scores.glob(".part-*.part"):  # being written when a run was killed
            leftover.unlink(missing_ok=True)
        self.finished = {number for number in range(count) if self._is_there(number)}

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.scores / f"part-{number:06d}.parquet"

    def keep(self, number: int, found: ShardScores) -> None:
        """Keep a finished shard; it is on the disk when this returns.

        Raises:
            OutputError: the shard was finished before, or the disk does not take it.
        """
        if number in self.finished:
            raise OutputError(f"{self.path(number)} was to be written; it is there already")
        notes = {"run": self._mark, "shard": number, "notes": list(found.notes)}
        replace_file(self.path(number), to_parquet(found.rows, notes))
        self.finished.add(number)

    def heads(self) -> ChosenHeads | None:
        """The heads that an interrupted run found, so that they are not looked for again."""
        if not self._heads.is_file():
            return None
        try:
            kept = json.loads(self._heads.read_bytes())
            return ChosenHeads(tuple(kept["heads"]), tuple(kept["notes"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self._heads} was to be resumed; it cannot be read ({error}): delete it"
            ) from error

    def keep_heads(self, chosen: ChosenHeads) -> None:
        """Keep the heads that were found."""
        kept = {"heads": list(chosen.heads), "notes": list(chosen.notes)}
        replace_file(self._heads, json.dumps(kept).encode())

    def abandon(self) -> None:
        """After a failure: leave nothing behind unless a shard was finished, or heads were found."""
        if self.finished or self._heads.is_file():
            self._lock.release()
        else:
            super().abandon()

    def _is_there(self, number: int) -> bool:
        path = self.path(number)
        if not path.is_file():
            return False
        try:
            kept = notes_of(parquet().read_schema(path).metadata)
            ours = (kept["run"], kept["shard"]) == (self._mark, number)
        except (arrow().ArrowException, OSError, ValueError, KeyError) as error:
            raise OutputError(f"{path} was to be resumed; it cannot be read ({error}): delete it") from error
        if not ours:
            raise OutputError(f"{path} was to be resumed; another run wrote it: delete it")
        return True
