"""A bounded queue that serves clients in turn, so that nobody waits for all that another one has sent. Pure."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """There is no room for this client's item."""


class FairQueue(Generic[T]):
    """Items by client, in order of arrival for each of them.

    A full queue still has room for a client that waits for less than another one: the newest item of whoever has the most gives
    way. Source: longest queue drop, as in RFC 8290 (section 4.1.3, `fq_codel_drop`).
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()  # in the order of whose turn it is

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[T]:
        return (item for items in self._waiting.values() for item in items)

    def push(self, client: str, item: T) -> T | None:
        """Add an item.

        Returns:
            the item that had to give way, None where there was room.

        Raises:
            QueueFull: nobody has more waiting than this client would have.
        """
        evicted = self._make_room(client) if len(self) >= self._capacity else None
        self._waiting.setdefault(client, deque()).append(item)
        return evicted

    def push_first(self, client: str, item: T) -> None:
        """Add an item that had its place before, and goes ahead of everything; whether or not there is room."""
        self._waiting.setdefault(client, deque()).appendleft(item)
        self._waiting.move_to_end(client, last=False)

    def pop(self, may_go: Callable[[T], bool]) -> T | None:
        """The oldest item that may go of the client whose turn it is; None where there is none of any client."""
        for client, items in self._waiting.items():
            found = next((item for item in items if may_go(item)), None)
            if found is not None:
                self._waiting.move_to_end(client)
                self.discard(client, found)
                return found
        return None

    def discard(self, client: str, item: T) -> None:
        """Take out an item, if it is there."""
        items = self._waiting.get(client, deque())
        if item in items:
            items.remove(item)
        if not items:
            self._waiting.pop(client, None)

    def _make_room(self, client: str) -> T:
        greediest, items = max(self._waiting.items(), key=lambda entry: len(entry[1]))
        if len(items) <= len(self._waiting.get(client, ())) + 1:
            raise QueueFull
        evicted = items[-1]
        self.discard(greediest, evicted)
        return evicted
