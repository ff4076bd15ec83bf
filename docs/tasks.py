"""How often the small models solve the tasks of `probe.circuits`, as a page.

    python docs/tasks.py [MODEL ...] [--count 32] [--seed 0]

Needs the models, fetched: smollm2-135m and gemma3-270m where none is named.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent

import torch  # noqa: E402
import transformers  # noqa: E402

import probe  # noqa: E402
from probe.circuits import PAIR_TASKS, CircuitOptions  # noqa: E402
from probe.circuits.study import study  # noqa: E402
from probe.errors import ProbeError  # noqa: E402
from probe.replay.files import replaced  # noqa: E402

MODELS = ("smollm2-135m", "gemma3-270m")
LEAST = CircuitOptions().min_accuracy
PAGE = """# Which tasks the small models solve

Of {count} seeded pairs (seed {seed}) the share of clean prompts on which the right tokens come before the wrong ones,
by the mean of their logits; then that of the corrupt prompts, which is low where the corruption does what it should;
then the mean logit difference of the clean ones. Half is chance. Below {least}, in italics, every method of
[probe.circuits](circuits.md) refuses to interpret the task, unless `min_accuracy` says otherwise.

| task | {heads} |
|---|{lines}|
{rows}

`python docs/tasks.py {models} --count {count} --seed {seed}` · torch {torch}, transformers {transformers}, float32
"""


def main() -> None:
    """Measure and write the page."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("models", nargs="*", default=list(MODELS))
    asked.add_argument("--count", type=int, default=32)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    options = CircuitOptions(count=given.count, seed=given.seed, min_accuracy=0.0)
    columns = [dict(_solved(model, options)) for model in given.models]
    page = PAGE.format(
        count=given.count,
        seed=given.seed,
        least=LEAST,
        heads=" | ".join(f"`{model}`" for model in given.models),
        lines="|".join("---" for _ in given.models),
        rows="\n".join(
            f"| `{task}` | {' | '.join(column[task] for column in columns)} |" for task in PAIR_TASKS
        ),
        models=" ".join(given.models),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    replaced(HERE / "tasks.md", page)


def _solved(name: str, options: CircuitOptions) -> Iterator[tuple[str, str]]:
    loaded = probe.load(name)
    for task in PAIR_TASKS:
        try:
            with study(loaded, task, options) as case:
                shown = f"{case.accuracy:.2f}, {case.corrupt_accuracy:.2f}, {float(case.clean.mean()):.2f}"
                yield task, shown if case.accuracy >= LEAST else f"*{shown}*"
        except ProbeError as error:
            yield task, f"cannot be asked: {error}"
        print(name, task, flush=True)


if __name__ == "__main__":
    main()
