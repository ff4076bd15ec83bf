"""The command line: ``probe analyze``, ``ablate``, ``generate``, ``show`` and others, and commands of other packages.

Nothing heavy is imported here: each command imports what it needs when it runs.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 it failed, 2 the call was wrong, 130 Ctrl-C."""
    from probe.cli.app import command
    from probe.cli.outcome import run

    return run(command(), list(sys.argv[1:] if argv is None else argv))


__all__ = ["main"]
