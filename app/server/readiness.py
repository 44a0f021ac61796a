"""Asks the web whether it is ready."""

import http.client
import json
from dataclasses import dataclass

from app.config import Settings


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` said; `reasons` is empty where it is ready or does not answer yet."""

    ready: bool
    reasons: list[str]


def ask_ready(settings: Settings, *, timeout_s: float = 5.0) -> Readiness:
    """One question to `/readyz`. Never raises: not answering is an answer."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 -- not bound here
    connection = http.client.HTTPConnection(host, settings.port, timeout=timeout_s)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = json.loads(response.read())
        return Readiness(response.status == http.client.OK, list(body.get("reasons", [])))
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        return Readiness(ready=False, reasons=[])
    finally:
        connection.close()
