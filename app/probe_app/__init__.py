"""The dashboard: reads reports, draws them, and needs no model to do so."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe_app.server import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> object:
    """Import a name that needs Dash on first use."""
    if name == "create_app":
        return importlib.import_module("probe_app.server").create_app
    raise AttributeError(f"module 'probe_app' has no attribute {name!r}; it has {', '.join(__all__)}")
