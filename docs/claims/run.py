"""Replay claims about heads on real weights, each against count-matched random controls, and write what was found.

    python docs/claims/run.py                    every claim, then the pages
    python docs/claims/run.py --claim masking    one claim (repeatable)
    python docs/claims/run.py --render           only the pages, from the stored results
    python docs/claims/run.py --small --out DIR  a smoke check: few prompts, results and pages into DIR

A run that is stopped goes on where it was. A claim that does not hold at this size is reported as not holding.
Needs the model `smollm2-135m`, fetched.
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
CLAIMS = ("masking", "document", "sentence")
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]


def replay(claim: str, out: Path, *, small: bool) -> None:
    """Measure one claim and store its result."""
    from finished import Finished
    from machine import describe
    from pages import write

    module = importlib.import_module(f"claims.{claim}")
    about = [claim, small, list(module.SETTINGS), _sources()]
    finished = Finished(out / "results" / f"{claim}.unfinished.jsonl", about)
    found: dict[str, Any] = module.measure(finished, small)
    stored = {
        "claim": claim,
        "command": f"python docs/claims/run.py --claim {claim}" + (" --small" if small else ""),
        "machine": describe(),
        **found,
        "measured": finished.values,
    }
    write(out / "results" / f"{claim}.json", json.dumps(stored, indent=1, allow_nan=False) + "\n")
    finished.drop()


def _sources() -> str:
    """A digest of the scripts that measure: what they gave before they were changed is not taken up."""
    total = hashlib.sha256()
    for name in ("heads", "needles", "ordinary", "reading"):
        total.update((HERE / f"{name}.py").read_bytes())
    return total.hexdigest()[:16]


def render_all(out: Path) -> None:
    """Write the page of every stored result, and the page that lists them."""
    from pages import index, render, write

    paths = [out / "results" / f"{claim}.json" for claim in CLAIMS]
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    for one in stored:
        write(out / f"{one['claim']}.md", render(one))
    write(out / "README.md", index(stored))


def main() -> int:
    """Replay the asked claims one after another, then write their pages."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--claim", action="append", choices=CLAIMS, help="only this claim; may be repeated")
    parser.add_argument("--render", action="store_true", help="write the pages without measuring")
    parser.add_argument("--small", action="store_true", help="few prompts, to see that it runs; needs --out")
    parser.add_argument("--out", type=Path, default=HERE, help="where results and pages go")
    asked = parser.parse_args()
    if asked.small and asked.out == HERE:
        parser.error("--small was asked without --out; its numbers must not stand among the real ones")
    if not asked.render and not asked.claim and not asked.small:
        (HERE / "results" / "retrieval.json").unlink(missing_ok=True)  # all is measured anew
    for claim in () if asked.render else asked.claim or CLAIMS:
        print(f"replaying {claim} …", file=sys.stderr, flush=True)
        replay(claim, asked.out, small=asked.small)
        render_all(asked.out)
    render_all(asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
