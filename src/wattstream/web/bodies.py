"""How large a body the API reads."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1024**2
"""Settings and links are a few hundred bytes; readings have endpoints and limits of their own."""


class BodyLimit:
    """Ends a request with 413 once its endpoint has read too much.

    FastAPI's own limit answers an endpoint that reads no body after it has done its work, and
    in plain text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(413)
            return message

        await self._app(scope, bounded, send)
