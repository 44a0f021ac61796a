"""Templates in and out of a domain's partition. Every vector is checked here, and `template_count` is kept here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np
import psycopg
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.base import UNIT_TOLERANCE
from app.db.codes import codes_of, has_codes
from app.db.copying import COPY_COLUMNS, TemplateBatch, copy_stream
from app.db.domains import lock_domain
from app.db.models import Domain, FaceEmbedding, Person
from app.db.partitions import partition_name
from app.errors import ContractMismatch, InvalidEmbedding
from app.vision.faces import Box, Float32Array, UInt8Array

# An embedder normalises in float32: its vectors are within this of unit length, and stay as they are, bit for bit.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class NewTemplate:
    """A template to store.

    Attributes:
        person_id: a person of the same domain.
        embedding: float32, (D,), unit length.
        image_sha256: 32 bytes, of the file as uploaded; None where it was never seen.
        box: the face in its picture, in pixels.
        score: the detector's.
        sharpness: `FaceQuality.sharpness`.
    """

    person_id: UUID
    embedding: Float32Array
    image_sha256: bytes | None
    box: Box
    score: float
    sharpness: float
    id: UUID = field(default_factory=uuid4)


def unit_vectors(vectors: Sequence[Float32Array] | Float32Array, dimension: int) -> Float32Array:
    """Check embeddings, and scale those whose length differs from 1 by more than rounding.

    Vectors that went through here come out as they are: what is exported and imported again stays the same.

    Args:
        vectors: float, (N, D), of unit length within 1e-3.
        dimension: D.

    Returns:
        float32, (N, D), unit length.

    Raises:
        ContractMismatch: another dimension.
        InvalidEmbedding: not finite, or not of unit length.
    """
    if len(vectors) == 0:
        return np.empty((0, dimension), dtype=np.float32)
    if any(np.shape(vector) != (dimension,) for vector in vectors):
        raise ContractMismatch(f"An embedding does not have the domain's {dimension} dimensions.")
    array = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    # Written so that NaN fails too.
    if not np.all(np.abs(norms - 1.0) <= UNIT_TOLERANCE):
        raise InvalidEmbedding("An embedding is not a vector of unit length.")
    norms[np.abs(norms - 1.0) <= _ROUNDING] = 1.0
    units: Float32Array = (array / norms).astype(np.float32)
    return units


def random_ids(count: int) -> UInt8Array:
    """Ids for new templates: uint8, (count, 16), the bytes of UUIDs of version 4."""
    ids = np.frombuffer(bytearray(os.urandom(16 * count)), dtype=np.uint8).reshape(count, 16)
    ids[:, 6] = ids[:, 6] & 0x0F | 0x40
    ids[:, 8] = ids[:, 8] & 0x3F | 0x80
    return ids


def insert_templates(session: Session, domain_id: int, templates: Sequence[NewTemplate]) -> list[UUID]:
    """Store templates, under the domain's lock. A person's picture that is stored already is left as it is.

    Returns:
        The ids of those that were new, in order.

    Raises:
        DomainNotFound: no such domain.
        ContractMismatch, InvalidEmbedding: as `unit_vectors`; nothing is stored.
        sqlalchemy.exc.IntegrityError: a person is not of this domain.
    """
    domain = lock_domain(session, domain_id)
    units = unit_vectors([template.embedding for template in templates], domain.dimension)
    if not templates:
        return []
    statement = insert(FaceEmbedding).on_conflict_do_nothing(constraint="face_embeddings_image_key")
    codes = codes_of(units) if has_codes(domain.dimension) else [None] * len(units)
    rows = [_columns(domain_id, *each) for each in zip(templates, units, codes, strict=True)]
    stored = set(session.scalars(statement.values(rows).returning(FaceEmbedding.id)))
    _count(session, domain_id, len(stored))
    return [template.id for template in templates if template.id in stored]


def delete_template(session: Session, domain_id: int, person_id: UUID, template_id: UUID) -> bool:
    """Delete one template of a person, under the domain's lock. Whether there was one."""
    lock_domain(session, domain_id)
    gone = session.scalars(
        delete(FaceEmbedding)
        .where(
            FaceEmbedding.domain_id == domain_id,
            FaceEmbedding.person_id == person_id,
            FaceEmbedding.id == template_id,
        )
        .returning(FaceEmbedding.id)
    ).all()
    _count(session, domain_id, -len(gone))
    return bool(gone)


