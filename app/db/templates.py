"""Templates in and out of a domain's partition. Every vector is checked here, and `template_count` is kept here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np
import psycopg
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.domains import lock_domain
from app.db.models import Domain, FaceEmbedding, Person
from app.db.partitions import create_index, drop_index, partition_name
from app.db.session import Database, set_local
from app.errors import ContractMismatch, InvalidEmbedding
from app.vision.faces import Box, Float32Array

# An embedder normalises in float32: its vectors are within 1e-6 of unit length. Anything farther was not normalised.
_UNIT_TOLERANCE: Final = 1e-3
_COPY_COLUMNS: Final = "domain_id, id, person_id, image_sha256, box_x, box_y, box_w, box_h, score, sharpness, embedding"
_COPY_TYPES: Final = ("int4", "uuid", "uuid", "bytea", "int4", "int4", "int4", "int4", "float4", "float4", "vector")


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
    """Check embeddings and scale away what rounding left of their length.

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
    if not np.all(np.abs(norms - 1.0) <= _UNIT_TOLERANCE):
        raise InvalidEmbedding("An embedding is not a vector of unit length.")
    units: Float32Array = (array / norms).astype(np.float32)
    return units


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
    rows = [_columns(domain_id, template, unit) for template, unit in zip(templates, units, strict=True)]
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


def bulk_load(database: Database, domain_id: int, templates: Iterable[NewTemplate], *, batch_rows: int = 5_000) -> int:
    """Load many templates by binary COPY, and build the index once at the end. Returns how many.

    Each batch is committed by itself. Searches go on meanwhile, exactly. Unlike `insert_templates`, a picture that the
    person has already is an error. Where the load breaks off, the index is missing: `partitions.rebuild_index` brings
    it back.

    Raises:
        DomainNotFound: no such domain.
        ContractMismatch, InvalidEmbedding: as `unit_vectors`; earlier batches stay.
        DatabaseUnavailable, DatabaseTimeout: earlier batches stay.
        psycopg.IntegrityError: an unknown person, or a picture twice; earlier batches stay.
    """
    with database.transaction() as session:
        dimension = lock_domain(session, domain_id).dimension
        drop_index(session, domain_id)
    loaded = 0
    for batch in _batches(templates, batch_rows):
        with database.transaction() as session:
            lock_domain(session, domain_id)
            _copy(session, domain_id, batch, unit_vectors([item.embedding for item in batch], dimension))
            _count(session, domain_id, len(batch))
        loaded += len(batch)
    with database.transaction() as session:
        lock_domain(session, domain_id)
        set_local(session, statement_timeout="0")
        create_index(session, domain_id, dimension)
        session.execute(text(f"ANALYZE {partition_name(domain_id)}, persons"))
    return loaded


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


def _columns(domain_id: int, template: NewTemplate, unit: Float32Array) -> dict[str, Any]:
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
    }


def _batches(templates: Iterable[NewTemplate], size: int) -> Iterable[list[NewTemplate]]:
    batch: list[NewTemplate] = []
    for template in templates:
        batch.append(template)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _copy(session: Session, domain_id: int, templates: Sequence[NewTemplate], units: Float32Array) -> None:
    raw = session.connection().connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    with (
        raw.cursor() as cursor,
        cursor.copy(f"COPY {partition_name(domain_id)} ({_COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(_COPY_TYPES)
        for template, unit in zip(templates, units, strict=True):
            copy.write_row(tuple(_columns(domain_id, template, unit).values()))
