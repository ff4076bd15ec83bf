"""Writes docs/kernels.md from what was measured."""

import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from probe_kernels.aot.cases import BUDGETED, Case
from probe_kernels.aot.measure import Measured
from probe_kernels.fused.plan import shared_memory

BUDGET = 1.35  # loop with entropy, table and one span over the plain loop, in cycles

_HEAD = """# What the Triton kernels compile to

Written by `{command}` with torch {torch} and Triton {triton}. {calls} calls were handed to the backend, which planned
{launches} launches; {kernels} different kernels came out of the compiler.

**No GPU ran.** A driver of an absent device names the architecture, and each launch is compiled with the arguments,
tiles and flags that it would have been started with. That settles, for what is listed, whether it compiles, spills
registers, makes its products by tensor cores and fits shared memory, and it counts the instructions of the loop over
key tiles. It proves nothing of speed, of races, of rounding in bfloat16 or of what a driver does at run time. Nor does
it cover every call: masks other than causal, terms and padding are compiled with z and with z and entropy only.
Answers are held against the float64 reference in Triton's interpreter, by the tests.
`python -m probe_kernels.bench --device cuda:0` measures where there is a GPU.

How to read the tables. *Loop*: one turn for one warp, over a tile that all rows see whole, by the shortest way through
its branches: a tile that a group of keys cuts in two takes a longer one. *Instructions*: ratio of all instructions of
the loop per score, to the loop for z alone. *Cycles*: the same ratio with each instruction as one issue slot and each
tensor-core instruction as the cycles that it fills its unit at peak (256 multiply-adds a cycle and quarter of a
multiprocessor on 8.0, 1024 on 9.0), one after the other. It is a model: overlap would hide some of either.
The budget of {budget} for entropy, table and one span is held against *cycles*.

"""

_NOTES = """## How calls are cut

- Heads up to 64 wide: tiles of 128 rows by 64 keys, and z takes one sum that is linear in p along, or two where
  nothing but entropy is wanted besides. Wider ones: one; tiles that make z are then 32 keys wide on 8.0, and on 9.0 for
  packed rows, a bias, a written-out mask, segments, top and sums over more than a group of keys.
- Two or more of squares, top and the table leave no room for such sums beside z.
- Further sums go into launches of their own, four each, which make the scores and the softmax once more.
- Sums over the first visible keys ask every tile what it shows, so they are never in the launch that makes z.
- z of values wider than 128 (float32: 64) is made that many columns at a time. Each portion makes the scores again.
- Widths between powers of two are padded in registers: 80 and 96 cost what 128 costs, 192 what 256 costs.
- float32 products are three of tf32 each; heads wider than 128 would spill and are refused by name.
- Other architectures take the tiles of these two; with 99 kB of shared memory to a block they take 64 rows by 32 keys.
"""


def write(path: Path, measured: Sequence[Measured], command: str) -> None:
    """Write the page, to a temporary name first."""
    text = page(measured, command)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
    ) as file:
        file.write(text)
    Path(file.name).chmod(0o644)
    os.replace(file.name, path)


def page(measured: Sequence[Measured], command: str) -> str:
    """The page as text."""
    parts = [
        _HEAD.format(
            command=command,
            torch=version("torch").split("+")[0],
            triton=version("triton"),
            calls=len({one.case for one in measured}),
            launches=len(measured),
            kernels=len({(one.case.arch, one.key) for one in measured}),
            budget=BUDGET,
        ),
        _verdict(measured),
        _budget(measured),
    ]
    for arch in sorted({one.case.arch for one in measured}):
        parts.append(_table(arch, [one for one in measured if one.case.arch == arch]))
    return "\n".join((*parts, _NOTES))


