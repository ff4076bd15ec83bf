"""The size of a capture is known before it starts; a capture on the disk is whole or not there."""

import json
import multiprocessing
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_kernels import sweep
from safetensors.numpy import load_file
from subjects.catalogue import SUBJECTS
from torch.utils._python_dispatch import TorchDispatchMode

import probe
from probe.analysis.captured import Captured, CapturedOnDisk, cut, disk, open_capture
from probe.errors import BudgetError, OutputError, ReportError, UsageError
from probe.prompts import Prompt

EVERYTHING = [
    "pattern",
    "scores",
    "lse",
    "z",
    "head_out",
    "q",
    "k",
    "v",
    "resid_pre",
    "resid_post",
    "mlp_out",
]
TOKENS = list(range(11, 31))


def captured(what: list[str], name: str = "llama", **options: Any) -> Captured:
    return probe.capture(SUBJECTS[name].model(), Prompt.of_tokens(TOKENS), what, **options)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "deepseek-v3"])
@pytest.mark.parametrize(
    "options", [{}, {"heads": [1], "queries": slice(3, 7), "keys": [0, 5]}, {"generate": 4}]
)
def test_the_estimate_is_exact(name: str, options: dict[str, Any]) -> None:
    """A budget of exactly the arrays' bytes passes, and one byte less is refused."""
    maps = captured(EVERYTHING, name, **options)
    size = sum(array.nbytes for one in maps for array in maps.layers(one).values())
    captured(EVERYTHING, name, max_bytes=size, **options)
    with pytest.raises(BudgetError, match=f"needs {size:,} bytes"):
        captured(EVERYTHING, name, max_bytes=size - 1, **options)


def test_a_budget_is_refused_before_anything_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much is refused with the size and what to do, after a forward of two tokens only."""
    model = SUBJECTS["llama"].model()
    lengths: list[int] = []
    model.register_forward_pre_hook(
        lambda _m, _a, kw: lengths.append(kw["input_ids"].shape[1]), with_kwargs=True
    )
    with pytest.raises(BudgetError, match=r"needs 12,800 bytes .* more than max_bytes=1,000: ask for fewer"):
        probe.capture(model, Prompt.of_tokens(TOKENS), ["pattern"], max_bytes=1000)
    assert lengths == [2]


def test_images_are_measured_by_a_forward_of_their_own() -> None:
    """Where lengths cannot be told from tokens, the size is measured, and refused all the same."""
    subject = SUBJECTS["vit"]
    with pytest.raises(BudgetError, match="pattern"):
        probe.capture(subject.model(), subject.inputs(subject.model()), ["pattern"], max_bytes=1000)


@pytest.mark.parametrize("options", [{}, {"generate": 4}, {"mode": "fused", "heads": [2]}])
def test_what_is_on_the_disk_is_what_is_in_memory(tmp_path: Path, options: dict[str, Any]) -> None:
    """Arrays written as they come, and opened again, are identical, labels included."""
    memory = captured(EVERYTHING, **options)
    written = captured(EVERYTHING, to=tmp_path / "run", max_bytes=1, **options)
    for maps in (written, open_capture(tmp_path / "run")):
        assert isinstance(maps, CapturedOnDisk)
        assert list(maps) == list(memory)
        for name in memory:
            assert maps[name].identical(memory[name])


def test_the_disk_is_read_lazily(tmp_path: Path) -> None:
    """Opening and choosing read no numbers; any indexing gives what the whole array gives."""
    maps = captured(["pattern", "k"], to=tmp_path / "run")
    whole = captured(["pattern", "k"])
    lazy = maps["pattern"]
    assert not lazy.variable._in_memory
    chosen = lazy.sel(layer=1, head=[0, 3]).isel(query_pos=slice(2, 15, 3), key_pos=-1)
    expected = whole["pattern"].sel(layer=1, head=[0, 3]).isel(query_pos=slice(2, 15, 3), key_pos=-1)
    np.testing.assert_array_equal(chosen.values, expected.values)
    np.testing.assert_array_equal(lazy[0:0].values, whole["pattern"][0:0].values)
    np.testing.assert_array_equal(lazy[:, 2, ::-1].values, whole["pattern"][:, 2, ::-1].values)
    for shard in (tmp_path / "run").glob("shard-*"):
        shard.unlink()
    with pytest.raises(ReportError, match="capture again"):
        maps["k"].load()


def test_shards_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several prompts and steps fill several shards, and all of them open as one capture."""
    monkeypatch.setattr(disk, "SHARD_BYTES", 2000)
    prompts = [Prompt.of_tokens(TOKENS), Prompt.of_tokens(TOKENS[:9])]
    model = SUBJECTS["gemma3"].model()
    written = probe.capture(model, prompts, ["pattern", "z"], to=tmp_path / "run", generate=3)
    assert len(list((tmp_path / "run").glob("shard-*.safetensors"))) > 3
    for number in (0, 1):
        alone = probe.capture(model, prompts[number], ["pattern", "z"], generate=3)
        np.testing.assert_array_equal(written.prompt(number)["z"].values, alone["z"].values)


