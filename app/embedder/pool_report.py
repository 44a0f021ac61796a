"""What the pool says of itself: as `PoolStatus`, and for Prometheus."""

import time
from collections.abc import Iterable

from app.embedder.crew import Crew
from app.embedder.lanes import LANES, lane_of
from app.embedder.pool_metrics import PoolMetrics, counted
from app.embedder.status import PoolStatus, WorkerStatus
from app.embedder.workers import STATES, Slot


def pool_status(metrics: PoolMetrics, crews: Iterable[Crew], default_model: str, quarantined: int) -> PoolStatus:
    """What each worker is doing, and what has become of jobs and workers so far."""
    crews = list(crews)
    workers = tuple(_worker_status(slot) for crew in crews for slot in crew.slots)
    waiting = {lane: sum(crew.lanes.length(lane) for crew in crews) for lane in LANES}
    return PoolStatus(
        default_model,
        workers,
        waiting["ordinary"],
        waiting["background"],
        quarantined,
        restarts=counted(metrics.ends, "cause"),
        jobs=counted(metrics.jobs, "outcome"),
    )


def exposition(metrics: PoolMetrics, crews: Iterable[Crew], quarantined: int) -> bytes:
    """The counters, with the gauges as they are now, in Prometheus' text format."""
    metrics.quarantined.set(quarantined)
    for crew in crews:
        for lane in LANES:
            metrics.queue_length.labels(crew.model, lane).set(crew.lanes.length(lane))
        for slot in crew.slots:
            for state in STATES:
                metrics.state.labels(slot.name, slot.model, state).set(state == slot.state)
            metrics.memory.labels(slot.name).set(slot.process.rss_bytes if slot.process else 0)
    return metrics.exposition()


def _worker_status(slot: Slot) -> WorkerStatus:
    process = slot.process
    return WorkerStatus(
        name=slot.name,
        model=slot.model,
        contract=process.contract if process else None,
        state=slot.state,
        pid=process.pid if process else None,
        problem=slot.problem,
        jobs=process.jobs if process else 0,
        rss_bytes=process.rss_bytes if process else 0,
        lane=lane_of(process.job) if process and process.job else None,
        busy_s=time.monotonic() - process.job_since_s if process and process.job else 0.0,
    )