def delete_person(session: Session, domain_id: int, person_id: UUID) -> bool:
    """Delete a person with all templates, under the domain's lock. Whether there was one."""
    lock_domain(session, domain_id)
    belongs = (FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person_id)
    gone = session.scalars(delete(FaceEmbedding).where(*belongs).returning(FaceEmbedding.id)).all()
    _count(session, domain_id, -len(gone))
    person = delete(Person).where(Person.domain_id == domain_id, Person.id == person_id).returning(Person.id)
    return session.scalar(person) is not None


def move_templates(session: Session, domain_id: int, source_id: UUID, target_id: UUID) -> tuple[int, int]:
    """Make one person's templates another's, under the domain's lock. What both have, the target keeps as it is.

    Returns:
        How many were moved, and how many were dropped: of a picture, or with a vector, that the target has.
    """
    lock_domain(session, domain_id)
    values = {"domain_id": domain_id, "source": source_id, "target": target_id}
    dropped = session.execute(text(_DROP_SHARED_SQL), values).all()
    moved = session.execute(text(_MOVE_SQL), values).all()
    _count(session, domain_id, -len(dropped))
    return len(moved), len(dropped)


_DROP_SHARED_SQL: Final = """
DELETE FROM face_embeddings AS source USING face_embeddings AS target
WHERE source.domain_id = :domain_id AND source.person_id = :source
    AND target.domain_id = :domain_id AND target.person_id = :target
    AND (source.image_sha256 = target.image_sha256 OR source.embedding = target.embedding)
RETURNING source.id
"""
_MOVE_SQL: Final = """
UPDATE face_embeddings SET person_id = :target WHERE domain_id = :domain_id AND person_id = :source RETURNING id
"""


def copy_templates(session: Session, domain_id: int, batch: TemplateBatch) -> None:
    """Load templates by binary COPY, under the domain's lock, which the caller holds.

    By way of a temporary table: COPY refuses a table with row-level security.

    Raises:
        ContractMismatch, InvalidEmbedding: as `unit_vectors`.
        sqlalchemy.exc.IntegrityError: an unknown person, or a picture that the person has already.
    """
    domain = session.get_one(Domain, domain_id)
    units = unit_vectors(batch.embeddings, domain.dimension)
    raw = session.connection().connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    with raw.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE staged (LIKE face_embeddings INCLUDING STORAGE INCLUDING DEFAULTS)")
        with cursor.copy(f"COPY staged ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(copy_stream(domain_id, replace(batch, embeddings=units)))
        cursor.execute(
            f"INSERT INTO {partition_name(domain_id)} ({COPY_COLUMNS}) SELECT {COPY_COLUMNS} FROM staged".encode()  # noqa: S608
        )
        cursor.execute("DROP TABLE staged")
    _count(session, domain_id, len(batch))


def recount_templates(session: Session, domain_id: int) -> int:
    """Set `template_count` to what the partition holds, under the domain's lock; for repairs. Returns it."""
    domain = lock_domain(session, domain_id)
    counted = session.scalar(
        select(func.count()).select_from(FaceEmbedding).where(FaceEmbedding.domain_id == domain_id)
    )
    domain.template_count = counted or 0
    session.flush()
    return domain.template_count


def _count(session: Session, domain_id: int, change: int) -> None:
    session.execute(
        update(Domain).where(Domain.id == domain_id).values(template_count=Domain.template_count + change),
        execution_options={"synchronize_session": "fetch"},
    )


def _columns(domain_id: int, template: NewTemplate, unit: Float32Array, code: UInt8Array | None) -> dict[str, Any]:
    return {
        "domain_id": domain_id,
        "id": template.id,
        "person_id": template.person_id,
        "image_sha256": template.image_sha256,
        "box_x": template.box.x,
        "box_y": template.box.y,
        "box_w": template.box.w,
        "box_h": template.box.h,
        "score": template.score,
        "sharpness": template.sharpness,
        "embedding": unit,
        "code": code,
    }
