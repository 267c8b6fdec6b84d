"""How much memory and CPU an engine and its database take; Linux tells."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_S = 1.0
_MIB = 1024**2


class Samples:
    """Memory in MiB, sampled once a second.

    Attributes:
        engine: Resident memory of the engine.
        database: Memory of the server's processes, what they share counted once.
    """

    def __init__(self) -> None:
        self.engine: list[float] = []
        self.database: list[float] = []


@contextmanager
def sampled(engine_pid: int, postmaster_pid: int) -> Iterator[Samples]:
    """Sample the memory of an engine and a PostgreSQL server until left."""
    samples, done = Samples(), threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY_S):
            samples.engine.append(_field(engine_pid, "status", "VmRSS"))
            samples.database.append(
                sum(_field(pid, "smaps_rollup", "Pss") for pid in _family(postmaster_pid))
            )

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def resident_mib(pid: int, *, is_peak: bool = False) -> float:
    """Return the resident memory of a process in MiB, or its highest since `watch_peak`."""
    return _field(pid, "status", "VmHWM" if is_peak else "VmRSS")


def watch_peak(pid: int) -> None:
    """Forget how much memory a process once took.

    Source: Linux, proc_pid_clear_refs(5).
    """
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_s(engine_pid: int, postmaster_pid: int) -> float:
    """Return the seconds of CPU that an engine and a PostgreSQL server have taken so far."""
    ticks = sum(_ticks(engine_pid)[:2]) + sum(_ticks(postmaster_pid))
    ticks += sum(sum(_ticks(pid)[:2]) for pid in _family(postmaster_pid)[1:])
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> list[int]:
    """Return user and system time, then those of children that have ended; 0 where it has."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0, 0, 0, 0]
    return [int(field) for field in fields[11:15]]


def _family(parent: int) -> list[int]:
    pids = [parent]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and _parent(entry) == parent:
                pids.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return pids


def _parent(entry: Path) -> int:
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def _field(pid: int, file: str, name: str) -> float:
    """Return a field of a process in MiB, 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024 / _MIB
    except OSError:
        pass
    return 0.0
