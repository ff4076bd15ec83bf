"""Scripts joined into few: an answer costs the browser and the server more than the bytes in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from flask import Response

# Chromium then compiles the whole script on another thread while it arrives, and not bit by bit while the page waits.
_EAGER = b"//# allFunctionsCalledOnLoad\n"
_MARK = "dash_renderer-"  # Dash insists that a script's address has the renderer's name in it


@dataclass(frozen=True)
class Bundle:
    """A script under an address that changes with its text, so that a browser may keep it."""

    path: str
    text: bytes

    def answer(self) -> Response:
        """The script as an answer."""
        answer = Response(self.text, mimetype="text/javascript")
        answer.cache_control.public = True
        answer.cache_control.immutable = True
        answer.cache_control.max_age = 31536000
        return answer


def join(beside: str, texts: Sequence[bytes]) -> Bundle:
    """Scripts as one, in their order, in the folder of the script at `beside`, where it finds its further parts."""
    text = _EAGER + b"\n;\n".join(texts)
    folder = beside.partition("?")[0].rpartition("/")[0]
    return Bundle(f"{folder}/{_MARK}{sha256(text).hexdigest()[:16]}.js", text)


class Squeezed:
    """Compressed scripts, kept under their keys ``encoding;path``; what has no path in its key is not kept."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        """The compressed script of a key."""
        return self._kept.get(key)

    def set(self, key: str, value: bytes) -> None:
        """Keep a compressed script."""
        if not key.endswith(";"):
            self._kept[key] = value
