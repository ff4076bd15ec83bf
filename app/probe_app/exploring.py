"""A report of a notebook in the dashboard: saved where needed, served from a thread of this process."""

import os
import tempfile
import threading
from html import escape
from pathlib import Path

from probe.report import Report
from probe_app.address import write
from probe_app.server import create_app
from probe_app.serving import listen


class Explored:
    """A dashboard that runs while the notebook does. `url` opens it; `close` ends it."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._server = listen(create_app([folder], "127.0.0.1"), "127.0.0.1", port)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/" + write({"report": folder.name})

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()

    def __repr__(self) -> str:
        return f"<probe dashboard at {self.url}>"

    def _repr_html_(self) -> str:
        return f'<a href="{escape(self.url)}" target="_blank">probe dashboard</a>'


def explore(report: Report | str | os.PathLike[str], *, port: int = 0) -> Explored:
    """Open a report in the dashboard, on 127.0.0.1.

    Args:
        report: A report, or the folder of a saved one, which also has what exact zooms need.
        port: Where to listen; 0 takes a free one.

    Raises:
        UsageError: the port is taken.
    """
    if isinstance(report, Report):
        folder = Path(tempfile.mkdtemp(prefix="probe-")) / report.provenance.model.name.replace("/", "-")
        report.save(folder)
        return Explored(folder, port)
    return Explored(Path(report).resolve(), port)
