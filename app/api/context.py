"""What every request carries: its id, its deadline, its line in the log, its metrics."""

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

from app.api.metrics import observe_request
from app.config import Settings
from app.deadline import Deadline
from app.logs import hold_lines, release_lines
from app.tenancy import NOTHING, set_reach

log = structlog.stdlib.get_logger("facedex.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER = "X-Request-ID"


def register_context(app: Flask, settings: Settings) -> None:
    """Give each request an id (the client's, where it sent a sane one) and a deadline, and log it when it is answered."""

    @app.before_request
    def _begin() -> None:
        g.started_s = time.monotonic()
        given = request.headers.get(_HEADER, "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        g.deadline = Deadline.after(settings.request_deadline_s)
        set_reach(NOTHING)  # until it is known who asks: threads serve one request after the other
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)
        hold_lines()

    @app.after_request
    def _end(response: Response) -> Response:
        response.headers[_HEADER] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Cache-Control", "no-store")
        elapsed_s = time.monotonic() - g.started_s
        route = request.url_rule.rule if request.url_rule else "unmatched"
        observe_request(request.method, route, response.status_code, elapsed_s)
        # The route, not the path: paths hold names of persons.
        line = f"{request.method} {route} {response.status_code}"
        values = {
            "request_id": g.request_id,
            "elapsed_ms": round(elapsed_s * 1000, 1),
            "code": g.get("problem_code", ""),
        }

        def tell() -> None:
            log.info(line, **values)
            release_lines()

        if response.is_streamed or response.direct_passthrough:  # may go on for long, or tell nobody of its end
            tell()
        else:  # when the answer has been sent: nobody waits for the log
            response.call_on_close(tell)
        return response
