"""What a key may be, and what a key may give to another: nothing that it has not itself. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.errors import InvalidRequest, KeyNotAllowed
from app.keys.principal import ADMIN, Principal, Scope

MAX_DOMAINS: Final = 100
MAX_RATE: Final = 1_000_000
MAX_LIFE: Final = timedelta(days=36_525)
MAX_GRACE: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key may do.

    Attributes:
        domains: names; none where it is for `every_domain`.
        expires_at: with a time zone; None: never.
        rate_per_minute: requests; None: as many as `RATE_LIMIT_PER_MINUTE` says.
    """

    scopes: frozenset[Scope]
    domains: frozenset[str] = frozenset()
    every_domain: bool = False
    expires_at: datetime | None = None
    rate_per_minute: int | None = None

    def require_sound(self, now: datetime) -> None:
        """Refuse what no key can be.

        Raises:
            InvalidRequest: no scope; no domain, or too many; an end that is over or too far away; a rate that is none.
        """
        if not self.scopes:
            raise InvalidRequest("A key needs at least one scope.")
        if self.every_domain == bool(self.domains):
            raise InvalidRequest("A key is for named domains or for every domain: say one of the two.")
        if len(self.domains) > MAX_DOMAINS:
            raise InvalidRequest(f"A key is for at most {MAX_DOMAINS} named domains.")
        if self.expires_at is not None and self.expires_at.utcoffset() is None:
            raise InvalidRequest("The end of a key needs a time zone.")
        if self.expires_at is not None and self.expires_at <= now:
            raise InvalidRequest("The end of the key is in the past.")
        if self.expires_at is not None and self.expires_at - now > MAX_LIFE:
            raise InvalidRequest("The end of the key is more than a hundred years away: leave it out.")
        if self.rate_per_minute is not None and not 1 <= self.rate_per_minute <= MAX_RATE:
            raise InvalidRequest(f"A rate is 1 to {MAX_RATE} requests a minute.")

    def require_within(self, maker: Principal, usual_rate: int | None = None) -> None:
        """Refuse what is more than the maker has; of domains only that of every one, since names are looked up.

        Args:
            usual_rate: requests a minute of keys that have no rate of their own; None: as many as they like.

        Raises:
            KeyNotAllowed: a scope, the rate or the end is more than the maker's.
        """
        if extra := self.scopes - maker.scopes:
            raise KeyNotAllowed(f"This key has not got the scope {_listed(extra)} itself.")
        if self.every_domain and not maker.reach.everything:
            raise KeyNotAllowed("This key is not for every domain itself.")
        if (rate := self._rate_above(maker, usual_rate)) is not None:
            raise KeyNotAllowed(f"This key has {rate} requests a minute itself; no key of its gets more.")
        if maker.expires_at is not None and (self.expires_at is None or self.expires_at > maker.expires_at):
            raise KeyNotAllowed("This key ends earlier itself; no key of its lasts longer.")

    def _rate_above(self, maker: Principal, usual_rate: int | None) -> int | None:
        """The maker's rate, where this one's is more."""
        if maker is ADMIN:
            return None  # it has no limits
        wanted, own = self.rate_per_minute, maker.rate_per_minute
        if own is None:  # then one without a rate of its own has the same, whatever is set later
            return usual_rate if wanted is not None and usual_rate is not None and wanted > usual_rate else None
        return own if wanted is None or wanted > own else None


def _listed(scopes: Collection[Scope]) -> str:
    return ", ".join(sorted(scopes))
