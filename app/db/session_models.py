"""Tables of sessions: frames of one person, streamed to enrol or to verify them."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, Embedding, unit_embedding
from app.vision.faces import Float32Array


class FaceSession(Base):
    """A session. `connection` counts its connections: only the newest one may write.

    `label` is whom it is about, who may not exist yet where they are to be enrolled; `person_id` is set once they do.
    """

    __tablename__ = "face_sessions"
    __table_args__ = (
        ForeignKeyConstraint(
            ["domain_id", "person_id"],
            ["persons.domain_id", "persons.id"],
            name="face_sessions_person_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint("kind IN ('enrol', 'verify')", name="kind"),
        CheckConstraint("state IN ('open', 'succeeded', 'failed', 'expired', 'cancelled')", name="state"),
        CheckConstraint("(finished_at IS NULL) = (state = 'open')", name="finished"),
        Index("face_sessions_domain_id_idx", "domain_id", "created_at", "id"),
        Index("face_sessions_label_idx", "domain_id", "label"),
        Index("face_sessions_open_idx", "expires_at", postgresql_where=text("state = 'open'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4, server_default=text("gen_random_uuid()"))
    domain_id: Mapped[int] = mapped_column(ForeignKey("domains.id", ondelete="CASCADE"))
    kind: Mapped[str]
    label: Mapped[str]
    person_id: Mapped[UUID | None]
    created_by: Mapped[str]
    token_sha256: Mapped[bytes]
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(server_default=text("'open'"), default="open")
    connection: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    frames: Mapped[int] = mapped_column(server_default=text("0"), default=0)
    progress: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"), default=dict)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class FaceSessionFrame(Base):
    """A good frame of a session that is open. `picture` is kept only where pictures are (STORE_IMAGES)."""

    __tablename__ = "face_session_frames"
    __table_args__ = (unit_embedding(),)

    session_id: Mapped[UUID] = mapped_column(ForeignKey("face_sessions.id", ondelete="CASCADE"), primary_key=True)
    frame: Mapped[int] = mapped_column(primary_key=True)
    domain_id: Mapped[int]
    contract: Mapped[str]
    embedding: Mapped[Float32Array] = mapped_column(Embedding)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)
    image_sha256: Mapped[bytes]
    picture: Mapped[bytes | None]
