"""Sessions made, read, cancelled, and opened for a stream of frames."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit import record
from app.config import Settings
from app.db.models import Domain, FaceEmbedding, Person
from app.db.session import Database
from app.db.session_models import FaceSession
from app.db.sessions import frames_of
from app.embedder.client import EmbedderClient
from app.enrolment.images import ImageStore
from app.enrolment.lookup import find_domain, find_person, find_person_or_none
from app.errors import (
    DomainNotFound,
    InvalidRequest,
    NoTemplates,
    NotTheSessionsKey,
    PersonNotFound,
    SessionExpired,
    SessionKeyEnded,
    TooManySessions,
    WrongSessionToken,
)
from app.names import as_uuid, clean_name
from app.sessions import rows
from app.sessions.connection import RESERVED_FRAMES, Opened, StreamTools
from app.sessions.deciding import threshold_of
from app.sessions.limits import Kind, SessionLimits, Wanted
from app.sessions.rows import SessionInfo, not_found
from app.sessions.stream import SessionStream
from app.tenancy import Reach, acting, current_reach, everything
from app.vision.packs import PackStore

__all__ = ["KEEP", "MAX_OPEN", "Kind", "SessionInfo", "SessionService", "SessionStream", "Wanted"]

log = structlog.stdlib.get_logger("facedex.sessions")

MAX_OPEN: Final = 1_000
"""Sessions of a domain that may be open at a time."""

KEEP: Final = timedelta(days=7)
"""For so long it can be read how a session has ended."""

_TOKEN_BYTES: Final = 32
_SWEEP_ROWS: Final = 500
_SWEEP_ROUNDS: Final = 20


class SessionService:
    """The operations on sessions.

    Args:
        key_ended: whether the key of that id was revoked or has expired, as far as is known without asking the database; it is
            asked where this says so.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        embedder: EmbedderClient,
        packs: PackStore,
        images: ImageStore,
        key_ended: Callable[[str], bool] = lambda _client: False,
    ) -> None:
        self._settings = settings
        self._database = database
        self._packs = packs
        self._tools = StreamTools(settings, database, embedder, packs, images, key_ended)

    def create(
        self, domain: str, label: str, kind: Kind, limits: Wanted, *, request_id: str = ""
    ) -> tuple[SessionInfo, str]:
        """Make a session of whoever acts.

        Args:
            label: the person's label, external id or id; of somebody who is to be enrolled and is new, the label.
            limits: what the client asks; the rest is usual.
            request_id: for the log.

        Returns:
            the session, and its token, which nobody can be told again.

        Raises:
            InvalidName, InvalidRequest: the label, or a limit, cannot be.
            DomainNotFound, PersonNotFound: as their names say; the latter of a verification, or of somebody erased meanwhile.
            NoTemplates: nothing to verify against.
            UnknownModel: the domain's model is not installed.
            TooManySessions: the domain has `MAX_OPEN`.
            DatabaseError: as its name says.
        """
        label, bounds = clean_name(label, "label"), SessionLimits.of(kind, limits, self._settings)
        token = f"fds_{secrets.token_urlsafe(_TOKEN_BYTES)}"
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            self._check_rate(found, kind, bounds)
            person = _person(session, found.id, label, kind)
            if rows.count_open(session, found.id) >= MAX_OPEN:
                raise TooManySessions(f"The domain has {MAX_OPEN} sessions that are not decided yet.")
            row = FaceSession(
                domain_id=found.id,
                kind=kind.value,
                label=label if person is None else person.label,
                person_id=person and person.id,
                created_by=current_reach().client,
                token_sha256=_digest(token),
                limits=bounds.to_json(),
                expires_at=func.statement_timestamp() + timedelta(seconds=bounds.expires_in_s),
            )
            session.add(row)
            _flush(session)
            persons = [] if person is None else [person.id]
            record(session, "session.created", domain_id=found.id, persons=persons, face_session=str(row.id), kind=kind)
            info = rows.read_session(session, row.id)
        log.info(f"[SESSION] Created: {kind}", session=str(info.id), request_id=request_id)
        return info, token

    def read(self, session_id: str | UUID) -> SessionInfo:
        """A session within reach.

        Raises:
            SessionNotFound: none.
            DatabaseError: as its name says.
        """
        with self._database.transaction() as session:
            return rows.read_session(session, _id(session_id))

    def cancel(self, session_id: str | UUID) -> SessionInfo:
        """End a session undecided, and forget its frames; one that has ended stays as it is.

        Raises:
            SessionNotFound: none.
            DatabaseError: as its name says.
        """
        with self._database.transaction() as session:
            if (wanted := _id(session_id)) is None:
                raise not_found()
            row = session.get(FaceSession, wanted, with_for_update=True)
            if row is not None and row.state == "open":
                rows.end_session(session, row, "cancelled")
                record(session, "session.cancelled", domain_id=row.domain_id, face_session=str(row.id))
            return rows.read_session(session, wanted)

    def open_stream(
        self,
        session_id: str | UUID,
        token: str | None,
        client: str | None = None,
        *,
        admit: Callable[[Reach, UUID], None] = lambda _reach, _session_id: None,
    ) -> SessionStream:
        """Go on with a session; the connection that did so before may store nothing more.

        It needs no reach: the token says that the caller may. The stream acts for the client that made the session.

        Args:
            token: as `create` gave it.
            client: whose key was shown along with it, where one was.
            admit: called with the stream's reach and its session's id once all else is well; where it raises, nothing has
                happened, and the connection before goes on.

        Raises:
            SessionNotFound: there is none.
            WrongSessionToken: it is not this session's.
            NotTheSessionsKey: another key than the one that made it.
            SessionKeyEnded: that one was revoked, or has expired.
            SessionEnded, SessionExpired: it takes no more frames.
            UnknownModel: the domain's model is not installed.
            DatabaseError: as its name says.
        """
        wanted = _id(session_id)
        try:
            with acting(everything("session")), self._database.transaction() as session:
                row = self._entered(session, wanted, token, client)
                used = row.frames
                row.frames = min(used + RESERVED_FRAMES, int(row.limits["max_frames"]))
                opened = _opened(session, row, used)
                admit(opened.reach, row.id)
        except (SessionExpired, SessionKeyEnded) as ended:
            self._tools.end_undecided(wanted, ended)
            raise
        return SessionStream(self._tools, opened)

    def sweep(self) -> int:
        """End sessions whose time is over, which deletes their frames, and remove old ones. Returns how many.

        Raises:
            DatabaseError: what was done stays done.
        """
        swept = 0
        for _ in range(_SWEEP_ROUNDS):
            with acting(everything("session")), self._database.transaction() as session:
                expired = rows.expire_sessions(session, _SWEEP_ROWS)
                removed = rows.remove_sessions(session, KEEP, _SWEEP_ROWS)
            swept += expired + removed
            if max(expired, removed) < _SWEEP_ROWS:
                break
        return swept

    def _check_rate(self, domain: Domain, kind: Kind, limits: SessionLimits) -> None:
        calibration = self._packs.get(domain.model).manifest.calibration
        if kind is Kind.VERIFY and threshold_of(limits, calibration) <= 0:
            raise InvalidRequest(
                "false_match_rate is lower than the domain's model can promise; or ask for fewer frames."
            )

    def _entered(self, session: Session, wanted: UUID | None, token: str | None, client: str | None) -> FaceSession:
        # Not locked yet: whoever guesses tokens holds up nobody.
        row = None if wanted is None else session.get(FaceSession, wanted)
        # As long for a session that there is not.
        if not hmac.compare_digest(_digest(token or ""), row.token_sha256 if row else bytes(32)) and row is not None:
            raise WrongSessionToken("The token is not this session's; it was told when the session was made.")
        if row is None:
            raise not_found()
        if client is not None and client != row.created_by:
            raise NotTheSessionsKey("Another key has made this session.")
        row = rows.lock_session(session, row.id)
        row.connection += 1
        return row


