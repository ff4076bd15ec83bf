"""Which models the dashboard may run: known names, hub ids, and folders that were named when it was started."""

import re
from collections.abc import Sequence
from pathlib import Path

from probe.errors import UsageError

KNOWN = ("smollm2-135m", "gemma3-270m", "minilm-l6")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Models:
    """What a page may ask to be loaded; a folder is asked for by its name, never by a path."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._folders = {folder.resolve().name: folder.resolve() for folder in folders}

    @property
    def names(self) -> list[str]:
        """What is offered: the folders first, then the known names."""
        return [*self._folders, *KNOWN]

    def checked(self, asked: str | None) -> str:
        """What the worker is to load: a known name, a hub id, or the path of a folder that was offered.

        Raises:
            UsageError: anything else, a path among it.
        """
        name = (asked or "").strip()
        if name in self._folders:
            return str(self._folders[name])
        if name in KNOWN or _HUB.fullmatch(name):
            return name
        raise UsageError(
            f"the model {name!r} was asked; this page runs {', '.join(self.names)} and hub ids (org/name): "
            "name a folder with probe dashboard --model DIR"
        )
