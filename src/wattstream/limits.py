"""What the system gives: open files, and so connections; and pages of memory."""

import re
import resource
from contextlib import suppress
from pathlib import Path

ENOUGH_FILES = 4096
"""Some thousand clients, and what the engine and PostgreSQL need themselves."""
# Some systems say "unlimited" and then refuse it.
_MOST_FILES = 1 << 20
# The database's connections, partitions of a start, a log, and what libraries open.
_OWN_FILES = 256
_MOST_CONNECTIONS = 10_000
_MEMORY = Path("/proc/meminfo")


def open_files_limit() -> tuple[int, int]:
    """Return how many files may be open now, and up to what `raise_open_files` gets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    most = _MOST_FILES if hard == unlimited else min(hard, _MOST_FILES)
    now = most if soft == unlimited else soft
    return now, max(now, most)


def raise_open_files() -> None:
    """Let this process, and those that it starts, open as many files as the system allows."""
    now, most = open_files_limit()
    if now < most:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections() -> int:
    """Return how many connections of clients a process takes unless a setting says so."""
    now, _ = open_files_limit()
    return min(max(now - _OWN_FILES, now // 2), _MOST_CONNECTIONS)


def huge_pages() -> tuple[int, int] | None:
    """Return how many huge pages are free, and of how many bytes each; None where unknown."""
    try:
        found = dict(re.findall(r"^(\w+): *(\d+)", _MEMORY.read_text(), re.MULTILINE))
        return int(found["HugePages_Free"]), 1024 * int(found["Hugepagesize"])
    except (OSError, KeyError):  # not Linux, or a kernel without them
        return None
