"""``probe dashboard``: reports in the browser."""

from pathlib import Path
from typing import Annotated

import typer

_Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[DIR]...", help="Reports, or folders that hold reports; without: those of the last runs."
    ),
]
_Host = Annotated[
    str, typer.Option("--host", metavar="H", help="Where to listen; others than 127.0.0.1 let others in.")
]
_Port = Annotated[int, typer.Option("--port", metavar="P", min=0, max=65535, help="0 takes a free one.")]
_Model = Annotated[
    list[Path] | None,
    typer.Option("--model", metavar="DIR", help="A folder of a model that may be run from the page."),
]


def dashboard(
    folders: _Folders = None, host: _Host = "127.0.0.1", port: _Port = 8050, model: _Model = None
) -> None:
    """Show reports in the browser."""
    from threadpoolctl import threadpool_limits

    from probe.cli.view import console
    from probe.storage import home
    from probe_app.library import check_folders
    from probe_app.security import is_loopback
    from probe_app.server import create_app
    from probe_app.serving import listen

    shown = check_folders(folders) if folders else [home() / "runs"]
    threadpool_limits(1, user_api="blas")  # whoever asks has a thread, and so have the parts of a map
    server = listen(create_app(shown, host, check_folders(model or [])), host, port)
    out = console(stderr=True)
    if not is_loopback(host):
        out.print(
            f"warning: {host} can be reached by others; whoever opens this page sees every report in "
            + ", ".join(map(str, shown)),
            style="yellow",
        )
    out.print(f"probe dashboard: http://{host}:{server.server_port}  (Ctrl+C ends it)", soft_wrap=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        out.print("ended")
    finally:
        server.server_close()
