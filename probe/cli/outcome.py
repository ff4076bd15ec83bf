"""How a command ends: one sentence on standard error, and an exit code."""

import os
import re
import sys
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import typer

from probe.errors import ProbeError

FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130
_USAGE: type[Exception] = typer.BadParameter.__bases__[
    0
]  # typer carries its own copy of click; its errors have no public name
_ALLOCATION = re.compile(r"tried to allocate ([\d.]+ ?\w+)|allocate ([\d.]+ \w+)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@runtime_checkable
class Runnable(Protocol):
    """What typer makes of a command tree."""

    def main(self, args: list[str], prog_name: str, *, standalone_mode: bool) -> Any:
        """Parse the arguments and run."""


def run(command: Runnable, argv: list[str]) -> int:
    """Run a command, say in one sentence what went wrong, and return the exit code.

    Errors that nobody foresaw end with code 1 and a hint; ``PROBE_DEBUG=1`` shows every traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    debug = bool(os.environ.get("PROBE_DEBUG"))
    if not debug:
        sys.excepthook = _unforeseen
    try:
        code = int(command.main(argv, "probe", standalone_mode=False) or 0)
        # typer turns Ctrl-C into this code by itself.
        return _interrupted() if code == INTERRUPTED else code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ProbeError as error:
        if debug:
            raise
        return say(str(error), error.exit_code)
    except _USAGE as error:
        return say(_usage(error), WRONG_CALL)
    except (MemoryError, RuntimeError) as error:
        size = allocation(error)
        if debug or size is None:
            raise
        return say(f"memory ran out{size}; use --max-tokens, --chunk or a smaller --dtype", FAILED)


def _interrupted() -> int:
    return say("interrupted; what was finished before is kept", INTERRUPTED)


def say(sentence: str, code: int) -> int:
    """Print one sentence on standard error and hand back the exit code."""
    line = _CONTROL.sub("", " ".join(sentence.split()))
    sys.stderr.write(f"probe: {line}\n")
    return code


def allocation(error: BaseException) -> str | None:
    """The size that an out-of-memory error names, as ``(asked for 74.5 GiB)``; None for another error."""
    found = _ALLOCATION.search(str(error))
    if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
        return None
    if found is None:
        return "" if isinstance(error, MemoryError) else None
    return f" (asked for {found[1] or found[2]})"


def _usage(error: BaseException) -> str:
    message = str(error.format_message()) if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "probe"
    return f"{message.rstrip('.')}; see {path} --help"


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = str(error).strip().splitlines()
    detail = f": {text[0]}" if text else ""
    say(f"failed unexpectedly ({kind.__name__}{detail}); PROBE_DEBUG=1 shows where", FAILED)
