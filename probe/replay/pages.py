"""One page per claim: what is claimed, what each model gave, and whether it holds; and one page that lists them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from probe.replay.claim import Claim, Claims, Listed
from probe.replay.files import replaced
from probe.replay.stored import Stored, stored_in

COLUMNS = ("measured", "paper", "here", "control")
HEAD = """# Claims, replayed on real weights

Claims of papers about attention, measured on small models against count-matched random controls. Each page says what
the paper has, what was measured here, how sure that is, and which texts it was measured on. Written by `probe replay`;
the numbers lie in `results/`. A claim that does not hold at this size is said not to hold.
"""


def page(listed: Listed, claim: Claim, results: Sequence[Stored]) -> str:
    """The page of one claim, with what it gave on every model."""
    lines = [f"# {listed.title}", "", f"{listed.paper}: {claim.claimed}", ""]
    verdicts = [(f"`{one.model}`", one.finding.verdict, one.finding.brief) for one in results]
    lines += [*_table(("model", "the claim", "numbers"), verdicts), "", f"Data: {claim.data}", ""]
    for one in results:
        lines += _of_model(one)
    return "\n".join([*lines, "## How", "", *_bullets(claim.how), ""])


def _of_model(one: Stored) -> list[str]:
    finding, made = one.finding, one.machine
    lines = [f"## On {one.model}", "", f"**On this model the claim {finding.verdict}.**", ""]
    if finding.rows:
        said = "[ ] is a 95 % bootstrap interval, ( – ) the lowest and the highest of several draws"
        cells = [(row.what, row.paper, str(row.ours), str(row.control)) for row in finding.rows]
        lines += [f"{said}; seed {one.seed}.", "", *_table(COLUMNS, cells), ""]
    for table in finding.tables:
        lines += [f"{table.title}.", "", *_table(table.columns, table.rows), ""]
    for title, said_of in (("Found", finding.found), ("Heads and controls", finding.how)):
        if said_of:
            lines += [f"{title}:", "", *_bullets(said_of), ""]
    versions = f"torch {made['torch']}, transformers {made['transformers']}, float32"
    lines += [f"Measured by `{one.command}` on {made['day']} ({made['processor']}, {versions}).", ""]
    return lines


def index(claims: Mapping[str, Listed], results: Mapping[str, Sequence[Stored]]) -> str:
    """The page that lists every claim that was measured, one line per model, and which are still to be."""
    rows = []
    for name, listed in claims.items():
        for number, one in enumerate(results.get(name, ())):
            title = f"[{listed.title}]({name}.md)" if number == 0 else ""
            rows.append((title, f"`{one.model}`", one.finding.verdict, one.finding.brief))
    lines = [HEAD, *_table(("claim", "model", "verdict", "numbers"), rows), ""]
    if missing := _missing(claims, results):
        lines += [f"Not replayed yet: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def _missing(claims: Mapping[str, Listed], results: Mapping[str, Sequence[Stored]]) -> list[str]:
    """Claims, with the models that they are listed for and have no result on."""
    found = []
    for name, listed in claims.items():
        known = {one.model for one in results.get(name, ())}
        models = [model for model in listed.models if model not in known]
        if models:
            found.append(f"`{name}` ({', '.join(models)})")
    return found


def write_pages(claims: Claims, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Write the pages of claims that have results in `folder` (None: of all), and the index; raises `OutputError`.

    The code of other claims is not loaded: the index needs none.
    """
    results = {name: found for name in claims if (found := stored_in(folder, name))}
    written = []
    for name in results if names is None else [name for name in names if name in results]:
        written.append(folder / f"{name}.md")
        replaced(written[-1], page(claims[name], claims.load(name), results[name]))
    replaced(folder / "README.md", index(claims, results))
    return [*written, folder / "README.md"]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    made = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return made + [f"| {' | '.join(map(str, row))} |" for row in rows]


def _bullets(lines: Sequence[str]) -> list[str]:
    return [f"- {line}" for line in lines]
