"""Embeddings have unit length, whoever writes them.

`app/db/templates.py` checks as much; but a distance to a vector of zeros is no number, which no comparison lets in or keeps out
as it should, and copies of the gallery would hand it on. `vector` itself refuses what is not finite.
"""

from alembic import op
from sqlalchemy.exc import IntegrityError

from app.errors import DatabaseError

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

_TABLES = ("face_embeddings", "face_rejections", "face_session_frames")
_UNIT = "abs(vector_norm(embedding) - 1) <= 0.001"


def upgrade() -> None:
    """Add the constraint, with which every partition is read through once.

    Raises:
        DatabaseError: there are such rows already; nothing was changed.
    """
    for table in _TABLES:
        try:
            with op.get_bind().begin_nested():
                op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {table}_embedding_check CHECK ({_UNIT})")
        except IntegrityError as error:
            raise DatabaseError(
                f"The table {table} has embeddings that are not of unit length, which no part of Facedex has written: those"
                f" where {_UNIT} does not hold. Look at them, delete them, and migrate again."
            ) from error


def downgrade() -> None:
    """Take it away again."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_embedding_check")
