"""Style, scripts and pictures of the pages, under addresses that change with them: a browser asks for each once."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from flask import Flask, Response, abort, request, url_for

from app.api.access import open_page

_FOLDER: Final = Path(__file__).resolve().parent / "static"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_FOR_GOOD: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content_type: str
    plain: bytes
    zipped: bytes


@cache
def _files() -> dict[str, _File]:
    """By their names relative to the folder: what is not among them is served to nobody, whatever a path leads to."""
    found = {}
    for path in sorted(_FOLDER.rglob("*")):
        if content_type := _TYPES.get(path.suffix):
            plain = path.read_bytes()
            name = path.relative_to(_FOLDER).as_posix()
            found[name] = _File(content_type, plain, gzip.compress(plain, 9, mtime=0))
    return found


@cache
def _digest() -> str:
    """Of all of them together: scripts import one another by relative names, which then have it too."""
    state = hashlib.sha256()
    for name, file in _files().items():
        state.update(f"{name}\0{len(file.plain)}\0".encode())
        state.update(file.plain)
    return state.hexdigest()[:16]


def static_url(name: str) -> str:
    """The address of a static file.

    Raises:
        KeyError: there is none of that name.
    """
    if name not in _files():
        raise KeyError(name)
    return url_for("static_file", digest=_digest(), name=name)


def register_static_files(app: Flask) -> None:
    """Serve them, to anybody: the page that asks for a key is made of them too."""
    app.jinja_env.globals["static_url"] = static_url
    app.add_url_rule("/static/<digest>/<path:name>", "static_file", static_file, methods=["GET"])


@open_page()
def static_file(digest: str, name: str) -> Response:
    """One file, compressed for whoever takes it so."""
    file = _files().get(name)
    if file is None:
        abort(404)
    zipped = request.accept_encodings["gzip"] > 0 and len(file.zipped) < len(file.plain)
    response = Response(file.zipped if zipped else file.plain, content_type=file.content_type)
    if zipped:
        response.content_encoding = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if digest == _digest():  # else another version's page asks, while the service is replaced
        response.headers["Cache-Control"] = _FOR_GOOD
    return response
