"""What a key may do is offered, and nothing else."""

from dataclasses import dataclass
from typing import Final

from flask import Flask, current_app, g, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from app.api.access import access_of
from app.errors import ScopeMissing
from app.frontend.texts import translated
from app.keys.principal import ADMIN, Principal

__all__ = ["first_page", "is_page", "may", "register_navigation"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One page that the navigation leads to; `name` is translated where it is shown."""

    endpoint: str
    name: str


def _(text: str) -> str:
    """Marks texts for `scripts/texts`."""
    return text


_ENTRIES: Final = (
    Entry("recognise.show", _("Recognise")),
    Entry("people.show", _("People")),
    Entry("live.show", _("Live")),
    Entry("domains_page.show", _("Domains")),
    Entry("operations_page.show", _("Operations")),
    Entry("threshold.show", _("Threshold")),
)


def register_navigation(app: Flask) -> None:
    """Give templates `may`, `navigation`, `signed_in` and `theme`."""
    app.jinja_env.globals.update(
        may=may, navigation=navigation, signed_in=signed_in, csrf_token=csrf_token, theme=_theme
    )


def may(endpoint: str) -> bool:
    """Whether whoever has signed in may use a route of the API, or a page: `may("recognize.recognize")`."""
    principal: Principal | None = g.get("client")
    declared = access_of(current_app, endpoint)
    if principal is None or declared is None:
        return False
    try:
        declared.check(principal)
    except ScopeMissing:
        return False
    return True


def navigation() -> list[dict[str, object]]:
    """The pages that are offered, in their order; which of them is shown now."""
    group = (request.endpoint or "").partition(".")[0]
    return [
        {"name": translated(entry.name), "url": url_for(entry.endpoint), "here": entry.endpoint.startswith(f"{group}.")}
        for entry in _ENTRIES
        if may(entry.endpoint)
    ]


def first_page() -> str | None:
    """Where whoever has signed in begins; None where no page is for their key."""
    return next((url_for(entry.endpoint) for entry in _ENTRIES if may(entry.endpoint)), None)


def is_page(path: str) -> bool:
    """Whether a path, maybe with a query, leads to a page of this application that is for those who have signed in."""
    if not path.startswith("/") or path.startswith("//") or "\\" in path or not path.isprintable():
        return False
    try:
        endpoint, _values = current_app.url_map.bind("").match(path.partition("?")[0], "GET")
    except (HTTPException, RequestRedirect):
        return False
    declared = access_of(current_app, endpoint)
    return declared is not None and declared.page and not declared.open


def signed_in() -> str | None:
    """Who has signed in, to be shown: the beginning of the key's id; None where nobody has."""
    principal: Principal | None = g.get("client")
    if principal is None or "browser_session" not in g:
        return None
    return principal.id if principal is ADMIN else principal.id[:8]


def csrf_token() -> str:
    """What this session's pages show with whatever they do; empty where nobody has signed in."""
    return g.browser_session.csrf_token if "browser_session" in g else ""


def _theme() -> str | None:
    """What was chosen with the pages' own button; None follows the system."""
    chosen = request.cookies.get("facedex_theme")
    return chosen if chosen in ("light", "dark") else None
