"""How many streams a process has open, and each holder of them."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Final
from uuid import UUID

from app.errors import StreamsFull, TooManyStreams
from app.streaming.metrics import OPEN

_SHARE: Final = 0.75
# Beyond the places: connections that have to show first that they take the place of an older one.
_SPARE: Final = 8


class Places:
    """Places for streams; one holder takes three quarters of them at most, at least one.

    A session has one place, however many connections it has for a moment: who was cut off is let in again, though nobody has
    noticed yet that the connection before is dead.

    Args:
        most: of all holders together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_one = max(1, int(most * _SHARE))
        self._held: dict[str, Counter[UUID]] = {}
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> "Place":
        """Take a place, before it is known for whom.

        Raises:
            StreamsFull: there is none.
        """
        with self._lock:
            if self._taken >= self._most + _SPARE:
                raise _full()
            self._taken += 1
        OPEN.inc()
        return Place(self._claim, self._release)

    def _claim(self, holder: str, session_id: UUID) -> None:
        with self._lock:
            own = self._held.get(holder, Counter())
            if session_id not in own:
                if sum(map(len, self._held.values())) >= self._most:
                    raise _full()
                if len(own) >= self._most_of_one:
                    raise TooManyStreams(f"This domain has {self._most_of_one} streams open already.")
            self._held.setdefault(holder, own)[session_id] += 1

    def _release(self, held: tuple[str, UUID] | None) -> None:
        with self._lock:
            self._taken -= 1
            if held is not None:
                holder, session_id = held
                own = self._held[holder]
                own[session_id] -= 1
                if not own[session_id]:
                    del own[session_id]
                if not own:
                    del self._held[holder]
        OPEN.dec()


class Place:
    """One place."""

    def __init__(self, claim: Callable[[str, UUID], None], release: Callable[[tuple[str, UUID] | None], None]) -> None:
        self._claim = claim
        self._give_back: Callable[[tuple[str, UUID] | None], None] | None = release
        self._held: tuple[str, UUID] | None = None

    def belongs_to(self, holder: str, session_id: UUID) -> None:
        """Say whose it is, and for which session.

        Raises:
            TooManyStreams: they have as many as one holder may.
            StreamsFull: it was one of those that are for sessions which have a place already.
        """
        self._claim(holder, session_id)
        self._held = (holder, session_id)

    def release(self) -> None:
        """Give it back; once is enough."""
        if (give_back := self._give_back) is not None:
            self._give_back = None
            give_back(self._held)


def _full() -> StreamsFull:
    return StreamsFull("As many streams as this process serves are open; try again shortly.")
