"""Templates of 256 dimensions and more get codes, by which a large partition is passed over without reading its vectors.

Those that are there already get theirs here. Each row is written anew, for which a domain's HNSW index is built anew as well: a
minute or two for 100,000 templates. What the rows took before, their table keeps for later ones, until it is rewritten.
"""

from uuid import UUID

import numpy as np
from alembic import op
from pgvector import Bit
from sqlalchemy import Connection, text

from app.db.codes import codes_of
from app.db.partitions import build_index_within, index_name, partition_name

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None

_MIN_DIMENSION = 256
_ROWS_AT_ONCE = 500

_COLUMN = """
ALTER TABLE face_embeddings ADD COLUMN code bit(1024);
-- Out of line, or compressed, it would take as long to read as the vector. Statistics would be samples of faces.
ALTER TABLE face_embeddings ALTER COLUMN code SET STORAGE PLAIN, ALTER COLUMN code SET STATISTICS 0;
"""
_BOUNDS = f"""
ALTER TABLE face_embeddings ADD CONSTRAINT face_embeddings_code_check
    CHECK ((vector_dims(embedding) >= {_MIN_DIMENSION}) = (code IS NOT NULL));
DROP INDEX face_embeddings_person_idx;
CREATE INDEX face_embeddings_person_idx ON face_embeddings (domain_id, person_id) INCLUDE (id, code);
"""


def upgrade() -> None:
    """Add the column, fill it, and put it into the index of persons."""
    op.execute(_COLUMN)
    connection = op.get_bind()
    large = text("SELECT id, dimension FROM domains WHERE dimension >= :least ORDER BY id")
    for domain_id, dimension in connection.execute(large, {"least": _MIN_DIMENSION}).all():
        _fill(connection, domain_id, dimension)
    op.execute(_BOUNDS)


def downgrade() -> None:
    """Take them away again."""
    op.execute("DROP INDEX face_embeddings_person_idx")
    op.execute("CREATE INDEX face_embeddings_person_idx ON face_embeddings (domain_id, person_id)")
    op.execute("ALTER TABLE face_embeddings DROP COLUMN code")


def _fill(connection: Connection, domain_id: int, dimension: int) -> None:
    """Without the HNSW index, which every row would go into once more; and without telling those who follow the gallery."""
    table = partition_name(domain_id)
    op.execute(f"DROP INDEX IF EXISTS {index_name(domain_id)}")
    op.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    read = text(
        f"SELECT id, CAST(embedding AS real[]) AS embedding FROM {table} WHERE domain_id = :domain_id AND id > :after"  # noqa: S608 - digits
        f" ORDER BY id LIMIT {_ROWS_AT_ONCE}"
    )
    write = text(
        f"UPDATE {table} AS template SET code = made.code"  # noqa: S608 - digits
        " FROM unnest(CAST(:ids AS uuid[]), CAST(:codes AS bit(1024)[])) AS made (id, code)"
        " WHERE template.domain_id = :domain_id AND template.id = made.id"
    )
    after = UUID(int=0)
    while rows := connection.execute(read, {"domain_id": domain_id, "after": after}).all():
        codes = codes_of(np.asarray([row.embedding for row in rows], np.float32))
        made = [Bit(code.tobytes()).to_text() for code in codes]
        connection.execute(write, {"domain_id": domain_id, "ids": [row.id for row in rows], "codes": made})
        after = rows[-1].id
    op.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    build_index_within(connection, domain_id, dimension)
