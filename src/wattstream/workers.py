"""Several engine processes behind one port: started, given connections, watched, stopped.

The parent holds the database and the port. It takes each connection and hands it to the next
worker, through a socket pair. The kernel's own ways, one inherited socket or SO_REUSEPORT, leave
some workers without any of a few connections, for hours where clients keep theirs; a test holds
that ours are spread evenly. Nothing waits at a worker that died or is not up yet. The port is
free as soon as the parent is gone, and the socket pair's end tells the workers so. A connection
costs the parent a little, a request nothing.
"""

import asyncio
import os
import socket
import sys
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from wattstream.app import certificate_of, migrated_database
from wattstream.domain.errors import OperatorError
from wattstream.server import BACKLOG, Stop, accepted, bound_socket, url_of, wait_for
from wattstream.settings import Settings
from wattstream.stats import Shared
from wattstream.worker import CONNECTION, LEAVING, READY, Order

_SHORT_LIFE_S = 10.0
_PAUSE_S = 1.0
_COMMIT_PATIENCE_S = 60.0
_FORCED_ENDS = 20
_FORCED_END_S = 0.5

_log = structlog.get_logger()


async def serve_by_workers(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve by several processes until SIGTERM or SIGINT; a second signal does not wait.

    Args:
        settings: All settings.
        on_ready: Called with the URL once every worker answers.

    Raises:
        OperatorError: The database or the port cannot be had, or a worker does not start.
    """
    stop = Stop()
    stop.on_signals(stop.ask)
    certificate = certificate_of(settings)  # each worker reads its own; here it is only tried
    async with migrated_database(settings) as conninfo:
        with (
            bound_socket(settings.host, settings.port) as listener,
            TemporaryDirectory(
                prefix="wattstream-metrics-", dir=_in_memory(), ignore_cleanup_errors=True
            ) as metrics,
        ):
            url = url_of(settings.host, listener, secure=certificate is not None)
            workers = _Workers(settings, conninfo, Path(metrics))
            await workers.run(listener, stop, lambda: on_ready(url))


def _in_memory() -> Path | None:
    """Return a folder that is no disk, so that counting never waits for one; None for any."""
    folder = Path("/dev/shm")  # noqa: S108 - a folder of a random name is made in it
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


@dataclass(eq=False, slots=True)
class _Worker:
    """A running worker.

    Attributes:
        channel: Our end of the socket pair.
        is_leaving: Whether it was told to end by somebody else.
    """

    process: Process
    channel: socket.socket
    is_leaving: bool = False

    def stop(self) -> None:
        """Let it finish what it was handed, and end."""
        with suppress(OSError):  # it has ended by itself
            self.channel.shutdown(socket.SHUT_WR)


class _Workers:
    def __init__(self, settings: Settings, conninfo: str, metrics: Path) -> None:
        self._orders = [
            Order(number=number, metrics=metrics, settings=settings, conninfo=conninfo)
            for number in range(settings.workers)
        ]
        self._patience_s = settings.shutdown_grace + _COMMIT_PATIENCE_S
        self._running: set[_Worker] = set()
        self._ready: deque[_Worker] = deque()
        self._all_ready = asyncio.Event()
        self._is_stopping = False

    async def run(self, listener: socket.socket, stop: Stop, on_ready: Callable[[], None]) -> None:
        """Keep all workers running until asked to stop; return when none is left."""
        keepers = [asyncio.create_task(self._keep(order)) for order in self._orders]
        starting = asyncio.create_task(self._all_ready.wait())
        await wait_for(stop.asked, starting, *keepers)
        accepting = None
        if self._all_ready.is_set() and not stop.asked.is_set():
            listener.setblocking(False)
            listener.listen(BACKLOG)
            accepting = asyncio.create_task(self._accept(listener))
            on_ready()
            await wait_for(stop.asked, accepting, *keepers)
        starting.cancel()
        if accepting is not None:
            accepting.cancel()
            await asyncio.wait((accepting,))
        listener.close()
        self._is_stopping = True
        for worker in self._running:
            worker.stop()
        forcing = asyncio.create_task(self._force(stop))
        await asyncio.wait(keepers)
        forcing.cancel()
        for keeper in keepers:
            keeper.result()
        if accepting is not None and not accepting.cancelled():
            accepting.result()

    async def _keep(self, order: Order) -> None:
        """Start a worker, and again whenever it ends."""
        while not self._is_stopping:
            began_s = time.monotonic()
            try:
                worker = await self._start(order)
            except OSError as error:
                if not self._all_ready.is_set():
                    raise OperatorError(f"A worker cannot be started: {error.strerror}.") from error
                _log.error("A worker does not start", worker=order.number, why=error.strerror)
            else:
                await self._watch(worker, order)
            if time.monotonic() - began_s < _SHORT_LIFE_S and not self._is_stopping:
                await asyncio.sleep(_PAUSE_S)

    async def _watch(self, worker: _Worker, order: Order) -> None:
        """Wait until a worker ends."""
        code = await worker.process.wait()
        self._retire(worker)
        self._running.remove(worker)
        asyncio.get_running_loop().remove_reader(worker.channel)
        worker.channel.close()
        Shared(order.metrics, order.number).forget_gauges()
        if self._is_stopping:
            return
        if not self._all_ready.is_set():
            raise OperatorError(
                f"Worker {order.number} ended with code {code} before it was ready; "
                "the log above says why."
            )
        log = _log.info if worker.is_leaving and code == 0 else _log.error
        log("A worker ended; starting it again", worker=order.number, exit_code=code)

    async def _start(self, order: Order) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as on_failure:
            on_failure.callback(ours.close)
            # A session of its own: Ctrl-C on the terminal reaches the parent only.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "wattstream.worker",
                stdin=theirs.fileno(),
                start_new_session=True,
            )
            on_failure.pop_all()
        worker = _Worker(process, ours)
        self._running.add(worker)
        with suppress(OSError):
            order.send(ours)
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours, self._hear, worker)
        if self._is_stopping:
            worker.stop()
        return worker

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.channel.recv(1)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message == READY:
            self._ready.append(worker)
            if len(self._ready) == len(self._orders):
                self._all_ready.set()
        elif message == LEAVING:
            worker.is_leaving = True
            self._retire(worker)
            worker.stop()
        else:
            self._retire(worker)
            asyncio.get_running_loop().remove_reader(worker.channel)

    def _retire(self, worker: _Worker) -> None:
        with suppress(ValueError):
            self._ready.remove(worker)

    async def _accept(self, listener: socket.socket) -> None:
        """Hand each connection to the next worker; while none can take it, let all wait."""
        async for connection in accepted(listener):
            with connection:
                while not self._hand_over(connection):  # noqa: ASYNC110 - channels have no event
                    await asyncio.sleep(0.01)

    def _hand_over(self, connection: socket.socket) -> bool:
        for _ in range(len(self._ready)):
            worker = self._ready[0]
            self._ready.rotate(-1)
            # It may have ended a moment ago, or be too busy to empty its channel.
            with suppress(OSError):
                socket.send_fds(worker.channel, [CONNECTION], [connection.fileno()])
                return True
        return False

    async def _force(self, stop: Stop) -> None:
        """On a second signal, or after a long time, end the workers whatever they do."""
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.forced.wait(), self._patience_s)
        if not stop.forced.is_set():
            _log.warning("Workers do not end; ending them harder", waited_s=self._patience_s)
        # A signal counts as the second one after a worker has found its input at the end.
        for act in [Process.terminate] * _FORCED_ENDS + [Process.kill]:
            for worker in self._running:
                with suppress(ProcessLookupError):
                    act(worker.process)
            await asyncio.sleep(_FORCED_END_S)
