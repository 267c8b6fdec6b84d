"""What an answer tells a browser not to do, and which other sites may ask.

Source: Content Security Policy Level 3; RFC 6797 (HSTS); WHATWG Fetch, section 3.2 (CORS).
"""

from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# The page of the API has a script and styles of its own within it; nothing of a client is shown.
_DOCUMENTS = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_YEAR_S = 365 * 86400


class SecurityHeaders:
    """ASGI middleware: an answer's own headers go before these."""

    def __init__(self, app: ASGIApp, *, secure: bool) -> None:
        """Take the application.

        Args:
            app: What answers.
            secure: Whether the engine speaks TLS: browsers then keep to https for a year.
        """
        self._app = app
        self._headers = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        if secure:
            self._headers["Strict-Transport-Security"] = f"max-age={_YEAR_S}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add to the answer."""
        policy = _DOCUMENTS if scope["path"] == "/docs" else _NOTHING

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", policy)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of other sites ask, without cookies; without origins, none may.

    Args:
        app: What answers.
        origins: Such as https://a.example, or * for all.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Encoding",
            "Content-Type",
            "Last-Event-ID",
            "X-Request-ID",
        ],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
