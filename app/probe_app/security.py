"""What every answer of the server says about itself, and who may ask."""

from flask import Flask, Request, Response, abort, request

# Dash writes its own start-up scripts and styles into the page, so both must be allowed inline; nothing else may load.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'; object-src 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
LARGEST_UPLOAD = 4 * 2**20  # bytes of one request


def protect(server: Flask, host: str | None) -> None:
    """Set headers on every answer, limit what a request may hold, and refuse other names for a loopback server.

    A page of another site that points its own name at 127.0.0.1 would otherwise be let in (DNS rebinding).
    """
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_UPLOAD

    @server.before_request
    def _known_host() -> None:
        if host in (None, *_LOOPBACK) and _name(request) not in _LOOPBACK:
            abort(403)
        # Another site may lead here, and that is all: what it embeds or sends could keep the machine busy.
        followed = request.method == "GET" and request.headers.get("Sec-Fetch-Dest") == "document"
        if request.headers.get("Sec-Fetch-Site") == "cross-site" and not followed:
            abort(403)

    @server.after_request
    def _headers(answer: Response) -> Response:
        for name, value in HEADERS.items():
            answer.headers[name] = value
        return answer


_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from this machine alone."""
    return host in _LOOPBACK


def _name(asked: Request) -> str:
    host = asked.host
    return host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
