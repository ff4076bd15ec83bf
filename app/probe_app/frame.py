"""What is round every page: the name, the way to the pages, light and dark."""

from collections.abc import Sequence

import dash
import dash_mantine_components as dmc
from dash import ClientsideFunction, Input, Output, State, dcc, html

from probe_app.pages.page import Page

# The options of a list are put on the page when it opens: hundreds of heads cost more time than the rest of a page.
_LISTED = {"defaultProps": {"comboboxProps": {"keepMounted": False}}}


def layout(pages: Sequence[Page], address: str, page: str) -> object:
    """The frame, with an empty place for a page."""
    links = [
        dmc.NavLink(
            label=one.title, description=one.what, href=one.path, id={"link": one.path}, active="exact"
        )
        for one in pages
    ]
    return dmc.MantineProvider(
        [
            dcc.Location(id=address, refresh="callback-nav"),
            dcc.Store(id="born"),
            dmc.AppShell(
                [
                    dmc.AppShellHeader(_header()),
                    dmc.AppShellNavbar(html.Nav(links, **{"aria-label": "Pages"}), p="xs"),
                    dmc.AppShellMain(html.Main(id=page, tabIndex="-1")),
                ],
                id="shell",
                header={"height": 48},
                navbar={"width": 190, "breakpoint": "sm", "collapsed": {"mobile": True}},
                padding="md",
            ),
        ],
        id="theme",
        defaultColorScheme="auto",
        theme={
            "primaryColor": "indigo",
            "fontFamily": "system-ui, sans-serif",
            "defaultRadius": "sm",
            "components": dict.fromkeys(("Select", "MultiSelect"), _LISTED),
        },
    )


def _header() -> object:
    return dmc.Group(
        [
            dmc.Group(
                [
                    dmc.Burger(id="burger", size="sm", hiddenFrom="sm", **{"aria-label": "Pages"}),
                    dcc.Link("probe", href="/", className="brand"),
                ]
            ),
            dmc.ColorSchemeToggle(
                lightIcon=html.Span("☀", **{"aria-hidden": "true"}),
                darkIcon=html.Span("☾", **{"aria-hidden": "true"}),
                id="toggle",
                variant="default",
                size="lg",
                **{"aria-label": "Light or dark"},
            ),
        ],
        h="100%",
        px="md",
        justify="space-between",
    )


def connect(app: dash.Dash) -> None:
    """The menu on narrow screens, and figures that follow the colours of the page."""
    app.clientside_callback(
        ClientsideFunction("probe", "menu"),
        Output("shell", "navbar"),
        Output("burger", "opened"),
        Input("burger", "opened"),
        Input("address", "pathname"),
        State("shell", "navbar"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("probe", "settle"), Output("born", "modified_timestamp"), Input("born", "data")
    )
