"""Keys: made, listed, revoked, given a new secret."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from app.config import Settings
from app.datasets.store import DatasetStore
from app.db.domains import find_domain
from app.db.models import ApiKey, Domain
from app.db.session import Database
from app.errors import DomainNotFound, InvalidRequest, KeyEnded, KeyNotAllowed
from app.keys.grants import MAX_GRACE, Grant
from app.keys.keeper import KeyKeeper
from app.keys.principal import Principal, Scope
from app.keys.rows import end_key, find_key, record_event, require_room
from app.keys.secrets import new_secret
from app.names import as_uuid, clean_name
from app.pages import Page, decode_cursor, encode_cursor
from app.tenancy import current_reach

State = Literal["active", "expired", "revoked"]
_NO_GRACE: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as lists show it; its text is nowhere.

    Attributes:
        created_by: id of the key that made it, or `admin` or `cli`.
        previous_until: until when the text from before the last rotation is good as well.
    """

    id: UUID
    prefix: str
    name: str
    grant: Grant
    created_by: str
    created_at: datetime
    revoked_at: datetime | None
    previous_until: datetime | None

    @property
    def state(self) -> State:
        """Whether it can be used now."""
        if self.revoked_at is not None:
            return "revoked"
        expires_at = self.grant.expires_at
        return "expired" if expires_at is not None and expires_at <= datetime.now(UTC) else "active"


