"""What a page is: an address, how it looks, and what answers when somebody touches it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import dash
from dash import dcc

from probe_app.jobs import Jobs
from probe_app.library import Library


class Page:
    """A page of the dashboard; what it shows is told by the fields of its address."""

    path: ClassVar[str]
    title: ClassVar[str]
    what: ClassVar[str]  # a few words below its name

    def __init__(self, library: Library, jobs: Jobs) -> None:
        self.library, self.jobs = library, jobs

    def layout(self, fields: Mapping[str, str]) -> Any:
        """The page for the fields of an address, with its controls set to them."""
        raise NotImplementedError

    def connect(self, app: dash.Dash) -> None:
        """Register what answers to its controls."""


def here(page: str) -> dcc.Location:
    """A page's own view of the address: it comes and goes with the page, so that other pages do not answer to it."""
    return dcc.Location(id=f"{page}-address", refresh="callback-nav")
