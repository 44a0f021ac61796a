"""Reference photos: who has one in work, how its work ends, and how many a person has.

Nobody holds a transaction while the pool looks at a picture. Who begins claims the photo for a while, by raising `attempts`,
and what comes of it counts only while the photo is theirs still: of two who look at it at once, one stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, func, select, text, update
from sqlalchemy.orm import Session

from app.db.models import FaceEmbedding, Person
from app.db.work_models import Job, ReferencePhoto
from app.errors import DuplicateFace

WAITING: Final = "waiting"
EXTRACTED: Final = "extracted"
FAILED: Final = "failed"

# The row's lock is held for this statement only; who comes second finds the claim.
_CLAIM_SQL: Final = """
UPDATE reference_photos SET attempts = attempts + 1, tried_at = now(), claimed_until = now() + :lease
WHERE domain_id = :domain_id AND id = :id AND state = 'waiting' AND (claimed_until IS NULL OR claimed_until < now())
RETURNING attempts, person_id, image_sha256, picture
"""
# Of photos that both have, the target's stays. Templates have moved before: those that were there already are the target's, and
# are not deleted with the photo, which `duplicate` says.
_MOVE_SQL: Final = (
    """
DELETE FROM reference_photos AS source USING reference_photos AS target
WHERE source.domain_id = :domain_id AND source.person_id = :source
    AND target.domain_id = :domain_id AND target.person_id = :target AND source.image_sha256 = target.image_sha256
""",
    "UPDATE reference_photos SET person_id = :target WHERE domain_id = :domain_id AND person_id = :source",
    """
UPDATE reference_photos AS photo SET face_id = face.id,
    warnings = array_append(array_remove(photo.warnings, :duplicate), :duplicate)
FROM face_embeddings AS face
WHERE photo.domain_id = :domain_id AND photo.person_id = :target AND photo.state = 'extracted'
    AND face.domain_id = :domain_id AND face.person_id = :target AND face.image_sha256 = photo.image_sha256
    AND photo.face_id IS DISTINCT FROM face.id
""",
    "UPDATE jobs SET person_id = :target WHERE domain_id = :domain_id AND person_id = :source",
)


@dataclass(frozen=True, slots=True)
class PhotoCounts:
    """How many reference photos there are, by state."""

    waiting: int = 0
    extracted: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.extracted + self.failed


@dataclass(frozen=True, slots=True)
class PhotoInfo:
    """A reference photo.

    Attributes:
        state: `waiting`, `extracted` or `failed`.
        image_sha256: hexadecimal.
        strategy: by which the pool has found the face; None unless extracted.
        face_id: the template that it became, or that was there already; None where there is none, or none any more.
        warnings: codes of what was noticed of the face.
        error_code, error_message: why the last attempt has failed, also while it waits for the next.
        job_id: which is to extract it, or was.
        attempts: how often somebody has begun.
    """

    id: UUID
    person_id: UUID
    state: str
    image_sha256: str
    strategy: str | None
    face_id: UUID | None
    warnings: tuple[str, ...]
    error_code: str | None
    error_message: str | None
    job_id: UUID | None
    attempts: int
    created_at: datetime
    tried_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClaimedPhoto:
    """A photo that is ours to look at; `attempt` tells our claim from others'."""

    domain_id: int
    id: UUID
    attempt: int
    person_id: UUID
    image_sha256: bytes
    picture: bytes


def select_photos(domain_id: int) -> Select[*tuple[Any, ...]]:
    """The photos of a domain as `photo_of` takes them, without their pictures."""
    photo = ReferencePhoto
    face = and_(FaceEmbedding.domain_id == domain_id, FaceEmbedding.id == photo.face_id)
    return (
        select(
            photo.id,
            photo.person_id,
            photo.state,
            photo.image_sha256,
            photo.strategy,
            FaceEmbedding.id,
            photo.warnings,
            photo.error_code,
            photo.error_message,
            photo.job_id,
            photo.attempts,
            photo.created_at,
            photo.tried_at,
        )
        .join(FaceEmbedding, face, isouter=True)
        .where(photo.domain_id == domain_id)
    )


def photo_of(row: Sequence[Any]) -> PhotoInfo:
    """A row of `select_photos`."""
    id_, person_id, state, digest, strategy, face_id, warnings, *rest = row
    return PhotoInfo(id_, person_id, state, digest.hex(), strategy, face_id, tuple(warnings), *rest)


def read_photo(session: Session, domain_id: int, photo_id: UUID) -> PhotoInfo | None:
    """The photo of that id; None where there is none."""
    row = session.execute(select_photos(domain_id).where(ReferencePhoto.id == photo_id)).one_or_none()
    return None if row is None else photo_of(row)


