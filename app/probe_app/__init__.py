"""The dashboard: reads reports, draws them, and needs no model to do so."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe_app.exploring import explore
    from probe_app.server import create_app

__all__ = ["create_app", "explore"]

_WHERE = {"create_app": "server", "explore": "exploring"}


def __getattr__(name: str) -> object:
    """Import a name that needs Dash on first use."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"probe_app.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'probe_app' has no attribute {name!r}; it has {', '.join(__all__)}")
