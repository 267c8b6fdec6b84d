"""Answers in one write: uvicorn makes two, and each is a system call and a packet."""

import asyncio
from typing import Any

_HAS_LENGTH = b"\r\ncontent-length: "
# A longer body is not worth a copy.
_MAX_JOINED_BYTES = 65_536


class JoinedWrites(asyncio.Transport):
    """Sends the head of an answer together with its body: one packet, one system call.

    uvicorn writes one after the other. A head that tells how long its body is waits for it, or for
    `flush`: an answer to HEAD has none.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """Write to another transport."""
        super().__init__()
        self._head = b""
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, or keep them where they are a head."""
        head, self._head = self._head, b""
        if head and len(data) <= _MAX_JOINED_BYTES:
            self._transport.write(head + data)
        elif head:
            self._transport.write(head)
            self._transport.write(data)
        elif isinstance(data, bytes) and _HAS_LENGTH in data and data.startswith(b"HTTP/1.1 "):
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Send the head that is kept, if there is one."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Send what is kept, then close."""
        self.flush()
        self._transport.close()

    # ── As the other does ────────────────────────────────────────────────────────────────

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the other knows."""
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Return whether it ends."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Read nothing for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the client has not taken."""
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
