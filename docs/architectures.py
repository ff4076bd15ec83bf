"""The seam against every architecture, the full product, as a table.

    python docs/architectures.py [NAME ...] [--out docs/architectures.md]

Every subject in tests/support/subjects is built tiny from its config with random weights (no download) and run in
both modes, padded and not, at batch 1 and 2, in one forward, from a KV cache and inside ``generate()``. Exit code 1 if
anything is out of tolerance.
"""

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import product
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402
import transformers  # noqa: E402
from subjects.cached import continued, together_error  # noqa: E402
from subjects.catalogue import SUBJECTS  # noqa: E402
from subjects.measure import Tally, drift, run, statistics_error  # noqa: E402
from subjects.oracle import Weights, eager_weights, returned_weights  # noqa: E402
from subjects.state import state  # noqa: E402
from subjects.subject import Inputs, Subject  # noqa: E402

from probe.errors import UnseenLayersError  # noqa: E402
from probe.seam.session import Session  # noqa: E402

LOGITS, STATISTICS = 1e-4, 5e-6
MODES = ("fused", "shadow")
HEADINGS = (
    "architecture", "family", "special", "towers", "calls", "fused − native", "statistics", "shadow bit-exact",
    "left padding", "KV cache", "generate", "not through the registry",
)  # fmt: skip


@dataclass
class Line:
    """What one architecture showed; errors are the largest over the whole product."""

    subject: Subject
    kind: str = ""  # the model's class
    towers: Counter[str] = field(default_factory=Counter)
    fused: float | None = None  # None: not measured
    statistics: float | None = None
    shadow_equal: bool = True
    cached: float = 0.0
    added_up: float = 0.0
    generated: bool = True
    restored: bool = True
    beside: str = ""

    @property
    def holds(self) -> bool:
        """Whether everything is within tolerance."""
        outputs = max(self.fused or 0.0, self.cached) <= LOGITS
        statistics = max(self.statistics or 0.0, self.added_up) <= STATISTICS
        return outputs and statistics and self.shadow_equal and self.generated and self.restored

    def cells(self) -> list[str]:
        """The row of the table."""
        one = self.subject
        towers = sorted(self.towers)
        cache = _small(max(self.cached, self.added_up)) + ("" if one.cache_exact else " ²")
        return [
            f"`{one.name}`",
            one.family,
            ", ".join(one.features) or "–",
            ", ".join(towers) or "none",
            " + ".join(str(self.towers[tower]) for tower in towers) or "0",
            _small(self.fused),
            _small(self.statistics),
            _yes(self.shadow_equal) if self.fused is not None else "–",
            _yes(one.padding, "–"),
            cache if one.cache and not one.bypass else "–",
            _yes(self.generated and self.restored) if one.generate else "–",
            self.beside or "–",
        ]


def _small(error: float | None) -> str:
    return "–" if error is None else f"{error:.0e}"


def _yes(held: bool, otherwise: str = "**no**") -> str:
    return "yes" if held else otherwise


def _paddings(subject: Subject) -> tuple[bool, ...]:
    return (False, True) if subject.padding else (False,)


def _inputs(subject: Subject, model: torch.nn.Module) -> Iterator[Inputs]:
    for batch, padding in product((1, 2), _paddings(subject)):
        yield subject.inputs(model, batch, 12, padding)


def measure(subject: Subject) -> Line:
    """Everything about one architecture."""
    model = subject.model()
    line = Line(subject, type(model).__name__)
    run(
        model, {**subject.inputs(model, 1, 9), "output_attentions": True}
    )  # transformers' own permanent hooks
    before = state(model)
    if subject.bypass and not subject.partly:
        _beside(line, model)
    else:
        for inputs in _inputs(subject, model):
            _whole(line, model, inputs)
        if subject.cache and not subject.bypass:
            _cached(line, model)
    if subject.generate:
        _generated(line, model)
    line.restored = state(model) == before
    return line


def _whole(line: Line, model: torch.nn.Module, inputs: Inputs) -> None:
    native, truth = run(model, inputs), eager_weights(line.subject.model(), inputs)
    for mode in MODES:
        tally = Tally()
        seen = run(model, inputs, mode, tally)
        line.statistics = max(line.statistics or 0.0, statistics_error(tally.rows, truth))
        line.towers = Counter(row.tower for row in tally.rows)
        line.beside = _named(tally.unseen)
        if mode == "fused":
            line.fused = max(line.fused or 0.0, drift(native, seen, line.subject, inputs))
        else:
            line.shadow_equal &= all(torch.equal(native[name], seen[name]) for name in native)


