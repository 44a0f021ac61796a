"""What each route asks of a key, declared beside it; a route without a declaration is refused to everybody."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from flask import Flask
from flask_openapi3.utils import parse_rule

from app.errors import ScopeMissing
from app.keys.principal import Principal, Scope

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE: Final = "facedex_access"

# Answered to anybody: a load balancer has no key.
PUBLIC_PATHS: Final = frozenset({"/healthz", "/readyz"})


@dataclass(frozen=True, slots=True)
class Access:
    """What a key has to have.

    Attributes:
        scopes: any one of them suffices; without any, every key does.
        installation: every domain has to be within its reach.
        by_token: no key is asked for: the view itself checks the token of what the path names. A key that is shown beside it,
            as `x-api-key`, has to be a valid one.
        open: no key is asked for, and none looked at.
        page: read by people in a browser: whoever has not signed in is sent to do so, and errors are pages too.
    """

    scopes: tuple[Scope, ...] = ()
    installation: bool = False
    by_token: bool = False
    open: bool = False
    page: bool = False

    def check(self, principal: Principal) -> None:
        """Let the caller pass, or not; nothing is looked up for it.

        Raises:
            ScopeMissing: the key is not for this; the message says what is.
        """
        if self.scopes and principal.scopes.isdisjoint(self.scopes):
            raise ScopeMissing(f"This needs {self.needs}.")
        if self.installation and not principal.reach.everything:
            raise ScopeMissing(f"This needs {self.needs}.")

    @property
    def needs(self) -> str:
        """In words: 'an API key with the scope enrol'."""
        if self.by_token:
            return "the session's token; an API key may be shown as well, as `x-api-key`"
        scopes = f" with the scope {' or '.join(self.scopes)}" if self.scopes else ""
        return f"an API key{scopes}" + (", for every domain" if self.installation else "")


def access(*scopes: Scope, installation: bool = False) -> Callable[[F], F]:
    """Declare what the route's view asks of a key; stands directly below the line of the route."""
    return _declaring(Access(scopes, installation))


def page_access(*scopes: Scope, installation: bool = False) -> Callable[[F], F]:
    """As `access`, of a route that answers with a page."""
    return _declaring(Access(scopes, installation, page=True))


def open_page() -> Callable[[F], F]:
    """Declare that the route is anybody's: the page that asks for the key, and what it is made of."""
    return _declaring(Access(open=True, page=True))


def token_access() -> Callable[[F], F]:
    """Declare that the route's view checks a token itself; stands directly below the line of the route."""
    return _declaring(Access(by_token=True))


def _declaring(declared: Access) -> Callable[[F], F]:
    def declare(view: F) -> F:
        setattr(view, _ATTRIBUTE, declared)  # flask_openapi3 wraps the view and keeps its attributes
        return view

    return declare


def access_of(app: Flask, endpoint: str | None) -> Access | None:
    """What was declared for an endpoint; None where nothing was."""
    declared: Access | None = getattr(app.view_functions.get(endpoint or ""), _ATTRIBUTE, None)
    return declared


def open_to_every_key(app: Flask, prefixes: tuple[str, ...]) -> None:
    """Declare it for the routes that libraries have made below these paths."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if rule.rule.startswith(prefixes) and not hasattr(view, _ATTRIBUTE):
            app.view_functions[rule.endpoint] = access()(partial(view))  # methods take no attributes


def check_access(app: Flask, endpoint: str | None, principal: Principal) -> None:
    """Let the caller through to the route, or not.

    Raises:
        ScopeMissing: the key is not for it, or nobody has declared what it asks for.
    """
    declared = access_of(app, endpoint)
    if declared is None:
        raise ScopeMissing("This route is open to nobody.")
    declared.check(principal)


def describe_access(app: Flask, paths: dict[str, Any]) -> None:
    """Add to each operation of an OpenAPI document what it asks of a key, for people and for programs."""
    for rule in app.url_map.iter_rules():
        declared = access_of(app, rule.endpoint)
        if declared is None or rule.websocket:  # its twin for plain requests is described
            continue
        for method in rule.methods or ():
            operation = paths.get(parse_rule(rule.rule), {}).get(method.lower())
            if operation is not None:
                operation["x-facedex-scopes"] = [scope.value for scope in declared.scopes]
                operation["x-facedex-installation"] = declared.installation
                if declared.by_token:
                    operation["x-facedex-token"] = True
                told = f"Needs {declared.needs}."
                operation["description"] = "\n\n".join(filter(None, (operation.get("description"), told)))