def ratios(measured: Sequence[Measured]) -> dict[Case, tuple[float, float]]:
    """Per call whose first launch makes z: its loop over that of the plain call, in instructions and in cycles."""
    first: dict[Case, Measured] = {}
    for one in measured:
        first.setdefault(one.case, one)
    found = {}
    for case, one in first.items():
        base = first.get(case.plain)
        if base is not None and one.computes.startswith("z"):
            found[case] = one.per_score / base.per_score, one.cycles / base.cycles
    return found


def failures(measured: Sequence[Measured]) -> list[str]:
    """What is wrong, one line a launch."""
    return [
        f"sm_{one.case.arch} {one.case.dtype} {one.case.width} {one.case.statistics} ({one.case.form}): {one.computes} "
        + "; ".join(one.failures)
        for one in measured
        if one.failures
    ]


def _verdict(measured: Sequence[Measured]) -> str:
    wrong = failures(measured)
    if wrong:
        return "## Failures\n\n" + "\n".join(f"- {line}" for line in wrong) + "\n"
    taken: dict[int, int] = {}
    for one in measured:
        taken[one.case.arch] = max(one.shared, taken.get(one.case.arch, 0))
    most = ", ".join(
        f"{bytes_ / 1024:.0f} of {shared_memory(arch) // 1024} kB on sm_{arch}"
        for arch, bytes_ in sorted(taken.items())
    )
    return f"No launch spills, all use tensor cores, and shared memory is at most {most}.\n"


def _budget(measured: Sequence[Measured]) -> str:
    found = ratios(measured)
    names = list(dict.fromkeys(case.statistics for case in found if case.form == "causal"))
    columns = list(dict.fromkeys((c.arch, c.dtype, c.width) for c in found if c.form == "causal"))
    columns = [one for one in columns if one[1] == "bf16"]
    lines = [
        "## Statistics over plain attention",
        "",
        "The first launch of a call, bfloat16: instructions / cycles per score over those of z alone.",
        "",
        "| statistics | " + " | ".join(f"sm_{a} d={w}" for a, _, w in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in names:
        cells = []
        for arch, dtype, width in columns:
            ratio = found.get(Case(arch, dtype, width, name))
            cells.append("" if ratio is None else f"{ratio[0]:.2f} / {ratio[1]:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join((*lines, "", _told(found), ""))


def _told(found: dict[Case, tuple[float, float]]) -> str:
    """Whether entropy, table and one span keep to their budget, by either count."""
    ours = {
        case: ratio for case, ratio in found.items() if case.statistics == BUDGETED and case.dtype != "fp32"
    }
    if not ours:
        return ""
    over = [f"sm_{c.arch} {c.dtype} d={c.width} ({r[1]:.2f})" for c, r in ours.items() if r[1] > BUDGET]
    told = (
        f"Over the budget of {BUDGET}: {', '.join(over)}."
        if over
        else f"Nothing is over the budget of {BUDGET}."
    )
    bare = [ratio[0] for ratio in ours.values()]
    above = sum(one > BUDGET for one in bare)
    return (
        f"{told}\nCounted in bare instructions, a tensor-core instruction as one, that set takes {min(bare):.2f} to "
        f"{max(bare):.2f}, and {above} of {len(bare)} are above {BUDGET}."
    )


def _table(arch: int, measured: Sequence[Measured]) -> str:
    lines = [
        f"## sm_{arch}",
        "",
        "| d | dtype | kernel computes | tile, warps, stages | registers | spilled | shared kB | tensor | other |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    seen = set()
    for one in sorted(measured, key=lambda m: (m.case.width, m.case.dtype)):
        if one.key in seen:
            continue
        seen.add(one.key)
        rows, keys, warps, stages = one.tile
        computes = one.computes or "lse"
        if one.kernel == "attend_columns":
            computes = f"columns: {computes}"
        lines.append(
            f"| {one.case.width} | {one.case.dtype} | {computes} | {rows}×{keys}, {warps}, {stages} | "
            f"{one.registers} | {one.spilled} | {one.shared / 1024:.0f} | {one.tensor} | {one.other} |"
        )
    return "\n".join((*lines, ""))
