"""Times of one run, and the machine they were measured on."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one way to do it, in milliseconds."""

    name: str
    runs: int
    median_ms: float
    p95_ms: float
    p99_ms: float
    min_ms: float


def time_interleaved(ways: dict[str, Callable[[int], object]], runs: int, *, turn: int = 1) -> list[Timing]:
    """Time each way `runs` times; `way(i)` does the i-th piece of work.

    Taking turns, so that whatever else the machine does in the meantime strikes all of them alike.

    Args:
        turn: how many pieces a way does in a row. More than one where ways have processes of their own: with single pieces,
            each would find the processor's caches full of another one's model, which no service meets.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(0)
    for start in range(0, runs, turn):
        for name, way in ways.items():
            for run in range(start, min(start + turn, runs)):
                started = perf_counter()
                way(run)
                times[name].append((perf_counter() - started) * 1e3)
    return [summary(name, row) for name, row in times.items()]


def summary(name: str, times_ms: list[float]) -> Timing:
    """What is shown of the times of one way."""
    median, p95, p99 = (float(value) for value in np.quantile(times_ms, (0.5, 0.95, 0.99)))
    return Timing(name, len(times_ms), median, p95, p99, min(times_ms))


def machine() -> dict[str, str | int]:
    """What a time depends on."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    """As Linux names it; elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
