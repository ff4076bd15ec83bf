"""What a page is: an address, how it looks, and what answers when somebody touches it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import dash
from dash import dcc
from dash.exceptions import PreventUpdate

from probe_app.jobs import Jobs
from probe_app.library import Library
from probe_app.models import Models


@dataclass(frozen=True)
class Desk:
    """What all pages work with: the reports, the jobs, and the models that may be run."""

    library: Library
    jobs: Jobs
    models: Models


class Page:
    """A page of the dashboard; what it shows is told by the fields of its address."""

    path: ClassVar[str]
    name: ClassVar[str]
    title: ClassVar[str]
    what: ClassVar[str]  # a few words below its name

    def __init__(self, desk: Desk) -> None:
        self.library, self.jobs, self.models = desk.library, desk.jobs, desk.models

    def layout(self, fields: Mapping[str, str]) -> tuple[Any, str]:
        """The page for the fields of an address, all of it drawn already; and its address in full."""
        raise NotImplementedError

    def stays(self, path: str | None) -> None:
        """Stop a callback where the address is on its way to another page: what it says is not for this one."""
        if path is not None and (path.rstrip("/") or "/") != self.path:
            raise PreventUpdate

    def connect(self, app: dash.Dash) -> None:
        """Register what answers to its controls."""


def here(page: Page, search: str | None) -> dcc.Location:
    """A page's own view of the address: it comes and goes with the page, so that other pages do not answer to it.

    It is born with what the address says; else the page would first be asked to show nothing in particular.
    """
    return dcc.Location(id=f"{page.name}-address", refresh="callback-nav", search=search or "")
