"""The command tree."""

from collections.abc import Callable
from typing import Annotated

import typer

import probe
from probe.cli.ablate import ablate
from probe.cli.analyze import analyze
from probe.cli.circuits import circuits
from probe.cli.extensions import Commands
from probe.cli.fetch import fetch
from probe.cli.generate import generate
from probe.cli.interventions import interventions
from probe.cli.metrics import metrics
from probe.cli.outcome import Runnable
from probe.cli.patterns import patterns
from probe.cli.replay import replay
from probe.cli.score import score
from probe.cli.show import show
from probe.cli.sweep import sweep
from probe.cli.taxonomy import taxonomy


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"probe {probe.__version__}")
        raise typer.Exit
    return asked


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """What the attention heads of a Hugging Face model do: exact statistics, at any length, as files."""


_COMMANDS: tuple[Callable[..., None], ...] = (
    analyze, ablate, sweep, circuits, patterns, score, generate, replay, show, taxonomy, metrics, interventions, fetch,
)  # fmt: skip


def command() -> Runnable:
    """The whole command line as one runnable command."""
    app = typer.Typer(
        cls=Commands,
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    for function in _COMMANDS:
        app.command()(function)
    return typer.main.get_command(app)
