"""The page that the browser gets first: which scripts it loads, and when."""

import re
from typing import Any

import dash
from plotly.offline import get_plotlyjs_version

PLOTLY = "plotly-figures-4.1.1.min.js"  # among the assets; built by app/plotly_bundle
REGENERATOR = "regenerator-runtime-0.14.1.js"  # among the assets; from npm
_SCRIPT = re.compile(r'<script src="([^"]+)"></script>\s*')
_LATER = "/dash_ag_grid/"  # the table of heads is drawn after the figures
_UNUSED = "/dash_table/"
_POLYFILL = "/polyfill@"  # for browsers of before 2018; of it, Dash needs the regenerator


class App(dash.Dash):  # type: ignore[misc]  # Dash has no types
    """Dash, with its scripts in the order in which they are needed.

    Of Plotly there is the part that draws maps, points, lines and bars, a quarter of the whole, and it comes along with
    the others; Dash would ask for the whole once the page has arrived. Where the installed plotly is of another major
    version, that is how it stays. The grid is loaded by ``probe.js`` once figures are there.
    """

    def interpolate_index(self, **parts: Any) -> str:
        """The page as Dash makes it, with its scripts rearranged."""
        scripts = arranged(parts["scripts"], str(self.get_asset_url(REGENERATOR)))
        if fits(get_plotlyjs_version()):
            scripts += f'\n<script src="{self.get_asset_url(PLOTLY)}"></script>'
        return str(super().interpolate_index(**{**parts, "scripts": scripts}))


def fits(version: str) -> bool:
    """Whether figures for that version of plotly.js are drawn by the part that is shipped.

    >>> fits("4.0.0"), fits("3.1.0")
    (True, False)
    """
    return PLOTLY.startswith(f"plotly-figures-{version.partition('.')[0]}.")


def arranged(scripts: str, regenerator: str) -> str:
    """Script tags without those that no page uses; the grid's is left as a hint that is fetched when there is time.

    `regenerator` is the address of the one part of the polyfill that is in use.
    """

    def one(tag: re.Match[str]) -> str:
        if _UNUSED in tag[1]:
            return ""
        if _POLYFILL in tag[1]:
            return tag[0].replace(tag[1], regenerator)
        return (
            f'<link rel="prefetch" as="script" id="grid-script" href="{tag[1]}">'
            if _LATER in tag[1]
            else tag[0]
        )

    return _SCRIPT.sub(one, scripts)
