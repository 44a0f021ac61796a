"""How near persons of one domain are to each other: the nearest other person of a template, and pairs that may be one person.

Through the index in a large partition, where it may miss somebody: what is found here are hints for people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
from pgvector import Vector
from sqlalchemy import Uuid, select, text
from sqlalchemy.orm import Session

from app.db.base import Embedding
from app.db.domains import Gallery
from app.db.models import FaceEmbedding
from app.db.partitions import gone_means_deleted, partition_name
from app.db.session import set_local
from app.db.vectors import insist_on_index
from app.vision.faces import Float32Array

# Of so many rows of the index, the nearest by the stored vectors.
_INDEX_ROWS: Final = 10
# A person has some templates: so many rows hold several persons who look alike.
_INDEX_ROWS_PER_TEMPLATE: Final = 50

# The expressions of the index, to the letter.
_NEAREST_OTHER_SQL: Final = """
SELECT person_id, d FROM (
    SELECT person_id, 1 + (embedding <#> CAST(:probe AS vector)) AS d FROM {table} WHERE person_id <> :person_id
    ORDER BY {order} LIMIT :rows
) AS near ORDER BY d, person_id LIMIT 1
"""
_EXACT_ORDER: Final = "embedding <#> CAST(:probe AS vector)"
_INDEX_ORDER: Final = "CAST(embedding AS halfvec({d})) <=> CAST(CAST(:probe AS vector) AS halfvec({d}))"

_PAIRS_SQL: Final = """
SELECT one.id, other.person_id, min(other.d) AS nearest
FROM unnest(CAST(:persons AS uuid[])) AS one (id)
CROSS JOIN LATERAL (
    SELECT embedding FROM {table} WHERE domain_id = :domain_id AND person_id = one.id ORDER BY id LIMIT :templates
) AS own
CROSS JOIN LATERAL ({others}) AS other
WHERE other.person_id > one.id AND other.d <= :threshold
GROUP BY one.id, other.person_id ORDER BY nearest, one.id, other.person_id LIMIT :pairs
"""
_EVERY_OTHER_SQL: Final = """
    SELECT person_id, 1 + (embedding <#> own.embedding) AS d FROM {table} WHERE person_id > one.id
    OFFSET 0 -- a fence: the distance is computed once
"""
_NEAR_OTHERS_SQL: Final = """
    SELECT person_id, 1 + (embedding <#> own.embedding) AS d FROM {table} WHERE person_id <> one.id
    ORDER BY CAST(embedding AS halfvec({d})) <=> CAST(own.embedding AS halfvec({d})) LIMIT :rows
"""
_TEMPLATES_SQL: Final = """
SELECT one.id, own.id, own.embedding
FROM unnest(CAST(:persons AS uuid[])) AS one (id)
CROSS JOIN LATERAL (
    SELECT id, embedding, created_at FROM {table}
    WHERE domain_id = :domain_id AND person_id = one.id ORDER BY created_at DESC, id LIMIT :templates
) AS own
ORDER BY one.id, own.created_at DESC, own.id
"""
_PERSONS_SQL: Final = """
SELECT p.id, (
    SELECT count(*) FROM (SELECT FROM {table} WHERE domain_id = :domain_id AND person_id = p.id LIMIT :templates) AS few
)
FROM persons AS p WHERE p.domain_id = :domain_id AND p.id > :after
ORDER BY p.id LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Somebody else, at the cosine distance (0 to 2) of their nearest template."""

    person_id: UUID
    distance: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two persons, `first` having the smaller id, at the cosine distance of their nearest templates."""

    first: UUID
    second: UUID
    distance: float


def scans(gallery: Gallery, exact_max_rows: int) -> bool:
    """Whether the partition has to be scanned, being small or without a usable index."""
    return gallery.template_count <= exact_max_rows or not gallery.index_valid


def distance_to_person(session: Session, domain_id: int, person_id: UUID, embedding: Float32Array) -> float | None:
    """Cosine distance (0 to 2) of an embedding to the nearest of a person's templates; None where there are none."""
    return session.scalar(
        select(FaceEmbedding.embedding.cosine_distance(embedding).label("distance"))
        .where(FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person_id)
        .order_by("distance")
        .limit(1)
    )


def nearest_other(
    session: Session,
    gallery: Gallery,
    person_id: UUID,
    embedding: Float32Array,
    *,
    exact_max_rows: int,
    ef_search: int,
) -> Neighbour | None:
    """Who of the others has the template nearest to this embedding, valid now or not; None where there is nobody else.

    Args:
        embedding: float32, (D,), unit length.

    Raises:
        DomainNotFound: the domain was deleted meanwhile.
    """
    exact = scans(gallery, exact_max_rows)
    order = _EXACT_ORDER if exact else _INDEX_ORDER.format(d=int(gallery.dimension))
    statement = _NEAREST_OTHER_SQL.format(table=partition_name(gallery.domain_id), order=order)
    values = {"probe": Vector(embedding), "person_id": person_id, "rows": 1 if exact else _INDEX_ROWS}
    (row,) = _ask(session, statement, values, ef_search=None if exact else ef_search) or [None]
    return None if row is None else Neighbour(row[0], max(0.0, row[1]))


def near_pairs(
    session: Session,
    gallery: Gallery,
    persons: Sequence[UUID],
    *,
    threshold: float,
    templates: int,
    pairs: int,
    exact_max_rows: int,
    ef_search: int,
) -> list[Pair]:
    """Pairs of these persons with persons of greater ids that are within the threshold, nearest first.

    Args:
        persons: who is examined.
        threshold: largest cosine distance.
        templates: of each of them, so many templates are looked at.
        pairs: at most so many are returned.

    Raises:
        DomainNotFound: the domain was deleted meanwhile.
    """
    table = partition_name(gallery.domain_id)
    exact = scans(gallery, exact_max_rows)
    others = (_EVERY_OTHER_SQL if exact else _NEAR_OTHERS_SQL).format(table=table, d=int(gallery.dimension))
    values: dict[str, Any] = {
        "persons": list(persons),
        "domain_id": gallery.domain_id,
        "threshold": threshold,
        "templates": templates,
        "pairs": pairs,
    }
    if not exact:
        values["rows"] = _INDEX_ROWS_PER_TEMPLATE
    statement = _PAIRS_SQL.format(table=table, others=others)
    found = _ask(session, statement, values, ef_search=None if exact else ef_search)
    return [Pair(first, second, max(0.0, distance)) for first, second, distance in found]


def persons_after(
    session: Session, gallery: Gallery, after: UUID | None, *, limit: int, templates: int
) -> list[tuple[UUID, int]]:
    """Persons by id, behind that one, each with the count of their templates, which goes no further than `templates`."""
    statement = text(_PERSONS_SQL.format(table=partition_name(gallery.domain_id)))
    values = {"domain_id": gallery.domain_id, "after": after or UUID(int=0), "limit": limit, "templates": templates}
    with gone_means_deleted():
        return [(person_id, count) for person_id, count in session.execute(statement, values)]


def templates_of(
    session: Session, gallery: Gallery, persons: Sequence[UUID], *, templates: int
) -> dict[UUID, tuple[list[UUID], Float32Array]]:
    """The newest templates of these persons: ids, and float32, (N, D); without those who have none.

    Args:
        templates: of each, so many at most.

    Raises:
        DomainNotFound: the domain was deleted meanwhile.
    """
    statement = text(_TEMPLATES_SQL.format(table=partition_name(gallery.domain_id))).columns(
        owner=Uuid(), id=Uuid(), embedding=Embedding()
    )
    values = {"persons": list(persons), "domain_id": gallery.domain_id, "templates": templates}
    found: dict[UUID, list[tuple[UUID, Float32Array]]] = {}
    with gone_means_deleted():
        for owner, template_id, embedding in session.execute(statement, values):
            found.setdefault(owner, []).append((template_id, embedding))
    return {owner: ([id_ for id_, _ in own], np.stack([vector for _, vector in own])) for owner, own in found.items()}


def _ask(session: Session, statement: str, values: dict[str, Any], *, ef_search: int | None) -> Sequence[Any]:
    """The rows; through the index where `ef_search` is given, and what comes after it in the transaction as before."""
    with gone_means_deleted():
        if ef_search is None:
            return session.execute(text(statement), values).all()
        insist_on_index(session, ef_search)
        rows = session.execute(text(statement), values).all()
        set_local(session, enable_seqscan="on")
        return rows
