"""Commands of other packages: the entry-point group ``probe.commands``, loaded only when one is called.

An entry point names a `typer.Typer` or a function that takes its options as parameters.
"""

from importlib import metadata
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from probe.errors import UsageError

GROUP = "probe.commands"


def registered() -> dict[str, Any]:
    """Entry points of ``probe.commands`` by name; reading them imports nothing.

    They are `importlib.metadata.EntryPoint`, or the backport's, which takes its place once anything has imported it.
    """
    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


def load(entry: Any) -> Any:
    """Import an extension's command; raises `UsageError` that names what is not installed."""
    try:
        found = entry.load()
    except ImportError as error:
        raise UsageError(
            f"probe {entry.name} was asked; it needs {error.name or error}, which is not installed: "
            "pip install 'attention-probe[app]'"
        ) from error
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    single.command(entry.name)(found)
    return typer.main.get_command(single)


class Commands(TyperGroup):
    """The built-in commands and the registered ones; listing them loads none of the latter."""

    if TYPE_CHECKING:
        commands: dict[str, Any]

    def list_commands(self, ctx: Any) -> list[str]:
        """Built-in commands in their order, then the registered ones."""
        return [*self.commands, *(name for name in sorted(registered()) if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command to run; a registered one is imported now."""
        built_in = super().get_command(ctx, cmd_name)
        entry = registered().get(cmd_name)
        return load(entry) if built_in is None and entry is not None else built_in

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of commands; what an extension's command does is told by its own ``--help``."""
        rows = [(name, item.get_short_help_str(limit=80)) for name, item in self.commands.items()]
        for name, entry in sorted(registered().items()):
            if name not in self.commands:
                source = entry.dist.name if entry.dist is not None else entry.module
                rows.append((name, f"See probe {name} --help (from {source})."))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
