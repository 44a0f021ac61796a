"""The processes of a running service: what each is for, what it holds and what it costs."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Member:
    """One process. `role` is one of supervisor, web arbiter, web, pool, worker, database, other."""

    role: str
    process: psutil.Process

    @property
    def pss_bytes(self) -> int:
        """Its memory; pages shared with others count in part."""
        return int(self.process.memory_full_info().pss)

    @property
    def rss_bytes(self) -> int:
        """Its resident memory."""
        return int(self.process.memory_info().rss)

    @property
    def cpu_s(self) -> float:
        """Processor time so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def members(supervisor_pid: int) -> list[Member]:
    """All processes of a service."""
    top = psutil.Process(supervisor_pid)
    found = [Member("supervisor", top)]
    for part in top.children():
        own, below = _roles(" ".join(part.cmdline()))
        found.append(Member(own, part))
        found += [Member(below, child) for child in part.children(recursive=True)]
    return found


def _roles(command: str) -> tuple[str, str]:
    """Of a part's own process, and of those below it."""
    if "app.embedder.pool" in command:
        return "pool", "worker"
    if "gunicorn" in command:
        return "web arbiter", "web"
    return ("database", "database") if "postgres" in command else ("other", "other")


def cpu_by_role(found: list[Member]) -> dict[str, float]:
    """Processor seconds so far."""
    used: dict[str, float] = {}
    for member in found:
        used[member.role] = used.get(member.role, 0.0) + member.cpu_s
    return used