class KeyService:
    """The operations on keys. Whoever acts sees only those whose domains are all within reach."""

    def __init__(self, settings: Settings, database: Database, datasets: DatasetStore, keeper: KeyKeeper) -> None:
        self._usual_rate = settings.rate_limit_per_minute or None
        self._database = database
        self._datasets = datasets
        self._keeper = keeper

    def create(self, name: str, grant: Grant, maker: Principal) -> tuple[KeyInfo, str]:
        """Make a key.

        Returns:
            what it is, and its text, which is kept nowhere.

        Raises:
            InvalidName, InvalidRequest: no key can be called so, or be that.
            KeyNotAllowed: it would get more than its maker has.
            DomainNotFound: one of the domains is not there, or not within reach.
            TooManyKeys: one of them, or the installation, has as many as it may.
        """
        name = clean_name(name, "name of the key")
        grant.require_sound(datetime.now(UTC))
        grant.require_within(maker, self._usual_rate)
        text, secret = new_secret()
        with self._database.transaction() as session:
            domains = {self._known_domain(session, domain) for domain in sorted(grant.domains)}
            require_room(session, domains)
            key = ApiKey(
                prefix=secret.prefix,
                digest=secret.digest,
                name=name,
                scopes=sorted(grant.scopes),
                every_domain=grant.every_domain,
                domains=sorted(domains),
                rate_per_minute=grant.rate_per_minute,
                created_by=current_reach().client,
                expires_at=grant.expires_at,
            )
            session.add(key)
            session.flush()
            session.refresh(key)
            record_event(session, "key.created", key)
            info = _info(key)
        self._follow(info)
        return info, text

    def list(self, *, limit: int, cursor: str | None) -> Page[KeyInfo]:
        """Keys, the oldest first, revoked and expired ones too.

        Raises:
            InvalidRequest: the cursor is not one of ours.
        """
        query = select(ApiKey).order_by(ApiKey.created_at, ApiKey.id).limit(limit + 1)
        if cursor is not None:
            created_at, after = _position(cursor)
            query = query.where(
                (ApiKey.created_at > created_at) | ((ApiKey.created_at == created_at) & (ApiKey.id > after))
            )
        with self._database.transaction() as session:
            found = [_info(key) for key in session.scalars(query)]
        if len(found) <= limit:
            return Page(found, None)
        last = found[limit - 1]
        return Page(found[:limit], encode_cursor(last.created_at.isoformat(), str(last.id)))

    def revoke(self, which: str) -> KeyInfo:
        """End the key with that id or prefix, at once and for good. One that is revoked stays so.

        Raises:
            KeyNotFound: there is none within reach.
        """
        with self._database.transaction() as session:
            key = find_key(session, which)
            end_key(session, key, datetime.now(UTC))
            info = _info(key)
        self._follow(info)
        return info

    def rotate(self, which: str, maker: Principal, grace: timedelta = _NO_GRACE) -> tuple[KeyInfo, str]:
        """Give the key with that id or prefix another text.

        Args:
            grace: for how long the one that it had is good as well. One from before that ends now.

        Returns:
            as `create`.

        Raises:
            KeyNotFound: there is none within reach.
            KeyEnded: it was revoked, or has expired.
            KeyNotAllowed: it has more than whoever asks.
            InvalidRequest: a grace that is none, or too long.
        """
        if not _NO_GRACE <= grace <= MAX_GRACE:
            raise InvalidRequest(f"The grace is 0 to {MAX_GRACE.days} days.")
        text, secret = new_secret()
        with self._database.transaction() as session:
            key = find_key(session, which)
            before = _info(key)
            if before.state != "active":
                raise KeyEnded("The key was revoked, or has expired: make another.")
            before.grant.require_within(maker, self._usual_rate)
            kept = (key.prefix, key.digest, datetime.now(UTC) + grace) if grace else (None, None, None)
            key.previous_prefix, key.previous_digest, key.previous_until = kept
            key.prefix, key.digest = secret.prefix, secret.digest
            session.flush()
            record_event(session, "key.rotated", key)
            info = _info(key)
        self._follow(info)
        return info, text

    def _follow(self, info: KeyInfo) -> None:
        self._database.once_committed(lambda: self._keeper.follow(str(info.id)))

    def _known_domain(self, session: Session, domain: str) -> str:
        """The name of a domain that is there and within reach, by name or id.

        Raises:
            DomainNotFound: it is not there, or not within reach.
            KeyNotAllowed: it is only a dataset, and whoever asks is not for every domain.
        """
        domain = clean_name(domain, "domain")
        try:
            found = find_domain(session, domain)
            # Until this transaction ends nobody deletes it: that takes its name out of the keys that are there.
            session.scalars(select(Domain.id).where(Domain.id == found.id).with_for_update(read=True)).one()
            return found.name
        except (DomainNotFound, NoResultFound):
            reach = current_reach()
            if not reach.includes(domain) or domain not in self._datasets.domains():
                raise DomainNotFound(f"There is no domain named {domain!r}.") from None
            if not reach.everything:
                # The policy of `api_keys` goes by the domains that the database has.
                raise KeyNotAllowed(f"Domain {domain!r} is only a dataset: its keys are the administrator's.") from None
            return domain


def within_maker(grant: Grant, maker: Principal) -> Grant:
    """The same, with the maker's own rate and end where it says nothing of them."""
    return replace(
        grant,
        rate_per_minute=grant.rate_per_minute or maker.rate_per_minute,
        expires_at=grant.expires_at or maker.expires_at,
    )


def _position(cursor: str) -> tuple[datetime, UUID]:
    created_at, after = decode_cursor(cursor, 2)
    uid = as_uuid(after)
    try:
        at = datetime.fromisoformat(created_at)
    except ValueError:
        at = None
    if at is None or at.utcoffset() is None or uid is None:
        raise InvalidRequest("The cursor is not one that this service gave.")
    return at, uid


def _info(key: ApiKey) -> KeyInfo:
    known = set(Scope)
    return KeyInfo(
        id=key.id,
        prefix=key.prefix,
        name=key.name,
        grant=Grant(
            scopes=frozenset(Scope(scope) for scope in key.scopes if scope in known),
            domains=frozenset(key.domains),
            every_domain=key.every_domain,
            expires_at=key.expires_at,
            rate_per_minute=key.rate_per_minute,
        ),
        created_by=key.created_by,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
        previous_until=key.previous_until,
    )
