"""``probe.load``: from a name, a folder, a GGUF file, a hub id or objects to a `LoadedModel`."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from probe.errors import BudgetError, ModelError, UnknownNameError, UsageError
from probe.models.auto import auto_class
from probe.models.checks import check_weights
from probe.models.convert import quiet_transformers, read_gguf
from probe.models.fetching import RECORD, fetch
from probe.models.hub import find_on_hub, is_cached
from probe.models.known import DEFAULT_MODEL, KNOWN_MODELS
from probe.models.loaded import LoadedModel, ModelSource

_READ_ERRORS = (
    OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError, TypeError, SafetensorError,
)  # fmt: skip
_NO_TOKENIZER = "no tokenizer was found ({}): give tokens or inputs, not text"
_MOST_MISSING = 0.05  # share of the parameters that a checkpoint may lack (an unused pooler, say)


def load(
    what: object = DEFAULT_MODEL,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model, in evaluation mode, with its tokenizer.

    Args:
        what: a known model's name (fetched on first use), a transformers folder, a ``.gguf`` file, a hub id
            ``owner/name``, or ``(hf_model, tokenizer)``. A bare name that is neither known nor a folder is looked up
            in the local hub cache only: it is never waited for on the network.
        device: default CUDA where there is one, else the CPU.
        dtype: default float32 on the CPU and the checkpoint's own elsewhere.
        trust_remote_code: run code that comes with the model. Only for models whose authors you trust.

    Raises:
        UnknownNameError: no such model; the message offers the nearest known name.
        ModelError: weights that cannot be fetched or read, that are missing, or that hold NaN or infinity.
        BudgetError: the weights do not fit into memory.
        UsageError: a device or dtype that does not exist here.
    """
    if not isinstance(what, str | os.PathLike):
        return _moved(as_loaded(what), device, dtype)
    place = _device(device)
    width = _dtype(dtype) or (torch.float32 if place.type == "cpu" else None)
    name = os.fspath(what)
    if name in KNOWN_MODELS:
        loaded = _from_folder(fetch(name), name, place, width, _known_source(fetch(name)))
    elif name and Path(name).expanduser().is_dir():
        loaded = _from_folder(
            Path(name).expanduser(), name, place, width, ModelSource("path"), trust_remote_code
        )
    elif name.endswith(".gguf") and Path(name).expanduser().is_file():
        loaded = _from_gguf(Path(name).expanduser(), place, width)
    else:
        loaded = _from_hub(name, place, width, trust_remote_code)
    check_weights(loaded.model)
    return loaded


def as_loaded(what: object) -> LoadedModel:
    """Anything that stands for a model as a `LoadedModel`: one already, an HF model, ``(model, tokenizer)``, a name.

    Objects are taken as they are: not copied, moved, or switched to evaluation mode.

    Raises:
        UsageError: `what` is none of these.
    """
    if isinstance(what, LoadedModel):
        return what
    if isinstance(what, str | os.PathLike):
        return load(what)
    model, tokenizer = what if isinstance(what, tuple) and len(what) == 2 else (what, None)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a model was asked as {type(model).__name__}; pass a name, a folder, a hub id, a Hugging Face model, "
            "or (model, tokenizer)"
        )
    config = getattr(model, "config", None)
    name = getattr(config, "_name_or_path", "") or type(model).__name__
    first = next(model.parameters(), torch.empty(0))
    source = ModelSource(
        "given", getattr(config, "_commit_hash", None), dtype=str(first.dtype).removeprefix("torch.")
    )
    return LoadedModel(model, tokenizer, str(name), source)


def _moved(
    loaded: LoadedModel, device: str | torch.device | None, dtype: str | torch.dtype | None
) -> LoadedModel:
    if device is not None or dtype is not None:
        raise UsageError(
            "a device or dtype was asked for a model that is loaded already; move it with model.to(...)"
        )
    check_weights(loaded.model)
    return loaded


def _known_source(folder: Path) -> ModelSource:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return ModelSource(record["source"], None, "+".join(record["sha256"]), record["quantisation"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder / RECORD} cannot be read ({error}): delete {folder} and fetch again"
        ) from error


