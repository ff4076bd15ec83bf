"""The command line as it was given, for the records of what a run was."""

import shlex
from collections.abc import Sequence
from contextvars import ContextVar

_arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


def remember(arguments: Sequence[str]) -> None:
    """Keep the arguments of the command that starts now."""
    _arguments.set(tuple(arguments))


def typed() -> str:
    """The command, quoted so that a shell reads it back: ``probe ablate --how zero``."""
    return shlex.join(["probe", *_arguments.get()])
