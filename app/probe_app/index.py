"""The page that the browser gets first: what it loads, in how many answers, and when."""

import re
from html import escape
from typing import Any
from urllib.parse import quote

import dash
from flask import Response, request
from plotly.offline import get_plotlyjs_version

from probe_app.scripts import Bundle, join

CONTENT = "/_page"  # before the address of a page: what is on it
PLOTLY = "plotly-figures-4.1.1.min.js"  # among the assets; built by app/plotly_bundle
REGENERATOR = "regenerator-runtime-0.14.1.js"  # among the assets; from npm
_SCRIPT = re.compile(r'<script src="([^"]+)"></script>\s*')
_DCC, _MANTINE = "/dcc/dash_core_components.", "/dash_mantine_components/"
_GRAPHS = "async-graph.js"  # the part of Dash's core components that every page with a figure asks for
_LATER = "/dash_ag_grid/"  # the table of heads is drawn after the figures
_UNUSED = "/dash_table/"
_POLYFILL = "/polyfill@"  # for browsers of before 2018; of it, Dash needs the regenerator


class App(dash.Dash):  # type: ignore[misc]  # Dash has no types
    """Dash, with its scripts joined into three, and all that the first page needs asked for at once.

    Of Plotly there is the part that draws maps, points, lines and bars, a quarter of the whole, and it comes along with
    the others; Dash would ask for the whole once the page has arrived. Where the installed plotly is of another major
    version, that is how it stays. The grid is loaded by ``probe.js`` once figures are there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bundles: dict[str, Bundle] = {}
        self._grid = ""

    def interpolate_index(self, **parts: Any) -> str:
        """The page as Dash makes it, with its scripts joined; what they will ask for is asked for meanwhile."""
        if not self._bundles:
            self._join(parts["scripts"])
        told = (f"{CONTENT}{_address()}", "/_dash-layout", "/_dash-dependencies")
        hints = [
            f'<link rel="preload" as="fetch" crossorigin="anonymous" href="{escape(one)}">' for one in told
        ]
        parts["metas"] = "\n".join(
            [parts["metas"], f'<meta name="grid-script" content="{self._grid}">', *hints]
        )
        parts["scripts"] = "\n".join(f'<script src="{path}"></script>' for path in self._bundles)
        return str(super().interpolate_index(**parts))

    def _join(self, tags: str) -> None:
        """Make the scripts that are loaded of those that Dash names."""
        first, mantine, grid = arranged(tags, str(self.get_asset_url(REGENERATOR)))
        plotly = [str(self.get_asset_url(PLOTLY))] if fits(get_plotlyjs_version()) else []
        dcc = next(one for one in first if _DCC in one)
        made = [
            join(beside, [self._source(one) for one in sources])
            for beside, sources in ((dcc, first), (mantine, [mantine]), *((one, [one]) for one in plotly))
        ]
        self._grid = grid
        self._bundles = {one.path: one for one in made}

    def _source(self, path: str) -> bytes:
        """A script as Dash serves it."""
        with self.server.test_client().get(path) as answer:
            if answer.status_code != 200:
                raise RuntimeError(
                    f"{path} was asked of Dash for the first page; it answered {answer.status}"
                )
            return bytes(answer.data)

    def bundle(self) -> Response | None:
        """The joined script of the address that is asked for, if it is one; to be asked before Dash is."""
        found = self._bundles.get(request.path)
        return found.answer() if found else None


def _address() -> str:
    """The address that was asked for, as browsers write it, without a character that means something in a page."""
    query = quote(request.query_string, safe="%&=+/:;,.?@!$()*~|'")
    return quote(request.path) + (f"?{query}" if query else "")


def fits(version: str) -> bool:
    """Whether figures for that version of plotly.js are drawn by the part that is shipped.

    >>> fits("4.0.0"), fits("3.1.0")
    (True, False)
    """
    return PLOTLY.startswith(f"plotly-figures-{version.partition('.')[0]}.")


def arranged(tags: str, regenerator: str) -> tuple[list[str], str, str]:
    """The addresses of Dash's script tags: those that go into the first script, Mantine's, and the grid's.

    Scripts that no page uses are left out. `regenerator` is the address of the one part of the polyfill that is in use.
    """
    found = _SCRIPT.findall(tags)
    first = [
        regenerator if _POLYFILL in one else one
        for one in found
        if not any(other in one for other in (_UNUSED, _LATER, _MANTINE))
    ]
    at = next(n for n, one in enumerate(first) if _DCC in one)
    first.insert(at + 1, first[at].rpartition("/")[0] + "/" + _GRAPHS)
    return first, next(one for one in found if _MANTINE in one), next(one for one in found if _LATER in one)