def _from_hub(name: str, device: torch.device, dtype: torch.dtype | None, trust: bool) -> LoadedModel:
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path and not ("/" not in name and is_cached(name)):
        unknown = UnknownNameError.of("model", name, KNOWN_MODELS)
        raise UnknownNameError(f"{unknown} There is no such folder either; a hub id is written owner/name")
    if "/" in name:
        found = find_on_hub(name)
        where: dict[str, Any] = {"revision": found.revision, "local_files_only": found.local}
    else:
        where = {"local_files_only": True}
    where["trust_remote_code"] = trust
    return _pretrained(name, name, device, dtype, ModelSource("hub"), where)


def _from_folder(
    folder: Path,
    name: str,
    device: torch.device,
    dtype: torch.dtype | None,
    source: ModelSource,
    trust: bool = False,
) -> LoadedModel:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the folder {folder} was asked as a model; it has no config.json: pass a folder that save_pretrained made"
        )
    where = {"local_files_only": True, "trust_remote_code": trust}
    return _pretrained(str(folder), name, device, dtype, source, where)


def _pretrained(
    path: str,
    name: str,
    device: torch.device,
    dtype: torch.dtype | None,
    source: ModelSource,
    where: dict[str, Any],
) -> LoadedModel:
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path, **where)
            model, info = auto_class(config).from_pretrained(
                path, config=config, dtype=dtype or "auto", output_loading_info=True, **where
            )
        model = model.to(device).eval()
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise BudgetError(
            f"{name} does not fit into the memory of {device}: ask for a narrower dtype"
        ) from error
    except _READ_ERRORS as error:
        raise ModelError(_unreadable(name, error)) from error
    notes = _missing(name, model, info["missing_keys"])
    tokenizer, complaint = _tokenizer(path, where)
    width = str(next(model.parameters()).dtype).removeprefix("torch.")
    source = ModelSource(
        source.source, getattr(config, "_commit_hash", None), source.sha256, source.quantisation, width
    )
    return LoadedModel(model, tokenizer, name, source, notes + complaint)


def _from_gguf(path: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    from probe.models.download import file_sha256

    model, tokenizer = read_gguf(path)
    model = model.to(device=device, dtype=dtype or torch.float32).eval()
    width = str(dtype or torch.float32).removeprefix("torch.")
    return LoadedModel(
        model, tokenizer, path.stem, ModelSource("gguf", None, file_sha256(path), "GGUF", width)
    )


def _tokenizer(path: str, where: dict[str, Any]) -> tuple[Any | None, tuple[str, ...]]:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(path, **where)
    except _READ_ERRORS as error:
        return None, (_NO_TOKENIZER.format(" ".join(str(error).split())[:120]),)
    # Without files, transformers may make a tokenizer of special tokens alone, to which every word is unknown.
    ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    if len(ordinary - set(getattr(tokenizer, "added_tokens_decoder", {}))) < 2:
        return None, (_NO_TOKENIZER.format("its files are missing"),)
    return tokenizer, ()


def _missing(name: str, model: nn.Module, missing: object) -> tuple[str, ...]:
    """Weights that the checkpoint did not hold are random: a note for a few, an error for more."""
    keys = sorted(missing) if isinstance(missing, set | list | tuple) else []
    parameters = dict(model.named_parameters())
    absent = sum(parameters[key].numel() for key in keys if key in parameters)
    total = sum(parameter.numel() for parameter in parameters.values())
    if not absent:
        return ()
    listed = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    if absent > _MOST_MISSING * total:
        raise ModelError(
            f"{name} was loaded, but its checkpoint holds no values for {absent / total:.0%} of the weights "
            f"({listed}): they would be random. Check that the files belong to this configuration."
        )
    return (f"the checkpoint holds no values for {listed}: they are random",)


def _unreadable(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if "trust_remote_code" in text:
        return (
            f"{name} needs code that comes with it; pass trust_remote_code=True only if you trust its authors"
        )
    return f"{name} could not be loaded: {text}. Check its files (a fetched model: delete its folder, fetch again)"


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"the device {str(device)!r} was asked; it is not usable here: try cpu") from error
    return place


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float64": torch.float64,
    }
    if dtype not in known:
        raise UnknownNameError.of("dtype", dtype, known)
    return known[dtype]
