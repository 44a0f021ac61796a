"""Where members come from: one interface, and a file that keeps them for when it is away."""

from typing import Protocol

from app.edge.members import GalleryDelta


class Source(Protocol):
    """Tells who the members are."""

    @property
    def name(self) -> str:
        """What it is called in logs, and what the cache file says whose members it holds; without secrets."""
        ...

    def fetch(self, since: str | None) -> GalleryDelta:
        """What has changed since a version that it gave; None, or where it cannot tell: everything, and `full` says so.

        Raises:
            SourceUnavailable: it does not answer; asking again later may help.
            SourceRefused: somebody has to change something first.
            MalformedMembers: what it said is of no use; nothing of it is.
        """
        ...
