"""Replay claims about heads on real weights, each against count-matched random controls, and write what was found.

    python docs/claims/run.py                    every claim, then the pages
    python docs/claims/run.py --claim masking    one claim (repeatable)
    python docs/claims/run.py --render           only the pages, from the stored results

A claim that does not hold at this size is reported as not holding. Needs the model `smollm2-135m`, fetched.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
RESULTS = HERE / "results"
CLAIMS = ("masking", "document", "sentence")
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]


def replay(claim: str) -> None:
    """Measure one claim and store its result."""
    from machine import describe

    found = importlib.import_module(f"claims.{claim}").measure()
    stored = {
        "claim": claim,
        "command": f"python docs/claims/run.py --claim {claim}",
        "machine": describe(),
        **found,
    }
    RESULTS.mkdir(exist_ok=True)
    fresh = RESULTS / f"{claim}.json.new"
    fresh.write_text(json.dumps(stored, indent=1, allow_nan=False) + "\n")
    fresh.replace(RESULTS / f"{claim}.json")


def main() -> int:
    """Replay the asked claims one after another, then write their pages."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--claim", action="append", choices=CLAIMS, help="only this claim; may be repeated")
    parser.add_argument("--render", action="store_true", help="write the pages without measuring")
    asked = parser.parse_args()
    for claim in () if asked.render else asked.claim or CLAIMS:
        print(f"replaying {claim} …", file=sys.stderr, flush=True)
        replay(claim)
    from pages import render

    for claim in CLAIMS:
        stored = RESULTS / f"{claim}.json"
        if stored.is_file():
            (HERE / f"{claim}.md").write_text(render(json.loads(stored.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
