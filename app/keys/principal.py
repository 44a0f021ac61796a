"""Who calls, and what they may do."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.tenancy import Reach, everything


class Scope(StrEnum):
    """What a key is for. Each route says which it needs (`app/api/access.py`)."""

    RECOGNIZE = "recognize"
    """Search a domain's gallery (1:N), and say which answers were wrong."""

    ENROL = "enrol"
    """Read, make, change and erase persons and their faces."""

    VERIFY = "verify"
    """Compare pictures with each other or with one person (1:1)."""

    EMBED = "embed"
    """Detect faces and see their embeddings: a face can be drawn anew from one."""

    GALLERY = "gallery"
    """Copy a domain's gallery and follow its changes: everybody's templates, names and locks, for recognition elsewhere."""

    ADMIN = "admin"
    """Manage keys, read the audit, export persons; with every domain within reach: make and delete domains, operate."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as `g.client`; not set for the public paths.

    Attributes:
        id: the key's id, or `admin`. The worker pool serves its clients in turn.
        scopes: what it may do.
        reach: the domains that it may see.
        rate_per_minute: requests, where it has a limit of its own.
        expires_at: when its key ends; what it makes must not last longer.
    """

    id: str
    scopes: frozenset[Scope]
    reach: Reach
    rate_per_minute: int | None = None
    expires_at: datetime | None = None

    @property
    def may_see_vectors(self) -> bool:
        """Whether its answers may hold embeddings."""
        return Scope.EMBED in self.scopes


ADMIN: Final = Principal("admin", frozenset(Scope), everything("admin"))
"""Whoever shows the key of `storage/admin.key`, which works without a database too."""
