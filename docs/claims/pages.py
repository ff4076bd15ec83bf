"""One page per claim: what is claimed, what was measured, and whether it holds."""

from typing import Any


def render(stored: dict[str, Any]) -> str:
    """The page of one stored result."""
    machine = stored["machine"]
    lines = [f"# {stored['title']}", "", stored["claimed"], "", "## Measured", ""]
    for table in stored["tables"]:
        lines += [table["title"], "", *_table(table), ""]
    lines += ["## Found", "", *stored["found"], "", "## How", "", *stored["how"], ""]
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}"
    lines += [
        f"Written by `{stored['command']}` on {machine['day']} ({machine['processor']}, {versions}, float32).",
        "",
    ]
    return "\n".join(lines)


def _table(table: dict[str, Any]) -> list[str]:
    heads = table["columns"]
    made = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return made + [f"| {' | '.join(map(str, row))} |" for row in table["rows"]]
