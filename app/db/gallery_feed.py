"""What has changed in a domain's gallery since a version. Triggers number the changes (migration 0006)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db.domains import lock_domain
from app.db.partitions import partition_name
from app.vision.faces import Float32Array


@dataclass(frozen=True, slots=True)
class Change:
    """Somebody who has changed, as they are now.

    Attributes:
        version: of their last change.
        person_id: the person, who may be gone.
        display_name: empty where they are gone.
        valid_from, valid_until: Unix seconds; None is unbounded.
        locks: what stands in their metadata as `locks`, any JSON; None where nothing does.
        templates: how many they have; none: they are in no gallery.
    """

    version: int
    person_id: UUID
    display_name: str
    valid_from: float | None
    valid_until: float | None
    locks: Any
    templates: int


_CHANGES_SQL: Final = """
SELECT change.version, change.person_id, coalesce(person.display_name, ''),
    CAST(extract(epoch FROM person.valid_from) AS double precision),
    CAST(extract(epoch FROM person.valid_until) AS double precision),
    person.metadata -> 'locks',
    (SELECT count(*) FROM {partition} AS template
        WHERE template.domain_id = change.domain_id AND template.person_id = change.person_id)
FROM gallery_changes AS change
LEFT JOIN persons AS person ON person.domain_id = change.domain_id AND person.id = change.person_id
WHERE change.domain_id = :domain_id AND change.version > :version
ORDER BY change.version
LIMIT :limit
"""
_TEMPLATES_SQL: Final = """
SELECT vector_send(template.embedding) FROM unnest(%(persons)s::uuid[]) WITH ORDINALITY AS wanted (person_id, number)
JOIN {partition} AS template ON template.domain_id = %(domain_id)s AND template.person_id = wanted.person_id
ORDER BY wanted.number, template.id
"""
_PRUNABLE_SQL: Final = """
SELECT domain_id FROM (
    SELECT domain_id FROM gallery_changes WHERE removed AND changed_at < now() - make_interval(secs => :keep_s)
    ORDER BY changed_at LIMIT :limit
) AS oldest UNION SELECT domain_id FROM (
    SELECT domain_id FROM gallery_versions WHERE superseded_at < now() - make_interval(secs => :keep_s)
    ORDER BY superseded_at LIMIT :limit
) AS superseded ORDER BY domain_id
"""
_FORGET_VERSIONS_SQL: Final = """
DELETE FROM gallery_versions WHERE (domain_id, token) IN (
    SELECT domain_id, token FROM gallery_versions
    WHERE domain_id = :domain_id AND superseded_at < now() - make_interval(secs => :keep_s)
    ORDER BY superseded_at LIMIT :limit
)
"""
_PRUNE_SQL: Final = """
WITH pruned AS (
    DELETE FROM gallery_changes WHERE (domain_id, person_id) IN (
        SELECT domain_id, person_id FROM gallery_changes
        WHERE domain_id = :domain_id AND removed AND changed_at < now() - make_interval(secs => :keep_s)
        ORDER BY changed_at LIMIT :limit
    ) RETURNING version
), marked AS (
    UPDATE domains SET gallery_pruned = greatest(gallery_pruned, (SELECT max(version) FROM pruned))
    WHERE id = :domain_id AND EXISTS (SELECT FROM pruned)
)
SELECT count(*) FROM pruned
"""


def begin_reading(session: Session) -> None:
    """Have all statements of this transaction, whose first one this is, see one state."""
    session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))


def version_of_token(session: Session, domain_id: int, token: UUID) -> int | None:
    """The version that a domain's gallery had while that was its token; None where it never was, or long ago."""
    statement = text(
        "SELECT gallery_version FROM domains WHERE id = :domain_id AND gallery_token = :token"
        " UNION ALL SELECT version FROM gallery_versions WHERE domain_id = :domain_id AND token = :token"
    )
    return session.scalars(statement, {"domain_id": domain_id, "token": token}).first()


def changes_after(session: Session, domain_id: int, version: int, limit: int) -> list[Change]:
    """Who has changed after that version, those who changed first at the beginning; each once."""
    statement = text(_CHANGES_SQL.format(partition=partition_name(domain_id)))
    rows = session.execute(statement, {"domain_id": domain_id, "version": version, "limit": limit})
    return [Change(*row) for row in rows]


def templates_of(session: Session, domain_id: int, dimension: int, persons: Sequence[UUID]) -> Float32Array:
    """The templates of these persons, one person after the other: float32, (N, D)."""
    raw = session.connection().connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    # As bytes: a thousand vectors as text, or as lists, take twenty times as long.
    with raw.cursor(binary=True) as cursor:
        statement = _TEMPLATES_SQL.format(partition=partition_name(domain_id))
        cursor.execute(statement.encode(), {"persons": list(persons), "domain_id": domain_id})
        sent = b"".join(row[0] for row in cursor)
    # Source of the form: pgvector `vector_send`.
    rows = np.frombuffer(sent, dtype=[("dimension", ">i2"), ("unused", ">i2"), ("vector", ">f4", (dimension,))])
    vectors: Float32Array = rows["vector"].astype(np.float32)
    return vectors


def prunable_domains(session: Session, *, keep_s: float, limit: int) -> Sequence[int]:
    """Domains with tombstones that are older than that; those of the oldest `limit`."""
    return session.scalars(text(_PRUNABLE_SQL), {"keep_s": keep_s, "limit": limit}).all()


def prune(session: Session, domain_id: int, *, keep_s: float, limit: int) -> int:
    """Remove tombstones that are older than that, under the domain's lock, and note up to which version. How many.

    Raises:
        DomainNotFound: it was deleted meanwhile.
    """
    lock_domain(session, domain_id)
    values = {"domain_id": domain_id, "keep_s": keep_s, "limit": limit}
    session.execute(text(_FORGET_VERSIONS_SQL), values)
    return session.scalar(text(_PRUNE_SQL), values) or 0
