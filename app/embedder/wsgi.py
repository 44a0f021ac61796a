"""The pool's WSGI application: `POST /analyze?embed=all|largest|none` and `GET /status`.

It trusts its callers: the socket is open to this installation's own processes only.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import structlog

from app.config import Settings, load_settings
from app.embedder.protocol import DEADLINE_HEADER, EMBED_MODES, REQUEST_ID_HEADER, TIMEOUT_HEADER, dump_analysis
from app.embedder.worker import Worker
from app.errors import FacedexError, ImageError, InvalidRequest, ModelUnavailable, UploadTooLarge, WorkerTimeout

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

log = structlog.stdlib.get_logger("facedex.worker")

_STATUS_LINES: list[tuple[type[FacedexError], str]] = [
    (ImageError, "422 Unprocessable Content"),
    (InvalidRequest, "400 Bad Request"),
    (WorkerTimeout, "504 Gateway Timeout"),
    (ModelUnavailable, "503 Service Unavailable"),
]


def _environ_key(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")


class EmbedderApplication:
    """One per worker process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.worker = Worker(settings)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        with structlog.contextvars.bound_contextvars(request_id=environ.get(_environ_key(REQUEST_ID_HEADER), "")):
            status, body = self._answer(environ)
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, environ: dict[str, Any]) -> tuple[str, bytes]:
        try:
            return "200 OK", self._dispatch(environ)
        except FacedexError as error:
            status = next(
                (line for kind, line in _STATUS_LINES if isinstance(error, kind)), "500 Internal Server Error"
            )
            log.info(f"[WORKER] Refused: {error.code}")
            return status, json.dumps({"code": error.code, "message": str(error)}).encode()
        except Exception:
            log.exception("[WORKER] Job failed")
            message = "The worker failed on this picture; its log says why."
            return "500 Internal Server Error", json.dumps({"code": "embedder_error", "message": message}).encode()

    def _dispatch(self, environ: dict[str, Any]) -> bytes:
        if environ["PATH_INFO"] == "/status":
            return self._status()
        if environ["PATH_INFO"] != "/analyze" or environ["REQUEST_METHOD"] != "POST":
            raise InvalidRequest("Unknown operation of the worker pool.")
        embed = parse_qs(environ["QUERY_STRING"]).get("embed", ["all"])[0]
        if embed not in EMBED_MODES:
            raise InvalidRequest(f"embed must be one of {', '.join(EMBED_MODES)}.")
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length > self._settings.max_upload_bytes:
            raise UploadTooLarge(f"At most {self._settings.max_upload_bytes} bytes are accepted.")
        image = environ["wsgi.input"].read(length)
        self._check_deadline(environ)
        return dump_analysis(self.worker.analyze(image, embed))

    @staticmethod
    def _check_deadline(environ: dict[str, Any]) -> None:
        """Skip work that nobody waits for any more: under overload the queue would otherwise never catch up."""
        deadline = environ.get(_environ_key(DEADLINE_HEADER))
        late = (
            time.monotonic() >= float(deadline)
            if deadline
            else float(environ.get(_environ_key(TIMEOUT_HEADER), 1)) <= 0
        )
        if late:
            raise WorkerTimeout("The request waited in the queue past its deadline.")

    def _status(self) -> bytes:
        self.worker.ensure_loaded()
        engine = self.worker.engine
        return json.dumps(
            {
                "model": engine.pack.manifest.name if engine else None,
                "contract": engine.pack.manifest.contract.id if engine else None,
                "problem": self.worker.problem,
                "pid": os.getpid(),
            }
        ).encode()


application = EmbedderApplication(load_settings())
