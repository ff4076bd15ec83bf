"""Measures `attend` against torch's own fused attention: ``python -m probe_kernels.bench``.

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

from probe_kernels.dispatch import attend
from probe_kernels.mask import Mask, causal
from probe_kernels.testing import assert_attended_close
from probe_kernels.types import Layout, Scores, Want

DEFAULTS = Want(lse=True, entropy=True, column=True, distance=True, first=(1,), offsets=(1,), visible=True)
_GATE_LENGTH = 300


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call: on the clock, and of processor time over all threads."""

    wall: float
    cpu: float

    def over(self, base: "Timing") -> tuple[float, float]:
        """Ratios to another timing, wall and CPU."""
        return self.wall / base.wall, self.cpu / base.cpu


def interleave(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Median timings of several functions, called in turn `repeats` times after one warm-up."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            if turn:
                seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Timing(statistics.median(w for w, _ in times), statistics.median(c for _, c in times))
        for name, times in seen.items()
    }


def problem(n: int, heads: int, kv_heads: int, width: int, *, seed: int = 0) -> tuple[Scores, Layout]:
    """Random causal attention over `n` tokens, laid out in memory as a model's projections leave it."""
    make = torch.Generator().manual_seed(seed)

    def states(h: int) -> torch.Tensor:
        return torch.randn(1, n, h, width, generator=make).transpose(1, 2)

    positions = torch.arange(n)[None]
    scores = Scores(states(heads), states(kv_heads), states(kv_heads), scale=width**-0.5)
    return scores, Layout(Mask((causal(),)), positions, positions)


def compare(n: int, heads: int, kv_heads: int, width: int, repeats: int) -> dict[str, Timing]:
    """Timings of torch's fused attention, of `attend` for z alone, and of `attend` for the default statistics."""
    scores, layout = problem(n, heads, kv_heads, width)
    query, key, value = scores.query, scores.key, scores.value
    if value is None:
        raise ValueError("the benchmark's scores carry a value")

    def fused() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=heads != kv_heads
        )

    runs: dict[str, Callable[[], object]] = {
        "sdpa": fused,
        "attend, z": lambda: attend(scores, layout, Want()),
        "attend, default statistics": lambda: attend(scores, layout, DEFAULTS),
    }
    with torch.no_grad():
        return interleave(runs, repeats)


def gate(heads: int, kv_heads: int, width: int) -> None:
    """Refuse to time what is wrong: the torch path must agree with the reference."""
    scores, layout = problem(_GATE_LENGTH, heads, kv_heads, width, seed=1)
    assert_attended_close(
        attend(scores, layout, DEFAULTS, backend="torch"),
        attend(scores, layout, DEFAULTS, backend="reference"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row of ratios per length."""
    parser = argparse.ArgumentParser(prog="python -m probe_kernels.bench", description=main.__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    shape = options.heads, options.kv_heads, options.width
    gate(*shape)
    write = sys.stdout.write
    write(f"H={shape[0]} Hk={shape[1]} d={shape[2]}, float32, causal, {torch.get_num_threads()} threads\n")
    write(f"{'n':>6}  {'what':<28}{'wall ms':>9}{'cpu ms':>9}{'wall ÷ sdpa':>13}{'cpu ÷ sdpa':>12}\n")
    for n in options.lengths:
        timings = compare(n, *shape, options.repeats)
        for name, timing in timings.items():
            wall, cpu = timing.over(timings["sdpa"])
            write(
                f"{n:>6}  {name:<28}{timing.wall * 1e3:>9.1f}{timing.cpu * 1e3:>9.1f}{wall:>13.2f}{cpu:>12.2f}\n"
            )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
