"""Who may call: every request but those for health needs an API key."""

from dataclasses import dataclass

from flask import Flask, Response, g, request

from app.api.access import PUBLIC_PATHS, Access, access_of, check_access
from app.api.browser_session import BrowserSessions, check_request
from app.api.throttle import Throttle
from app.errors import Unauthenticated
from app.keys.authentication import Authenticator
from app.keys.keeper import KeyKeeper
from app.keys.principal import Principal
from app.tenancy import set_reach

__all__ = ["BROWSER_PREFIXES", "Gate", "register_auth", "register_snapshots"]

# Read in a browser, which can send a key only as the password of HTTP Basic. Nowhere else: a browser sends remembered
# Basic credentials along with requests that other sites make it send.
BROWSER_PREFIXES = ("/docs", "/openapi.json")
_ANY_KEY = Access()


@dataclass(frozen=True, slots=True)
class Gate:
    """Says whose a key is, wherever a request shows it, and counts those that are nobody's."""

    authenticator: Authenticator
    throttle: Throttle
    sessions: BrowserSessions

    def presented(self, declared: Access) -> str | None:
        """The key that the request shows: in a header, else by the cookie of a browser's session.

        Raises:
            OriginNotAllowed, CsrfTokenWrong: as `check_request`, where the cookie is what shows it.
        """
        given = _in_headers()
        if given is None and (session := self.sessions.presented(request)) is not None:
            check_request(request, session, page=declared.page)
            g.browser_session = session
            given = session.key
        return given

    def admit(self, given: str | None) -> Principal:
        """Whose key it is. The request counts as theirs, and acts within their reach from now on.

        Raises:
            Unauthenticated: nobody's.
            KeysUnavailable: nobody can say now.
            RateLimited, TooManyRequests: as the throttle's.
        """
        principal = self._principal(given)
        if principal is None:
            self.throttle.count_failure()
            raise Unauthenticated(
                "Unknown API key." if given else "Send the API key as 'Authorization: Bearer …' or as 'x-api-key: …'."
            )
        g.client = principal
        set_reach(principal.reach)
        self.throttle.admit(principal)
        return principal

    def _principal(self, given: str | None) -> Principal | None:
        """For an address that has guessed too much, the database is asked only for keys that the snapshot knows."""
        if given is None:
            return None
        if self.throttle.is_suspicious() and not self.authenticator.is_plausible(given):
            return None
        return self.authenticator.principal(given, g.deadline.remaining_s())


def register_auth(app: Flask, gate: Gate) -> None:
    """Ask every request for a key, set `g.client` to whose it is, and let it through where the route is for such keys.

    Where the view checks a token itself, it finds `g.count_open`, to be called before, and `g.count_failure`, for a wrong one.
    """

    @app.before_request
    def _require_key() -> None:
        declared = access_of(app, request.endpoint) if request.url_rule is not None else None
        if request.path in PUBLIC_PATHS or (declared is not None and declared.open):
            return
        if declared is not None and declared.by_token:
            g.count_failure, g.count_open = gate.throttle.count_failure, gate.throttle.count_open
            given = request.headers.get("x-api-key")  # what is a Bearer token elsewhere is the path's own token there
            if given is None:
                return
        else:
            given = gate.presented(declared or _ANY_KEY)
            if given is None and declared is not None and declared.page:
                raise Unauthenticated("Sign in first.")  # which is no guess at a key
        principal = gate.admit(given)
        if request.url_rule is not None:  # what is no route at all is answered 404 or 405 to every key
            check_access(app, request.endpoint, principal)

    @app.after_request
    def _ask_browsers(response: Response) -> Response:
        if response.status_code == 401 and request.path.startswith(BROWSER_PREFIXES):
            response.headers["WWW-Authenticate"] = 'Basic realm="Facedex: the password is the API key"'
        return response


def register_snapshots(app: Flask, keeper: KeyKeeper) -> None:
    """Keep the snapshot of the keys young: after an answer has been sent, so that nobody waits for it."""

    @app.after_request
    def _keep_young(response: Response) -> Response:
        if not response.direct_passthrough:  # such answers tell nobody that they have been sent
            response.call_on_close(keeper.refresh_when_due)
        return response


def _in_headers() -> str | None:
    authorization = request.authorization
    if authorization is not None and authorization.type == "bearer" and authorization.token:
        return authorization.token
    if key := request.headers.get("x-api-key"):
        return key
    if authorization is not None and authorization.type == "basic" and request.path.startswith(BROWSER_PREFIXES):
        return authorization.password
    return None
