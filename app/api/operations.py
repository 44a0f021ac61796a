"""`/v1/operations` and `/v1/migrations`: how the service is, for people who look after it. Programs read `/metrics`."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, TypeVar

from flask import current_app, g
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_run
from app.api.metrics import cache_lookups
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.operation_schemas import MigrationList, MigrationsQuery, OperationsOut
from app.api.recent import Recent
from app.api.wiring import services
from app.embedder.status import PoolStatus
from app.enrolment.jobs import QueueReport
from app.errors import DatabaseError, EmbedderError
from app.keys.principal import Scope
from app.version import VERSION

T = TypeVar("T")

_RECENT: Final = "facedex.operations"
_UNTOLD: Final = ("contract", "pid")

bp = APIBlueprint(
    "operations",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="operations")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get("/operations", responses={200: OperationsOut})
@access(Scope.ADMIN, installation=True)
def operations() -> ViewReturn:
    """Say how the worker pool, the cache and the queue of jobs are."""
    recent: Recent[dict[str, Any]] = current_app.extensions.setdefault(_RECENT, Recent())
    return recent.get(_examine) | {"request_id": g.request_id}


@bp.get("/migrations", responses={200: MigrationList})
@access()
def list_migrations(query: MigrationsQuery) -> ViewReturn:
    """List the last migration into each domain, and how far it is."""
    found = services().domains.migrations(limit=query.limit)
    return {"items": [{"domain": domain, "migration": dump_run(run)} for domain, run in found]}


def _examine() -> dict[str, Any]:
    problems: list[str] = []
    pool = _asked(services().embedder.status, _dump_pool, problems)
    queue = _asked(services().jobs.report, _dump_queue, problems)
    return {"version": VERSION, "pool": pool, "cache": _dump_cache(), "queue": queue, "problems": problems}


def _asked(ask: Callable[[], T], dump: Callable[[T], dict[str, Any]], problems: list[str]) -> dict[str, Any] | None:
    """What a part says of itself; None where it does not answer."""
    try:
        return dump(ask())
    except (DatabaseError, EmbedderError) as error:
        problems.append(str(error))
        return None


def _dump_pool(status: PoolStatus) -> dict[str, Any]:
    workers = [
        {name: value for name, value in asdict(worker).items() if name not in _UNTOLD} for worker in status.workers
    ]
    return {
        "model": status.model,
        "problem": status.problem,
        "workers": [worker | {"busy_s": round(worker["busy_s"], 3)} for worker in workers],
        "queue_length": status.queue_length,
        "background_queue_length": status.background_queue_length,
        "quarantined": status.quarantined,
        "jobs": dict(status.jobs),
        "restarts": dict(status.restarts),
    }


def _dump_cache() -> dict[str, Any]:
    lookups = cache_lookups()
    total = sum(lookups.values())
    return {
        "hits": lookups["hit"],
        "misses": lookups["miss"],
        "unavailable": lookups["unavailable"],
        "hit_rate": round(lookups["hit"] / total, 4) if total else None,
    }


def _dump_queue(report: QueueReport) -> dict[str, Any]:
    counts = [{"kind": kind, "state": state, "jobs": count} for (kind, state), count in report.counts.items()]
    return {
        "counts": sorted(counts, key=lambda count: (count["kind"], count["state"])),
        "waiting": sum(count for (_, state), count in report.counts.items() if state == "queued"),
        "oldest_s": round(report.oldest_s, 3),
    }
