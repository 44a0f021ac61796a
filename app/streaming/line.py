"""Who may use a thread now: in turn, whoever stands for many."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Line:
    """So many at once; nobody has more than half of the places, and those who wait have the next one in turn.

    Of one event loop's thread alone.

    Args:
        places: in all, at least two.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._most_of_one = max(1, places // 2)
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # whoever has waited longest for a turn is first

    @asynccontextmanager
    async def turn(self, who: str) -> AsyncGenerator[None]:
        """Wait for a place, and have it in the block."""
        await self._enter(who)
        try:
            yield
        finally:
            self._leave(who)

    async def _enter(self, who: str) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given meanwhile
                self._leave(who)
            raise

    def _leave(self, who: str) -> None:
        self._free += 1
        self._held[who] -= 1
        if not self._held[who]:
            del self._held[who]
        self._admit()

    def _admit(self) -> None:
        while self._free and (who := self._next()) is not None:
            places = self._waiting.pop(who)
            place = places.popleft()
            if places:
                self._waiting[who] = places  # last in turn now
            if place.cancelled():
                continue
            self._free -= 1
            self._held[who] += 1
            place.set_result(None)

    def _next(self) -> str | None:
        return next((who for who in self._waiting if self._held[who] < self._most_of_one), None)
