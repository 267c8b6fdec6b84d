"""One of several engine processes: `python -m wattstream.worker`, started by `workers`.

Its standard input is a socket pair to the parent. First comes its order, so that no password is
on a command line; then the connections to answer on, a byte each. The end of input means: finish
what is under way and end. It comes by itself where the parent is killed.
"""

import asyncio
import os
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

import structlog
import uvloop
from pydantic import BaseModel

from wattstream.app import certificate_of, running, server_of
from wattstream.domain.errors import WattstreamError
from wattstream.log import configure_logging
from wattstream.server import HttpServer, Stop
from wattstream.settings import Settings
from wattstream.stats import Shared

CONNECTION = b"c"
# What a worker says: that it takes connections; that it was told to end, and wants no more.
READY, LEAVING = b"r", b"l"
_LENGTH_BYTES = 4

_log = structlog.get_logger()


class Order(BaseModel):
    """What a worker needs to know.

    Attributes:
        number: From 0. The first worker makes partitions ahead for all.
        metrics: The folder where the counters of all workers are added up.
        settings: All settings.
        conninfo: The migrated database, password included.
    """

    number: int
    metrics: Path
    settings: Settings
    conninfo: str

    def send(self, channel: socket.socket) -> None:
        """Send it as the first message."""
        data = self.model_dump_json().encode()
        channel.sendall(len(data).to_bytes(_LENGTH_BYTES) + data)

    @classmethod
    def receive(cls, channel: socket.socket) -> "Order | None":
        """Return the first message; None where the parent ended before it."""
        length = int.from_bytes(channel.recv(_LENGTH_BYTES, socket.MSG_WAITALL))
        data = channel.recv(length, socket.MSG_WAITALL)
        return cls.model_validate_json(data) if length and len(data) == length else None


class _Worker:
    def __init__(self, order: Order, channel: socket.socket) -> None:
        self._order = order
        self._channel = channel
        self._stop = Stop()
        self._is_leaving = False
        self._connections: asyncio.Queue[socket.socket | None] = asyncio.Queue()

    async def run(self) -> None:
        self._channel.setblocking(False)
        self._stop.on_signals(self._leave)
        order = self._order
        shared = Shared(order.metrics, order.number)
        async with running(order.settings, order.conninfo, shared) as application:
            server = server_of(order.settings, application, certificate_of(order.settings))
            adopting = asyncio.create_task(self._adopt(server))
            await server.answer([], self._stop, self._begin)
            adopting.cancel()

    def _begin(self) -> None:
        asyncio.get_running_loop().add_reader(self._channel, self._receive)
        self._tell(READY)

    def _leave(self) -> None:
        """On a signal, have the parent end our input: what it handed over is still answered."""
        if self._is_leaving or self._stop.asked.is_set():
            self._stop.ask()
        self._is_leaving = True
        self._tell(LEAVING)

    def _tell(self, message: bytes) -> None:
        with suppress(OSError):  # the parent is gone, and the input at its end
            self._channel.send(message)

    def _receive(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        for descriptor in descriptors:
            self._connections.put_nowait(socket.socket(fileno=descriptor))
        if not message:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._connections.put_nowait(None)

    async def _adopt(self, server: HttpServer) -> None:
        """Take connections one after the other, so that the end follows the last of them."""
        while (connection := await self._connections.get()) is not None:
            connection.setblocking(False)
            try:
                await server.adopt(connection)
            except Exception as error:  # noqa: BLE001 - one connection must not end the others
                _log.warning("A connection was not taken", why=repr(error))
                connection.close()
        self._stop.asked.set()


def main() -> int:
    """Run until the parent says so or ends; return the exit code."""
    parent = os.getppid()
    channel = socket.socket(fileno=sys.stdin.fileno())
    order = Order.receive(channel)
    if order is None:
        return 0
    configure_logging(order.settings.log_format, order.settings.log_level)
    structlog.contextvars.bind_contextvars(worker=order.number)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Worker(order, channel).run())
    except WattstreamError as error:
        _log.error("The worker ends", why=error.message)
        return 1
    finally:
        if os.getppid() != parent:  # it was killed, and cannot clear up
            shutil.rmtree(order.metrics, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
