"""`/sign-in` and `/sign-out`: an API key becomes a browser's session."""

from typing import Final
from urllib.parse import urlsplit

import structlog
from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.api.access import open_page, page_access
from app.api.browser_session import check_same_origin, forget_cookie
from app.api.problems import problem_of
from app.api.wiring import services
from app.errors import AccessError, InvalidRequest, OriginNotAllowed, Unauthenticated
from app.frontend.navigation import first_page, is_page
from app.frontend.pages import page_blueprint
from app.frontend.texts import translated

log = structlog.stdlib.get_logger("facedex.pages")

bp = page_blueprint("sign_in")

_MAX_KEY: Final = 500
_LOCAL: Final = ("127.0.0.1", "::1", "localhost")


@bp.get("/sign-in")
@open_page()
def show() -> ResponseReturnValue:
    """Ask for a key."""
    return _form()


@bp.post("/sign-in")
@open_page()
def sign_in() -> ResponseReturnValue:
    """Begin a session with the key of the form; or say what is wrong with it.

    No token is asked for: there is no session yet that another site could act with. That another site signs a browser in, with
    a key of its own choice, is kept off by the request's origin, which browsers tell of every form.
    """
    try:
        _check_own_form()
        key = request.form.get("key", "").strip()
        if not 0 < len(key) <= _MAX_KEY:
            raise InvalidRequest(translated("Enter an API key."))
        principal = services().gate.admit(key)
    except Unauthenticated:
        return _form(translated("This key is not known here: it is mistyped, was revoked, or has expired.")), 403
    except (AccessError, InvalidRequest) as error:
        return _form(str(error)), problem_of(error)["status"]
    ends = principal.expires_at.timestamp() if principal.expires_at else None
    log.info("[WEB] Signed in", key=principal.id)
    response = redirect(_next() or first_page() or url_for("sign_in.nothing"), 303)
    services().gate.sessions.set_cookie(request, response, services().gate.sessions.begin(key, ends))
    return response


@bp.post("/sign-out")
@page_access()
def sign_out() -> ResponseReturnValue:
    """End the session, in this browser."""
    log.info("[WEB] Signed out", key=g.client.id)
    response = redirect(url_for("sign_in.show"), 303)
    forget_cookie(request, response)
    response.headers["Clear-Site-Data"] = '"cache"'  # thumbnails are people's faces
    return response


@bp.get("/no-pages")
@page_access()
def nothing() -> ResponseReturnValue:
    """Say to those whose key is for programs only that it is."""
    detail = translated("This key is valid, and none of the pages is for it. Sign in with another one.")
    return render_template("error.html", status=403, title=translated("No page is for this key"), detail=detail), 403


def _form(wrong: str | None = None) -> str:
    insecure = not request.is_secure and urlsplit(request.url).hostname not in _LOCAL
    return render_template("sign_in.html", next_page=_next(), wrong=wrong, insecure=insecure)


def _next() -> str | None:
    """The page that was asked for before; nothing else, wherever it would lead."""
    wanted = request.values.get("next", "")
    return wanted if is_page(wanted) else None


def _check_own_form() -> None:
    """Let the form of this installation's own page pass; a browser that tells nothing of where it comes from is none."""
    if "Origin" not in request.headers and "Sec-Fetch-Site" not in request.headers:
        raise OriginNotAllowed(
            "The request does not say which page it comes from; API clients send the key by themselves."
        )
    check_same_origin(request)
