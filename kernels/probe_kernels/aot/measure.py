"""Registers, spills, shared memory and inner loop of a compiled launch, by the tools that come with Triton."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import triton

from probe_kernels.aot import sass
from probe_kernels.aot.cases import Case
from probe_kernels.aot.target import Launch, compiling
from probe_kernels.fused.plan import shared_memory

_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_FLAGS = ("PACK", "VISIT", "DENSE", "KEY_REAL", "SEGMENTS", "BIAS", "ALIBI", "SOFTCAP")
_STATISTICS = {"WANT_Z": "z", "ENTROPY": "entropy", "SQUARE": "squares", "TOP": "top", "TABLE": "table"}


@dataclass(frozen=True)
class Measured:
    """One launch of one call: what it computes and what it takes."""

    case: Case
    kernel: str
    computes: str
    tile: tuple[int, int, int, int]  # rows, keys, warps, stages
    registers: int
    spilled: int  # bytes a thread
    shared: int  # bytes a block
    tensor: int  # instructions of one tile and warp
    other: int
    per_score: float  # instructions of a warp per 32 scores
    cycles: float  # of a quarter of a multiprocessor, per 32 scores
    key: str

    @property
    def failures(self) -> list[str]:
        """What is wrong with it."""
        limit = shared_memory(self.case.arch)
        found = []
        if self.spilled:
            found.append(f"spills {self.spilled} bytes")
        if not self.tensor:
            found.append("has no tensor-core instructions in a loop")
        if self.shared > limit:
            found.append(f"takes {self.shared} of {limit} bytes of shared memory")
        return found


def measure(case: Case) -> list[Measured]:
    """Compile what a call would launch, and measure it."""
    with compiling(case.arch) as launches:
        case.run()
    return [_measured(case, one) for one in launches]


def _measured(case: Case, launch: Launch) -> Measured:
    flags = launch.flags
    cubin = launch.compiled.asm["cubin"]
    usage = {
        name: int(n)
        for name, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", _read(cubin, "--dump-resource-usage"))
    }
    found = sass.loops(_read(cubin, "-sass"))
    # The loop over tiles that every row sees whole asks least.
    loop = min(found, key=lambda one: one.other, default=sass.Loop((), 0))
    warps = flags["num_warps"]
    scores = flags["BM"] * flags["BN"] / warps / 32
    computes = [word for flag, word in _STATISTICS.items() if flags.get(flag)]
    carried = [flag.lower() for flag in _FLAGS if flags.get(flag)]
    return Measured(
        case,
        launch.kernel,
        ", ".join((*computes, *launch.functionals)) + (f" ({', '.join(carried)})" if carried else ""),
        (flags["BM"], flags["BN"], warps, flags["num_stages"]),
        usage["REG"],
        usage["STACK"] + usage["LOCAL"],
        launch.compiled.metadata.shared,
        len(loop.tensor),
        loop.other,
        (len(loop.tensor) + loop.other) / scores,
        loop.cycles(case.arch) / scores,
        launch.compiled.hash,
    )


@cache
def _read(cubin: bytes, option: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([_TOOL, option, file.name], capture_output=True, text=True, check=True)
    return done.stdout
