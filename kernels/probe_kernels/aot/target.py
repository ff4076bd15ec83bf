"""Compiles for a GPU that is not there: whatever the backend would launch is compiled, and nothing runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from probe_kernels.fused import launch


@dataclass(frozen=True)
class Launch:
    """One launch as it would have gone to the device: the kernel, its options and flags, and what was compiled."""

    kernel: str
    flags: dict[str, Any]
    functionals: tuple[str, ...]
    compiled: Any


class Absent:
    """A driver of a device that nobody has; ids differ by architecture, as Triton keeps kernels by device."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        """The architecture to compile for."""
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """The id of the device."""
        return self.arch

    def get_current_stream(self, _device: int | None = None) -> int:
        """The stream that nothing is put on."""
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Where the tensors lie whose addresses, strides and alignment the compiler specialises on."""
        return torch.device("cpu")


@contextmanager
def compiling(arch: int) -> Iterator[list[Launch]]:
    """While active, launches of the backend are compiled for `arch` and listed, and their answers stay empty.

    The absent driver stays with the process: start nothing on a real device in it afterwards.
    """
    found: list[Launch] = []

    def compile_only(kernel: Any, grid: tuple[int, ...], *arguments: Any, **flags: Any) -> None:
        compiled = kernel.warmup(*arguments, grid=grid, enable_fp_fusion=True, **flags)
        named = dict(zip(kernel.arg_names, arguments, strict=False))
        functionals = tuple(one.fn.__name__ for one in named["FUNCTIONALS"])
        found.append(Launch(kernel.fn.__name__, flags, functionals, compiled))

    before = launch.start
    triton.runtime.driver.set_active(Absent(arch))
    launch.start = compile_only
    try:
        yield found
    finally:
        launch.start = before
