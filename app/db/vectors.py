"""1:N search of one domain's templates: exact, or through the HNSW index where its answer is beyond doubt.

An index may make a search fast; it never decides that somebody is unknown. A small partition is scanned. In a large one
the index is asked first, and its answer stands only where it is a clear match; else the partition is scanned as well.
Distances are always those of the stored float32 vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from pgvector import Vector
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db.domains import Gallery
from app.db.partitions import gone_means_deleted, partition_name
from app.db.session import set_local
from app.db.templates import unit_vectors
from app.vision.faces import Float32Array

# Enough for a person with many templates, few enough to be sorted in passing.
_EXACT_ROWS_PER_PERSON: Final = 30
# A person has some templates; so many rows hold about as many persons as are asked for.
_HNSW_ROWS_PER_PERSON: Final = 10
_MAX_EF_SEARCH: Final = 1_000  # pgvector's


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
    with gone_means_deleted():
        if gallery.template_count <= options.exact_max_rows or not gallery.index_valid:
            return _exact(session, gallery, units, options, SearchPath.EXACT)
        return _through_index(session, gallery, units, options)


# Of the rows nearest to each probe, the persons; of these, all templates. Unit vectors: the cosine distance is 1 plus the
# negative inner product, which is cheaper. `horizon` is the distance of the farthest row that was looked at.
_SEARCH_SQL: Final = """
SELECT probe.n, near.horizon, person.id, person.label, person.display_name, near.nearest, seen.occurrences, seen.mean
FROM unnest(CAST(:probes AS vector[])) WITH ORDINALITY AS probe (v, n)
CROSS JOIN LATERAL ({near}) AS near
CROSS JOIN LATERAL (
    SELECT id, label, display_name FROM persons WHERE domain_id = :domain_id AND id = near.person_id
    LIMIT 1 -- a fence: the few persons found are looked up, whatever the statistics say
) AS person
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE d <= :threshold) AS occurrences, avg(d) FILTER (WHERE d <= :threshold) AS mean
    FROM (
        SELECT 1 + (embedding <#> probe.v) AS d
        FROM {table} WHERE domain_id = :domain_id AND person_id = near.person_id
        OFFSET 0 -- a fence: the distance is computed once
    ) AS template
) AS seen
ORDER BY probe.n, near.nearest, person.id
"""
_NEAREST_PERSONS_SQL: Final = """
    SELECT person_id, min(d) AS nearest, max(max(d)) OVER () AS horizon
    FROM (SELECT person_id, 1 + (embedding <#> probe.v) AS d FROM {table} {rows} OFFSET 0) AS template
    GROUP BY person_id ORDER BY nearest, person_id LIMIT :top_k
"""
# No index serves this order: the partition is scanned.
EXACT_ROWS_SQL: Final = "ORDER BY embedding <#> probe.v LIMIT :rows"
# This is the index's expression and operator, to the letter.
HNSW_ROWS_SQL: Final = (
    "ORDER BY CAST(embedding AS halfvec({dimension})) <=> CAST(probe.v AS halfvec({dimension})) LIMIT :rows"
)
EVERY_ROW_SQL: Final = ""


def _exact(
    session: Session, gallery: Gallery, units: Float32Array, options: SearchOptions, path: SearchPath
) -> list[ProbeHits]:
    """Scan the partition.

    A few rows per person are kept. Where so few persons hold all of them that `top_k` is not reached, the scan is repeated
    with every row kept.
    """
    rows = _EXACT_ROWS_PER_PERSON * options.top_k
    found = _run(session, gallery, units, options, EXACT_ROWS_SQL, rows)
    crowded = [n for n, (persons, _) in enumerate(found) if len(persons) < options.top_k]
    if crowded and gallery.template_count > rows:
        complete = _run(session, gallery, units[crowded], options, EVERY_ROW_SQL, rows)
        for n, hits in zip(crowded, complete, strict=True):
            found[n] = hits
    return [ProbeHits(persons, path) for persons, _horizon in found]


def _through_index(session: Session, gallery: Gallery, units: Float32Array, options: SearchOptions) -> list[ProbeHits]:
    """Ask the index, and scan the partition for the probes of which it leaves a doubt."""
    rows = min(max(options.ef_search, _HNSW_ROWS_PER_PERSON * options.top_k), _MAX_EF_SEARCH)
    insist_on_index(session, rows)
    found = _run(session, gallery, units, options, HNSW_ROWS_SQL, rows)
    hits = [ProbeHits(persons, SearchPath.HNSW) for persons, _horizon in found]
    doubtful = [n for n, (persons, horizon) in enumerate(found) if not is_clear(persons, horizon, options)]
    if doubtful:
        set_local(session, enable_seqscan="on")
        confirmed = _exact(session, gallery, units[doubtful], options, SearchPath.HNSW_THEN_EXACT)
        for n, exact in zip(doubtful, confirmed, strict=True):
            hits[n] = exact
    return hits


def is_clear(persons: Sequence[PersonHit], horizon: float, options: SearchOptions) -> bool:
    """Whether an approximate answer is a match that no person it has missed is likely to change.

    The first person is within the threshold, and nearer than the second by the margin that a match needs, both with once more
    the margin to spare. Where no second one was seen, all persons not seen are taken to be at the horizon.

    Args:
        persons: nearest first.
        horizon: distance of the farthest template that was looked at.
        options: threshold and margin.
    """
    if not persons:
        return False
    first = persons[0].min_distance
    second = persons[1].min_distance if len(persons) > 1 else horizon
    return first <= options.threshold - options.margin and second - first >= 2 * options.margin


def insist_on_index(session: Session, ef_search: int) -> None:
    """Until the transaction ends, the planner scans no table where an index serves, whatever its statistics say."""
    # With the iterative scan, rows deleted but not yet vacuumed do not use up the list of candidates.
    set_local(
        session,
        enable_seqscan="off",
        hnsw__ef_search=str(ef_search),
        hnsw__iterative_scan="relaxed_order",
    )


def _run(
    session: Session, gallery: Gallery, units: Float32Array, options: SearchOptions, rows_sql: str, rows: int
) -> list[tuple[tuple[PersonHit, ...], float]]:
    """Persons, nearest first, and the horizon, of each probe; in one round trip."""
    parameters = {
        "probes": [Vector(unit) for unit in units],
        "domain_id": gallery.domain_id,
        "threshold": options.threshold,
        "top_k": options.top_k,
    }
    if rows_sql:
        parameters["rows"] = rows
    persons: list[list[PersonHit]] = [[] for _ in units]
    horizons = [0.0] * len(units)
    for n, horizon, *person in session.execute(text(search_sql(gallery, rows_sql)), parameters):
        persons[n - 1].append(_hit(*person))
        horizons[n - 1] = horizon
    return [(tuple(found), horizon) for found, horizon in zip(persons, horizons, strict=True)]


def search_sql(gallery: Gallery, rows_sql: str) -> str:
    """The statement of a search in this gallery's partition."""
    # The names and numbers that become part of the text are integers of our own.
    table = partition_name(gallery.domain_id)
    near = _NEAREST_PERSONS_SQL.format(table=table, rows=rows_sql.format(dimension=int(gallery.dimension)))
    return _SEARCH_SQL.format(table=table, near=near)


def _hit(person_id: UUID, label: str, name: str, nearest: float, occurrences: int, mean: float | None) -> PersonHit:
    # Rounding may take a template compared with itself below zero.
    return PersonHit(person_id, label, name, max(0.0, nearest), occurrences, None if mean is None else max(0.0, mean))