def _named(unseen: list[str]) -> str:
    return f"unseen, named: {', '.join(f'`{name}`' for name in unseen)}" if unseen else ""


def _cached(line: Line, model: torch.nn.Module) -> None:
    subject = line.subject
    for padding in _paddings(subject) if subject.cache_padding else (False,):
        inputs = subject.inputs(model, 2, 12, padding)
        tokens = inputs.get("decoder_input_ids", inputs.get("input_ids"))
        cut = tokens.shape[1] - 3
        native = continued(model, inputs, cut, None, Tally())
        for mode in MODES:
            parts, whole = Tally(), Tally()
            seen = continued(model, inputs, cut, mode, parts)
            line.cached = max(line.cached, float((native - seen).abs().max()))
            if subject.cache_exact:
                run(model, inputs, mode, whole)
                line.added_up = max(line.added_up, together_error(parts.rows, whole.rows))


def _generated(line: Line, model: torch.nn.Module) -> None:
    inputs = line.subject.inputs(model, 2, 12, line.subject.padding)
    wanted = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    native = model.generate(**inputs, **wanted)
    for mode in MODES:
        with Session(model, [Tally()], mode=mode):
            line.generated &= torch.equal(native, model.generate(**inputs, **wanted))


def _beside(line: Line, model: torch.nn.Module) -> None:
    """What a model that bypasses the registry shows through the weights it returns."""
    inputs, tally = line.subject.inputs(model, 2, 12, line.subject.padding), Tally()
    with torch.no_grad(), Session(model, [tally], mode="shadow") as session:
        model(**inputs)
        unseen, through = session.unseen_layers, session.fallback_layers
        said = ""
        try:
            session.require_seen()
        except UnseenLayersError:
            said = "`UnseenLayersError`"
    line.towers = Counter(row.tower for row in tally.rows)
    weights = f"{len(through)} layers through returned weights" if through else ""
    line.beside = "; ".join(text for text in (weights, _named(unseen), said) if text)
    if not unseen:
        returned = returned_weights(line.subject.model(), inputs)
        truth = [Weights(row.module, w.pattern) for row, w in zip(tally.rows, returned, strict=True)]
        line.statistics = statistics_error(tally.rows, truth)


def render(lines: list[Line]) -> str:
    """The page."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(line.cells() for line in lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    kinds = len({line.kind for line in lines})
    through = sum(not line.subject.bypass for line in lines)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"""# Architectures

{len(lines)} configurations of {kinds} model classes. {through} run all their token layers through transformers'
attention registry (modules beside it, such as pooling heads, are named); the others bypass it, wholly or in part.
Written by `python docs/architectures.py` ({versions}, float32 on the CPU).

Each is built tiny from its config with random weights, redrawn so that patterns are far from uniform, and run in both
modes, with and without left padding, at batch 1 and 2. Numbers are the largest error over that product.

- *calls*: attention calls per forward, by tower.
- *fused − native*: outputs of `mode="fused"` against the model's own, at real positions; at most {LOGITS:.0e}.
- *statistics*: entropy, Σp², largest probability, row mass and column mass of every call, both modes, against the
  model's eager weights in float64, |error| / (1 + |value|); at most {STATISTICS:.0e}. With learned sinks, rows sum
  to 1 less the sink's mass.
- *shadow bit-exact*: every output of `mode="shadow"` equals the model's own, bit by bit.
- *KV cache*: a prefill and three decode steps against native's logits, and their accumulated statistics against one
  whole forward's. ² The model's own cached logits differ from its whole forward, so only logits are compared.
- *not through the registry*: attention modules that were not seen, by name, and layers seen only through the weights
  that the model returns (no edits there, short contexts only).
- *generate*: the same greedy tokens while observed, in both modes; afterwards model and registries are as before.

Where transformers 5.23 does not agree with itself, no mode can agree with both: PaliGemma without `token_type_ids` and
without padding attends both ways under sdpa and causally under eager (shadow follows the model as loaded, fused the
mask that was asked for); Falcon under sdpa with `output_attentions=True` returns weights that are not causal (the
fallback runs it eagerly).

{table}
"""


def main() -> int:
    """Measure, write the page, say what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures; all of them by default")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "architectures.md")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    lines = []
    for name in asked.names or SUBJECTS:
        lines.append(measure(SUBJECTS[name]))
        print(" | ".join(lines[-1].cells()), file=sys.stderr, flush=True)
    part = asked.out.with_suffix(".part")
    part.write_text(render(lines), encoding="utf-8")
    part.replace(asked.out)
    broken = [line.subject.name for line in lines if not line.holds]
    if broken:
        print(f"out of tolerance: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
