"""1:N search of one domain's templates: exact, or through the HNSW index where its answer is beyond doubt.

An index may make a search fast; it never decides that somebody is unknown. A small partition is scanned. In a large one
the index is asked first, and its answer stands only where it is a clear match; else the partition is scanned as well.
Distances are always those of the stored float32 vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg.errors
from pgvector import Vector
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from app.db.domains import Gallery
from app.db.partitions import partition_name
from app.db.templates import unit_vectors
from app.errors import DomainNotFound
from app.vision.faces import Float32Array


class SearchPath(StrEnum):
    """How an answer came about."""

    EXACT = "exact"
    HNSW = "hnsw"
    HNSW_THEN_EXACT = "hnsw+exact"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search.

    Attributes:
        top_k: persons to return per probe.
        threshold: largest cosine distance (0 to 2) that counts as the same person's.
        margin: least lead, in distance, of the first person over the second.
        exact_max_rows: up to so many templates a partition is scanned (SEARCH_EXACT_MAX_ROWS).
        ef_search: length of HNSW's list of candidates (SEARCH_EF).
    """

    top_k: int
    threshold: float
    margin: float
    exact_max_rows: int
    ef_search: int


@dataclass(frozen=True, slots=True)
class PersonHit:
    """A person, as near to the probe as the nearest of their templates.

    Attributes:
        min_distance: cosine distance (0 to 2) of the nearest template.
        occurrences: how many of the person's templates are within the threshold.
        mean_distance: of those templates; None where there are none.
    """

    person_id: UUID
    label: str
    display_name: str
    min_distance: float
    occurrences: int
    mean_distance: float | None


@dataclass(frozen=True, slots=True)
class ProbeHits:
    """What was found for one probe: persons, nearest first, and how."""

    persons: tuple[PersonHit, ...]
    path: SearchPath


def search(
    session: Session, gallery: Gallery, probes: Float32Array | Sequence[Float32Array], options: SearchOptions
) -> list[ProbeHits]:
    """Find the nearest persons for every probe, in one round trip where the partition is small.

    Args:
        session: a transaction; settings that the search needs end with it.
        gallery: of `load_gallery`, in the same transaction.
        probes: float32, (F, D), unit length.
        options: how to search.

    Returns:
        One entry per probe, in order. Nobody at all is found only in an empty domain.

    Raises:
        ContractMismatch, InvalidEmbedding: as `unit_vectors`.
        DomainNotFound: the domain was deleted meanwhile.
    """
    units = unit_vectors(probes, gallery.dimension)
    if len(units) == 0 or gallery.template_count == 0:
        return [ProbeHits((), SearchPath.EXACT)] * len(units)
    try:
        return _exact(session, gallery, units, options, SearchPath.EXACT)
    except ProgrammingError as error:
        if isinstance(error.orig, psycopg.errors.UndefinedTable):
            raise DomainNotFound("The domain was deleted.") from error
        raise


# Unit vectors: the cosine distance is 1 plus the negative inner product, which is cheaper. No index serves this order.
_EXACT_SQL = """
SELECT probe.n, hit.person_id, person.label, person.display_name, hit.nearest, hit.occurrences, hit.mean
FROM unnest(CAST(:probes AS vector[])) WITH ORDINALITY AS probe (v, n)
CROSS JOIN LATERAL (
    SELECT person_id, min(d) AS nearest,
        count(*) FILTER (WHERE d <= :threshold) AS occurrences, avg(d) FILTER (WHERE d <= :threshold) AS mean
    FROM (SELECT person_id, 1 + (embedding <#> probe.v) AS d FROM {table}) AS template
    GROUP BY person_id ORDER BY nearest, person_id LIMIT :top_k
) AS hit
JOIN persons AS person ON person.domain_id = :domain_id AND person.id = hit.person_id
ORDER BY probe.n, hit.nearest, hit.person_id
"""


def _exact(
    session: Session, gallery: Gallery, units: Float32Array, options: SearchOptions, path: SearchPath
) -> list[ProbeHits]:
    rows = session.execute(
        text(_EXACT_SQL.format(table=partition_name(gallery.domain_id))), _parameters(gallery, units, options)
    )
    found: list[list[PersonHit]] = [[] for _ in units]
    for n, *person in rows:
        found[n - 1].append(_hit(*person))
    return [ProbeHits(tuple(persons), path) for persons in found]


def _parameters(gallery: Gallery, units: Float32Array, options: SearchOptions) -> dict[str, Any]:
    return {
        "probes": [Vector(unit) for unit in units],
        "domain_id": gallery.domain_id,
        "threshold": options.threshold,
        "top_k": options.top_k,
    }


def _hit(person_id: UUID, label: str, name: str, nearest: float, occurrences: int, mean: float | None) -> PersonHit:
    # Rounding may take a template compared with itself below zero.
    return PersonHit(person_id, label, name, max(0.0, nearest), occurrences, None if mean is None else max(0.0, mean))
