"""Entries to keep."""

from uuid import UUID, uuid4

from app.db.domains import DomainKey
from app.face_cache.entry import EntryKey


def entry(picture: int = 0, *, uid: UUID | None = None, epoch: int = 0) -> EntryKey:
    """The key of a picture that a domain may know."""
    return EntryKey(DomainKey(uid or uuid4(), epoch, "dlib", "c:128:0"), picture.to_bytes(32))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
