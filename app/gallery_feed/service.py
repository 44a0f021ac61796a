"""Pages of what has changed in a gallery, as bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from sqlalchemy.orm import Session

from app.audit import record
from app.db.domains import find_domain
from app.db.gallery_feed import (
    Change,
    begin_reading,
    changes_after,
    prunable_domains,
    prune,
    templates_of,
    version_of_token,
)
from app.db.models import Domain
from app.db.session import Database
from app.errors import DomainNotFound
from app.gallery_feed.position import Position
from app.gallery_pages import Header, PageMember, encode
from app.tenancy import acting, everything

# Of templates in one page, but for a person who has more.
_PAGE_BYTES: Final = 16 * 1024 * 1024
_FORMAT: Final = 1
# A domain that is being written to for long is pruned another time.
_PRUNE_LIMIT_S: Final = 2.0

MAX_LOCKS: Final = 256
"""Locks that one member may have."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer.

    Attributes:
        etag: of it, without quotation marks.
        body: None where the caller has this very page.
    """

    etag: str
    body: bytes | None


class GalleryFeed:
    """Tells what has changed in a domain's gallery.

    Args:
        tombstones_keep_s: how long it is remembered who is gone; who asks later gets everything anew.
    """

    def __init__(self, database: Database, tombstones_keep_s: float) -> None:
        self._database = database
        self._keep_s = tombstones_keep_s

    def page(self, domain: str, since: str | None, limit: int, known: Callable[[str], bool]) -> Page:
        """What has changed after a version, up to `limit` persons.

        All of it is of one moment. Between the pages of one reader others may write: what they change comes on a later page.

        Args:
            since: the version of the page before; None: everything.
            known: whether the caller has the page of that `etag`.

        Raises:
            InvalidRequest: `since` is no version.
            DomainNotFound: no such domain.
        """
        position = None if since is None else Position.parse(since)
        with self._database.transaction() as session:
            begin_reading(session)
            found = find_domain(session, domain)
            etag = f"{_FORMAT}.{found.gallery_token.hex}.{found.gallery_pruned}"
            if known(etag):
                return Page(etag, None)
            told_at = None if position is None else version_of_token(session, found.id, position.token)
            if position is not None and not position.can_go_on(told_at, found.gallery_pruned):
                position = None
            # Only the end of what was told proves, by its token, that somebody has read so far: numbers anybody can write.
            proven = position is not None and position.version == told_at
            body = _page(session, found, position, limit)
            domain_id = found.id
        if not proven:  # before anything leaves
            with self._database.transaction() as session:
                record(session, "gallery.read", domain_id=domain_id)
        return Page(etag, body)

    def prune(self, limit: int) -> int:
        """Forget who has been gone for long, in all domains. Returns how many tombstones went.

        Raises:
            DatabaseError: what was removed stays removed.
        """
        pruned = 0
        with acting(everything("gallery")):
            with self._database.transaction(_PRUNE_LIMIT_S) as session:
                domains = prunable_domains(session, keep_s=self._keep_s, limit=limit)
            for domain_id in domains:
                try:
                    with self._database.transaction(_PRUNE_LIMIT_S) as session:
                        pruned += prune(session, domain_id, keep_s=self._keep_s, limit=limit)
                except DomainNotFound:
                    continue
        return pruned


def _page(session: Session, domain: Domain, position: Position | None, limit: int) -> bytes:
    after = 0 if position is None else position.version
    found = changes_after(session, domain.id, after, limit + 1)
    changes = _cut(found[:limit], _PAGE_BYTES // (4 * domain.dimension))
    more = len(changes) < len(found)
    present = [change for change in changes if change.templates]
    header = Header(
        source=str(domain.uid),
        contract=domain.contract,
        dimension=domain.dimension,
        version=str(_reached(domain, position, changes[-1].version if more else None)),
        full=position is None,
        more=more,
        members=tuple(map(_member, present)),
        # Who begins anew knows nobody.
        removed=() if position is None else tuple(str(change.person_id) for change in changes if not change.templates),
    )
    templates = templates_of(session, domain.id, domain.dimension, [change.person_id for change in present])
    return b"".join(encode(header, [templates]))


def _cut(changes: Sequence[Change], most_templates: int) -> Sequence[Change]:
    """As many as have so many templates together, and at least one."""
    total = 0

    def fits(change: Change) -> bool:
        nonlocal total
        total += change.templates
        return total <= most_templates

    return list(takewhile(fits, changes)) or changes[:1]


def _reached(domain: Domain, position: Position | None, last: int | None) -> Position:
    """Where the reader is after the page; `last`: the version of its last change where more follow."""
    if last is None:
        return Position(domain.gallery_token, domain.gallery_version)
    began = domain.gallery_version if position is None else position.began
    return Position(domain.gallery_token, last, began)


def _member(change: Change) -> PageMember:
    locks = locks_of(change.locks)
    return PageMember(
        key=str(change.person_id),
        name=change.display_name,
        valid_from=change.valid_from,
        valid_until=change.valid_until,
        locks=locks or (),
        locks_malformed=locks is None,
        templates=change.templates,
    )


def locks_of(metadata: Any) -> tuple[str, ...] | None:
    """The locks that stand in a person's metadata: a list of names; none where there is nothing, None where it is malformed."""
    if metadata is None:
        return ()
    if not isinstance(metadata, list) or len(metadata) > MAX_LOCKS:
        return None
    if not all(isinstance(lock, str) and lock for lock in metadata):
        return None
    return tuple(sorted(set(metadata)))