@pytest.mark.parametrize("mode", ["shadow", "fused"])
def test_blocks_of_rows_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Rows computed a few at a time give the same arrays, and a row is read from its own shard alone."""
    whole = captured(EVERYTHING, mode=mode)
    monkeypatch.setattr(cut, "_BLOCK_NUMBERS", 4 * 20 * 3)  # three rows of four heads
    monkeypatch.setattr(sweep, "_BLOCK_NUMBERS", 4 * 20 * 3)
    monkeypatch.setattr(disk, "SHARD_BYTES", 1)
    blocks = captured(EVERYTHING, mode=mode)
    written = captured(EVERYTHING, mode=mode, to=tmp_path / "run")
    for name in EVERYTHING:
        np.testing.assert_allclose(blocks[name].values, whole[name].values, rtol=5e-6, atol=5e-6)
        assert written[name].identical(blocks[name])
    some: dict[str, Any] = {"query_pos": [1, 19], "key_pos": slice(None, None, -2), "head": 2}
    np.testing.assert_array_equal(written["scores"].isel(some).values, blocks["scores"].isel(some).values)
    row = written.layers("pattern")["L1"].isel(query_pos=4)
    entry = next(
        one for one in json.loads((tmp_path / "run" / "capture.json").read_text())["slots"]
        if (one["name"], one["layer"]) == ("pattern", 1)
    )  # fmt: skip
    mine = next(piece for piece in entry["pieces"] if piece["rows"]["start"] <= 4 < piece["rows"]["stop"])
    for shard in (tmp_path / "run").glob("shard-*"):
        if shard.name != mine["shard"]:
            shard.unlink()
    np.testing.assert_array_equal(row.values, blocks["pattern"].sel(layer=1).isel(query_pos=4).values)


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    """Only an empty folder is written to; nothing in it is touched."""
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"holds mine\.txt: give an empty folder"):
        captured(["z"], to=tmp_path)
    with pytest.raises(OutputError, match="is a file"):
        captured(["z"], to=tmp_path / "mine.txt")
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]


def test_a_capture_that_fails_takes_its_files_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error on the way leaves an empty folder, or none if there was none."""
    monkeypatch.setattr(disk, "SHARD_BYTES", 1)
    model = SUBJECTS["llama"].model()

    def fail(*_: object) -> None:
        if any(tmp_path.rglob("shard-*")):
            raise RuntimeError("pulled the plug")

    model.model.layers[1].mlp.register_forward_hook(fail)
    (tmp_path / "empty").mkdir()
    for folder in ("new", "empty"):
        with pytest.raises(RuntimeError, match="pulled the plug"):
            probe.capture(model, Prompt.of_tokens(TOKENS), ["z"], to=tmp_path / folder)
    assert [one.name for one in tmp_path.iterdir()] == ["empty"]
    assert not list((tmp_path / "empty").iterdir())


def test_a_disk_without_room_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is held against the free space before the first shard."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(BudgetError, match="the disk has 1 left"):
        captured(["z"], to=tmp_path / "run")


def _slowly(folder: Path) -> None:
    """A capture in tiny shards, one step in 50 ms."""
    disk.SHARD_BYTES = 1
    model = SUBJECTS["llama"].model()
    model.model.layers[1].register_forward_hook(lambda *_: time.sleep(0.05))
    probe.capture(model, Prompt.of_tokens([11, 12, 13]), ["z"], to=folder, generate=50)


def test_a_killed_capture_is_never_opened_as_a_whole_one(tmp_path: Path) -> None:
    """After kill -9 every shard there is is whole; the folder is refused as a capture and as a target."""
    folder = tmp_path / "run"
    process = multiprocessing.get_context("fork").Process(target=_slowly, args=(folder,))
    process.start()
    deadline = time.monotonic() + 60
    while not (folder / "shard-00003.safetensors").exists():
        assert process.is_alive(), "the capture ended before it was killed"
        assert time.monotonic() < deadline, "the capture wrote nothing"
        time.sleep(0.01)
    process.kill()
    process.join()
    shards = sorted(folder.glob("shard-*.safetensors"))
    assert len(shards) >= 3
    assert all(load_file(shard) for shard in shards)
    with pytest.raises(ReportError, match="no finished capture"):
        open_capture(folder)
    with pytest.raises(OutputError, match="an unfinished capture"):
        captured(["z"], to=folder)


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    """A form that this version does not know is said, not guessed."""
    captured(["z"], to=tmp_path / "run")
    index = tmp_path / "run" / "capture.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "schema": 99}))
    with pytest.raises(ReportError, match="a form that this version does not read"):
        open_capture(tmp_path / "run")


def test_long_rows_need_no_map() -> None:
    """A few rows of a long text never allocate the n×n map: the largest tensor stays far below n²."""
    n = 1500
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    model = SUBJECTS["llama"].model()
    model.config.max_position_embeddings = n
    tokens = torch.randint(10, 99, (n,), generator=torch.Generator().manual_seed(0)).tolist()
    with Watch():
        maps = probe.capture(model, Prompt.of_tokens(tokens), ["pattern"], [1], [2], [-1, 700])
    assert maps["pattern"].shape == (1, 1, 2, n)
    assert largest < n * n / 8


def test_generation_on_an_image_is_refused(tmp_path: Path) -> None:
    """Nothing is written where the call is wrong."""
    subject = SUBJECTS["vit"]
    with pytest.raises(UsageError):
        probe.capture(
            subject.model(), subject.inputs(subject.model()), ["z"], to=tmp_path / "run", generate=1
        )
    assert not (tmp_path / "run").exists()
