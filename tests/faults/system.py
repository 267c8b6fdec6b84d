"""What the faults act on: a database in a folder, and engines in front of it as processes."""

import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from faults.proxy import Proxy
from wattstream.settings import PREFIX
from wattstream.store.embedded import EmbeddedPostgres

TOPOLOGIES = ("embedded", "workers", "proxied", "pair")
"""One engine on its own PostgreSQL; two workers; one behind the proxy; that and another one."""
DISK_BYTES = 4 << 30
_HERE = Path(__file__).parent


class Engine:
    """`wattstream serve` on a port that stays its own over restarts."""

    def __init__(self, folder: Path, log: Path, environ: dict[str, str], *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder, self._log, self._environ = folder, log, environ
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and return once it answers."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "wattstream", "serve", *self._arguments],
                cwd=self._folder,
                env=environ | self._environ | {f"{PREFIX}PORT": str(self.port)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: not self.is_running or self.is_well(), "the engine starts")
        if not self.is_running:
            raise AssertionError(f"the engine did not start:\n{self._log.read_text()[-3000:]}")

    def is_well(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/v1/health", timeout=20).is_success
        return False

    def end(self, number: signal.Signals) -> None:
        """Send a signal to its first process only, and wait for the end."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            self._process.wait(timeout=90)


class System:
    """The whole: folder, database, proxy, engines, clock.

    Args:
        folder: Where everything is; PostgreSQL's user can enter it.
        disk: Where `folder` is on a small disk of its own, that disk's folder.
    """

    def __init__(self, folder: Path, disk: Path | None) -> None:
        self.folder, self.disk = folder, disk
        self.data = folder / "data"
        self.log = folder / "engine.log"
        self.engines: list[Engine] = []
        self.topology = ""
        self.proxy: Proxy | None = None
        self.server: EmbeddedPostgres | None = None
        self._engine_conninfo = ""
        self._clock_file = folder / "clock"
        self._clock_file.write_bytes(bytes(8))

    # ── The database ─────────────────────────────────────────────────────────────────────

    @property
    def conninfo(self) -> str:
        """The database as its superuser, past every proxy."""
        return make_conninfo(
            host=str(self.data / "run"),
            user="wattstream",
            password=(self.data / "password").read_text().strip(),
            dbname="wattstream",
        )

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Provide a session that no engine knows."""
        with psycopg.connect(self.conninfo, autocommit=True, application_name="torture") as one:
            yield one

    def postmaster(self) -> int:
        """Return the process id of the database server."""
        return int((self.data / "postgres/postmaster.pid").read_text().split("\n", 1)[0])

    def start_database(self) -> None:
        """Start the server again where no engine does."""
        if self.server is not None:
            self.server.start()

    # ── Engines ──────────────────────────────────────────────────────────────────────────

    def urls(self) -> list[str]:
        """Return where clients may send."""
        return [engine.url for engine in self.engines] or ["http://127.0.0.1:9"]

    def become(self, topology: str) -> None:
        """End what runs and start that way, on the same data."""
        self.stop()
        self.topology = topology
        if topology in {"embedded", "workers"}:
            own = {f"{PREFIX}DATA_DIR": str(self.data)}
            self._add(own, *(["--workers", "2"] if topology == "workers" else []))
        else:
            self.server = EmbeddedPostgres(self.data)
            self._engine_conninfo = self.server.start()
            self.proxy = Proxy(self.folder / "proxy", self.data / "run/.s.PGSQL.5432")
            self._add({f"{PREFIX}DATABASE_URL": self.proxied()})
            if topology == "pair":
                self._add({f"{PREFIX}DATABASE_URL": self._engine_conninfo})

    def proxied(self) -> str:
        """Return the database by way of the proxy."""
        assert self.proxy is not None
        return make_conninfo(self._engine_conninfo, host=str(self.proxy.folder))

    def _add(self, environ: dict[str, str], *arguments: str) -> None:
        path = os.pathsep.join(filter(None, [str(_HERE / "clock"), os.environ.get("PYTHONPATH")]))
        environ |= {
            "PYTHONPATH": path,
            "WATTSTREAM_TEST_CLOCK": str(self._clock_file),
            f"{PREFIX}MAX_FUTURE": "4d",
        }
        engine = Engine(self.folder, self.log, environ, *arguments)
        engine.start()
        self.engines.append(engine)

    def restart(self) -> None:
        """Start every engine that does not run."""
        for engine in self.engines:
            if not engine.is_running:
                engine.start()

    def stop(self) -> None:
        """Stop everything, engines first."""
        for engine in self.engines:
            engine.end(signal.SIGTERM)
        self.engines = []
        if self.proxy is not None:
            self.proxy.close()
            self.proxy = None
        if self.server is not None:
            self.server.stop()
            self.server = None

    def backends(self, like: str) -> list[int]:
        """Return the process ids of the engines' sessions whose name is like that."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s"
        with self.connection() as connection:
            return [pid for (pid,) in connection.execute(query, [like])]

    def move_clock(self, offset_us: int) -> None:
        """Let every engine's clock be that far from the machine's, at once."""
        with (
            self._clock_file.open("r+b") as file,
            mmap.mmap(file.fileno(), 8) as place,
        ):
            place[:8] = offset_us.to_bytes(8, sys.byteorder, signed=True)


@contextmanager
def temporary_system(*, small_disk: bool) -> Iterator[System]:
    """Provide a system in a folder that is removed afterwards, on a disk of its own if asked.

    The small disk is a file of which only what is used takes room. It needs root, and is left
    out where mounting fails.
    """
    base = Path(tempfile.mkdtemp(prefix="wattstream-faults-"))
    base.chmod(0o711)
    folder = base / "system"
    folder.mkdir(mode=0o711)
    folder.chmod(0o711)
    disk = _mount(base, folder) if small_disk and os.geteuid() == 0 else None
    system = System(folder, disk)
    try:
        yield system
    finally:
        system.stop()
        if disk is not None:
            subprocess.run(["umount", folder], check=True)
        shutil.rmtree(base)


def _mount(base: Path, folder: Path) -> Path | None:
    image = base / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    commands = (["mkfs.ext4", "-q", "-m", "0", image], ["mount", "-o", "loop", image, folder])
    for command in commands:
        try:
            done = subprocess.run(command, check=False, capture_output=True)
        except FileNotFoundError:
            return None
        if done.returncode != 0:
            return None
    folder.chmod(0o711)
    return folder


def workers_of(pid: int) -> list[int]:
    """Return the worker processes that a parent started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"wattstream.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


def until(condition: Callable[[], bool], what: str, seconds: float = 90) -> float:
    """Wait for something; return how long it took, seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began
