"""What a key may use: requests a minute, and requests at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flask import Flask, Response, g, request

from app.config import Settings
from app.errors import RateLimited
from app.keys.principal import ADMIN, Principal
from app.keys.rates import Rate, RateLimits
from app.keys.slots import Slots

_KEY: Final = "key"
_ADDRESS: Final = "address"
_STREAM: Final = "stream"
# Streams that one address opens in a minute: of one session, as a client does after each lost connection, and of all of them.
_OPENS_OF_A_SESSION: Final = 60
_OPENS: Final = 1200


@dataclass(frozen=True, slots=True)
class Throttle:
    """Limits what keys, and addresses without one, may use. The admin key has no limits: it has to work always."""

    settings: Settings
    rates: RateLimits
    slots: Slots

    def admit(self, principal: Principal) -> None:
        """Count the request, and take a place for it.

        Raises:
            RateLimited: it is one too many in this minute.
            TooManyRequests: too many of the key's are in work.
        """
        if principal is ADMIN:
            return
        per_minute = principal.rate_per_minute or self.settings.rate_limit_per_minute
        if per_minute:
            g.rate = self.rates.count(_KEY, principal.id, per_minute)
            _require(g.rate, "This key has {} requests a minute; this is one too many.")
        self.slots.take(principal.id)
        g.release_slot = _once(lambda: self.slots.release(principal.id))

    def is_suspicious(self) -> bool:
        """Whether the caller's address has sent too many requests without a valid key in this minute."""
        return self.rates.look(_ADDRESS, _address(), self.settings.auth_failures_per_minute).exceeded

    def count_failure(self) -> None:
        """Count a request without a valid key.

        Raises:
            RateLimited: there are too many from this address.
        """
        g.rate = self.rates.count(_ADDRESS, _address(), self.settings.auth_failures_per_minute)
        _require(g.rate, "This address has {} requests a minute without a valid API key; this is one too many.")
        g.pop("rate")  # an ordinary 401 says nothing of others behind the same address

    def count_open(self, session_id: str) -> None:
        """Count that a session's stream is opened, before anything is looked up for it.

        Raises:
            RateLimited: once too often in this minute, for the session from this address, or for all of them.
        """
        for who, per_minute in ((f"{_address()} {session_id}", _OPENS_OF_A_SESSION), (_address(), _OPENS)):
            g.rate = self.rates.count(_STREAM, who, per_minute)
            _require(g.rate, "This address opens streams {} times a minute; this is one too many.")
        g.pop("rate")


def register_throttle(app: Flask) -> None:
    """Tell clients where they stand, and give places back whatever happens."""

    @app.after_request
    def _tell(response: Response) -> Response:
        rate: Rate | None = g.get("rate")
        if rate is not None:
            response.headers["RateLimit-Limit"] = str(rate.limit)
            response.headers["RateLimit-Remaining"] = str(rate.remaining)
            response.headers["RateLimit-Reset"] = str(rate.reset_s)
            if rate.exceeded:
                response.headers["Retry-After"] = str(rate.reset_s)
        if response.is_streamed and not response.direct_passthrough and (release := g.pop("release_slot", None)):
            response.call_on_close(release)  # its place is taken until the last line is sent
        return response

    @app.teardown_request
    def _release(_error: BaseException | None) -> None:
        if release := g.pop("release_slot", None):
            release()


def _require(rate: Rate, message: str) -> None:
    if rate.exceeded:
        raise RateLimited(message.format(rate.limit))


def _address() -> str:
    return request.remote_addr or "unknown"


def _once(function: Callable[[], None]) -> Callable[[], None]:
    calls = [function]

    def run() -> None:
        if calls:
            calls.pop()()

    return run
