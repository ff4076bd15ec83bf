"""One page per claim: what is claimed, what was measured, and whether it holds; and one page that lists them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = """# Claims, replayed on SmolLM2-135M

Claims of papers about attention heads, measured on real weights against count-matched random controls. Written by
`python docs/claims/run.py`; the numbers lie in `results/`. A claim that does not hold at this size is said not to hold.
"""


def render(stored: dict[str, Any]) -> str:
    """The page of one stored result."""
    machine = stored["machine"]
    lines = [
        f"# {stored['title']}",
        "",
        stored["claimed"],
        "",
        f"**At this size the claim {_verdict(stored)}.**",
        "",
        "## Measured",
        "",
    ]
    for table in stored["tables"]:
        lines += [f"{table['title']}.", "", *_table(table["columns"], table["rows"]), ""]
    lines += ["## Found", "", *stored["found"], "", "## How", "", *stored["how"], ""]
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}"
    lines += [
        f"Written by `{stored['command']}` on {machine['day']} ({machine['processor']}, {versions}, float32).",
        "",
    ]
    return "\n".join(lines)


def index(results: Sequence[dict[str, Any]]) -> str:
    """The page that lists every claim that was measured, one line each."""
    rows = [
        [f"[{stored['title']}]({stored['claim']}.md)", _verdict(stored), stored["brief"]]
        for stored in results
    ]
    return "\n".join([HEAD, *_table(["claim", "at this size", "numbers"], rows), ""])


def _verdict(stored: dict[str, Any]) -> str:
    return ("holds" if stored["holds"] else "does not hold") + stored.get("but", "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    made = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return made + [f"| {' | '.join(map(str, row))} |" for row in rows]


def write(path: Path, text: str) -> None:
    """Write to a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
