"""A large JSON array cut into smaller ones, so that other threads run between them.

A decoder in C keeps the interpreter for as long as one call takes. If every piece is an array by
JSON's grammar, then so is the whole, with the elements of all pieces in their order: an array is
elements with commas between them, and a cut takes out one comma. A cut inside a text or a nested
array leaves a piece that is no array; then the caller decodes the whole.
"""

import re
from collections.abc import Iterator

PIECE_BYTES = 64 * 1024
_ARRAY = re.compile(rb"\s*\[")
_RECORDS = re.compile(rb'\s*\{\s*"records"\s*:\s*\[')
_ARRAY_END = re.compile(rb"\]\s*\Z")
_RECORDS_END = re.compile(rb"\]\s*\}\s*\Z")
_MOST_WHITE_SPACE = 64


def pieces(body: bytes, size: int = PIECE_BYTES) -> Iterator[bytes] | None:
    """Return a JSON array, or the one in an object with only `records`, as smaller ones.

    Args:
        body: The JSON.
        size: Of a piece, bytes, about.

    Returns:
        None where the body is small, or neither of the two.
    """
    if len(body) <= 2 * PIECE_BYTES:
        return None
    tail = len(body) - _MOST_WHITE_SPACE
    for begins, ends in ((_ARRAY, _ARRAY_END), (_RECORDS, _RECORDS_END)):
        start, end = begins.match(body, 0, _MOST_WHITE_SPACE), ends.search(body, tail)
        if start is not None and end is not None:
            return _cut(body, start.end(), end.start(), size)
    return None


def _cut(body: bytes, start: int, end: int, size: int) -> Iterator[bytes]:
    while start < end:
        place = body.find(b"},", start + size, min(start + 2 * size, end))
        comma = place + 1 if place >= 0 else body.find(b",", start + size, end)
        stop = end if comma < 0 else comma
        yield b"[" + body[start:stop] + b"]"
        start = stop + 1
