"""A key that a browser shows by cookie, and what keeps other sites' pages from acting with it."""

import base64
import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flask import Request
from werkzeug.wrappers import Response

from app.errors import CsrfTokenWrong, OriginNotAllowed
from app.keys.own_secret import OwnSecret, SealedBox
from app.streaming.handshake import is_same_origin

CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf_token"
# A browser takes a cookie of such a name only over https, for this host alone and the whole of it.
_SECURE_PREFIX: Final = "__Host-"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_COOKIE: Final = 2000
_LASTS_S: Final = 12 * 3600


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """What is in the cookie.

    Attributes:
        key: the text of the API key; each request authenticates it anew, so that the session ends with the key.
        csrf_token: pages have it, and send it with what they do.
        ends_at: seconds since 1970.
    """

    key: str
    csrf_token: str
    ends_at: float

    def __repr__(self) -> str:
        return f"BrowserSession(ends_at={self.ends_at})"  # no secrets in tracebacks


class BrowserSessions:
    """Makes and reads the cookies. Nothing is kept of them here: any process of the installation reads what another made.

    Args:
        path: of the secret that they are encrypted with, made with the first of them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._made: SealedBox | None = None

    def begin(self, key: str, key_ends_at: float | None) -> BrowserSession:
        """A new session; never longer than its key.

        Args:
            key_ends_at: seconds since 1970.
        """
        ends_at = min(time.time() + _LASTS_S, key_ends_at or float("inf"))
        return BrowserSession(key, secrets.token_urlsafe(32), ends_at)

    def presented(self, request: Request) -> BrowserSession | None:
        """The session that a request shows; None where it has none, or one that has ended, was changed or is another's."""
        name = _cookie_name(request)
        given = request.cookies.get(name, "")
        if not given or len(given) > _MAX_COOKIE:
            return None
        try:
            content = self._box.open(name, base64.urlsafe_b64decode(given.encode()))
        except ValueError:
            return None
        if content is None:
            return None
        session = BrowserSession(**json.loads(content))
        return session if session.ends_at > time.time() else None

    def set_cookie(self, request: Request, response: Response, session: BrowserSession) -> None:
        """Have the browser keep the session."""
        name = _cookie_name(request)
        content = {"key": session.key, "csrf_token": session.csrf_token, "ends_at": session.ends_at}
        sealed = self._box.seal(name, json.dumps(content).encode())
        _set(request, response, base64.urlsafe_b64encode(sealed).decode(), int(session.ends_at - time.time()))

    @property
    def _box(self) -> SealedBox:
        with self._lock:
            if self._made is None:
                self._made = OwnSecret(self._path, "pages").box("cookie")
            return self._made


def forget_cookie(request: Request, response: Response) -> None:
    """Have the browser forget the session."""
    if _cookie_name(request) in request.cookies:
        _set(request, response, "", 0)


def check_request(request: Request, session: BrowserSession, *, page: bool) -> None:
    """Let what this installation's own pages ask for pass, and links that lead to its pages.

    Args:
        page: whether it is a page that is asked for, which may be linked to from anywhere, and whose forms have the token as
            a field.

    Raises:
        OriginNotAllowed: another site's page has sent the request.
        CsrfTokenWrong: the request may change something, and shows no token, or another session's.
    """
    safe = request.method in _SAFE_METHODS
    if not (safe and page):
        check_same_origin(request)
    if safe:
        return
    given = request.headers.get(CSRF_HEADER) or (request.form.get(CSRF_FIELD) if page else None) or ""
    if not hmac.compare_digest(given.encode(), session.csrf_token.encode()):
        raise CsrfTokenWrong("The request does not show the token of the page that it comes from; load the page anew.")


def check_same_origin(request: Request) -> None:
    """Let pass what a page of this installation sends, as far as the browser tells.

    Browsers say where a request comes from in Sec-Fetch-Site; over plain http only in Origin, which they leave out where the
    method is safe.

    Raises:
        OriginNotAllowed: it comes from elsewhere.
    """
    site = request.headers.get("Sec-Fetch-Site", "")
    same = site in ("same-origin", "none") if site else is_same_origin(request.headers.get("Origin"), request.host)
    if not same:
        raise OriginNotAllowed(
            "Another site's page has sent this request, or a proxy before the service changes `Host`."
        )


def _cookie_name(request: Request) -> str:
    """With the port, if it is not the usual one: browsers keep cookies by host, and another installation may be there too."""
    port = request.host.rpartition(":")[2]
    name = f"facedex-{port}" if port.isascii() and port.isdecimal() else "facedex"
    return _SECURE_PREFIX + name if request.is_secure else name


def _set(request: Request, response: Response, value: str, lasts_s: int) -> None:
    response.set_cookie(
        _cookie_name(request), value, max_age=lasts_s, secure=request.is_secure, httponly=True, samesite="Lax", path="/"
    )
