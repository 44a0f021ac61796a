"""Tables. `migrations/` creates them; a test holds the two together.

A domain is a tenant. Its templates are one partition of `face_embeddings` with an HNSW index of its own
(`app/db/partitions.py`), so that a search never filters across tenants.
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import (
    CheckConstraint,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, REAL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from app.vision.faces import Float32Array

MAX_DIMENSION: Final = 1_536
"""Longest embedding kept: a row is stored inline and must fit in one page of 8,192 bytes."""


class Embedding(TypeDecorator[Float32Array]):
    """A `vector` without a fixed length in SQL; float32, (D,) in Python. Each partition fixes D by a constraint."""

    impl = VECTOR
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Float32Array | None:
        """The driver's list as an array."""
        return None if value is None else np.asarray(value, dtype=np.float32)


class Base(DeclarativeBase):
    """Constraint names are fixed by a rule, so that migrations can name what they change."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {str: Text, datetime: DateTime(timezone=True), bytes: LargeBinary, float: REAL}  # noqa: RUF012


class Domain(Base):
    """A tenant and the embedding contract that all of its templates follow.

    `id` numbers partitions and never leaves the database; `uid` is what clients may use in place of the name.
    `template_count` is kept by `app/db/templates.py` under the domain's row lock; it chooses the way of searching.
    `complete` is false until the first migration of a dataset into it has finished: until then its gallery has gaps.
    """

    __tablename__ = "domains"
    __table_args__ = (
        CheckConstraint(f"dimension BETWEEN 1 AND {MAX_DIMENSION}", name="dimension"),
        CheckConstraint("template_count >= 0", name="template_count"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=uuid4, server_default=text("gen_random_uuid()"))
    name: Mapped[str] = mapped_column(unique=True)
    model: Mapped[str]
    contract: Mapped[str]
    dimension: Mapped[int]
    template_count: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    complete: Mapped[bool] = mapped_column(server_default=text("true"), default=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Person(Base):
    """Somebody who can be recognised in one domain. `valid_from` and `valid_until` bound when; null is unbounded."""

    __tablename__ = "persons"
    __table_args__ = (
        UniqueConstraint("domain_id", "label"),
        # What face_embeddings refers to: with the domain in the key, a template cannot point into another tenant.
        UniqueConstraint("domain_id", "id"),
        CheckConstraint("valid_from < valid_until", name="validity"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    domain_id: Mapped[int] = mapped_column(ForeignKey("domains.id"))
    label: Mapped[str]
    display_name: Mapped[str]
    # `metadata` is a name that SQLAlchemy keeps for itself.
    attributes: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'"), default=dict)
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class FaceEmbedding(Base):
    """One template: a unit-length embedding of one face of one picture, in the domain's own partition.

    Written only by `app/db/templates.py`, which checks the vector and counts. `image_sha256` is null for a template
    whose picture was never seen (a migrated one).
    """

    __tablename__ = "face_embeddings"
    __table_args__ = (
        ForeignKeyConstraint(
            ["domain_id", "person_id"],
            ["persons.domain_id", "persons.id"],
            name="face_embeddings_person_fkey",
            ondelete="CASCADE",
        ),
        # Enrolling a picture twice is harmless. The digest stands first: it also finds a picture in the whole domain.
        UniqueConstraint("domain_id", "image_sha256", "person_id", name="face_embeddings_image_key"),
        Index("face_embeddings_person_idx", "domain_id", "person_id"),
        {"postgresql_partition_by": "LIST (domain_id)"},
    )

    domain_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    person_id: Mapped[UUID]
    image_sha256: Mapped[bytes | None]
    box_x: Mapped[int]
    box_y: Mapped[int]
    box_w: Mapped[int]
    box_h: Mapped[int]
    score: Mapped[float]
    sharpness: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    embedding: Mapped[Float32Array] = mapped_column(Embedding)


class MigrationRun(Base):
    """One dataset on its way into one domain: where it comes from, and how far it has come.

    Written only by `app/db/migration_runs.py`, in the transaction that stores the rows it counts: `rows_done` is exactly the
    number of the dataset's rows that are settled, migrated or skipped. `seconds` is by stage, over all attempts.
    """

    __tablename__ = "migration_runs"
    __table_args__ = (
        CheckConstraint("mode IN ('copy', 'reembed')", name="mode"),
        CheckConstraint("state IN ('running', 'failed', 'finished')", name="state"),
        CheckConstraint("rows_migrated BETWEEN 0 AND rows_done", name="rows"),
        # At most one that is not over: it is the one to take up again.
        Index(
            "migration_runs_unfinished_idx",
            "domain_id",
            "source_sha256",
            unique=True,
            postgresql_where=text("state <> 'finished'"),
        ),
        Index("migration_runs_domain_id_idx", "domain_id", "id"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("domains.id", ondelete="CASCADE"))
    source_name: Mapped[str]
    source_sha256: Mapped[bytes]
    mode: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'running'"), default="running")
    rows_total: Mapped[int | None]
    rows_done: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    rows_migrated: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    persons: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    skipped: Mapped[dict[str, int]] = mapped_column(JSONB, server_default=text("'{}'"), default=dict)
    seconds: Mapped[dict[str, float]] = mapped_column(JSONB, server_default=text("'{}'"), default=dict)
    error_code: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
