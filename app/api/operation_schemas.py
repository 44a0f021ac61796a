"""What operators see of the service, as pydantic models: see `schemas.py`."""

from typing import Literal

from pydantic import BaseModel, Field

from app.api.schemas import Count, Input, MigrationOut


class WorkerOut(BaseModel):
    """One worker of the pool."""

    name: str = Field(description="its place, which a process that takes another's keeps")
    model: str
    state: Literal["loading", "idle", "busy", "failed"]
    lane: Literal["ordinary", "background"] | None = Field(description="of the job that it works on")
    busy_s: float = Field(description="for how long it has been working on it")
    jobs: Count = Field(description="that its process has done")
    rss_bytes: Count = Field(description="its memory after the last of them")
    problem: str | None = Field(description="why its model cannot be loaded")


class PoolOut(BaseModel):
    """The worker pool; counts are since it was started."""

    model: str | None = Field(description="the default model, where a worker has it loaded")
    problem: str | None
    workers: list[WorkerOut]
    queue_length: Count
    background_queue_length: Count
    quarantined: Count
    jobs: dict[str, Count] = Field(description="by outcome: `ok`, or the error's code")
    restarts: dict[str, Count] = Field(description="workers that were replaced, by cause")


class CacheOut(BaseModel):
    """The cache of extracted faces, since the web processes were started."""

    hits: Count
    misses: Count
    unavailable: Count = Field(description="lookups while Redis did not answer")
    hit_rate: float | None = Field(description="null where nothing was looked up")


class QueueCount(BaseModel):
    """Jobs of one kind in one state."""

    kind: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    jobs: Count


class QueueOut(BaseModel):
    """The queue of jobs."""

    counts: list[QueueCount]
    waiting: Count
    oldest_s: float = Field(description="how long the oldest of those that wait has waited")


class OperationsOut(BaseModel):
    """How the service is. A part that does not answer is null, and `problems` says why."""

    version: str
    pool: PoolOut | None
    cache: CacheOut
    queue: QueueOut | None
    problems: list[str]
    request_id: str


class MigrationsQuery(Input):
    """How many."""

    limit: int = Field(50, ge=1, le=500, description="most domains to return")


class DomainMigration(BaseModel):
    """The last migration into a domain."""

    domain: str
    migration: MigrationOut


class MigrationList(BaseModel):
    """Migrations, those that have gone on last first."""

    items: list[DomainMigration]
