"""A cluster's server process: is it there, is it ours, and how to end it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

_PROC = Path("/proc")
# Fast shutdown ends the sessions and writes a checkpoint; the next two leave that to recovery.
_SHUTDOWN = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 15.0), (signal.SIGKILL, 15.0))
_ORPHAN_PATIENCE_S = 10.0

log = structlog.get_logger(__name__)


def end_leftover(cluster: Path) -> None:
    """End a server that a killed engine left on the cluster; the caller holds the lock.

    A pid file whose process is anything else is made harmless; that process is left alone.
    """
    pid = _recorded_pid(cluster)
    if pid is not None:
        if is_server(pid, cluster):
            log.warning(
                "stopping the PostgreSQL server that a killed engine left behind; "
                "nothing committed is lost",
                pid=pid,
                cluster=str(cluster),
            )
            end_server(pid, lambda: is_server(pid, cluster))
        else:
            _disown_pid_file(cluster)
    end_orphans(cluster)


def end_server(pid: int, alive: Callable[[], bool]) -> None:
    """Stop a server: fast shutdown within 60 s, else harder, until it is gone.

    Args:
        pid: The postmaster.
        alive: Whether the process with that pid still is that postmaster.
    """
    for number, patience_s in _SHUTDOWN:
        if not alive():
            return
        if number is not signal.SIGINT:
            log.warning(
                "PostgreSQL does not stop; ending it harder, it will recover at its next start",
                pid=pid,
                signal=signal.Signals(number).name,
            )
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        _wait_while(alive, patience_s)


def end_orphans(cluster: Path) -> None:
    """End server processes that have outlived their postmaster; they end by themselves soon."""
    _wait_while(lambda: bool(_server_processes(cluster)), _ORPHAN_PATIENCE_S)
    for pid in _server_processes(cluster):
        log.warning("ending a PostgreSQL process that outlived its server", pid=pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_server(pid: int, cluster: Path) -> bool:
    """Return whether a live process is a PostgreSQL server process of this cluster.

    Args:
        pid: Any process id.
        cluster: The data directory, without symbolic links.
    """
    if not (_PROC / "self").exists():
        return _listed_as_server(pid, cluster)
    process = _PROC / str(pid)
    try:
        if (process / "comm").read_text().strip() != "postgres":
            return False
        try:
            return os.path.samefile(process / "cwd", cluster)
        except PermissionError:  # root without CAP_SYS_PTRACE, as in containers
            return os.fsencode(cluster) in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _listed_as_server(pid: int, cluster: Path) -> bool:
    """Answer for is_server where there is no /proc: by the command line that launched it."""
    answer = subprocess.run(  # noqa: S603 - a fixed command and a number
        ["ps", "-ww", "-o", "command=", "-p", str(pid)],  # noqa: S607 - ps is not in one place
        capture_output=True,
        text=True,
        check=False,
    )
    return "postgres" in answer.stdout and f"-D {cluster} " in answer.stdout


def _server_processes(cluster: Path) -> list[int]:
    if not (_PROC / "self").exists():
        return []
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return [pid for pid in pids if is_server(pid, cluster)]


def _recorded_pid(cluster: Path) -> int | None:
    try:
        return int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _disown_pid_file(cluster: Path) -> None:
    # PostgreSQL refuses to start while the recorded pid lives, whoever has it by now. It ignores
    # its own parent's, and then still looks for shared memory in use, so we put ours there.
    path = cluster / "postmaster.pid"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+") as file:
        rest = file.read().partition("\n")[2]
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n{rest}")


def _wait_while(condition: Callable[[], bool], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    pause_s = 0.005
    while condition() and time.monotonic() < deadline:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
