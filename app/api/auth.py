"""Who may call: every request but those for health needs an API key."""

from flask import Flask, Response, g, make_response, request

from app.api.access import PUBLIC_PATHS, access_of, check_access
from app.api.problems import problem_response
from app.api.throttle import Throttle
from app.errors import Unauthenticated
from app.keys.authentication import Authenticator
from app.keys.keeper import KeyKeeper
from app.keys.principal import Principal
from app.tenancy import set_reach

__all__ = ["BROWSER_PREFIXES", "register_auth", "register_snapshots"]

# Read in a browser, which can send a key only as the password of HTTP Basic. Nowhere else: a browser sends remembered
# Basic credentials along with requests that other sites make it send.
BROWSER_PREFIXES = ("/docs", "/openapi.json")


def register_auth(app: Flask, authenticator: Authenticator, throttle: Throttle) -> None:
    """Ask every request for a key, set `g.client` to whose it is, and let it through where the route is for such keys.

    Where the view checks a token itself, it finds `g.count_open`, to be called before, and `g.count_failure`, for a wrong one.
    """

    @app.before_request
    def _require_key() -> Response | None:
        if request.path in PUBLIC_PATHS:
            return None
        declared = access_of(app, request.endpoint) if request.url_rule is not None else None
        if declared is not None and declared.by_token:
            g.count_failure, g.count_open = throttle.count_failure, throttle.count_open
            given = request.headers.get("x-api-key")  # what is a Bearer token elsewhere is the path's own token there
            if given is None:
                return None
        else:
            given = _presented_key()
        principal = _principal(given, authenticator, throttle)
        if principal is None:
            throttle.count_failure()
            return _refuse(given)
        g.client = principal
        set_reach(principal.reach)
        throttle.admit(principal)
        if request.url_rule is not None:  # what is no route at all is answered 404 or 405 to every key
            check_access(app, request.endpoint, principal)
        return None


def register_snapshots(app: Flask, keeper: KeyKeeper) -> None:
    """Keep the snapshot of the keys young: after an answer has been sent, so that nobody waits for it."""

    @app.after_request
    def _keep_young(response: Response) -> Response:
        if not response.direct_passthrough:  # such answers tell nobody that they have been sent
            response.call_on_close(keeper.refresh_when_due)
        return response


def _principal(given: str | None, authenticator: Authenticator, throttle: Throttle) -> Principal | None:
    """Whose key it is, None where it is nobody's.

    For an address that has guessed too much, the database is asked only for keys that the snapshot knows.

    Raises:
        KeysUnavailable: nobody can say now.
    """
    if given is None:
        return None
    if throttle.is_suspicious() and not authenticator.is_plausible(given):
        return None
    return authenticator.principal(given, g.deadline.remaining_s())


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
