"""``probe fetch``: a known model, ready offline."""

from typing import Annotated

import typer


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A known model, such as smollm2-135m.")],
) -> None:
    """Fetch a known model, so that it works with no network."""
    from probe.cli.progress import progress_bar
    from probe.cli.view import console
    from probe.models import KNOWN_MODELS
    from probe.models import fetch as fetch_model

    with progress_bar() as report:
        folder = fetch_model(name, progress=report)
    known = KNOWN_MODELS[name]
    out = console()
    out.print(f"{name} is ready: {folder}", soft_wrap=True)
    out.print(f"{known.summary}; licence: {known.licence}", soft_wrap=True)
    if known.terms:
        out.print(known.terms, soft_wrap=True)
