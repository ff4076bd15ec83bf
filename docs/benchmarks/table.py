"""The stored results as a page."""

import json
from pathlib import Path

HEAD = """# Benchmarks

Written by `python docs/benchmarks/run.py`; the numbers lie in `results/`. A ratio is that of two medians
within one run, the two sides taking turns. Float32, one sequence, one position of logits on both sides.
The default metrics are entropy, sink, received, distance and previous_token.
"""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _verdict(line: dict[str, object]) -> str:
    budget = line["budget"]
    if budget is None:
        return "no budget"
    value = line.get("cpu_ratio", line.get("value"))
    holds = value <= budget if line["better"] == "low" else value >= budget
    sign = "≤" if line["better"] == "low" else "≥"
    return f"{sign} {budget:g}: {'met' if holds else '**missed**'}"


def _ratio_row(line: dict[str, object]) -> str:
    cells = [
        line["what"],
        line["n"],
        f"**{_number(line['cpu_ratio'])}** ({_number(line['lowest'])}–{_number(line['highest'])})",
        _number(line["wall_ratio"]),
        f"{_number(line['over_s'])} / {_number(line['under_s'])}",
        line["rounds"],
        _verdict(line),
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _value_row(line: dict[str, object]) -> str:
    times = f"{_number(line['over_s'])} / {_number(line['under_s'])}" if "over_s" in line else "–"
    value = f"**{_number(line['value'])} {line['unit']}**"
    cells = [line["what"], line.get("n", "–"), value, times, line["rounds"], _verdict(line)]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _section(stored: dict[str, object]) -> str:
    lines = stored["lines"]
    ratios = "cpu_ratio" in lines[0]
    head = (
        ["what", "n", "CPU-time ratio (rounds)", "wall ratio", "wall s"]
        if ratios
        else ["what", "n", "value", "wall s"]
    )
    head += ["rounds", "budget"]
    machine = stored["machine"]
    loop = f" (10M steps of a Python loop: {machine['loop']} s)" if "loop" in machine else ""
    where = (
        f"{machine['cores']} cores, {machine['threads']} threads, {machine['processor']}{loop}, "
        f"torch {machine['torch']}, transformers {machine['transformers']}, {machine['day']}"
    )
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    table += [_ratio_row(line) if ratios else _value_row(line) for line in lines]
    notes = "".join(f"\n- {note}" for note in stored.get("notes", []))
    return (
        f"\n## {stored['title']}\n\n" + "\n".join(table) + f"\n{notes}\n\n`{stored['command']}` · {where}\n"
    )


def render(results: Path, rows: tuple[str, ...]) -> str:
    """The page for all rows that have been measured."""
    stored = [results / f"{row}.json" for row in rows]
    return HEAD + "".join(_section(json.loads(path.read_text())) for path in stored if path.exists())
