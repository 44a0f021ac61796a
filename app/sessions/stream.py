"""A session's connection: one frame in, one answer out.

What a frame has come to is stored before it is said, and only then counts: after a lost connection, or while the database was
away, the session goes on from there. A frame that changes nothing is not stored.
"""

from typing import Any, Final
from uuid import UUID

import structlog

from app.audit import record
from app.deadline import NO_DEADLINE, Deadline
from app.embedder.answer import face_to_json, timings_to_json
from app.errors import (
    ContractMismatch,
    DatabaseError,
    EmbedderError,
    ImageError,
    InvalidEmbedding,
    SessionEnded,
    StorageError,
)
from app.sessions import rows
from app.sessions.connection import Connection, GoodFrame, Opened, StreamTools
from app.sessions.enrolling import Enrolment
from app.sessions.frames import UNREADABLE, Assessment, QualityBounds, Reason, assess, hint
from app.sessions.limits import Kind, SessionLimits
from app.sessions.verifying import Verification
from app.tenancy import Reach
from app.vision.faces import Face

log = structlog.stdlib.get_logger("facedex.sessions")

DROPPED: Final = "The frame was not looked at; send newer ones."


class SessionStream:
    """One connection's way through a session. Not for two threads at once.

    Every method raises SessionTakenOver, SessionExpired, SessionEnded, SessionKeyEnded and SessionNotFound, after which the
    stream is of no more use; so is it once an answer has held a `result`.
    """

    def __init__(self, tools: StreamTools, opened: Opened) -> None:
        manifest = tools.packs.get(opened.domain.model).manifest
        self._connection = Connection(tools, opened)
        self._manifest = manifest
        task: type[Enrolment | Verification] = Enrolment if opened.row.kind == Kind.ENROL else Verification
        self._task = task(self._connection, manifest)
        self._over = False

    @property
    def id(self) -> UUID:
        """The session's."""
        return self._connection.id

    @property
    def client(self) -> str:
        """Who made the session."""
        return self._connection.opened.row.created_by

    @property
    def reach(self) -> Reach:
        """The client's, within the session's domain alone."""
        return self._connection.opened.reach

    @property
    def limits(self) -> SessionLimits:
        """The session's."""
        return self._connection.limits

    @property
    def remaining_s(self) -> float:
        """Until it expires."""
        return self._connection.ends.remaining_s()

    @property
    def frames_left(self) -> int:
        """How many frames may still be looked at."""
        return max(0, self.limits.max_frames - self._connection.used)

    @property
    def over(self) -> bool:
        """Whether it is decided."""
        return self._over

    def greeting(self) -> dict[str, Any]:
        """What to say first: what the session is for, and how far it is."""
        row = self._connection.opened.row
        return {
            "type": "ready",
            "session": str(row.id),
            "kind": row.kind,
            "person": self._connection.opened.label,
            "limits": self.limits.to_json(),
            "expires_in_s": round(self.remaining_s, 1),
            **self._standing(),
        }

    def look(self, picture: bytes, frame: int, *, deadline: Deadline) -> dict[str, Any]:
        """Look at one frame.

        Args:
            picture: the file's bytes.
            frame: the client's number for it, for the answer alone.
            deadline: when the answer is of no more use: then, or while the pool or the database cannot serve it, it is dropped.

        Returns:
            the answer, with `result` where the session is decided.

        Raises:
            ContractMismatch: the pool's model is not the domain's.
        """
        self._refuse_when_over()
        try:
            with self._connection.within(deadline):
                self._connection.check()
                if not self.frames_left:
                    return self._frame(frame, None, (), {}) | self._told(self._task.finish())
                return self._look(picture, frame, deadline)
        except (EmbedderError, DatabaseError, StorageError) as error:
            log.info(f"[SESSION] A frame was dropped: {error.code}", session=str(self.id))
            return self.drop(frame, error.code)

    def drop(self, frame: int, reason: str) -> dict[str, Any]:
        """The answer to a frame that is not looked at; it is none of the session's limit."""
        return {
            "type": "frame",
            "frame": frame,
            "dropped": True,
            "accepted": False,
            "reasons": [reason],
            "hint": DROPPED,
            **self._standing(),
        }

    def finish(self, *, deadline: Deadline = NO_DEADLINE) -> dict[str, Any]:
        """Decide now: there are no more frames.

        Raises:
            DatabaseError, StorageError: nothing is decided; it may be tried again.
        """
        self._refuse_when_over()
        with self._connection.within(deadline):
            return {"type": "result", **self._standing()} | self._told(self._task.finish())

    def cancel(self, *, deadline: Deadline = NO_DEADLINE) -> dict[str, Any]:
        """End it undecided: the client wants no result.

        Raises:
            DatabaseError: it is open still.
        """
        self._refuse_when_over()
        result = {"outcome": "cancelled"}
        with self._connection.within(deadline), self._connection.writing() as (session, row):
            rows.end_session(session, row, "cancelled", result)
            record(session, "session.cancelled", domain_id=row.domain_id, face_session=str(row.id))
        return {"type": "result", **self._standing()} | self._told(result)

    def close(self, *, deadline: Deadline = NO_DEADLINE) -> None:
        """The connection is gone. A session that is not decided may be gone on with until it expires."""
        if not self._over:
            with self._connection.within(deadline):
                self._connection.close()

    def _look(self, picture: bytes, frame: int, deadline: Deadline) -> dict[str, Any]:
        connection = self._connection
        assessment, timings = self._assess(picture, deadline)
        face = assessment.face
        number = connection.used + 1
        reasons = assessment.reasons
        result: dict[str, Any] | None = None
        if assessment.usable and face is not None and face.embedding is not None:
            good = GoodFrame(number, face, face.embedding, picture, self.limits.max_frames - number)
            connection.used = number
            try:
                reason, result = self._task.look(good)
            except BaseException:
                connection.used = number - 1
                raise
            reasons = () if reason is None else (reason,)
        else:
            connection.used = number
            if not self.frames_left:
                result = self._task.finish()
        return self._frame(frame, face, reasons, timings) | ({} if result is None else self._told(result))

    def _assess(self, picture: bytes, deadline: Deadline) -> tuple[Assessment, dict[str, float]]:
        tools = self._connection.tools
        try:
            analysis = tools.embedder.analyze(
                picture,
                deadline=min(deadline, self._connection.ends, key=lambda one: one.at_s),
                embed="largest",
                request_id=str(self.id),
                client=f"sessions:{self._connection.opened.domain.id}",  # the domain's have one share between them
                model=self._connection.opened.domain.model,
                background=True,
            )
        except (ImageError, InvalidEmbedding):
            return UNREADABLE, {}
        if analysis.contract != self._connection.opened.domain.contract:
            raise ContractMismatch("The worker pool's model is not the one of this domain.")
        bounds = QualityBounds(tools.settings.enrol_min_face_px, self._manifest.min_sharpness)
        found = assess(analysis, bounds)
        if found.usable and found.face is not None and found.face.embedding is None:
            # The largest detection is none to believe, and the face that is has not been embedded.
            found = Assessment(found.face, (Reason.SEVERAL_FACES,))
        return found, timings_to_json(analysis.timings_ms)

    def _frame(
        self, frame: int, face: Face | None, reasons: tuple[Reason, ...], timings: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "type": "frame",
            "frame": frame,
            "dropped": False,
            "accepted": face is not None and not reasons,
            "face": None if face is None else _shown(face),
            "reasons": [reason.value for reason in reasons],
            "hint": hint(reasons),
            "timings_ms": timings,
            **self._standing(),
        }

    def _standing(self) -> dict[str, Any]:
        return {"frames": self._connection.used, "frames_left": self.frames_left, "progress": self._task.progress}

    def _told(self, result: dict[str, Any]) -> dict[str, Any]:
        self._over = True
        log.info(f"[SESSION] {result['outcome']}", session=str(self.id))
        # Whoever holds the token is not told whom the faces resemble.
        return {"result": {name: value for name, value in result.items() if name != "warnings"}}

    def _refuse_when_over(self) -> None:
        if self._over:
            raise SessionEnded("The session is decided.")


def _shown(face: Face) -> dict[str, Any]:
    """Without the embedding, whatever the key may see: the stream has a token only."""
    quality = face.quality
    seen = face_to_json(face)
    return {
        "box": seen["box"],
        "detection_score": seen["detection_score"],
        "size_px": quality.size_px,
        "sharpness": seen["sharpness"],
        "brightness": None if quality.brightness is None else round(quality.brightness, 1),
        "turn": None if quality.turn is None else round(quality.turn, 3),
    }
