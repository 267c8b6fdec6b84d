"""Content encodings, with a bound on what they may grow to."""

import zlib
from collections.abc import Callable

import zstandard

from wattstream.domain.errors import MalformedError, TooLargeError, UnsupportedError

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_MAX_WINDOW_BYTES = 2**27
# Small steps keep a body of very many tiny members from being copied once for each.
_GZIP_STEP_BYTES = 1024
# 4 bytes can stand for 128 KiB, and what a step yields has no bound of its own: it is 1 MiB here.
_ZSTD_STEP_BYTES = 32


def decompress(
    body: bytes, encoding: str, max_bytes: int, give_way: Callable[[], None] = lambda: None
) -> bytes:
    """Return a request body as it was before its Content-Encoding.

    Args:
        body: As it arrived.
        encoding: Value of the header; empty or `identity` for none.
        max_bytes: Largest result, bytes; decompression stops there.
        give_way: Called at every step, so that other threads run.

    Raises:
        UnsupportedError: The encoding is neither gzip nor zstd.
        TooLargeError: The result is larger than allowed.
        MalformedError: The body is not what the header says.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "x-gzip", "zstd"):
        raise UnsupportedError(
            f"Content-Encoding must be gzip or zstd, got {encoding[:40]!r}",
            code="unsupported_encoding",
        )
    try:
        undo = _unzstd if name == "zstd" else _gunzip
        return undo(body, max_bytes, give_way)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise MalformedError(
            f"the body is not {name}, as its Content-Encoding says", code="malformed_encoding"
        ) from error


def _joined(parts: list[bytes], size: int, max_bytes: int) -> bytes:
    """Return the parts as one, unless they are too much: then they are not even copied."""
    if size > max_bytes:
        raise TooLargeError(
            f"the decoded body must be at most {max_bytes} bytes; send smaller batches",
            code="decoded_body_too_large",
        )
    return b"".join(parts)


def _gunzip(body: bytes, max_bytes: int, give_way: Callable[[], None]) -> bytes:
    """Decompress gzip members one after another; stop one byte past the limit."""
    stream = zlib.decompressobj(_GZIP_WINDOW)
    parts: list[bytes] = []
    room = max_bytes + 1
    position = 0
    while position < len(body) and room > 0:
        if stream.eof:
            stream = zlib.decompressobj(_GZIP_WINDOW)
        piece = body[position : position + _GZIP_STEP_BYTES]
        parts.append(stream.decompress(piece, room))
        room -= len(parts[-1])
        position += len(piece) - len(stream.unused_data)
        give_way()
    if body and not stream.eof and room > 0:
        raise EOFError
    return _joined(parts, max_bytes + 1 - room, max_bytes)


def _unzstd(body: bytes, max_bytes: int, give_way: Callable[[], None]) -> bytes:
    """Decompress zstd frames one after another; stop a little past the limit."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    stream = decompressor.decompressobj()
    parts: list[bytes] = []
    size = position = 0
    while position < len(body) and size <= max_bytes:
        if stream.eof:
            stream = decompressor.decompressobj()
        piece = body[position : position + _ZSTD_STEP_BYTES]
        parts.append(stream.decompress(piece))
        size += len(parts[-1])
        position += len(piece) - len(stream.unused_data)
        give_way()
    if not stream.eof and size <= max_bytes:
        raise EOFError
    return _joined(parts, size, max_bytes)
