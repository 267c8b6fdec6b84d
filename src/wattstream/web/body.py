"""Bodies of requests to the API, which are small: settings, links, acknowledgements."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wattstream.domain.errors import TooLargeError
from wattstream.replies import error_reply
from wattstream.web.errors import response_of

MAX_BODY_BYTES = 1024**2


class LimitBody:
    """ASGI middleware: takes the whole body first, or answers 413."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413, or pass the request on."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        try:
            messages = await _body(receive)
        except TooLargeError as error:
            await response_of(error_reply(error))(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)


async def _body(receive: Receive) -> list[Message]:
    """Return the messages up to the end of the body, or of the connection.

    Raises:
        TooLargeError: It has more bytes than any such request needs.
    """
    messages = []
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"the body must be at most {MAX_BODY_BYTES} bytes, got more")
        messages.append(message)
        more = message.get("more_body", False)
    return messages
