"""Where members come from: one interface, several places."""

from collections.abc import Callable
from typing import Protocol

from app.edge.members import GalleryDelta

Heard = Callable[[float, float, float], None]
"""Is told when an answer was made: its date in Unix seconds, and on the monotonic clock when it was asked for and had come."""


class Source(Protocol):
    """A place that knows who is a member.

    Attributes:
        name: for logs and the state of health, and for the cache file to know whose members it holds; without secrets.
    """

    name: str

    def fetch(self, since: str | None) -> GalleryDelta:
        """What has changed since that version; everything where it is None, or where the source cannot tell: `full` says so.

        Raises:
            SourceUnavailable: it may work later.
            SourceRefused: somebody has to change something.
            SourceWithdrawn: this controller may have nothing of it.
            MalformedMembers: what came is not what was agreed on; nothing of it is used.
        """
        ...
