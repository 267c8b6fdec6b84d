"""How errors look over HTTP, the same at every edge."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from wattstream.domain.errors import (
    ConflictError,
    ForbiddenError,
    MalformedError,
    NotAcceptableError,
    NotFoundError,
    RateLimitedError,
    ReadingError,
    RequestError,
    RetryLaterError,
    TooLargeError,
    UnauthorizedError,
    UnsupportedError,
    WattstreamError,
)

_STATUS: dict[type[WattstreamError], int] = {
    MalformedError: 400,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    NotAcceptableError: 406,
    ConflictError: 409,
    TooLargeError: 413,
    UnsupportedError: 415,
    ReadingError: 422,
    RateLimitedError: 429,
    RetryLaterError: 503,
    RequestError: 400,
}


class Reply(NamedTuple):
    """Status, headers and JSON body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def header_lines(self) -> bytes:
        """Return all headers as HTTP/1.1 has them."""
        lines = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(self.body)
        for name, value in self.headers.items():
            lines += f"{name.lower()}: {value}\r\n".encode()
        return lines

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Return all headers as ASGI has them."""
        return [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in self.headers.items()),
        ]


Answer = Callable[[Reply, bytes], None]
"""Takes the answer to a request and its id, once."""


def error_body(code: str, message: str, field: str | None = None) -> bytes:
    """Return the body of an error, as the contract has it."""
    return msgspec.json.encode({"error": {"code": code, "message": message, "field": field}})


def error_reply(error: WattstreamError) -> Reply:
    """Return the answer for an error."""
    status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)
    if status == 500:
        return internal_error()
    headers = {}
    if isinstance(error, RetryLaterError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = 'Bearer realm="Wattstream"'
    field = error.field if isinstance(error, RequestError) else None
    return Reply(status, headers, error_body(error.code, error.message, field))


def internal_error() -> Reply:
    """Return the answer for a bug: nothing of it reaches the client."""
    message = "The engine failed; its log says why. Send the request again."
    return Reply(500, {}, error_body("internal", message))