def claim_photo(session: Session, domain_id: int, photo_id: UUID, *, lease_s: float) -> ClaimedPhoto | None:
    """Begin with a waiting photo, in a transaction of its own.

    Args:
        lease_s: for so long nobody else begins, unless the claim is given back.

    Returns:
        None where it does not wait any more, or somebody else has it.
    """
    values = {"domain_id": domain_id, "id": photo_id, "lease": timedelta(seconds=lease_s)}
    row = session.execute(text(_CLAIM_SQL), values).one_or_none()
    if row is None:
        return None
    attempt, person_id, digest, picture = row
    return ClaimedPhoto(domain_id, photo_id, attempt, person_id, bytes(digest), bytes(picture))


def still_ours(session: Session, claimed: ClaimedPhoto) -> UUID | None:
    """Whose the photo is now, with its row locked until the transaction ends; None where it is ours no more.

    It may have been deleted, also with its person; have been another's after our claim ran out; or be the person's into whom
    its own was merged. Call it under the domain's lock.
    """
    query = select(ReferencePhoto.person_id).where(*_ours(claimed)).with_for_update()
    return session.scalars(query).one_or_none()


def end_extracted(
    session: Session, claimed: ClaimedPhoto, *, strategy: str, face_id: UUID, warnings: Sequence[str]
) -> None:
    """The photo has become a template, or is one already: its picture is not needed any more."""
    _end(
        session,
        claimed,
        state=EXTRACTED,
        strategy=strategy,
        face_id=face_id,
        warnings=list(warnings),
        picture=None,
        error_code=None,
        error_message=None,
    )


def end_failed(session: Session, claimed: ClaimedPhoto, code: str, message: str) -> UUID | None:
    """Nothing comes of the photo: it keeps its picture. Whose it is; None where it was ours no more."""
    return _end(session, claimed, state=FAILED, error_code=code, error_message=message)


def give_back(session: Session, claimed: ClaimedPhoto, code: str, message: str) -> None:
    """It waits for the next attempt, which may begin now."""
    _end(session, claimed, error_code=code, error_message=message)


def photos_by_state(domain_id: int) -> ScalarSelect[dict[str, int]]:
    """For a query of persons: how many photos each has, as JSON by state; null where there are none."""
    counted = (
        select(ReferencePhoto.state, func.count().label("photos"))
        .where(ReferencePhoto.domain_id == domain_id, ReferencePhoto.person_id == Person.id)
        .group_by(ReferencePhoto.state)
        .correlate(Person)
        .subquery()
        .lateral()
    )
    return select(func.jsonb_object_agg(counted.c.state, counted.c.photos)).scalar_subquery()


def photo_counts(session: Session, domain_id: int, person_id: UUID | None = None) -> PhotoCounts:
    """How many photos the domain's persons have, or one of them."""
    query = select(ReferencePhoto.state, func.count()).where(ReferencePhoto.domain_id == domain_id)
    if person_id is not None:
        query = query.where(ReferencePhoto.person_id == person_id)
    rows = session.execute(query.group_by(ReferencePhoto.state))
    return PhotoCounts(**{state: count for state, count in rows})  # noqa: C416 - names what the columns are


def move_photos(session: Session, domain_id: int, source_id: UUID, target_id: UUID) -> None:
    """Make one person's photos, and the jobs for them, another's; after the templates, under the domain's lock."""
    values = {"domain_id": domain_id, "source": source_id, "target": target_id, "duplicate": DuplicateFace.code}
    for statement in _MOVE_SQL:
        session.execute(text(statement), values)


def runs_still() -> ColumnElement[bool]:
    """The condition that the photo's job is going to extract it."""
    return (
        select(Job.id)
        .where(Job.id == ReferencePhoto.job_id, Job.state.in_(("queued", "running")))
        .correlate(ReferencePhoto)
        .exists()
    )


def _ours(claimed: ClaimedPhoto) -> tuple[ColumnElement[bool], ...]:
    return (
        ReferencePhoto.domain_id == claimed.domain_id,
        ReferencePhoto.id == claimed.id,
        ReferencePhoto.state == WAITING,
        ReferencePhoto.attempts == claimed.attempt,
    )


def _end(session: Session, claimed: ClaimedPhoto, **values: Any) -> UUID | None:
    statement = update(ReferencePhoto).where(*_ours(claimed)).values(claimed_until=None, **values)
    return session.execute(
        statement.returning(ReferencePhoto.person_id), execution_options={"synchronize_session": False}
    ).scalar_one_or_none()
