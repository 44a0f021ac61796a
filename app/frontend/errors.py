"""Errors of pages, in words; who has not signed in, or not any more, is asked to."""

from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, g, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response

from app.api.browser_session import forget_cookie
from app.api.problems import problem_of, problem_response
from app.errors import FacedexError, Unauthenticated

log = structlog.stdlib.get_logger("facedex.pages")


def register_page_errors(app: Flask) -> None:
    """Answer browsers that ask for what is not there at all with a page too; the pages' own errors are their blueprints'."""
    answer = app.error_handler_spec[None][None][HTTPException]

    @app.errorhandler(NotFound)
    def _no_route(error: NotFound) -> Any:
        return on_http_exception(error) if _is_for_a_reader() else answer(error)

    @app.errorhandler(Unauthenticated)
    def _no_route_and_no_key(error: Unauthenticated) -> Any:
        return on_facedex_error(error) if _is_for_a_reader() else problem_response(error)


def on_facedex_error(error: FacedexError) -> Any:
    """A page that says what was wrong; for want of a key the one that asks for it."""
    if isinstance(error, Unauthenticated):
        return _to_sign_in()
    problem = problem_of(error)
    if problem["status"] >= 500:
        log.error(f"[WEB] {error.code}: {error}", exc_info=error)
    return _page(problem["status"], problem["title"], problem["detail"], problem["code"])


def on_http_exception(error: HTTPException) -> Any:
    """The same for what Flask and Werkzeug say."""
    status = error.code or 500
    phrase = HTTPStatus(status).phrase
    return _page(status, phrase, error.description or phrase, phrase.lower().replace(" ", "_"))


def on_exception(error: Exception) -> Any:
    """The same for what nobody expected."""
    log.error("[WEB] Unexpected exception", exc_info=error)
    return _page(500, "Internal error", "An unexpected error; the log has the details.", "internal_error")


def _to_sign_in() -> Response:
    wanted = request.full_path.rstrip("?") if request.method == "GET" else None
    if wanted == "/":
        wanted = None
    response = redirect(url_for("sign_in.show", next=wanted), 303)
    forget_cookie(request, response)
    return response


def _page(status: int, title: str, detail: str, code: str) -> tuple[str, int]:
    g.problem_code = code
    return render_template("error.html", status=status, title=title, detail=detail), status


def _is_for_a_reader() -> bool:
    """Whether somebody typed the address, or followed a link, of what is no route."""
    if request.url_rule is not None or request.method not in ("GET", "HEAD"):
        return False
    accepts = request.accept_mimetypes
    return "text/html" in accepts.values() and accepts["text/html"] >= accepts["application/json"]
