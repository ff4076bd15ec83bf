"""Progress of long work, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from probe.cli.view import clean, console


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error, where that is a terminal; the function takes (done, total, what) from the work."""
    out = console(stderr=True)
    what = TextColumn("{task.description}", markup=False)
    columns = (what, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bars:
        task = bars.add_task("", total=None, visible=False)

        def report(done: int, total: int, what: str) -> None:
            bars.update(task, completed=done, total=total or None, description=clean(what), visible=True)

        yield report
