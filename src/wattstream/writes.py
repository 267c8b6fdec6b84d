"""Answers in few writes: uvicorn makes two of each, and each is a system call and a packet."""

import asyncio
from typing import Any

_HAS_LENGTH = b"\r\ncontent-length: "
# A longer body is not worth a copy.
_MAX_JOINED_BYTES = 65_536


class Outbox:
    """Answers that go out together, once the event loop has run what it had to.

    A client of many connections, or a proxy, is woken once for them, not for each.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: list[JoinedWrites] = []

    def add(self, writes: "JoinedWrites") -> None:
        """Send what is kept for a connection with the others."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(writes)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for writes in waiting:
            writes.send()


class JoinedWrites(asyncio.Transport):
    """Sends the head of an answer together with its body, and short answers with others.

    uvicorn writes one after the other. A head that tells how long its body is waits for it, or for
    `flush`: an answer to HEAD has none.
    """

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        """Write to another transport."""
        super().__init__()
        self._head = b""
        self._kept = b""
        self._transport = transport
        self._outbox = outbox

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, or keep them where they are a head or complete a short answer."""
        head, self._head = self._head, b""
        if head and len(data) <= _MAX_JOINED_BYTES:
            self.write_answer(head + data)
        elif isinstance(data, bytes) and _HAS_LENGTH in data and data.startswith(b"HTTP/1.1 "):
            self._head = data
        else:
            self.send()
            if head:
                self._transport.write(head)
            self._transport.write(data)

    def write_answer(self, data: bytes) -> None:
        """Send a whole answer with others."""
        if not self._kept:
            self._outbox.add(self)
        self._kept += data

    def flush(self) -> None:
        """End an answer: a head that waits is all of it."""
        if self._head:
            head, self._head = self._head, b""
            self.write_answer(head)

    def send(self) -> None:
        """Send the answers that are kept, unless the connection has ended."""
        kept, self._kept = self._kept, b""
        if kept and not self._transport.is_closing():
            self._transport.write(kept)

    def close(self) -> None:
        """Send what is kept, then close."""
        self.flush()
        self.send()
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
