"""The command line: ``probe analyze``, ``ablate``, ``generate``, ``show`` and others, and commands of other packages.

Nothing heavy is imported here: each command imports what it needs when it runs.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 it failed, 2 the call was wrong, 130 Ctrl-C."""
    from probe.cli.app import command
    from probe.cli.outcome import run
    from probe.cli.typed import remember

    arguments = list(sys.argv[1:] if argv is None else argv)
    remember(arguments)
    return run(command(), arguments)


__all__ = ["main"]
