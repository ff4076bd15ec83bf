"""The page that the browser gets first: what it loads, in how many answers, and when."""

import re
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

import dash
from flask import Response, request
from plotly.offline import get_plotlyjs_version

from probe_app.scripts import Bundle, Squeezed, join

CONTENT = "/_page"  # before the address of a page: what is on it
PLOTLY = "plotly-figures-4.1.1.min.js"  # among the assets; built by app/plotly_bundle
REGENERATOR = "regenerator-runtime-0.14.1.js"  # among the assets; from npm
_SCRIPT = re.compile(r'<script src="([^"]+)"></script>\s*')
_DCC, _MANTINE = "/dcc/dash_core_components.", "/dash_mantine_components/"
_GRAPHS = "async-graph.js"  # the part of Dash's core components that every page with a figure asks for
_LATER = "/dash_ag_grid/"  # the table of heads is drawn after the figures
_UNUSED = "/dash_table/"
_OWN = "/assets/probe.js"
_SUITES = "/_dash-component-suites/dash/"
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
        self._tags = ""  # what stands in the page instead of Dash's script tags
        self._grid = ""
        # Scripts alone are kept compressed: any other answer may be another the next time.
        self.server.config |= {
            "COMPRESS_CACHE_BACKEND": Squeezed,
            "COMPRESS_CACHE_KEY": lambda asked: asked.path if asked.path in self._bundles else "",
        }

    def ready(self) -> None:
        """Join the scripts, once everything is registered, and before anybody asks.

        Where this Dash has other scripts than those that are known here, they stay as they are, and the log says so.
        """
        self.server.before_request(self._bundle)
        with self.server.test_client().get("/") as page:
            tags = page.text
        try:
            self._join(tags)
        except LookupError as error:
            self.server.logger.warning(
                "scripts are not joined, so that pages open later than they could: %s", error
            )

    def interpolate_index(self, **parts: Any) -> str:
        """The page as Dash makes it, with its scripts joined; what they will ask for is asked for meanwhile."""
        if self._bundles:
            told = (f"{CONTENT}{_address()}", "/_dash-layout", "/_dash-dependencies")
            hints = [
                f'<link rel="preload" as="fetch" crossorigin="anonymous" href="{escape(one)}">'
                for one in told
            ]
            grid = f'<meta name="grid-script" content="{self._grid}">'
            parts["metas"] = "\n".join([parts["metas"], grid, *hints])
            parts["scripts"] = self._tags + _SCRIPT.sub("", parts["scripts"])
        return str(super().interpolate_index(**parts))

    def _join(self, page: str) -> None:
        """Make the scripts that are loaded of those that Dash names."""
        found = arranged(page, str(self.get_asset_url(REGENERATOR)))
        plotly = [str(self.get_asset_url(PLOTLY))] if fits(get_plotlyjs_version()) else []
        groups = [found.first, [found.mantine], *([one] for one in plotly)]
        besides = [found.dcc, found.mantine, *plotly]
        made = [
            join(beside, [self._source(one) for one in sources])
            for beside, sources in zip(besides, groups, strict=True)
        ]
        paths = [*(one.path for one in made), *found.others]
        self._tags = "\n".join(f'<script src="{path}"></script>' for path in paths)
        self._grid = found.grid
        self._bundles = {one.path: one for one in made}

    def _source(self, path: str) -> bytes:
        """A script as Dash serves it."""
        with self.server.test_client().get(path) as answer:
            if answer.status_code != 200:
                raise LookupError(f"{path} was asked of Dash for the first page; it answered {answer.status}")
            return bytes(answer.data)

    def _bundle(self) -> Response | None:
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


class Scripts(NamedTuple):
    """The addresses of the scripts of a page."""

    first: list[str]  # of Dash and our own, to be joined
    dcc: str  # the one of those that looks for further parts beside it
    mantine: str
    grid: str
    others: list[str]  # of component libraries that somebody else has imported


def arranged(page: str, regenerator: str) -> Scripts:
    """The scripts that a page of Dash names, sorted; those that nothing here uses are left out.

    `regenerator` is the address of the one part of the polyfill that is in use.

    Raises:
        LookupError: a script is missing that every page needs.
    """
    found = [one for one in _SCRIPT.findall(page) if _UNUSED not in one]
    mantine, grid, dcc = (_only(found, mark) for mark in (_MANTINE, _LATER, _DCC))
    _only(found, _OWN)
    ours = [one for one in found if one.startswith((_SUITES, "/assets/"))]
    first = [regenerator if _POLYFILL in one else one for one in ours]
    first.insert(first.index(dcc) + 1, dcc.rpartition("/")[0] + "/" + _GRAPHS)
    others = [one for one in found if one not in (*ours, mantine, grid)]
    return Scripts(first, dcc, mantine, grid, others)


def _only(addresses: list[str], mark: str) -> str:
    for one in addresses:
        if mark in one:
            return one
    raise LookupError(
        f"a script with {mark!r} in its address was looked for; Dash names {', '.join(addresses)}"
    )
