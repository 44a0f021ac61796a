"""Who may call: every request but those for health needs an API key."""

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flask import Flask, Response, current_app, g, make_response, request

from app.api.problems import problem_response
from app.errors import Unauthenticated

# Answered to anybody: a load balancer has no key.
PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
# Read in a browser, which can send a key only as the password of HTTP Basic. Nowhere else: a browser sends remembered
# Basic credentials along with requests that other sites make it send.
BROWSER_PREFIXES = ("/docs", "/openapi.json")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as `g.client`; not set for the public paths.

    Attributes:
        id: whose requests these are: the worker pool serves its clients in turn.
        may_see_vectors: whether its answers may hold embeddings: a face can be drawn anew from one.
    """

    id: str
    may_see_vectors: bool


ADMIN: Final = Principal("admin", may_see_vectors=True)


def create_admin_key(path: Path) -> bool:
    """Write a new random admin key to `path`, mode 600, unless there is one.

    Returns:
        whether a key was made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Linked into place when complete: a crash leaves no empty key, and an existing key is never replaced.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".admin-key-") as stream:  # mode 600
        stream.write(f"fdx_{secrets.token_urlsafe(32)}\n")
        stream.flush()
        os.fsync(stream.fileno())
        try:
            os.link(stream.name, path)
        except FileExistsError:
            return False
    return True


def register_auth(app: Flask, admin_key_file: Path) -> None:
    """Ask every request for a key, and set `g.client` to whose it is.

    The admin key is read from its file each time it has changed.
    """
    admin_key = _AdminKey(admin_key_file)

    @app.before_request
    def _require_key() -> Response | None:
        if request.path in PUBLIC_PATHS:
            return None
        given = _presented_key()
        principal = _principal_of(given, admin_key) if given is not None else None
        if principal is None:
            return _refuse(given)
        g.client = principal
        return None


def _principal_of(given: str, admin_key: "_AdminKey") -> Principal | None:
    """Whose key it is, None where it is nobody's."""
    return ADMIN if admin_key.accepts(given) else None


def _refuse(given: str | None) -> Response:
    detail = "Unknown API key." if given else "Send the API key as 'Authorization: Bearer …' or as 'x-api-key: …'."
    response = problem_response(Unauthenticated(detail))
    if request.path.startswith(BROWSER_PREFIXES):
        response.headers["WWW-Authenticate"] = 'Basic realm="Facedex: the password is the API key"'
    return make_response(response)


def _presented_key() -> str | None:
    authorization = request.authorization
    if authorization is not None and authorization.type == "bearer" and authorization.token:
        return authorization.token
    if key := request.headers.get("x-api-key"):
        return key
    if authorization is not None and authorization.type == "basic" and request.path.startswith(BROWSER_PREFIXES):
        return authorization.password
    return None


class _AdminKey:
    """The key in the file, so that replacing the file replaces the key without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded: tuple[int, bytes] | None = None

    def accepts(self, given: str) -> bool:
        key = self._current()
        return key is not None and secrets.compare_digest(key, given.encode("utf-8", "surrogateescape"))

    def _current(self) -> bytes | None:
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if self._loaded is None or self._loaded[0] != changed_ns:
                self._loaded = (changed_ns, self._path.read_bytes().strip())
        except OSError:
            current_app.logger.error("[API] The admin key file cannot be read: nobody is let in")
            return None
        return self._loaded[1] or None