def _opened(session: Session, row: FaceSession, used: int) -> Opened:
    domain = session.get_one(Domain, row.domain_id)
    person = session.get(Person, row.person_id) if row.person_id else None
    remaining_s = session.scalar(select(func.extract("epoch", row.expires_at - func.statement_timestamp())))
    known: list[Any] = []
    if row.kind == Kind.ENROL and person is not None:
        query = select(FaceEmbedding.embedding).where(
            FaceEmbedding.domain_id == domain.id, FaceEmbedding.person_id == person.id
        )
        known = list(session.scalars(query))
    return Opened(
        row=row,
        domain=domain,
        label=person.label if person else row.label,
        reach=Reach(row.created_by, frozenset({domain.name}), frozenset({domain.id})),
        remaining_s=float(remaining_s or 0.0),
        used=used,
        kept=tuple(frames_of(session, row.id)),
        known=tuple(known),
    )


def _person(session: Session, domain_id: int, label: str, kind: Kind) -> Person | None:
    if kind is Kind.ENROL:
        return find_person_or_none(session, domain_id, label)
    person = find_person(session, domain_id, label)
    query = select(FaceEmbedding.id).where(FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person.id)
    if session.scalars(query.limit(1)).first() is None:
        raise NoTemplates("This person has no enrolled face to compare with.")
    return person


def _flush(session: Session) -> None:
    """Store a new session.

    Raises:
        PersonNotFound, DomainNotFound: deleted since it was found.
    """
    try:
        session.flush()
    except IntegrityError as error:
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        if constraint == "face_sessions_person_fkey":
            raise PersonNotFound("The person was deleted.") from error
        raise DomainNotFound("The domain was deleted.") from error


def _id(session_id: str | UUID) -> UUID | None:
    return session_id if isinstance(session_id, UUID) else as_uuid(session_id)


def _digest(token: str) -> bytes:
    # No slow hash: nobody guesses 256 random bits.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
