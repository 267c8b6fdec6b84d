"""Requests that a page of another site lets a browser send: they may not change anything.

Source: W3C, Fetch Metadata Request Headers, section 2.3; RFC 6454, section 7.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wattstream.replies import error_body

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class RefuseOtherSites:
    """ASGI middleware; who is no browser sends neither header, and is not held up."""

    def __init__(self, app: ASGIApp, *, allowed: Collection[str] = ()) -> None:
        """Take the application.

        Args:
            app: What answers.
            allowed: Sites that may change things, though never by a cookie; * for all.
        """
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        if (
            scope["type"] == "http"
            and scope["method"] not in _SAFE
            and _is_elsewhere(headers := Headers(scope=scope))
            and not self._is_allowed(headers)
        ):
            text = "a page of another site may not change anything here"
            refused = Response(error_body("cross_site", text), 403, media_type="application/json")
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_allowed(self, headers: Headers) -> bool:
        origin = headers.get("Origin")
        is_named = origin is not None and (origin in self._allowed or "*" in self._allowed)
        return is_named and "Cookie" not in headers


def _is_elsewhere(headers: Headers) -> bool:
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("Host")
