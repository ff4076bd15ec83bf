"""Serving the dashboard: a threaded server of our own process, without debug mode."""

import dash
from threadpoolctl import threadpool_limits
from werkzeug.serving import BaseWSGIServer, make_server

from probe.errors import UsageError


def listen(app: dash.Dash, host: str, port: int) -> BaseWSGIServer:
    """A server that listens already; call ``serve_forever()``. Raises `UsageError` where the address is taken.

    Numpy's products are limited to one thread from here on: those who ask get a thread each, and so do parts of a map.
    """
    threadpool_limits(1, user_api="blas")
    try:
        return make_server(host, port, app.server, threaded=True)
    except (OSError, SystemExit) as error:
        raise UsageError(
            f"http://{host}:{port} was asked; it cannot be listened on ({error}): choose another with --port"
        ) from error
