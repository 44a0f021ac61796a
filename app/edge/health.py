"""How this controller is: one report, told over HTTP and, retained, over MQTT."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal

import structlog

from app.edge.errors import ConfigError
from app.edge.timekeeping import Voucher

log = structlog.stdlib.get_logger("facedex.edge.health")

Status = Literal["ok", "degraded", "failing"]
OFFLINE: Final = json.dumps({"status": "offline"})
"""What the broker tells of a controller that went away without a word."""
# A client that sends nothing is given up.
_CLIENT_TIMEOUT_S: Final = 5


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """`state` as `Camera.state`; `last_frame_at` in Unix seconds."""

    state: str
    last_frame_at: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GalleryHealth:
    """`updated_at`: when the source was last known to agree, in Unix seconds; None: never."""

    members: int
    version: str
    updated_at: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """`circuit` as `Circuit.state`; `by`: who recognised the last picture."""

    mode: str
    by: str
    circuit: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything there is to say at one instant."""

    name: str
    started_at: float
    gallery: GalleryHealth
    gallery_max_age_s: float
    cameras: Mapping[str, CameraHealth]
    broker_connected: bool
    server: ServerHealth
    last_error: tuple[float, str] | None = None
    time_known_by: Voucher | None = None
    time_required: bool = True

    def status(self, now: float) -> Status:
        """`failing`: no door would open, or whoever should have left may still be taken for a member. `degraded`: it works,
        but something that it is meant to have is away.
        """
        age_s = None if self.gallery.updated_at is None else now - self.gallery.updated_at
        states = [camera.state for camera in self.cameras.values()]
        if (
            not self.broker_connected
            or (self.time_required and self.time_known_by is None)
            or age_s is None
            or age_s > self.gallery_max_age_s
            or all(state in ("away", "stopped") for state in states)
            or (self.server.mode == "server" and self.server.circuit != "closed")
        ):
            return "failing"
        if self.server.circuit != "closed" or "away" in states or self.gallery.error is not None:
            return "degraded"
        return "ok"

    def to_json(self, now: float) -> dict[str, Any]:
        """As it is told; ages in seconds, None where there is none."""
        return {
            "status": self.status(now),
            "name": self.name,
            "uptime_s": _age(now, self.started_at),
            "gallery": {
                "members": self.gallery.members,
                "version": self.gallery.version,
                "age_s": _age(now, self.gallery.updated_at),
                "error": self.gallery.error,
            },
            "cameras": {
                name: {
                    "state": camera.state,
                    "last_frame_age_s": _age(now, camera.last_frame_at),
                    "error": camera.error,
                }
                for name, camera in self.cameras.items()
            },
            "broker": {"connected": self.broker_connected},
            "time": {"known_by": self.time_known_by, "required": self.time_required},
            "recognition": {"mode": self.server.mode, "by": self.server.by, "circuit": self.server.circuit},
            "last_error": self.last_error and {"age_s": _age(now, self.last_error[0]), "message": self.last_error[1]},
        }


def _age(now: float, at: float | None) -> float | None:
    return None if at is None else round(max(0.0, now - at), 1)


class HealthServer:
    """Answers `GET /healthz`: 200, and 503 where the status is `failing`.

    Args:
        port: 0 takes a free one.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, report: Callable[[], Report]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _CLIENT_TIMEOUT_S
            server_version = "facedex-edge"
            sys_version = ""

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/healthz":
                    self._answer(404, {"error": "There is only /healthz here."})
                    return
                try:
                    now = time.time()
                    told = report().to_json(now)
                except Exception:  # a health check that fails is an answer too
                    log.exception("The health report failed")
                    told = {"status": "failing"}
                self._answer(503 if told["status"] == "failing" else 200, told)

            def _answer(self, status: int, body: Mapping[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.send_header("cache-control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_args: object) -> None:
                """Nothing: a check every few seconds is no news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise ConfigError(f"health: {host}:{port} cannot be listened on: {error.strerror}.") from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End, and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
