"""The PostgreSQL that comes with Wattstream: set up, started, watched and stopped."""

import os
import secrets
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psycopg
import structlog
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from wattstream.domain.errors import EmbeddedServerError
from wattstream.store.embedded import cluster as folder
from wattstream.store.embedded.account import Account, server_account
from wattstream.store.embedded.binaries import Binaries, find_binaries, reachable_binaries
from wattstream.store.embedded.postmaster import end_leftover, end_orphans, end_server
from wattstream.store.embedded.roles import DATABASE, ENGINE, hand_over, prepare_database
from wattstream.store.embedded.tuning import (
    DEFAULT_CONNECTIONS,
    disk_bytes,
    memory_bytes,
    server_settings,
    usable_cores,
)

_LOG_LIMIT_BYTES = 10 * 1024**2
_LOG_KEPT_BYTES = 1024**2
_REPORT_EVERY_S = 5.0

log = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """One PostgreSQL server on one data folder, locked against other engines.

    The methods block; call them in a thread. They may be called from different threads.

    Args:
        data_dir: The folder of lock, password, log and cluster; made if missing.
        run_as: The system user of the server where the engine is root; else unused.
        binaries: The programs to use; None for those that find_binaries finds.
        connections: How many may be open at once; a number below the default has no effect.
    """

    def __init__(
        self,
        data_dir: Path,
        run_as: str = "nobody",
        binaries: Binaries | None = None,
        connections: int = 0,
    ) -> None:
        self.data_dir = Path(os.path.realpath(data_dir))
        self._run_as = run_as
        self._connections = max(DEFAULT_CONNECTIONS, connections)
        self._chosen = binaries
        self._binaries = binaries
        self._mutex = threading.Lock()
        self._cancelled = threading.Event()
        self._folder_lock: int | None = None
        self._cluster_lock: int | None = None
        self._cluster = self.data_dir / "postgres"
        self._socket_folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._superuser = ""
        self._engine_password: str | None = None

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def version(self) -> tuple[int, int] | None:
        """Major and minor of the programs, such as (18, 6); None before the first start."""
        return self._binaries.version if self._binaries is not None else None

    @property
    def superuser_conninfo(self) -> str:
        """The database as its superuser, password included; empty before the first start."""
        return self._superuser

    @property
    def log_path(self) -> Path:
        """The file of the server's own messages."""
        return self.data_dir / "postgres.log"

    def is_running(self) -> bool:
        """Return whether the server's process lives."""
        return self.pid is not None

    def poll(self) -> int | None:
        """Return the exit code if the server ended by itself, negative for a signal; else None.

        start() may then be called again; the folder stays locked in between.
        """
        process = self._process
        return process.poll() if process is not None else None

    def start(self) -> str:
        """Start the server and return the conninfo of the engine's role, password included.

        It stays the same for as long as this object is used, also where the server starts again.
        Waits as long as PostgreSQL recovers. A server that runs already is left as it is.

        Raises:
            EmbeddedServerError: It cannot start, or stop() was called meanwhile; nothing of it
                is left running.
        """
        with self._mutex:
            if self.is_running():
                return self._engine_conninfo()
            restart = self._folder_lock is not None
            try:
                self._start()
            except BaseException as error:
                self._end_process()
                if not restart:
                    self._release()
                if isinstance(error, OSError):
                    raise EmbeddedServerError(
                        f"cannot use the data folder {self.data_dir}: {error}; make room or give "
                        "access, or choose another folder with WATTSTREAM_DATA_DIR"
                    ) from error
                raise
            return self._engine_conninfo()

    def stop(self) -> None:
        """Stop the server and unlock the folder; a start under way is given up.

        Returns when no process is left. Does nothing where there is nothing to stop.
        """
        self._cancelled.set()
        with self._mutex:
            self._cancelled.clear()
            self._end_process()
            self._release()

    def _start(self) -> None:
        account = server_account(self._run_as)
        folder.prepare_data_dir(self.data_dir, account)
        if self._folder_lock is None:
            self._folder_lock = folder.lock_data_dir(self.data_dir)
        self._cluster = folder.place_cluster(self.data_dir, account)
        folder.clear_unfinished(self._cluster)
        if self._cluster.exists():
            self._claim_cluster()
        self._binaries = reachable_binaries(self._matching_binaries(), account)
        password = folder.load_password(self.data_dir, self._cluster)
        self._socket_folder = folder.socket_folder(self.data_dir, account)
        if not self._cluster.exists():
            folder.create_cluster(
                self._cluster, self._binaries, account, password, self._socket_folder
            )
            self._claim_cluster()
        self._superuser = make_conninfo(
            host=str(self._socket_folder),
            port=5432,
            user=folder.SUPERUSER,
            password=password,
            dbname=DATABASE,
        )
        self._launch(account, self._binaries, self._socket_folder)

    def _claim_cluster(self) -> None:
        if self._cluster_lock is None:
            self._cluster_lock = folder.lock_cluster(self._cluster)
        end_leftover(self._cluster)

    def _matching_binaries(self) -> Binaries:
        major = folder.folder_major(self._cluster)
        found = self._chosen or find_binaries()
        if major in {None, found.version[0]}:
            return found
        if self._chosen is None:
            with suppress(EmbeddedServerError):
                return find_binaries("system", major)
        raise EmbeddedServerError(
            f"{self._cluster} was made by PostgreSQL {major}, but the programs found are of "
            f"version {found.version_text} ({found.bin_dir}) and cannot read it; install "
            f"PostgreSQL {major} on this system, or choose another folder with "
            "WATTSTREAM_DATA_DIR and bring the data over with pg_dump and pg_restore"
        )

    def _launch(self, account: Account, binaries: Binaries, socket_folder: Path) -> None:
        began = time.monotonic()
        postgres = binaries.bin_dir / "postgres"
        config = self._write_config(account, postgres, socket_folder)
        with self._open_log() as output:
            log_start = output.tell()
            self._process = account.launch(
                [postgres, "-D", self._cluster, "-c", f"config_file={config}"], output
            )
        self._wait_until_ready(self._process, log_start)
        self._set_up_database()
        log.info(
            "PostgreSQL is ready",
            version=binaries.version_text,
            origin=binaries.origin,
            pid=self._process.pid,
            data_dir=str(self.data_dir),
            took_s=round(time.monotonic() - began, 2),
        )

    def _write_config(self, account: Account, postgres: Path, socket_folder: Path) -> Path:
        # Only some builds know lz4. pglz made updates after a checkpoint take 80 % longer here,
        # for 22 % less log.
        lz4 = ["-C", "wal_compression", "-c", "wal_compression=lz4"]
        supported = account.run([postgres, "-D", self._cluster, *lz4]).returncode == 0
        text = server_settings(
            socket_folder,
            "lz4" if supported else "off",
            memory_bytes(),
            usable_cores(),
            disk_bytes(self._cluster),
            connections=self._connections,
        )
        path = self._cluster / "wattstream.conf"
        partial = path.with_suffix(".new")
        partial.unlink(missing_ok=True)
        folder.write_new(partial, text, account)
        return partial.replace(path)

    def _open_log(self) -> BinaryIO:
        path = self.log_path
        if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
            with path.open("rb+") as file:
                file.seek(-_LOG_KEPT_BYTES, os.SEEK_END)
                kept = file.read()
                file.seek(0)
                file.write(kept)
                file.truncate()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.fdopen(os.open(path, flags, 0o600), "ab")

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        target = make_conninfo(self._superuser, dbname="postgres", connect_timeout=5).encode()
        began = reported = time.monotonic()
        pause_s = 0.02
        while PGconn.ping(target) != Ping.OK:
            code = process.poll()
            if code is not None:
                raise EmbeddedServerError(
                    f"PostgreSQL ended with code {code} while starting; mend what its log "
                    f"{self.log_path} names:\n{self._log_tail(log_start)}"
                )
            if self._cancelled.wait(pause_s):
                raise EmbeddedServerError("the start of PostgreSQL was given up by a stop")
            pause_s = min(1.5 * pause_s, 1.0)
            now = time.monotonic()
            if now - reported >= _REPORT_EVERY_S:
                reported = now
                log.info(
                    "waiting for PostgreSQL to recover",
                    waited_s=round(now - began),
                    log=str(self.log_path),
                )

    def _log_tail(self, start: int) -> str:
        with self.log_path.open("rb") as file:
            file.seek(max(start, self.log_path.stat().st_size - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-10:])

    def _set_up_database(self) -> None:
        """Make database and role once; what the server kept through its death is left as it is."""
        if self._engine_password is not None:
            return
        password = secrets.token_urlsafe(32)
        try:
            with psycopg.connect(self._superuser, dbname="postgres", autocommit=True) as connection:
                prepare_database(connection, password)
            with psycopg.connect(self._superuser, autocommit=True) as connection:
                handed_over = hand_over(connection)
        except psycopg.Error as error:
            raise EmbeddedServerError(
                f"PostgreSQL runs, but the engine cannot use it: {error}; see {self.log_path}, "
                f"and that {self.data_dir / 'password'} is the one of this database"
            ) from error
        self._engine_password = password
        if handed_over:
            log.info("tables are the engine's role's now", tables=handed_over, role=ENGINE)

    def _engine_conninfo(self) -> str:
        return make_conninfo(self._superuser, user=ENGINE, password=self._engine_password)

    def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        end_server(process.pid, lambda: process.poll() is None)
        end_orphans(self._cluster)
        self._process = None

    def _release(self) -> None:
        if self._socket_folder is not None:
            with suppress(OSError):
                self._socket_folder.rmdir()
            self._socket_folder = None
        for descriptor in (self._cluster_lock, self._folder_lock):
            if descriptor is not None:
                os.close(descriptor)
        self._cluster_lock = self._folder_lock = None
