"""Whether the service lives, and whether it can answer."""

from typing import Any

from flask import Blueprint, Response, g, jsonify
from flask.typing import ResponseReturnValue

from app.api.metrics import metrics_response
from app.api.wiring import services
from app.errors import FacedexError, PoolBusy, WorkerTimeout

bp = Blueprint("health", __name__)


@bp.get("/healthz")
def live() -> ResponseReturnValue:
    """Live: this process answers. Says nothing about the others."""
    return {"status": "ok"}


@bp.get("/readyz")
def ready() -> Response:
    """Ready: database, pool and model work. 503 with the reasons otherwise."""
    checks = {"database": _check_database(), "pool": _check_pool(), "model": _check_model()}
    if checks["pool"]["ok"] and checks["model"]["ok"] and (loaded := checks["pool"].get("model")):
        wanted = checks["model"]["name"]
        if loaded != wanted:
            checks["model"] = _bad(f"the pool has {loaded} loaded, {wanted} is chosen: restart the service")
    is_ready = all(check["ok"] for check in checks.values())
    reasons = [f"{name}: {check['problem']}" for name, check in checks.items() if not check["ok"]]
    response = jsonify(
        {
            "status": "ready" if is_ready else "unavailable",
            "checks": checks,
            "reasons": reasons,
            "request_id": g.request_id,
        }
    )
    response.status_code = 200 if is_ready else 503
    if not is_ready:
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
        services().database.check_ready()
    except FacedexError as error:
        return _bad(str(error))
    return {"ok": True}


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
