"""What a page draws anew: only what the browser does not say it shows already."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import dash

from probe_app.address import read


class Redraw:
    """The parts of a page, each with what it is drawn from.

    The browser sends along what it shows. An answer that it dropped in favour of a later one is not among that, so that
    a part which the later answer leaves out is on the page for certain.
    """

    def __init__(self, shown: object = None) -> None:
        self._shown: Mapping[str, Any] = shown if isinstance(shown, dict) else {}
        self.drawn: dict[str, str] = {}  # what the page shows once the answer has arrived

    def fields(self, search: str | None) -> dict[str, str]:
        """The fields of an address; where it names no report, that of the page is meant and not one that came since."""
        before = self._shown.get("address")
        report = read(before).get("report", "") if isinstance(before, str) else ""
        return {"report": report, **read(search)}

    def part(self, name: str, drawn_from: object, draw: Callable[[], Any]) -> Any:
        """What `draw` gives, or no update where the page shows the part as drawn from the same."""
        self.drawn[name] = json.dumps(drawn_from, default=str)
        return dash.no_update if self._shown.get(name) == self.drawn[name] else draw()

    def parts(
        self, name: str, drawn_from: object, draw: Callable[[], tuple[Any, ...]], count: int
    ) -> tuple[Any, ...]:
        """The same for a part that is several properties of the page."""
        found = self.part(name, drawn_from, draw)
        return (dash.no_update,) * count if found is dash.no_update else found

    def address(self, search: str, which: object = None, own: str = "") -> Any:
        """The address to go to: none where the address itself was what changed, or where it says the same already."""
        self.drawn["address"] = search
        return dash.no_update if which in (None, own) or self._shown.get("address") == search else search
