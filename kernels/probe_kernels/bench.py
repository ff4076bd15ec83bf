"""Measures `attend` against torch's own fused attention and against eager: ``python -m probe_kernels.bench``.

Runs are interleaved and ratios are of medians, so that other work on the machine touches both sides alike. Before
anything is timed, z and every statistic are compared with the float64 reference.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from probe_kernels import roofline
from probe_kernels.dispatch import attend, chosen_backend
from probe_kernels.mask import Mask, causal
from probe_kernels.testing import assert_attended_close
from probe_kernels.types import Layout, Scores, Want

DEFAULTS = Want(lse=True, entropy=True, column=True, distance=True, first=(1,), offsets=(1,), visible=True)
_GATE_LENGTH = 300
_CPU = torch.device("cpu")
_MOST_EAGER = 10**9  # bytes of a float32 map
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call: on the clock, and of processor time over all threads."""

    wall: float
    cpu: float

    def over(self, base: "Timing") -> tuple[float, float]:
        """Ratios to another timing, wall and CPU."""
        return self.wall / base.wall, self.cpu / base.cpu


def interleave(
    runs: dict[str, Callable[[], object]], repeats: int, device: torch.device = _CPU
) -> dict[str, Timing]:
    """Median timings of several functions, called in turn `repeats` times after one warm-up.

    On CUDA the wall time is that between two events on the device's stream.
    """
    clock = _on_device if device.type == "cuda" else _on_clock
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            cpu = time.process_time()
            wall = clock(run, device)
            if turn:
                seen[name].append((wall, time.process_time() - cpu))
    return {
        name: Timing(statistics.median(w for w, _ in times), statistics.median(c for _, c in times))
        for name, times in seen.items()
    }


def _on_clock(run: Callable[[], object], _device: torch.device) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _on_device(run: Callable[[], object], device: torch.device) -> float:
    with torch.cuda.device(device):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        run()
        after.record()
        after.synchronize()
    return float(before.elapsed_time(after)) / 1e3


@dataclass(frozen=True)
class Shape:
    """What is measured: heads, key heads, width, and where and in what dtype."""

    heads: int
    kv_heads: int
    width: int
    device: torch.device = _CPU
    dtype: torch.dtype = torch.float32


def problem(n: int, shape: Shape, *, seed: int = 0) -> tuple[Scores, Layout]:
    """Random causal attention over `n` tokens, laid out in memory as a model's projections leave it."""
    make = torch.Generator().manual_seed(seed)

    def states(h: int) -> torch.Tensor:
        found = torch.randn(1, n, h, shape.width, generator=make)
        return found.to(shape.device, shape.dtype).transpose(1, 2)

    positions = torch.arange(n, device=shape.device)[None]
    scores = Scores(
        states(shape.heads), states(shape.kv_heads), states(shape.kv_heads), scale=shape.width**-0.5
    )
    return scores, Layout(Mask((causal(),)), positions, positions)


def compare(n: int, shape: Shape, repeats: int) -> dict[str, Timing]:
    """Timings of torch's fused attention, of `attend` for z and for the default statistics, and of eager attention.

    The last makes the whole map, and is left out where that takes more than 1 GB.
    """
    scores, layout = problem(n, shape)
    query, key, value = scores.query, scores.key, scores.value
    if value is None:
        raise ValueError("the benchmark's scores carry a value")

    def fused() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=shape.heads != shape.kv_heads
        )

    runs: dict[str, Callable[[], object]] = {
        "sdpa": fused,
        "attend, z": lambda: attend(scores, layout, Want()),
        "attend, default statistics": lambda: attend(scores, layout, DEFAULTS),
    }
    if n * n * shape.heads * 4 <= _MOST_EAGER:
        runs["eager"] = lambda: eager(scores)
    with torch.no_grad():
        return interleave(runs, repeats, shape.device)


def eager(scores: Scores) -> torch.Tensor:
    """Causal attention as models spell it out, with the map of all pairs in float32."""
    if scores.value is None:
        raise ValueError("eager attention was asked of scores without a value")
    group = scores.query.shape[1] // scores.key.shape[1]
    key, value = scores.key.repeat_interleave(group, 1), scores.value.repeat_interleave(group, 1)
    logits = scores.query @ key.transpose(2, 3) * scores.scale
    hidden = torch.ones(logits.shape[2:], dtype=torch.bool, device=logits.device).triu(1)
    return logits.masked_fill(hidden, -torch.inf).softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def gate(shape: Shape) -> None:
    """Refuse to time what is wrong: the backend that is timed must agree with the reference."""
    scores, layout = problem(_GATE_LENGTH, shape, seed=1)
    name = chosen_backend(None, shape.device)
    tolerance = 5e-6 if shape.dtype == torch.float32 else 2e-2
    assert_attended_close(
        attend(scores, layout, DEFAULTS, backend=name),
        attend(scores, layout, DEFAULTS, backend="reference"),
        tolerance=tolerance,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row of ratios per length; on CUDA also TFLOP/s and the share of the device's peak."""
    parser = argparse.ArgumentParser(prog="python -m probe_kernels.bench", description=main.__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", type=torch.device, default=_CPU, help="cpu, cuda:0")
    parser.add_argument("--dtype", choices=_DTYPES, help="default: bfloat16 on CUDA, float32 else")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, where it is not known by name")
    options = parser.parse_args(arguments)
    device = options.device
    dtype = _DTYPES[options.dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    shape = Shape(options.heads, options.kv_heads, options.width, device, dtype)
    peak = _peak(parser, shape, options.peak)
    gate(shape)
    _head(shape, peak)
    for n in options.lengths:
        _rows(n, shape, compare(n, shape, options.repeats), peak)


def _peak(parser: argparse.ArgumentParser, shape: Shape, given: float | None) -> float | None:
    if shape.device.type != "cuda":
        return given
    if not torch.cuda.is_available():
        parser.error(f"--device {shape.device} was asked for, and torch finds no CUDA device: leave it out")
    name = torch.cuda.get_device_name(shape.device)
    found = given or roofline.peak(name, shape.dtype)
    if found is None:
        parser.error(f"the peak of {name} is not known: give --peak in TFLOP/s, from its data sheet")
    return found


def _head(shape: Shape, peak: float | None) -> None:
    name = str(shape.dtype).removeprefix("torch.")
    where = f"{torch.get_num_threads()} threads"
    if shape.device.type == "cuda":
        where = f"{torch.cuda.get_device_name(shape.device)}, peak {peak:g} TFLOP/s"
    write = sys.stdout.write
    write(f"H={shape.heads} Hk={shape.kv_heads} d={shape.width}, {name}, causal, {where}\n")
    more = f"{'TFLOP/s':>10}{'of peak':>9}" if peak else ""
    write(f"{'n':>6}  {'what':<28}{'wall ms':>9}{'cpu ms':>9}{more}{'wall ÷ sdpa':>13}{'cpu ÷ sdpa':>12}\n")


def _rows(n: int, shape: Shape, timings: dict[str, Timing], peak: float | None) -> None:
    work = roofline.operations(n, shape.heads, shape.width)
    for name, timing in timings.items():
        wall, cpu = timing.over(timings["sdpa"])
        rate = work / timing.wall / 1e12
        more = f"{rate:>10.3g}{rate / peak:>9.1%}" if peak else ""
        sys.stdout.write(
            f"{n:>6}  {name:<28}{timing.wall * 1e3:>9.1f}{timing.cpu * 1e3:>9.1f}{more}{wall:>13.2f}{cpu:>12.2f}\n"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
