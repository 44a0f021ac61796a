"""Whether the service lives, and whether it can answer."""

import time
from typing import Any, Final

from flask import Response, current_app, g, jsonify
from flask_openapi3 import APIBlueprint, Tag

from app.api.metrics import metrics_response
from app.api.openapi import SECURITY, ViewReturn
from app.api.schemas import Live, Ready
from app.api.wiring import services
from app.errors import FacedexError, PoolBusy, WorkerTimeout

_RECENT: Final = "facedex.readiness"
_RECENT_S: Final = 1.0

bp = APIBlueprint("health", __name__, abp_tags=[Tag(name="health")])


@bp.get("/healthz", responses={200: Live})
def live() -> ViewReturn:
    """Live: this process answers. Says nothing about the others."""
    return {"status": "ok"}


@bp.get("/readyz", responses={200: Ready, 503: Ready})
def ready() -> Response:
    """Ready: database, pool and model work. 503 with the reasons otherwise."""
    checks = _recent_checks()
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


@bp.get("/metrics", security=SECURITY, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
def metrics() -> Response:
    """Prometheus metrics of all web processes."""
    return metrics_response()


def _recent_checks() -> dict[str, dict[str, Any]]:
    """What was found within the last second: anybody may ask, as often as they like, and none of it may cost others time."""
    known = current_app.extensions.get(_RECENT)
    if known is None or time.monotonic() - known[0] > _RECENT_S:
        known = (time.monotonic(), _examine())
        current_app.extensions[_RECENT] = known
    checks: dict[str, dict[str, Any]] = known[1]
    return checks


def _examine() -> dict[str, dict[str, Any]]:
    checks = {"database": _check_database(), "pool": _check_pool(), "model": _check_model()}
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
