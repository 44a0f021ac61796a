"""Two persons of a domain become one."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import func, text
from sqlalchemy.orm import Session

from app.audit import record
from app.db.domains import lock_domain, raise_cache_epoch
from app.db.job_files import rename_files
from app.db.models import Person
from app.db.references import move_photos
from app.db.session import Database
from app.db.sessions import sessions_follow
from app.db.templates import delete_person, move_templates
from app.enrolment.images import ImageStore
from app.enrolment.lookup import PersonInfo, find_domain, find_person, read
from app.errors import MergeWithItself

log = structlog.stdlib.get_logger("facedex.enrolment")


@dataclass(frozen=True, slots=True)
class Merged:
    """The person who remains, and what became of the faces of the one who is gone."""

    domain_uid: UUID
    source_id: UUID
    person: PersonInfo
    moved: int
    dropped: int


class MergeService:
    """Merges persons who turned out to be one."""

    def __init__(self, database: Database, images: ImageStore) -> None:
        self._database = database
        self._images = images

    def merge(self, domain: str, label: str, other: str) -> Merged:
        """Give all that is of `other` to the person of `label`, and forget `other`; all of it or nothing.

        The person keeps label, names, metadata and validity, and takes over the external id where they have none. Pictures
        and reference photos that both have are kept once.

        Args:
            label, other: each a label, an external id or an id, in this order.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
            MergeWithItself: both are one person already.
        """
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            domain_id = found.id
            lock_domain(session, domain_id)
            target = find_person(session, domain_id, label)
            source = find_person(session, domain_id, other)
            if source.id == target.id:
                raise MergeWithItself("Both are the same person.")
            source_id, external_id = source.id, source.external_id
            target.former_labels = [*dict.fromkeys([*target.former_labels, source.label, *source.former_labels])]
            # Until the pictures have followed, they lie under these: the deepest first, as they move towards the target.
            target.former_ids = [*dict.fromkeys([*source.former_ids, source.id, *target.former_ids])]
            moved, dropped = move_templates(session, domain_id, source.id, target.id)
            _move_rejections(session, source, target)
            move_photos(session, domain_id, source.id, target.id)
            called = [source.label, external_id, str(source_id), *map(str, source.former_ids)]
            rename_files(session, domain_id, called, target.label)
            sessions_follow(session, domain_id, called, source_id, target.id)
            delete_person(session, domain_id, source_id)
            raise_cache_epoch(session, domain_id)
            target.external_id = target.external_id or external_id
            target.updated_at = func.now()
            session.flush()
            session.refresh(target)
            info = read(session, target)
            record(
                session,
                "person.merged",
                domain_id=domain_id,
                persons=[target.id, source_id],
                faces_moved=moved,
                faces_dropped=dropped,
            )
        merged = Merged(found.uid, source_id, info, moved, dropped)
        self._database.once_committed(lambda: self._move_pictures(merged))
        return merged

    def _move_pictures(self, merged: Merged) -> None:
        """Have the stored pictures follow; what cannot be moved now is moved later."""
        try:
            self._images.move_person(merged.domain_uid, merged.source_id, merged.person.id)
        except OSError as error:
            log.warning(
                "[ENROL] Stored pictures cannot be moved now", person=str(merged.person.id), reason=error.strerror
            )


# What cannot be true of one person is forgotten: "not A, but B", where A is B; and a face that is rejected for the one and
# enrolled as the other, in the same picture up to what another machine makes of it. So is what was said twice.
_DROP_CONTRADICTIONS_SQL: Final = """
DELETE FROM face_rejections AS rejection
WHERE domain_id = :domain_id AND person_id IN (:source, :target) AND (
    actual_person_id IN (:source, :target) OR EXISTS (
        SELECT FROM face_embeddings AS template
        WHERE template.domain_id = :domain_id AND template.person_id = :target
            AND 1 + (template.embedding <#> rejection.embedding) < 1e-5
    ) OR person_id = :source AND EXISTS (
        SELECT FROM face_rejections AS same
        WHERE same.domain_id = :domain_id AND same.person_id = :target
            AND same.image_sha256 = rejection.image_sha256 AND same.face = rejection.face
    )
)
"""
_MOVE_REJECTIONS_SQL: Final = """
UPDATE face_rejections SET person_id = :target WHERE domain_id = :domain_id AND person_id = :source
"""
_MOVE_ACTUAL_SQL: Final = """
UPDATE face_rejections SET actual_person_id = :target WHERE domain_id = :domain_id AND actual_person_id = :source
"""


def _move_rejections(session: Session, source: Person, target: Person) -> None:
    """After the templates were moved."""
    values = {"domain_id": target.domain_id, "source": source.id, "target": target.id}
    for statement in (_DROP_CONTRADICTIONS_SQL, _MOVE_REJECTIONS_SQL, _MOVE_ACTUAL_SQL):
        session.execute(text(statement), values)
