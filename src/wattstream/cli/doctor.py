"""Checks of the machine, each with what to do where it fails."""

import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import typer
from rich.console import Console
from rich.markup import escape

from wattstream.domain.errors import WattstreamError
from wattstream.limits import ENOUGH_FILES, huge_pages, open_files_limit
from wattstream.settings import Settings
from wattstream.store.embedded.binaries import find_binaries
from wattstream.store.embedded.tuning import memory_bytes, shared_memory_bytes
from wattstream.store.postgres.connections import MINIMUM_VERSION, reason_of

_FREE_BYTES = 1 << 30
_CLOCK_TOLERANCE_S = 1.0


class _ProblemError(Exception):
    """A check failed; the message says what to do."""


def doctor(settings: Settings) -> None:
    """Check Python, PostgreSQL, folder, port, limits and clock, and say what to do."""
    console = Console()
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("Python", _python),
        ("PostgreSQL", _postgres),
        ("Data folder", _folder),
        ("Port", _port),
        ("Open files", _open_files),
        ("Huge pages", _huge_pages),
        ("Clock", _clock),
    ]
    failed = 0
    for name, check in checks:
        try:
            mark, words = "[green]✓[/]", check(settings)
        except (_ProblemError, WattstreamError) as problem:
            failed += 1
            mark, words = "[red]✗[/]", str(problem)
        console.print(f"{mark} {name}: {escape(words)}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
    console.print("All is well: `wattstream serve` will start.")


def _python(settings: Settings) -> str:
    return sys.version.split()[0]


def _postgres(settings: Settings) -> str:
    if settings.database_url is None:
        found = find_binaries()
        version = ".".join(map(str, found.version))
        return f"embedded, {version} from {found.origin} ({found.bin_dir})"
    with _connected(settings.database_url) as connection:
        version_number = connection.info.server_version
        is_superuser = connection.info.parameter_status("is_superuser") == "on"
    if version_number < MINIMUM_VERSION:
        raise _ProblemError(
            f"15 or newer is needed, the server is {version_number // 10000}. Upgrade it."
        )
    answer = f"{version_number // 10000}.{version_number % 10000}, by WATTSTREAM_DATABASE_URL"
    advice = "as a superuser, which is more than the engine needs: docs/how-to/own-postgresql.md"
    return f"{answer}, {advice}" if is_superuser else answer


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection]:
    """Connect to the database that the settings name."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise _ProblemError(
            f"WATTSTREAM_DATABASE_URL does not answer: {reason_of(error)}. Start that server, "
            "mend the URL, or unset it to use the embedded one."
        ) from error
    except psycopg.ProgrammingError as error:
        raise _ProblemError(
            "WATTSTREAM_DATABASE_URL cannot be used; write it as "
            "postgresql://user:password@host:5432/database"
        ) from error


def _folder(settings: Settings) -> str:
    folder = settings.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise _ProblemError(f"{existing} is a file. Set WATTSTREAM_DATA_DIR to a folder.")
    probe = existing / f".wattstream-doctor-{time.time_ns()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _ProblemError(
            f"{existing} cannot be written ({error.strerror}). Set WATTSTREAM_DATA_DIR to a "
            "folder of yours."
        ) from error
    free = shutil.disk_usage(existing).free
    if free < _FREE_BYTES:
        raise _ProblemError(
            f"only {free / 1e9:.1f} GB free below {existing}. A day of 20,000 devices takes "
            "about 3 GB: free some, or set WATTSTREAM_DATA_DIR."
        )
    return f"{_short(folder)}, {free / 1e9:.0f} GB free"


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _port(settings: Settings) -> str:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise _ProblemError(
                f"{settings.host}:{settings.port} cannot be had ({error.strerror}). Is an engine "
                "running already? Choose another with WATTSTREAM_PORT."
            ) from error
    return f"{settings.host}:{settings.port} is free"


def _open_files(settings: Settings) -> str:
    now, most = open_files_limit()
    if most < ENOUGH_FILES:
        raise _ProblemError(
            f"this user may open {most:,} at once, and every connection of a client takes one. "
            f"Allow {ENOUGH_FILES:,} or more: LimitNOFILE= in a systemd service, `ulimit -Hn` as "
            "root in the shell that starts it, or nofile in /etc/security/limits.conf."
        )
    return f"{most:,} at once" + (f" ({now:,} until `serve` raises it)" if now < most else "")


def _huge_pages(settings: Settings) -> str:
    """Say how PostgreSQL gets huge pages; it runs without them."""
    found = huge_pages()
    if settings.database_url is not None or found is None:
        return "not looked at: the embedded server on Linux uses them"
    free, page_bytes = found
    wanted = -(-shared_memory_bytes(memory_bytes()) // page_bytes)
    if free >= wanted:
        return f"{free:,} free, enough for PostgreSQL"
    return (
        f"{free:,} free. PostgreSQL runs without; with {wanted:,} it takes batches faster: "
        f"`sysctl vm.nr_hugepages={wanted}` as root, before the start"
    )


def _clock(settings: Settings) -> str:
    """Compare the machine's clock with the database's, or with the newest file of the system."""
    now = datetime.now(UTC)
    if settings.database_url is not None:
        with _connected(settings.database_url) as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None  # noqa: S101 - a SELECT of one value has one row
        off_s = abs((row[0] - datetime.now(UTC)).total_seconds())
        if off_s > _CLOCK_TOLERANCE_S:
            raise _ProblemError(
                f"this machine and the database differ by {off_s:.1f} s. Set both by NTP."
            )
    installed = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    if now < installed:
        raise _ProblemError(
            f"it says {now:%Y-%m-%d %H:%M} UTC, before Wattstream was installed. Set it by NTP."
        )
    return f"{now:%Y-%m-%d %H:%M:%S} UTC"
