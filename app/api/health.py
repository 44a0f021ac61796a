"""Whether the service lives, and whether it can answer."""

from typing import Any, Final

from flask import Blueprint, Response, g, jsonify
from flask.typing import ResponseReturnValue

from app.api.metrics import metrics_response
from app.api.wiring import services
from app.errors import DatabaseDisabled, FacedexError, PoolBusy, WorkerTimeout
from app.recognition.patience import within

_DATABASE_PATIENCE_S: Final = 3.0

bp = Blueprint("health", __name__)


@bp.get("/healthz")
def live() -> ResponseReturnValue:
    """Live: this process answers. Says nothing about the others."""
    return {"status": "ok"}


@bp.get("/readyz")
def ready() -> Response:
    """Ready: pool and model work, and the database or, where it is away or switched off, a dataset. 503 with the reasons else.

    `degraded` where the database is away, and domains that have a dataset are answered from it: taking such a service out of
    a load balancer would turn a part of the answers missing into all of them.
    """
    checks = {"database": _check_database(), "pool": _check_pool(), "model": _check_model()}
    if (datasets := _check_datasets()) is not None:
        checks["datasets"] = datasets
    if checks["pool"]["ok"] and checks["model"]["ok"] and (loaded := checks["pool"].get("model")):
        wanted = checks["model"]["name"]
        if loaded != wanted:
            checks["model"] = _bad(f"the pool has {loaded} loaded, {wanted} is chosen: restart the service")
    failed = {name for name, check in checks.items() if not check["ok"]}
    degraded = failed == {"database"} and datasets is not None and datasets["usable"] > 0
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


@bp.get("/metrics")
def metrics() -> Response:
    """Prometheus metrics of all web processes."""
    return metrics_response()


def _bad(problem: str) -> dict[str, Any]:
    return {"ok": False, "problem": problem}


def _check_database() -> dict[str, Any]:
    try:
        within(_DATABASE_PATIENCE_S, services().database.check_ready)
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
    try:
        status = services().embedder.status(timeout_s=2.0)
    except (PoolBusy, WorkerTimeout):
        # It works, it only has no time for the question.
        return {"ok": True, "busy": True}
    except FacedexError as error:
        return _bad(str(error))
    if status.model is None:
        return _bad(status.problem or "no model is loaded")
    return {"ok": True, "model": status.model, "contract": status.contract}


def _check_model() -> dict[str, Any]:
    try:
        pack = services().active_pack()
    except FacedexError as error:
        return _bad(str(error))
    return {"ok": True, "name": pack.manifest.name, "contract": pack.manifest.contract.id}
