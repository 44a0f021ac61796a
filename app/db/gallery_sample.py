"""Templates of a domain for statistics: everything, or what comes first by the persons' ids, which are random."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db.domains import Gallery
from app.db.partitions import gone_means_deleted, partition_name
from app.db.session import translated_errors
from app.vision.faces import Float32Array

_ROWS_AT_ONCE: Final = 2_000
_SAMPLE_SQL: Final = """
SELECT uuid_send(person_id), vector_send(embedding) FROM {partition}
WHERE domain_id = %(domain_id)s ORDER BY person_id, id LIMIT %(limit)s
"""
_PERSONS_SQL: Final = "SELECT count(DISTINCT person_id) FROM {partition} WHERE domain_id = :domain_id"


@dataclass(frozen=True, slots=True, eq=False)
class GallerySample:
    """Templates, and whose they are.

    Attributes:
        vectors: float32, (N, D).
        owners: int64, (N,): the number of the person, from 0, those of one person one after the other.
        all_persons: how many persons of the domain have a template, whether or not they are in the sample.
    """

    vectors: Float32Array
    owners: npt.NDArray[np.int64]
    all_persons: int


def read_sample(session: Session, gallery: Gallery, limit: int) -> GallerySample:
    """At most `limit` templates, in an array of their own size and one page beside it. Of the last person, some may be missing.

    Raises:
        DomainNotFound: it was deleted meanwhile.
    """
    partition = partition_name(gallery.domain_id)
    with gone_means_deleted():
        persons = session.scalar(text(_PERSONS_SQL.format(partition=partition)), {"domain_id": gallery.domain_id})
    vectors = np.empty((min(limit, gallery.template_count), gallery.dimension), np.float32)
    ids = np.empty(len(vectors), "V16")
    # Source of the form: pgvector `vector_send`.
    form = np.dtype([("dimension", ">i2"), ("unused", ">i2"), ("vector", ">f4", (gallery.dimension,))])
    raw = session.connection().connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    filled = 0
    with translated_errors(), raw.cursor(name="gallery_sample", binary=True) as cursor:
        cursor.execute(
            _SAMPLE_SQL.format(partition=partition).encode(), {"domain_id": gallery.domain_id, "limit": len(vectors)}
        )
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            ids[filled : filled + len(rows)] = np.frombuffer(b"".join(row[0] for row in rows), "V16")
            vectors[filled : filled + len(rows)] = np.frombuffer(b"".join(row[1] for row in rows), form)["vector"]
            filled += len(rows)
    ids, vectors = ids[:filled], vectors[:filled]
    changed = np.ones(filled, bool)
    changed[1:] = ids[1:] != ids[:-1]
    return GallerySample(vectors, np.cumsum(changed) - 1, persons or 0)
