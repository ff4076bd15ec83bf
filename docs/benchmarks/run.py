"""Measure what the project promises, and write the table that says whether it holds.

    python docs/benchmarks/run.py                     every row, each in a process of its own, then the table
    python docs/benchmarks/run.py --row forward       one row (repeatable)
    python docs/benchmarks/run.py --rounds 3          fewer rounds (a smoke check)
    python docs/benchmarks/run.py --render            only the table, from the stored results

Ratios are taken within one run: the two sides alternate, and the ratio is that of their medians.
Run it on a machine that does nothing else. Needs the `lens` extra, and the two models fetched.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROWS = (
    "attention",
    "sparse",
    "forward",
    "suite",
    "edit",
    "sweep",
    "circuits",
    "eager",
    "lens",
    "memory",
    "long",
    "analyze",
    "dashboard",
)


def measure(row: str, rounds: int) -> None:
    """Run one row in this process and store its result."""
    # Offline for real: no measured library may try the network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from machine import describe

    result = importlib.import_module(f"rows.{row}").measure(rounds)
    command = f"python docs/benchmarks/run.py --row {row} --rounds {rounds}"
    stored = {"row": row, "command": command, "machine": describe(), **result}
    RESULTS.mkdir(exist_ok=True)
    fresh = RESULTS / f"{row}.json.new"
    fresh.write_text(json.dumps(stored, indent=1) + "\n")
    fresh.replace(RESULTS / f"{row}.json")


def main() -> int:
    """Measure the asked rows one after another, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", choices=ROWS, help="measure only this row; may be repeated")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per measurement (default 7)")
    parser.add_argument("--render", action="store_true", help="write the table without measuring")
    parser.add_argument(
        "--here", action="store_true", help=argparse.SUPPRESS
    )  # this is the row's own process
    asked = parser.parse_args()
    if asked.here:
        measure(asked.row[0], asked.rounds)
        return 0
    failed = []
    for row in () if asked.render else asked.row or ROWS:
        print(f"measuring {row} …", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--here", "--row", row, "--rounds", str(asked.rounds)]
        if subprocess.run(command, check=False).returncode:
            failed.append(row)
    from table import render

    (HERE / "README.md").write_text(render(RESULTS, ROWS))
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
