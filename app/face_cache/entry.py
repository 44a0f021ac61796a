"""What is kept, under what, and by whom."""

from dataclasses import dataclass
from typing import Protocol

from app.db.domains import DomainKey
from app.vision.faces import Effort

MAX_ENTRY_BYTES = 64 * 1024
"""A longer analysis, of dozens of faces, is not kept: so a number of entries bounds the memory too."""


@dataclass(frozen=True, slots=True)
class EntryKey:
    """One picture, as one domain may know it.

    Attributes:
        domain: whose it is. Another domain's entry is another one: a hit never tells that somebody else has the picture.
        sha256: the picture's digest.
        effort: how hard a face was looked for.
    """

    domain: DomainKey
    sha256: bytes
    effort: Effort = "usual"


class FaceStore(Protocol):
    """Keeps analyses as bytes (`app.embedder.protocol.dump_analysis`) for a time. No method raises, or waits for long."""

    def get(self, key: EntryKey) -> bytes | None:
        """What was kept, unless it is out of date; None where there is nothing, or nobody can say so now."""
        ...

    def put(self, key: EntryKey, analysis: bytes) -> None:
        """Keep an analysis; or not."""
        ...

    def observe(self) -> None:
        """Bring the metrics up to date that nothing else does."""
        ...
