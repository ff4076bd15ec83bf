"""Scores by several processes: the plain path's numbers, and a worker's death told by the shard that it had."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import small_models

import probe
from probe.analysis.scoring.ray_cluster import cluster, environment
from probe.errors import OutputError, UsageError, WorkerError

CALL = {"heads": ["L0.H1", "L1.H2"], "shard": 3}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seventeen documents: six shards of three, the last of two."""
    path = tmp_path / "docs.jsonl"
    rows = [
        {"id": f"d{n}", "text": "to be or not to be that is " * (n % 4) + "ab" * (n % 3)} for n in range(17)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A small model with its tokenizer, saved."""
    where = tmp_path / "model"
    small_models.llama().save_pretrained(where)
    small_models.letters().save_pretrained(where)
    return str(where)


@pytest.fixture
def two_cores() -> Iterator[object]:
    """A local cluster of two workers, which everything in a test shares."""
    paths = os.pathsep.join(filter(None, sys.path))
    with environment({"PYTHONPATH": paths}), cluster(None, 2, 0) as ray:
        yield ray


def _workers() -> list[int]:
    """Process ids of the workers that this process's cluster has."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name = (entry / "cmdline").read_bytes()
            parent = _parent(entry)
            ours = name.startswith(b"ray::Worker") and _parent(Path("/proc") / str(parent)) == os.getpid()
        except (OSError, IndexError):
            continue
        if ours:
            found.append(int(entry.name))
    return found


def _parent(entry: Path) -> int:
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def test_two_workers_give_the_plain_table_and_a_death_names_its_shard(
    tmp_path: Path, data: Path, folder: str, two_cores: object
) -> None:
    """Bit by bit; after a worker was killed, finished shards stay, and the same call goes on without Ray."""
    plain = probe.score(folder, data, out=tmp_path / "plain", **CALL)
    out = tmp_path / "ray"
    killed: list[int] = []

    def kill(done: int, total: int, what: str) -> None:
        if what == "documents" and done >= 3 and not killed and sys.platform == "linux":
            killed.extend(_workers())
            assert len(killed) == 2
            for process in killed:
                os.kill(process, signal.SIGKILL)

    if sys.platform == "linux":
        with pytest.raises(WorkerError, match=r"shard \d was given to a worker, which died"):
            probe.score(folder, data, out=out, workers=2, progress=kill, **CALL)
        finished = sorted((out / "scores").glob("part-*"))
        assert 1 <= len(finished) < 6
    together = probe.score(folder, data, out=out, workers=2, **CALL)
    pd.testing.assert_frame_equal(together.to_frame(), plain.to_frame(), check_exact=True)
    assert together.to_json()["influence"] == plain.to_json()["influence"]
    assert two_cores.util.get_node_ip_address() == "127.0.0.1"
    with pytest.raises(OutputError, match="not empty"):
        probe.score(folder, data, out=out, workers=2, **CALL)


def test_without_ray_or_pyarrow_the_extra_is_named(
    tmp_path: Path, data: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is loaded."""
    for module, extra, options in (("ray", "ray", {"workers": 2}), ("pyarrow.parquet", "data", {})):
        with monkeypatch.context() as patched:
            for name in [one for one in sys.modules if one == module]:
                patched.delitem(sys.modules, name)
            patched.setitem(sys.modules, module, None)
            with pytest.raises(UsageError, match=rf"attention-probe\[{extra}\]"):
                probe.score(folder, data, out=tmp_path / "out", **options, **CALL)
    assert not (tmp_path / "out").exists()
