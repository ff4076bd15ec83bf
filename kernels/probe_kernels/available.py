"""Whether the Triton backend can run here, and whether it takes a call, without importing Triton to say no."""

import os
import shutil
from functools import cache
from importlib.util import find_spec

import torch

from probe_kernels.types import Scores, Want

_LEAST = (8, 0)  # compute capability that the kernels are compiled and checked for


def lacking(device: torch.device) -> str | None:
    """Why the Triton backend cannot run on a device, and what to do; None where it can."""
    if not _installed():
        return "triton is not installed: pip install 'triton>=3.6' (Linux)"
    if device.type == "cuda":
        return _lacking_on_cuda(device)
    if device.type == "cpu":
        from probe_kernels.fused import interpreted

        if interpreted():
            return None
        if os.environ.get("TRITON_INTERPRET", "0") != "0":
            return "TRITON_INTERPRET was set after Triton had been imported: set it to 1 before Python starts"
    return (
        f"the tensors are on {device.type}, and Triton compiles for CUDA: move them there (to run the kernels in "
        "Triton's interpreter, slowly and on the CPU, set TRITON_INTERPRET=1 before Python starts)"
    )


def refusal(scores: Scores, want: Want) -> str | None:
    """Why the Triton backend does not take a call: dtypes, widths, sizes; None where it does."""
    from probe_kernels.fused import backend

    try:
        backend.check(scores, want)
    except ValueError as error:
        return str(error).removesuffix(": use backend='torch'")
    return None


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


@cache
def _lacking_on_cuda(device: torch.device) -> str | None:
    try:
        import triton  # noqa: F401  (an installed package may still lack what it needs)
    except ImportError as error:
        return f"triton cannot be imported ({error}): install it anew"
    if not torch.cuda.is_available():
        return "no CUDA device is available"
    if torch.cuda.get_device_capability(device) < _LEAST:
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return f"the device has compute capability {found} and the kernels need 8.0: use another device"
    # Triton builds a small launcher in C when it first runs.
    if not (os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler and there is none: install gcc or set CC"
    return None
