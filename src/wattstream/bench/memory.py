"""How much memory a saturated engine and its database take, over time; Linux tells."""

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
