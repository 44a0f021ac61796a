"""How much of the machine the embedded server takes. It shares it with the workers and the web: the shares are modest."""

import os
from pathlib import Path
from typing import Final

from app.config import Settings

_MB: Final = 1024 * 1024
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - where PostgreSQL puts it
# Connections beside the pools: commands, jobs, and somebody with psql.
_SPARE_CONNECTIONS: Final = 20
RESERVED_CONNECTIONS: Final = 3
"""Of each process, beside its pool: keys are looked up over them, so that nobody's requests hold up the others' keys.

As many as the failures that open the circuit breaker: with a server that hangs, they come at once and not one after another.
"""


def memory_bytes() -> int:
    """What this process may use: the machine's memory, or its control group's limit where that is lower."""
    total_kb = next(int(line.split()[1]) for line in _MEMINFO.read_text().splitlines() if line.startswith("MemTotal"))
    limits = [path.read_text().strip() for path in _CGROUP_LIMITS if path.is_file()]
    return min([total_kb * 1024, *(int(limit) for limit in limits if limit.isdecimal())])


def server_settings(settings: Settings) -> dict[str, str]:
    """PostgreSQL's settings for this machine and this installation."""
    memory_mb = memory_bytes() // _MB
    cores = len(os.sched_getaffinity(0))
    maintenance_mb = _between(64, memory_mb // 16, 1024)
    return {
        # One pool per web process; two more for the jobs and for commands that use one.
        "max_connections": str(
            (settings.web_workers + 2) * (settings.db_pool_size + RESERVED_CONNECTIONS) + _SPARE_CONNECTIONS
        ),
        "shared_buffers": f"{_between(128, memory_mb // 8, 4096)}MB",
        "effective_cache_size": f"{max(256, memory_mb // 2)}MB",
        "work_mem": "16MB",
        # An HNSW index is built in it, several times faster than where it does not fit.
        "maintenance_work_mem": f"{maintenance_mb}MB",
        "autovacuum_work_mem": f"{max(64, maintenance_mb // 4)}MB",
        "max_parallel_workers": str(cores),
        "max_parallel_maintenance_workers": str(cores // 2),
        # The cores belong to the worker pool: a search that took several would slow down the others.
        "max_parallel_workers_per_gather": "0",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "15min",
        "random_page_cost": "1.1",
        "dynamic_shared_memory_type": "posix" if _shared_memory_mb() > 2 * maintenance_mb else "sysv",
    }


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def _shared_memory_mb() -> int:
    """Containers often have 64 MB, less than a parallel index build needs."""
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize // _MB
