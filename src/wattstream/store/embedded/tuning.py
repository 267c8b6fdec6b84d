"""The embedded server's settings, sized from the machine."""

import os
import shutil
from pathlib import Path

DEFAULT_CONNECTIONS = 60
_MIB = 1024**2
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def server_settings(
    socket_folder: Path,
    wal_compression: str,
    memory_bytes: int,
    cores: int,
    disk_bytes: int,
    *,
    connections: int = DEFAULT_CONNECTIONS,
) -> str:
    """Return the text of the server's settings file.

    Args:
        socket_folder: Where the Unix socket goes.
        wal_compression: lz4, or off.
        memory_bytes: What the engine and the server may use together.
        cores: What they may use together, >= 1.
        disk_bytes: Size of the disk that holds the cluster.
        connections: How many may be open at once.
    """
    memory_mib = memory_bytes // _MIB
    settings = {
        "listen_addresses": "",
        "port": 5432,
        "unix_socket_directories": f'"{socket_folder}"',
        "cluster_name": "wattstream",
        "max_connections": connections,
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "shared_buffers": f"{_shared_buffers_mib(memory_bytes)}MB",
        "effective_cache_size": f"{_between(256, memory_mib // 2, 65536)}MB",
        "maintenance_work_mem": f"{_between(64, memory_mib // 32, 512)}MB",
        "work_mem": f"{_between(4, memory_mib // 512, 64)}MB",
        "huge_pages": "try",
        # Checkpoints cost full-page images of every row that a flush touches: few of them.
        "max_wal_size": f"{_between(1024, disk_bytes // _MIB // 20, 8192)}MB",
        "min_wal_size": f"{_between(256, disk_bytes // _MIB // 100, 1024)}MB",
        "wal_buffers": "64MB",
        "wal_compression": wal_compression,
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": 0.9,
        # Live rows are updated by every flush: small vacuums often, instead of long ones rarely.
        "autovacuum": "on",
        "autovacuum_naptime": "15s",
        "autovacuum_vacuum_scale_factor": 0.1,
        "autovacuum_analyze_scale_factor": 0.05,
        "autovacuum_vacuum_cost_limit": 2000,
        "max_parallel_workers_per_gather": _between(0, cores // 2, 4),
        "max_parallel_workers": cores,
        "max_locks_per_transaction": 256,  # a range of months touches hundreds of day partitions
        "jit": "off",
        "random_page_cost": 1.1,
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_min_messages": "warning",
    }
    lines = ["# Written by Wattstream at each start; use ALTER SYSTEM to change a value for good."]
    lines.append("include 'postgresql.conf'")
    lines += [f"{name} = '{value}'" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def _shared_buffers_mib(memory_bytes: int) -> int:
    return _between(128, memory_bytes // _MIB // 8, 2048)


def shared_memory_bytes(memory_bytes: int) -> int:
    """Return about how much memory the server's processes share, given what it may use."""
    return (_shared_buffers_mib(memory_bytes) * 11 // 10 + 128) * _MIB


def memory_bytes() -> int:
    """Return the machine's memory, or the container's limit where that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        try:
            sizes.append(int(path.read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return min(sizes)


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def disk_bytes(folder: Path) -> int:
    """Return the size of the disk that holds a folder."""
    return shutil.disk_usage(folder).total


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
