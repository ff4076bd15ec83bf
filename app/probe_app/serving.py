"""Serving the dashboard: a threaded server of our own process, without debug mode."""

import dash
from werkzeug.serving import BaseWSGIServer, make_server

from probe.errors import UsageError


def listen(app: dash.Dash, host: str, port: int) -> BaseWSGIServer:
    """A server that listens already; call ``serve_forever()``. Raises `UsageError` where the address is taken."""
    try:
        return make_server(host, port, app.server, threaded=True)
    except (OSError, SystemExit) as error:
        raise UsageError(
            f"http://{host}:{port} was asked; it cannot be listened on ({error}): choose another with --port"
        ) from error
