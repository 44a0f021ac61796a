"""Tables. `migrations/` creates them; a test holds the two together.

A domain is a tenant. Its templates are one partition of `face_embeddings` with an HNSW index of its own
(`app/db/partitions.py`), so that a search never filters across tenants. The policies that keep tenants apart stand in
migration 0003.
"""

from datetime import date, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, Code, Embedding, unit_embedding
from app.db.codes import MIN_DIMENSION
from app.db.session_models import FaceSession, FaceSessionFrame
from app.db.work_models import Job, JobFile, ReferencePhoto
from app.vision.faces import Float32Array, UInt8Array

__all__ = [
    "MAX_DIMENSION",
    "MAX_METADATA_BYTES",
    "ApiKey",
    "AuditChain",
    "AuditEvent",
    "Base",
    "Domain",
    "Embedding",
    "Erasure",
    "FaceEmbedding",
    "FaceRejection",
    "FaceSession",
    "FaceSessionFrame",
    "GalleryChange",
    "IdempotentFace",
    "IdempotentRequest",
    "Job",
    "JobFile",
    "MigrationRun",
    "Person",
    "ReferencePhoto",
]

MAX_DIMENSION: Final = 1_536
"""Longest embedding kept: a row is stored inline and must fit in one page of 8,192 bytes."""


MAX_METADATA_BYTES: Final = 16_384
"""Longest metadata of a person, as JSON text."""


