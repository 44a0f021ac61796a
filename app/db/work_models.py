"""Tables of what is done beside requests: jobs, the files of a bulk enrolment, reference photos."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Job(Base):
    """Something to be done by a jobs worker, and how far it is.

    `done` of `total` counts what the kind of job works on; `person_id` is set where the job is about one person only, and goes
    with them. `arguments` and `result` hold ids and numbers, never names. `attempts` counts how often it was begun, and tells a
    worker that was given up from the one that has the job now; `setbacks` counts those since the job last came on.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        ForeignKeyConstraint(
            ["domain_id", "person_id"],
            ["persons.domain_id", "persons.id"],
            name="jobs_person_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))", name="finished"),
        CheckConstraint("done >= 0 AND (total IS NULL OR done <= total)", name="done"),
        Index("jobs_domain_id_idx", "domain_id", "created_at", "id"),
        Index("jobs_finished_at_idx", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        Index("jobs_waiting_idx", "state", "created_at", postgresql_where=text("finished_at IS NULL")),
        Index("jobs_person_idx", "domain_id", "person_id", postgresql_where=text("person_id IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    domain_id: Mapped[int | None] = mapped_column(ForeignKey("domains.id", ondelete="CASCADE"))
    person_id: Mapped[UUID | None]
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'queued'"), default="queued")
    arguments: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"), default=dict)
    attempts: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    setbacks: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    done: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    total: Mapped[int | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_by: Mapped[str]
    request_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobFile(Base):
    """A picture of a bulk enrolment and what became of it. `picture` is there until the file is settled."""

    __tablename__ = "job_files"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'enrolled', 'rejected', 'failed')", name="state"),
        CheckConstraint("picture IS NULL OR state IN ('waiting', 'failed')", name="picture"),
        Index("job_files_label_idx", "domain_id", "label"),
        Index("job_files_waiting_idx", "job_id", "position", postgresql_where=text("state = 'waiting'")),
    )

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    domain_id: Mapped[int]
    label: Mapped[str]
    file_name: Mapped[str]
    image_sha256: Mapped[bytes | None]
    picture: Mapped[bytes | None]
    state: Mapped[str] = mapped_column(server_default=text("'waiting'"), default="waiting")
    face_id: Mapped[UUID | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]


class ReferencePhoto(Base):
    """An old photo of a person, from which a template is made in the background. `picture` is there until that succeeded.

    Who has it in work has raised `attempts`, and until `claimed_until` nobody else begins: `app/db/references.py`.
    """

    __tablename__ = "reference_photos"
    __table_args__ = (
        UniqueConstraint("domain_id", "person_id", "image_sha256", name="reference_photos_image_key"),
        ForeignKeyConstraint(
            ["domain_id", "person_id"],
            ["persons.domain_id", "persons.id"],
            name="reference_photos_person_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint("state IN ('waiting', 'extracted', 'failed')", name="state"),
        CheckConstraint("picture IS NOT NULL OR state = 'extracted'", name="picture"),
        Index("reference_photos_waiting_idx", "domain_id", "created_at", postgresql_where=text("state = 'waiting'")),
        Index("reference_photos_job_id_idx", "job_id", postgresql_where=text("job_id IS NOT NULL")),
    )

    domain_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    person_id: Mapped[UUID]
    image_sha256: Mapped[bytes]
    picture: Mapped[bytes | None]
    state: Mapped[str] = mapped_column(server_default=text("'waiting'"), default="waiting")
    strategy: Mapped[str | None]
    face_id: Mapped[UUID | None]
    warnings: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"), default=list)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    tried_at: Mapped[datetime | None]
    claimed_until: Mapped[datetime | None]
