"""The least that a page of Dash, Mantine and Plotly can be: one small map, and a button that asks for a larger one.

    python docs/benchmarks/least_page.py plain|arranged

`plain` is Dash as it comes; `arranged` loads its scripts as the dashboard does.
"""

import sys
from pathlib import Path
from typing import Any

import dash
import dash_ag_grid  # noqa: F401 -- its script is loaded where Dash knows of it
import dash_mantine_components as dmc
import numpy as np
import plotly.graph_objects as go
import probe_app
from dash import Input, Output, dcc, html
from flask_compress import Compress
from probe_app.index import CONTENT, App
from probe_app.serving import listen
from probe_app.tile import CELLS


def _app(kind: str) -> dash.Dash:
    kwargs: dict[str, Any] = {"compress": False, "suppress_callback_exceptions": True}
    if kind == "plain":
        app = dash.Dash("least", assets_folder="none", **kwargs)
        Compress(app.server)
    else:
        assets = Path(str(probe_app.__file__)).parent / "assets"
        app = App("least", assets_folder=str(assets), assets_ignore=r"(plotly|regenerator)-.*", **kwargs)
        Compress(app.server)
        app.server.get(f"{CONTENT}/")(list)  # the page comes with the layout
    small = go.Figure(go.Heatmap(z=[[1, 2], [3, 4]]))
    app.layout = dmc.MantineProvider(
        [html.Button("Draw", id="draw"), dcc.Graph(figure=small), html.Div(id="drawn")]
    )
    values = np.random.default_rng(0).random((CELLS, CELLS), dtype=np.float32)

    @app.callback(Output("drawn", "children"), Input("draw", "n_clicks"), prevent_initial_call=True)
    def _draw(_clicks: int) -> object:
        return dcc.Graph(id="large", figure=go.Figure(go.Heatmap(z=values, customdata=values)))

    if isinstance(app, App):
        app.ready()
    return app


if __name__ == "__main__":
    server = listen(_app(sys.argv[1]), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
