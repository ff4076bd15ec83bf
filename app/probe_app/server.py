"""The dashboard as a Dash application: one frame, and a page for every address."""

from collections.abc import Sequence
from pathlib import Path

import dash
import dash_mantine_components as dmc
from dash import ClientsideFunction, Input, Output, State, dcc
from flask import Response, request
from flask_compress import Compress
from plotly.io.json import to_json_plotly

from probe.storage import home
from probe_app import frame
from probe_app.address import read
from probe_app.index import CONTENT, App
from probe_app.jobs import Jobs
from probe_app.library import Library
from probe_app.models import Models
from probe_app.pages import PAGES, Desk, Page
from probe_app.pages.page import here
from probe_app.security import protect

ADDRESS, PAGE = "address", "page"


def create_app(folders: Sequence[Path], host: str | None = None, models: Sequence[Path] = ()) -> dash.Dash:
    """The dashboard over the reports in `folders`; serve it with `probe_app.serving.serve`.

    Args:
        folders: Folders that are reports or hold reports. Nothing else is read but what runs started here have made.
        host: The address it will be served at: a loopback one answers to no other name.
        models: Folders of models that may be run, besides known names and hub ids.
    """
    jobs = Jobs(home() / "jobs", home() / "runs")
    desk = Desk(Library(folders, jobs.reports), jobs, Models(models))
    app = App(
        __name__,
        title="probe",
        update_title="",
        suppress_callback_exceptions=True,  # the controls of a page exist once it is shown
        serve_locally=True,
        compress=False,
        assets_ignore=r"(plotly|regenerator)-.*",  # put in its place by `App`
        external_scripts=[],
        external_stylesheets=[],
    )
    Compress(app.server)
    protect(app.server, host)
    pages = {page.path: page for page in (make(desk) for make in PAGES)}
    app.layout = frame.layout(list(pages.values()), ADDRESS, PAGE)
    _show(app, pages)
    frame.connect(app)
    for page in pages.values():
        page.connect(app)
    app.ready()
    return app


def _show(app: dash.Dash, pages: dict[str, Page]) -> None:
    """Pages are got by their address, so that the first one can be asked for before any script has arrived."""

    @app.server.get(f"{CONTENT}/", defaults={"path": ""})
    @app.server.get(f"{CONTENT}/<path:path>")
    def _page(path: str) -> Response:
        page = pages.get(f"/{path.rstrip('/')}")
        search = f"?{request.query_string.decode(errors='replace')}" if request.query_string else ""
        content, full = page.layout(read(search)) if page else (_missing(), "")
        shown = [here(page, search), content] if page else content
        answer = Response(to_json_plotly([shown, full], engine="orjson"), mimetype="application/json")
        answer.cache_control.no_store = True
        return answer

    app.clientside_callback(
        ClientsideFunction("probe", "page"),
        Output(PAGE, "children"),
        Output("born", "data"),
        Input(ADDRESS, "pathname"),
        State(ADDRESS, "search"),
    )


def _missing() -> object:
    return dmc.Alert(
        ["There is no such page. ", dcc.Link("Go to the overview", href="/")],
        title="Not here",
        color="yellow",
        id="missing",
    )
