"""The right of one connection to write to its session, and what it works with."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app.audit import record
from app.config import Settings
from app.db.models import Domain
from app.db.session import Database
from app.db.session_models import FaceSession, FaceSessionFrame
from app.deadline import NO_DEADLINE, Deadline
from app.embedder.client import EmbedderClient
from app.enrolment.images import ImageStore
from app.errors import DatabaseError, FacedexError, SessionExpired, SessionKeyEnded
from app.sessions import rows
from app.sessions.limits import SessionLimits
from app.tenancy import Reach, acting, everything
from app.vision.faces import Face, Float32Array
from app.vision.packs import PackStore

log = structlog.stdlib.get_logger("facedex.sessions")

RESERVED_FRAMES: Final = 8
"""So many frames are looked at between two counts in the database. A connection that is lost may cost the session as many."""

# For a statement, where the pool has used up the frame's time: what it has found is not thrown away for that.
_LEAST_TIME_S: Final = 0.5
# For a connection, and for each lock: whoever has the domain locked does not hold the threads that other domains' frames need.
_WAIT_S: Final = 0.8
# To note an end that the sweep sees too.
_NOTE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class StreamTools:
    """What streams work with: as `SessionService` has it."""

    settings: Settings
    database: Database
    embedder: EmbedderClient
    packs: PackStore
    images: ImageStore
    key_ended: Callable[[str], bool]

    def end_undecided(self, session_id: UUID | None, ended: FacedexError) -> None:
        """Note that a session's time is over, or its key; what fails here the sweep does later."""
        if session_id is None:
            return
        try:
            with acting(everything("session")), self.database.transaction(_NOTE_S, wait_s=_WAIT_S) as session:
                if isinstance(ended, SessionExpired):
                    rows.mark_expired(session, session_id)
                    return
                row = session.get(FaceSession, session_id, with_for_update=True)
                if row is not None and row.state == "open":
                    rows.end_session(session, row, "cancelled", {"outcome": "failed", "reason": ended.code})
                    record(session, "session.cancelled", domain_id=row.domain_id, face_session=str(row.id))
        except DatabaseError as error:
            log.info(f"[SESSION] Not ended now: {error.code}", session=str(session_id))


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A session that a connection goes on with.

    Attributes:
        row: as it is now, its connection counted.
        label: what the person is called.
        reach: acts for the client that made the session, within its domain alone.
        remaining_s: until it expires.
        used: frames that were looked at, at most.
        kept: the frames that it has kept.
        known: of an enrolment, the templates that the person has already, float32, (D,) each.
    """

    row: FaceSession
    domain: Domain
    label: str
    reach: Reach
    remaining_s: float
    used: int
    kept: tuple[FaceSessionFrame, ...]
    known: tuple[Float32Array, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GoodFrame:
    """A frame with a good face: its number in the session from 1, its bytes, and how many may follow."""

    number: int
    face: Face
    embedding: Float32Array
    picture: bytes
    left: int


class Connection:
    """The right of one connection to write to its session."""

    def __init__(self, tools: StreamTools, opened: Opened) -> None:
        self.tools = tools
        self.opened = opened
        self.limits = SessionLimits.from_json(opened.row.limits)
        self.id = opened.row.id
        self.used = opened.used
        self.reserved = opened.row.frames
        self.ends = Deadline.after(opened.remaining_s)
        self._deadline = NO_DEADLINE  # of what is asked now

    @contextmanager
    def within(self, deadline: Deadline) -> Generator[None]:
        """In the block, the database is asked until then, and short of that not waited for long."""
        self._deadline = deadline
        try:
            yield
        finally:
            self._deadline = NO_DEADLINE

    @contextmanager
    def asking(self) -> Generator[Session]:
        """A transaction within the client's reach.

        Raises:
            DatabaseError: nothing was stored.
        """
        bounded = self._deadline is not NO_DEADLINE
        limit_s = max(_LEAST_TIME_S, self._deadline.remaining_s()) if bounded else None
        wait_s = _WAIT_S if bounded else None
        with acting(self.opened.reach), self.tools.database.transaction(limit_s, wait_s=wait_s) as session:
            yield session

    @contextmanager
    def writing(
        self, *, domain_first: Callable[[Session], None] | None = None
    ) -> Generator[tuple[Session, FaceSession]]:
        """A transaction that has the session, and counts the frames so far.

        Args:
            domain_first: what has to be locked before.

        Raises:
            SessionNotFound, SessionEnded, SessionExpired, SessionTakenOver, SessionKeyEnded: as `rows.lock_session`.
            DatabaseError: nothing was stored.
        """
        try:
            with self.asking() as session:
                if domain_first is not None:
                    domain_first(session)
                row = rows.lock_session(session, self.id, self.opened.row.connection)
                reserved = min(self.used + RESERVED_FRAMES, self.limits.max_frames)
                row.frames = reserved
                yield session, row
                if row.state != "open":
                    row.frames = self.used
            self.reserved = reserved
        except (SessionExpired, SessionKeyEnded) as ended:
            self.tools.end_undecided(self.id, ended)
            raise

    def check(self) -> None:
        """Before a frame costs a worker. Asks the database only where a key may have ended, or all reserved frames are used.

        Raises: as `writing`.
        """
        if self.ends.expired:
            ended = SessionExpired("The session's time is over.")
            self.tools.end_undecided(self.id, ended)
            raise ended
        if self.used >= self.reserved or self.tools.key_ended(self.opened.row.created_by):
            with self.writing():
                pass

    def close(self) -> None:
        """Give back the frames that were reserved and not used."""
        try:
            with self.writing() as (_, row):
                row.frames = self.used
        except FacedexError as error:
            log.info(f"[SESSION] Left: {error.code}", session=str(self.id))
