"""Scores by several processes: the plain path's numbers, and a worker's death told by the shard that it had."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import small_models

import probe
from probe.analysis.scoring.ray_cluster import cluster, environment
from probe.analysis.scoring.ray_pool import _Pool
from probe.errors import InputError, UsageError, WorkerError

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
def two_cores() -> Iterator[Any]:
    """A local cluster of two workers, which everything in a test shares."""
    paths = os.pathsep.join(filter(None, sys.path))
    with environment({"PYTHONPATH": paths}), cluster(None, 2, 0) as ray:
        yield ray


def test_two_workers_give_the_plain_table_and_a_death_names_its_shard(
    tmp_path: Path, data: Path, folder: str, two_cores: Any
) -> None:
    """Bit by bit, on a cluster that listens on the loopback address; what fails in a worker is told as it is."""
    plain = probe.score(folder, data, out=tmp_path / "plain", **CALL)
    together = probe.score(folder, data, out=tmp_path / "ray", workers=2, **CALL)
    pd.testing.assert_frame_equal(together.to_frame(), plain.to_frame(), check_exact=True)
    assert together.to_json()["influence"] == plain.to_json()["influence"]
    assert two_cores.util.get_node_ip_address() == "127.0.0.1"

    class Fragile:
        """A worker without a model, made here so that its process imports no torch."""

        def start(self, threads: int) -> None:
            return None

        def score(self, documents: list[str]) -> None:
            if documents == ["die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            raise InputError("a sentence of ours") if documents == ["refuse"] else RuntimeError("a bug")

    actor = two_cores.remote(num_cpus=1)(Fragile)
    cases = {"die": WorkerError, "refuse": InputError, "fail": WorkerError}
    messages = {
        "die": r"shard 7 .* died",
        "refuse": "^a sentence of ours$",
        "fail": r"shard 7 .*RuntimeError: a bug",
    }
    for word, error in cases.items():
        pool = _Pool(two_cores, [actor.remote()])
        pool.start(1)
        with pytest.raises(error, match=messages[word]):
            list(pool.run(iter([(7, [word])])))
        pool.end()


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
