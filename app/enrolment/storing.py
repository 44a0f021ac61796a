"""One face of a person into the domain, as a template, with what is noticed about it."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import Detail, record
from app.config import Settings
from app.db.models import Domain, FaceEmbedding, Person
from app.db.neighbours import distance_to_person
from app.db.templates import NewTemplate, insert_templates
from app.enrolment.quality import is_same_photo
from app.enrolment.resemblance import Resemblance, resemblances
from app.errors import DuplicateFace
from app.vision.faces import Face, Float32Array
from app.vision.packs import PackManifest


def store_face(
    session: Session,
    settings: Settings,
    domain: Domain,
    person: Person,
    face: Face,
    image_sha256: bytes,
    manifest: PackManifest,
    **details: Detail,
) -> tuple[FaceEmbedding, tuple[Resemblance, ...]]:
    """Store one template, and leave an event of it, under the domain's lock, which the caller holds.

    Args:
        face: with its embedding.
        image_sha256: of the picture's file.
        manifest: of the pack that made the embedding.
        details: for the event.

    Returns:
        the stored row, and whom else the face is near to.

    Raises:
        DuplicateFace: the person has this picture, or another encoding of the same photo.
        ContractMismatch, InvalidEmbedding: as `insert_templates`.
    """
    assert face.embedding is not None
    if known_face(session, domain.id, person.id, image_sha256) is not None:
        raise known_picture()
    threshold = manifest.calibration.threshold
    nearest = distance_to_person(session, domain.id, person.id, face.embedding)
    if nearest is not None and is_same_photo(nearest, threshold):
        raise DuplicateFace("The same photo of this person is enrolled already, in another encoding.")
    template = NewTemplate(
        person_id=person.id,
        embedding=face.embedding,
        image_sha256=image_sha256,
        box=face.box,
        score=face.score,
        sharpness=face.quality.sharpness,
    )
    insert_templates(session, domain.id, [template])
    warnings = resemblances(
        session, settings, domain, person, face.embedding, own_distance=nearest, threshold=threshold
    )
    record(session, "face.enrolled", domain_id=domain.id, persons=[person.id], face=str(template.id), **details)
    return session.get_one(FaceEmbedding, (domain.id, template.id)), warnings


def known_face(session: Session, domain_id: int, person_id: UUID, image_sha256: bytes) -> UUID | None:
    """The person's template of this very picture, if there is one."""
    query = select(FaceEmbedding.id).where(
        FaceEmbedding.domain_id == domain_id,
        FaceEmbedding.image_sha256 == image_sha256,
        FaceEmbedding.person_id == person_id,
    )
    return session.scalars(query).first()


def nearest_face(session: Session, domain_id: int, person_id: UUID, embedding: Float32Array) -> UUID | None:
    """The person's template nearest to an embedding, float32, (D,); None where there are none."""
    query = (
        select(FaceEmbedding.id)
        .where(FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person_id)
        .order_by(FaceEmbedding.embedding.cosine_distance(embedding), FaceEmbedding.id)
    )
    return session.scalars(query.limit(1)).first()


def known_picture() -> DuplicateFace:
    """The error of a picture that is enrolled already."""
    return DuplicateFace("This very picture of this person is enrolled already.")
