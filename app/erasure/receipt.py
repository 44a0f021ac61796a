"""What an erasure tells of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Remnant:
    """Where something of a person may still be, and why."""

    place: str
    why: str


IN_DATABASE_FILES: Final = Remnant(
    "database_files",
    "PostgreSQL keeps deleted rows in its files, and in its write-ahead log, until these are rewritten: flask purge does so.",
)
IN_BACKUPS: Final = Remnant(
    "backups", "Backups, replicas and archived logs that were made before have to be deleted by hand."
)
IN_AUDIT: Final = Remnant("audit", "The events of the audit name the person's id; no name, picture or vector.")
IN_PROCESS_MEMORY: Final = Remnant(
    "face_cache",
    "What a process of the web has just extracted from pictures for this domain is in its memory for up to ten seconds more.",
)
IN_ROWS_OF_OTHERS: Final = Remnant(
    "dataset_rows",
    "A label that was the person's is somebody else's now: rows under it stay in the dataset. Export that anew.",
)
IN_SWITCHED_OFF_DATABASE: Final = Remnant("database", "It is switched off (VECTOR_DB_ENABLED=false) and was not asked.")


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of an erasure: ids and counts.

    Attributes:
        id: of the receipt.
        domain: the domain's name.
        person_id: None where a whole domain was erased, or somebody who was no person of the database's.
        erased_at: when the database forgot them.
        requested_by: who asked: the id of a key, `admin`, `cli`.
        request_id: of the request; None where there was none.
        counts: how many pieces were deleted, by place.
        unfinished: places that could not be seen to, and why; they are tried again.
        remains: where else something may be, and why.
    """

    id: UUID
    domain: str
    person_id: UUID | None
    erased_at: datetime
    requested_by: str
    request_id: str | None
    counts: Mapping[str, int]
    unfinished: tuple[Remnant, ...]
    remains: tuple[Remnant, ...]

    @property
    def is_finished(self) -> bool:
        """Whether no place is left to be seen to."""
        return not self.unfinished

    def as_json(self) -> dict[str, Any]:
        """For programs; `deleted` and `embeddings` are the keys of earlier versions."""
        return {
            "deleted": str(self.person_id) if self.person_id else self.domain,
            "embeddings": self.counts.get("templates", 0),
            "receipt": str(self.id),
            "person_id": self.person_id and str(self.person_id),
            "domain": self.domain,
            "erased_at": self.erased_at.isoformat(),
            "requested_by": self.requested_by,
            "request_id": self.request_id,
            "state": "finished" if self.is_finished else "unfinished",
            "counts": dict(self.counts),
            "unfinished": [{"place": entry.place, "why": entry.why} for entry in self.unfinished],
            "remains": [{"place": entry.place, "why": entry.why} for entry in self.remains],
        }