class Domain(Base):
    """A tenant and the embedding contract that all of its templates follow.

    `id` numbers partitions and never leaves the database; `uid` is what clients may use in place of the name.
    `template_count` is kept by `app/db/templates.py` under the domain's row lock; it chooses the way of searching.
    `complete` is false until the first migration of a dataset into it has finished: until then its gallery has gaps.
    `cache_epoch` rises with whatever makes faces that were extracted and kept elsewhere out of date.
    `gallery_version` rises with every change of the gallery (`GalleryChange`), by triggers; tombstones up to `gallery_pruned`
    may be gone. `gallery_token` is another one with each version: a backup that is restored gives numbers again, but no token.
    """

    __tablename__ = "domains"
    __table_args__ = (
        CheckConstraint(f"dimension BETWEEN 1 AND {MAX_DIMENSION}", name="dimension"),
        CheckConstraint("template_count >= 0", name="template_count"),
        CheckConstraint("gallery_pruned BETWEEN 0 AND gallery_version", name="gallery"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=uuid4, server_default=text("gen_random_uuid()"))
    name: Mapped[str] = mapped_column(unique=True)
    model: Mapped[str]
    contract: Mapped[str]
    dimension: Mapped[int]
    template_count: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    complete: Mapped[bool] = mapped_column(server_default=text("true"), default=True)
    cache_epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    gallery_token: Mapped[UUID] = mapped_column(default=uuid4, server_default=text("gen_random_uuid()"))
    gallery_version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    gallery_pruned: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Person(Base):
    """Somebody who can be recognised in one domain. `valid_from` and `valid_until` bound when; null is unbounded."""

    __tablename__ = "persons"
    __table_args__ = (
        UniqueConstraint("domain_id", "label"),
        # What face_embeddings refers to: with the domain in the key, a template cannot point into another tenant.
        UniqueConstraint("domain_id", "id"),
        UniqueConstraint("domain_id", "external_id", name="persons_domain_id_external_id_key"),
        CheckConstraint("valid_from < valid_until", name="validity"),
        CheckConstraint(
            f"jsonb_typeof(metadata) = 'object' AND octet_length(metadata::text) <= {MAX_METADATA_BYTES}",
            name="metadata",
        ),
        # Who is not valid at all times: a search has to leave them out, and hardly any domain has many.
        Index(
            "persons_validity_idx",
            "domain_id",
            postgresql_where=text("valid_from IS NOT NULL OR valid_until IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    domain_id: Mapped[int] = mapped_column(ForeignKey("domains.id"))
    label: Mapped[str]
    display_name: Mapped[str]
    external_id: Mapped[str | None]
    # What a search by name looks through (migration 0008).
    searched: Mapped[str] = mapped_column(Computed("searched_names(label, display_name, external_id)", persisted=True))
    # `metadata` is a name that SQLAlchemy keeps for itself.
    attributes: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'"), default=dict)
    # What datasets may still call them: labels from before a change, or of persons who were merged into them.
    former_labels: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"), default=list)
    former_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), server_default=text("'{}'"), default=list)
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class FaceEmbedding(Base):
    """One template: a unit-length embedding of one face of one picture, in the domain's own partition.

    Written only by `app/db/templates.py`, which checks the vector and counts. `image_sha256` is null for a template
    whose picture was never seen (a migrated one). `code` is the embedding's (`app.db.codes`), where its kind has one.
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
        # With what a pass by codes needs of each row, so that it reads this in place of the table.
        Index("face_embeddings_person_idx", "domain_id", "person_id", postgresql_include=["id", "code"]),
        unit_embedding(),
        CheckConstraint(f"(vector_dims(embedding) >= {MIN_DIMENSION}) = (code IS NOT NULL)", name="code"),
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
    code: Mapped[UInt8Array | None] = mapped_column(Code, deferred=True)


class FaceRejection(Base):
    """A face that was taken for a person, and is not theirs: "not this person".

    `actual_person_id` is whose it is, where that was said. Who is erased takes along what was told of their face.
    `face` numbers the faces of the picture in the order of a recognition's answer.
    """

    __tablename__ = "face_rejections"
    __table_args__ = (
        ForeignKeyConstraint(
            ["domain_id", "person_id"],
            ["persons.domain_id", "persons.id"],
            name="face_rejections_person_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["domain_id", "actual_person_id"],
            ["persons.domain_id", "persons.id"],
            name="face_rejections_actual_person_fkey",
            ondelete="CASCADE",
        ),
        UniqueConstraint("domain_id", "person_id", "image_sha256", "face", name="face_rejections_image_key"),
        Index("face_rejections_actual_person_idx", "domain_id", "actual_person_id"),
        CheckConstraint("person_id <> actual_person_id", name="persons"),
        unit_embedding(),
    )

    domain_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    person_id: Mapped[UUID]
    actual_person_id: Mapped[UUID | None]
    image_sha256: Mapped[bytes]
    face: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    embedding: Mapped[Float32Array] = mapped_column(Embedding)


class GalleryChange(Base):
    """When a person's part of the gallery has last changed: a row for everybody who has, or had, templates.

    Written by triggers (migration 0006). Of who has no template any more it is the tombstone: an id, nothing personal, which
    tells copies of the gallery to forget them.
    """

    __tablename__ = "gallery_changes"
    __table_args__ = (
        UniqueConstraint("domain_id", "version", name="gallery_changes_version_key"),
        Index("gallery_changes_removed_idx", "changed_at", postgresql_where=text("removed")),
    )

    domain_id: Mapped[int] = mapped_column(ForeignKey("domains.id", ondelete="CASCADE"), primary_key=True)
    person_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    removed: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class GalleryVersion(Base):
    """A version that a domain's gallery once had, and its token; by triggers (migration 0006)."""

    __tablename__ = "gallery_versions"
    __table_args__ = (Index("gallery_versions_superseded_idx", "superseded_at"),)

    domain_id: Mapped[int] = mapped_column(ForeignKey("domains.id", ondelete="CASCADE"), primary_key=True)
    token: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    superseded_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Erasure(Base):
    """That somebody's data was deleted, and where it still has to be: the receipt, and the note of what is left to do.

    `labels` are kept only until `finished_at`: files know people by them. The domain may be gone. `claim_sha256` is of the
    idempotency key and the fingerprint of the request, where it had a key.
    """

    __tablename__ = "erasures"
    __table_args__ = (
        Index("erasures_unfinished_idx", "erased_at", postgresql_where=text("finished_at IS NULL")),
        Index("erasures_claim_idx", "claim_sha256", postgresql_where=text("claim_sha256 IS NOT NULL")),
        CheckConstraint("finished_at IS NULL OR cardinality(labels || pending) = 0", name="finished"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    domain_id: Mapped[int | None]
    domain_uid: Mapped[UUID | None]
    domain_name: Mapped[str]
    person_id: Mapped[UUID | None]
    former_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), server_default=text("'{}'"), default=list)
    labels: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"), default=list)
    requested_by: Mapped[str]
    request_id: Mapped[str | None]
    claim_sha256: Mapped[bytes | None]
    counts: Mapped[dict[str, int]] = mapped_column(JSONB, server_default=text("'{}'"), default=dict)
    pending: Mapped[list[str]] = mapped_column(ARRAY(Text))
    erased_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class ApiKey(Base):
    """A key, known by its prefix; of its secret part only the SHA-256 is kept.

    `domains` are names, since a domain may so far be only a dataset; `app/db/domains.py` takes out that of a deleted one.
    `digest` is of the whole key as it is sent. `previous_prefix` and `previous_digest` are those from before the last rotation,
    good until `previous_until`.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("octet_length(digest) = 32", name="digest"),
        CheckConstraint("num_nulls(previous_prefix, previous_digest, previous_until) IN (0, 3)", name="previous"),
        CheckConstraint("rate_per_minute > 0", name="rate_per_minute"),
        CheckConstraint("NOT (every_domain AND cardinality(domains) > 0)", name="domains"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    prefix: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[bytes]
    previous_prefix: Mapped[str | None] = mapped_column(unique=True)
    previous_digest: Mapped[bytes | None]
    previous_until: Mapped[datetime | None]
    name: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    every_domain: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    domains: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"), default=list)
    rate_per_minute: Mapped[int | None]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditChain(Base):
    """Where a domain's chain of events ends, and where it begins since the older ones were taken out.

    A null domain stands for the installation itself. No foreign key: the events of a domain outlive it.
    """

    __tablename__ = "audit_chains"
    __table_args__ = (
        UniqueConstraint("domain_id", postgresql_nulls_not_distinct=True),
        CheckConstraint("pruned_seq BETWEEN 0 AND head_seq", name="seq"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    domain_id: Mapped[int | None]
    domain_uid: Mapped[UUID | None]
    head_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    head_hash: Mapped[bytes]
    pruned_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    pruned_hash: Mapped[bytes]
    pruned_on: Mapped[date | None]


class AuditEvent(Base):
    """One event. `hash` is the SHA-256 of the hash before it and of `body`, its JSON text, to the byte."""

    __tablename__ = "audit_events"
    __table_args__ = (Index("audit_events_at_idx", "chain_id", "at"),)

    chain_id: Mapped[int] = mapped_column(ForeignKey("audit_chains.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    domain_id: Mapped[int | None]
    at: Mapped[datetime]
    body: Mapped[str]
    hash: Mapped[bytes]


class IdempotentRequest(Base):
    """A request with an idempotency key, and its answer; without one it is in work, or was broken off."""

    __tablename__ = "idempotent_requests"
    __table_args__ = (
        Index("idempotent_requests_created_at_idx", "created_at"),
        Index("idempotent_requests_domain_id_idx", "domain_id"),
    )

    client: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    domain_id: Mapped[int | None] = mapped_column(ForeignKey("domains.id", ondelete="CASCADE"))
    fingerprint: Mapped[bytes]
    status: Mapped[int | None]
    headers: Mapped[dict[str, str] | None] = mapped_column(JSONB)
    body: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IdempotentFace(Base):
    """Which template a picture of such a request became, stored together with it."""

    __tablename__ = "idempotent_faces"
    __table_args__ = (
        ForeignKeyConstraint(
            ["client", "key"],
            ["idempotent_requests.client", "idempotent_requests.key"],
            name="idempotent_faces_request_fkey",
            ondelete="CASCADE",
        ),
    )

    client: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    image_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    domain_id: Mapped[int]
    face_id: Mapped[UUID]


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
