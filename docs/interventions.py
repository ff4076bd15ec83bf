"""Every intervention on every architecture that can carry it, in every way of running it, as a table.

    python docs/interventions.py [NAME ...] [--out docs/interventions.md] [--workers N]

Each case is held against attention written out in float64, with the edit put in by hand (tests/support/edited). Exit
code 1 if anything is out of tolerance.
"""

import argparse
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
from edited.cases import CASES  # noqa: E402
from edited.compare import Compared, applicable, compare  # noqa: E402
from edited.ways import WAYS, ways_of  # noqa: E402
from subjects.catalogue import SUBJECTS  # noqa: E402

from probe.errors import ProbeError  # noqa: E402

LOGITS, STATISTICS = 1e-4, 5e-6


@dataclass
class Line:
    """What one intervention showed over every architecture."""

    families: set[str] = field(default_factory=set)
    subjects: set[str] = field(default_factory=set)
    outputs: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # way -> largest difference
    statistics: float = 0.0
    out: list[str] = field(default_factory=list)  # what is out of tolerance

    def add(self, subject: str, way: str, found: Compared | str) -> None:
        """Take one comparison, or the words of the error that stopped it."""
        if isinstance(found, str):
            self.out.append(f"{subject}, {way}: {found}")
            return
        self.families.add(SUBJECTS[subject].family)
        self.subjects.add(subject)
        self.outputs[way] = max(self.outputs[way], found.outputs)
        self.statistics = max(self.statistics, found.statistics)
        if not (found.outputs <= LOGITS and found.statistics <= STATISTICS and found.moved):
            self.out.append(f"{subject}, {way}: {found}")


def measure(names: list[str], workers: int) -> dict[str, Line]:
    """The full product; progress on standard error."""
    lines: dict[str, Line] = {case.name: Line() for case in CASES if not names or case.name in names}
    subjects = [one.name for one in SUBJECTS.values() if not one.bypass]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        running = {pool.submit(measure_one, name, list(lines)): name for name in subjects}
        for number, done in enumerate(as_completed(running), 1):
            name = running[done]
            print(f"{number}/{len(subjects)} {name}", file=sys.stderr, flush=True)
            for case, way, found in done.result():
                said = len(lines[case].out)
                lines[case].add(name, way, found)
                for line in lines[case].out[said:]:  # at once: the whole product takes long
                    print(f"out of tolerance: {case}: {line}", file=sys.stderr, flush=True)
    return lines


def measure_one(name: str, cases: Collection[str]) -> list[tuple[str, str, Compared | str]]:
    """Every case and way of one architecture; an error of ours stops its own comparison alone."""
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    subject = SUBJECTS[name]
    answers: list[tuple[str, str, Compared | str]] = []
    for case in applicable(subject):
        for way in ways_of(subject) if case.name in cases else ():
            if case.phase == "decode" and way == "forward":
                continue
            try:
                answers.append((case.name, way, compare(subject, case.name, way)))
            except (ProbeError, ValueError, RuntimeError) as error:
                answers.append((case.name, way, f"{type(error).__name__}: {error}"))
    return answers


def page(lines: dict[str, Line]) -> str:
    """The page, with the command that writes it."""
    heads = ["intervention", "architectures", "families", *WAYS, "statistics"]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, line in lines.items():
        differences = [_small(line.outputs.get(way)) for way in WAYS]
        cells = [
            f"`{name}`",
            str(len(line.subjects)),
            str(len(line.families)),
            *differences,
            _small(line.statistics),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    text = (ROOT / "docs" / "interventions.head.md").read_text()
    versions = f"torch {version('torch')}, transformers {version('transformers')}"
    return (
        f"{text}\n"
        + "\n".join(rows)
        + f"\n\nWritten by `python docs/interventions.py` ({versions}, float32).\n"
    )


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"


def main() -> int:
    """Measure and write the page; 1 if anything is out of tolerance."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("names", nargs="*", help="only these interventions (nothing is written)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "interventions.md")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    asked = parser.parse_args()
    lines = measure(asked.names, asked.workers)
    if not asked.names:
        fresh = asked.out.with_suffix(".md.new")
        fresh.write_text(page(lines))
        fresh.replace(asked.out)
    return 1 if any(line.out for line in lines.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
