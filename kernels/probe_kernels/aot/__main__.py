"""Command line of `probe_kernels.aot`."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe_kernels.aot.cases import Case
    from probe_kernels.aot.measure import Measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what the backend would launch on sm_80 and sm_90, and tell registers, spills, memory and inner loops.

    Compiled kernels are kept in Triton's cache, by source and options: a second run is quick.
    """
    parser = argparse.ArgumentParser(prog="python -m probe_kernels.aot", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a few calls, and no page unless --out is given")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile (default 2)")
    parser.add_argument("--out", type=Path, help="the page to write (default docs/kernels.md)")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.stderr.write("TRITON_INTERPRET=1 runs kernels in Python and compiles nothing: unset it\n")
        return 2
    from probe_kernels.aot import cases, report

    out = options.out or (None if options.quick else Path("docs/kernels.md"))
    if out is not None and not out.parent.is_dir():
        sys.stderr.write(
            f"there is no folder {out.parent} to write {out.name} into: name another file by --out\n"
        )
        return 2
    measured = _measured(cases.quick() if options.quick else cases.everything(), options.jobs)
    wrong = report.failures(measured)
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    if out is not None:
        command = "python -m probe_kernels.aot" + (" --quick" if options.quick else "")
        report.write(out, measured, command)
        sys.stdout.write(f"wrote {out}\n")
    sys.stdout.write(f"{len(measured)} launches, {len(wrong)} with failures\n")
    return 1 if wrong else 0


def _measured(asked: "Iterable[Case]", jobs: int) -> "list[Measured]":
    from probe_kernels.aot.measure import measure

    found: list[Measured] = []

    def tell(one: "Case", launches: "list[Measured]") -> None:
        found.extend(launches)
        for m in launches:
            sys.stdout.write(
                f"sm_{one.arch} {one.dtype} {one.width} {one.form}, {one.statistics}: {m.computes or 'lse'}: "
                f"{m.registers} registers, {m.spilled} bytes spilled, "
                f"{m.tensor} tensor-core and {m.other} other instructions\n"
            )
        sys.stdout.flush()

    several = list(asked)
    if jobs <= 1:
        for one in several:
            tell(one, measure(one))
        return found
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for one, launches in zip(several, pool.map(measure, several), strict=True):
            tell(one, launches)
    return found


if __name__ == "__main__":
    sys.exit(main())
