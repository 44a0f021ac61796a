"""Whether the service lives, and whether it can answer."""

from typing import Any, Final

from flask import Response, current_app, g, jsonify
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.metrics import metrics_response
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.recent import Recent
from app.api.schemas import Live, Ready
from app.api.wiring import services
from app.errors import DatabaseDisabled, FacedexError
from app.keys.principal import Scope

_RECENT: Final = "facedex.readiness"

bp = APIBlueprint("health", __name__, abp_tags=[Tag(name="health")])


@bp.get("/healthz", responses={200: Live})
def live() -> ViewReturn:
    """Live: this process answers. Says nothing about the others."""
    return {"status": "ok"}


@bp.get("/readyz", responses={200: Ready, 503: Ready})
def ready() -> Response:
    """Ready: pool and model work, and the database or, where it is away or switched off, a dataset. 503 with the reasons else.

    `degraded` where the database is away, and domains that have a dataset are answered from it: taking such a service out of
    a load balancer would turn a part of the answers missing into all of them.
    """
    checks = _recent_checks()
    failed = {name for name, check in checks.items() if not check["ok"]}
    degraded = failed == {"database"} and checks.get("datasets", {}).get("usable", 0) > 0
    response = jsonify(
        {
            "status": "ready" if not failed else "degraded" if degraded else "unavailable",
            "checks": checks,
            "reasons": [f"{name}: {checks[name]['problem']}" for name in checks if name in failed],
            "request_id": g.request_id,
        }
    )
    if failed and not degraded:
        response.status_code = 503
        response.headers["Retry-After"] = "2"
    return response


@bp.get(
    "/metrics",
    security=SECURITY,
    responses=PROBLEM_RESPONSES | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@access(Scope.ADMIN, installation=True)
def metrics() -> Response:
    """Prometheus metrics of all web processes and, while it runs, of the worker pool."""
    return metrics_response(services().embedder, services().cached, services().jobs)


def _recent_checks() -> dict[str, dict[str, Any]]:
    """Anybody may ask, as often as they like, and none of it may cost others time."""
    recent: Recent[dict[str, dict[str, Any]]] = current_app.extensions.setdefault(_RECENT, Recent())
    return recent.get(_examine)


def _examine() -> dict[str, dict[str, Any]]:
    checks = {"database": _check_database(), "pool": _check_pool(), "model": _check_model()}
    if (datasets := _check_datasets()) is not None:
        checks["datasets"] = datasets
    if checks["pool"]["ok"] and checks["model"]["ok"] and (loaded := checks["pool"].get("model")):
        wanted = checks["model"]["name"]
        if loaded != wanted:
            checks["model"] = _bad(f"the pool has {loaded} loaded, {wanted} is chosen: restart the service")
    return checks


def _bad(problem: str) -> dict[str, Any]:
    return {"ok": False, "problem": problem}


def _check_database() -> dict[str, Any]:
    try:
        services().database.check_ready()
    except DatabaseDisabled:
        return {"ok": True, "disabled": True}
    except FacedexError as error:
        return _bad(str(error))
    return {"ok": True}


def _check_datasets() -> dict[str, Any] | None:
    """How many domains have a dataset, and how many of these can be searched. No names: nobody has to show a key for this."""
    found = services().datasets.report()
    if not found and services().settings.vector_db_enabled:
        return None
    usable = sum(1 for status in found if status.rows)
    counts = {"domains": len(found), "usable": usable, "with_problems": sum(1 for status in found if status.problem)}
    if found and not usable and not services().settings.vector_db_enabled:
        return _bad(f"none of the {len(found)} datasets can be used: `flask doctor` says why") | counts
    return {"ok": True} | counts


def _check_pool() -> dict[str, Any]:
    """What each worker is doing. No process ids: nobody has to show a key for this."""
    try:
        status = services().embedder.status()
    except FacedexError as error:
        return _bad(str(error))
    known = {
        "workers": [
            {"name": worker.name, "model": worker.model, "state": worker.state, "lane": worker.lane}
            for worker in status.workers
        ],
        "queue_length": status.queue_length,
        "background_queue_length": status.background_queue_length,
    }
    if status.problem is not None:
        return _bad(status.problem) | known
    return {"ok": True, "model": status.model, "contract": status.contract} | known


def _check_model() -> dict[str, Any]:
    try:
        pack = services().active_pack()
    except FacedexError as error:
        return _bad(str(error))
    return {"ok": True, "name": pack.manifest.name, "contract": pack.manifest.contract.id}
