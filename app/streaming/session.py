"""What a stream needs of a session: `app/sessions` has it."""

from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from app.deadline import Deadline
from app.tenancy import Reach


class StreamedSession(Protocol):
    """One connection to a session. It waits for pool and database: used by one thread at a time, never the loop's."""

    def look(self, picture: bytes, frame: int, *, deadline: Deadline) -> dict[str, Any]:
        """The answer to one frame; holds `result` when the session is decided.

        Raises:
            FacedexError: the frame could not be looked at, or the session is over (`app/streaming/closing.py`).
        """
        ...

    def drop(self, frame: int, reason: str) -> dict[str, Any]:
        """The answer to a frame that is not looked at. Waits for nothing: it is asked in the loop's own thread."""
        ...

    def finish(self, *, deadline: Deadline) -> dict[str, Any]:
        """There are no more frames: the result.

        Raises:
            FacedexError: as `look`.
        """
        ...

    def cancel(self, *, deadline: Deadline) -> dict[str, Any]:
        """The client wants no result.

        Raises:
            FacedexError: as `look`.
        """
        ...

    def close(self, *, deadline: Deadline) -> None:
        """The connection is gone; the session may be resumed."""
        ...


@dataclass(frozen=True, slots=True)
class Streamed:
    """A session that was opened for a stream.

    Attributes:
        id: the session's.
        reach: of whoever looks at its frames: the key that has created it, within its own domain.
        remaining_s: until it ends undecided.
        greeting: the first message.
        session: this connection to it.
        request_id: of the request that has opened it, for the log.
    """

    id: UUID
    reach: Reach
    remaining_s: float
    greeting: dict[str, Any]
    session: StreamedSession
    request_id: str
