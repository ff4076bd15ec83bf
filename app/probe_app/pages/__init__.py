"""The pages, in the order in which the menu lists them."""

from probe_app.pages.compare import Compare
from probe_app.pages.head import Head
from probe_app.pages.intervene import Intervene
from probe_app.pages.overview import Overview
from probe_app.pages.page import Desk, Page
from probe_app.pages.run import Run

PAGES: tuple[type[Page], ...] = (Overview, Head, Compare, Intervene, Run)

__all__ = ["PAGES", "Desk", "Page"]
