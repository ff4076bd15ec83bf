"""Circuits on the terminal: per answer a table of the strongest parts, with intervals over prompts, and its notes."""

import math
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from probe.cli.view import clean, number, show_header
from probe.report import Answer, Report
from probe.report.ranking import head_axis, head_name, ranked

_ROWS = 10  # of a table


def show_circuits(report: Report, out: Console) -> None:
    """Print what was run, and for every answer its strongest parts and its notes."""
    show_header(report.provenance, out)
    for key, answer in zip(report.keys(), report.answers, strict=True):
        out.print()
        out.print(Text(clean(key), style="bold"), Text(f"({clean(answer.unit)}) {clean(answer.summary)}"))
        if head_axis(answer.head_map) == "model":
            value = float(answer.head_map)
            out.print(f"  {number(value) if math.isfinite(value) else 'not defined'}")
        else:
            out.print(Padding(_strongest(key, answer, report), (0, 0, 0, 2)))
        for note in answer.notes:
            out.print(f"  note: {clean(note)}")
        if answer.extra:
            out.print(Text(f"  also in the report: {_also(answer)}", style="dim"))


def _strongest(key: str, answer: Answer, report: Report) -> Table:
    """The parts of the largest size, whatever their sign, with an interval over prompts where there is one."""
    axis = head_axis(answer.head_map)
    frame = ranked(answer)
    frame = frame[frame["score"].notna()]
    frame = frame.iloc[frame["score"].abs().argsort(kind="stable")[::-1]].head(_ROWS)
    bounds: Any = None
    if answer.by_prompt is not None and answer.by_prompt.sizes["prompt"] > 1:
        bounds = report.intervals(key)
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_edge=False)
    for name in ("part", clean(answer.unit), *(() if bounds is None else ("95 % over prompts",))):
        table.add_column(name, justify="left" if name == "part" else "right")
    for layer, head, score in frame.itertuples(index=False):
        cells = [head_name(answer.tower, int(layer), int(head), axis), f"{score:+.3f}"]
        if bounds is not None:
            where = {"layer": layer} if axis == "layer" else {"layer": layer, axis: head}
            low, high = bounds.sel(where).values.tolist()
            cells.append(f"{low:+.3f} to {high:+.3f}")
        table.add_row(*cells)
    return table


def _also(answer: Answer) -> str:
    return "; ".join(f"{name} ({', '.join(map(str, one.dims))})" for name, one in answer.extra.items())
