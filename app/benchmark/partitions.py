"""The search in a client's own vectors, against one in a collection that all clients share."""

from collections.abc import Callable
from typing import Final

import numpy as np
from pgvector import Vector
from sqlalchemy import Connection, select, text

from app.benchmark.comparison import Claim, Comparison
from app.benchmark.timing import time_interleaved
from app.db.domains import Gallery
from app.db.models import FaceEmbedding
from app.db.session import Database
from app.vision.faces import Float32Array

_CLAIM: Final = Claim(50, 70)
_OWN_ROWS: Final = 1_000
_MOST_CLIENTS: Final = 100
_SHARED_BYTES: Final = 64 * 1024 * 1024
_PROBES: Final = 16
_AT_ONCE: Final = 250

# Temporary tables: they are gone with the connection, whatever happens. Both are read from memory of the same kind.
_TABLES: Final = """
SET temp_buffers = '256MB';
CREATE TEMPORARY TABLE bench_own (client integer NOT NULL, person integer NOT NULL, embedding vector NOT NULL);
ALTER TABLE bench_own ALTER COLUMN embedding SET STORAGE PLAIN;
CREATE TEMPORARY TABLE bench_shared (LIKE bench_own INCLUDING STORAGE);
"""
_NEAREST: Final = """
SELECT person, min(d) AS nearest FROM (
    SELECT person, 1 + (embedding <#> :probe) AS d FROM {table} WHERE client = 0 ORDER BY embedding <#> :probe LIMIT 50
) AS template GROUP BY person ORDER BY nearest, person LIMIT 5
"""


def compare_searches(database: Database, gallery: Gallery, runs: int, progress: Callable[[str], None]) -> Comparison:
    """Search as many vectors as a client of 1,000 templates has, alone and among those of all clients.

    The client's own come first; where there are fewer, made-up ones fill up. Nothing of it is left in the database.

    Raises:
        DatabaseError: as `Database.maintenance`.
    """
    with database.maintenance() as connection:
        vectors = _vectors(connection, gallery)
        clients = max(2, min(_MOST_CLIENTS, _SHARED_BYTES // (len(vectors) * gallery.dimension * 4)))
        progress(f"filling temporary tables: {clients} clients of {len(vectors)} templates")
        _fill(connection, vectors, clients)
        probes = [Vector(probe) for probe in vectors[:: max(1, len(vectors) // _PROBES)]]

        def search(table: str) -> Callable[[int], object]:
            statement = text(_NEAREST.format(table=table))
            return lambda run: connection.execute(statement, {"probe": probes[run % len(probes)]}).all()

        progress("searching")
        naive, own = time_interleaved({"naive": search("bench_shared"), "own": search("bench_own")}, runs)
    return Comparison(
        "search of one client",
        _CLAIM,
        naive,
        own,
        f"{len(vectors):,} templates of the client's own, against one collection of {clients} such clients, filtered",
    )


def _vectors(connection: Connection, gallery: Gallery) -> Float32Array:
    """float32, (1000, D), unit length: the client's, as far as there are any, and made-up ones."""
    query = select(FaceEmbedding.embedding).where(FaceEmbedding.domain_id == gallery.domain_id).limit(_OWN_ROWS)
    own = [np.asarray(vector, dtype=np.float32) for vector in connection.scalars(query)]
    made_up = np.random.default_rng(1).normal(size=(_OWN_ROWS - len(own), gallery.dimension)).astype(np.float32)
    made_up /= np.linalg.norm(made_up, axis=1, keepdims=True)
    return np.concatenate([np.stack(own), made_up]) if own else made_up


def _fill(connection: Connection, vectors: Float32Array, clients: int) -> None:
    for statement in filter(str.strip, _TABLES.split(";")):
        connection.execute(text(statement))
    for start in range(0, len(vectors), _AT_ONCE):
        rows = [Vector(vector) for vector in vectors[start : start + _AT_ONCE]]
        connection.execute(
            text(
                "INSERT INTO bench_own SELECT 0, (:start + n) / 5, v"
                " FROM unnest(CAST(:rows AS vector[])) WITH ORDINALITY AS row (v, n)"
            ),
            {"start": start, "rows": rows},
        )
    connection.execute(
        text(
            "INSERT INTO bench_shared SELECT client, person, embedding"
            " FROM bench_own AS own (nobody, person, embedding), generate_series(0, :last) AS client"
        ),
        {"last": clients - 1},
    )
    connection.execute(text("ANALYZE bench_own"))
    connection.execute(text("ANALYZE bench_shared"))
