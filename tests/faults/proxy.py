"""A proxy in front of PostgreSQL that breaks connections at chosen moments.

It reads the frames of the protocol (a type byte and a length), and no more than it needs.
Source: PostgreSQL documentation, "Frontend/Backend Protocol", chapter "Message Formats".
"""

import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

_PIECE_BYTES = 1 << 16


class Proxy:
    """Listens on a Unix socket of its own folder and passes on to the server's.

    Attributes:
        cuts: How many lanes were cut inside a transaction.
        lost: How many answers to a commit were lost.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self.cuts = self.lost = 0
        self._server = server
        self._mutex = threading.Lock()
        self._to_cut = self._to_lose = 0
        self._cut_after_bytes = 0
        self._pairs: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        path = folder / ".s.PGSQL.5432"
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def cut(self, times: int, after_bytes: int) -> None:
        """Cut lanes, so many bytes after they began a transaction or in the one under way."""
        with self._mutex:
            self._to_cut, self._cut_after_bytes = times, after_bytes

    def lose_answers(self, times: int) -> None:
        """Let commits through, and lose the answer with its connection."""
        with self._mutex:
            self._to_lose = times

    @property
    def waits(self) -> bool:
        """Whether something it was told to break is still whole."""
        with self._mutex:
            return self._to_cut + self._to_lose > 0

    def close(self) -> None:
        """Take no more connections; those there are must be about to end."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for pair in self._pairs:
            pair.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server))
            except OSError:
                server.close()
                client.close()
                continue
            pair = threading.Thread(target=_Pair(self, client, server).run, daemon=True)
            pair.start()
            self._pairs.append(pair)

    def takes_cut(self, sent_bytes: int) -> bool:
        """Return whether a lane that has sent so much since its begin is to be cut now."""
        with self._mutex:
            if not self._to_cut or sent_bytes < self._cut_after_bytes:
                return False
            self._to_cut -= 1
            self.cuts += 1
            return True

    def takes_loss(self) -> bool:
        """Return whether the answer to a commit is to be lost now."""
        with self._mutex:
            if not self._to_lose:
                return False
            self._to_lose -= 1
            self.lost += 1
            return True


class _Pair:
    """One connection on both sides."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._is_lane = False
        self._is_open_transaction = False
        self._sent_bytes = 0

    def run(self) -> None:
        """Pass on both ways until either side ends."""
        with self._client, self._server:
            back = threading.Thread(target=self._back)
            back.start()
            self._forward()
            back.join()

    def _forward(self) -> None:
        """Pass on what the engine sends."""
        is_first = True
        with suppress(OSError):
            while data := self._client.recv(_PIECE_BYTES):
                if is_first:
                    self._is_lane = b" lane\0" in data
                    is_first = False
                self._sent_bytes += len(data)
                is_inside = self._is_lane and self._is_open_transaction
                if is_inside and self._proxy.takes_cut(self._sent_bytes):
                    self._server.sendall(data[: len(data) // 2])
                    break
                self._server.sendall(data)
        self._end()

    def _back(self) -> None:
        """Pass on what the server answers, whole messages at a time."""
        held = b""
        has_committed = False
        with suppress(OSError):
            while data := self._server.recv(_PIECE_BYTES):
                held += data
                place = 0
                while len(held) - place >= 5:
                    size = 1 + struct.unpack_from("!i", held, place + 1)[0]
                    if len(held) - place < size:
                        break
                    kind, content = held[place : place + 1], held[place + 5 : place + size]
                    if kind == b"C":
                        # A flush ends with COMMIT, or is one statement that commits by itself.
                        has_committed = content == b"COMMIT\0" or (
                            content == b"SELECT 1\0" and not self._is_open_transaction
                        )
                    if kind == b"Z":
                        if not self._is_open_transaction:
                            self._sent_bytes = 0
                        self._is_open_transaction = content != b"I"
                        is_lost = self._is_lane and has_committed and content == b"I"
                        if is_lost and self._proxy.takes_loss():
                            self._end()
                            return
                        has_committed = False
                    place += size
                self._client.sendall(held[:place])
                held = held[place:]
        self._end()

    def _end(self) -> None:
        for side in (self._client, self._server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
