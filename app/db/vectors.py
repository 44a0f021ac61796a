"""1:N search of one domain's templates: exact, or through the HNSW index where its answer is beyond doubt.

An index may make a search fast; it never decides that somebody is unknown. A small partition is scanned. In a large one
the index is asked first, and its answer stands only where it is a clear match; else the partition is scanned as well.
Distances are always those of the stored float32 vectors.

Two kinds of persons are no candidates at all: who is not valid now, and who was rejected for a face that is nearer to the
probe than any of their templates is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

VALID_NOW_SQL: Final = (
    "(coalesce(valid_from <= statement_timestamp(), true) AND coalesce(valid_until > statement_timestamp(), true))"
)
"""Whether a person is valid when the statement arrives: from `valid_from` on, and no longer at `valid_until`."""


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
# negative inner product, which is cheaper. `horizon` is the distance of the farthest row that was looked at. A rejection is
# compared with the nearest of all templates: the index may have missed it.
_SEARCH_SQL: Final = """
SELECT probe.n, near.horizon, EXISTS (
    SELECT FROM face_rejections AS rejection
    WHERE rejection.domain_id = :domain_id AND rejection.person_id = near.person_id
        AND 1 + (rejection.embedding <#> probe.v) <= :threshold AND 1 + (rejection.embedding <#> probe.v) < seen.nearest
), person.id, person.label, person.display_name, near.nearest, seen.occurrences, seen.mean
FROM unnest(CAST(:probes AS vector[])) WITH ORDINALITY AS probe (v, n)
CROSS JOIN LATERAL ({near}) AS near
CROSS JOIN LATERAL (
    SELECT id, label, display_name FROM persons WHERE domain_id = :domain_id AND id = near.person_id
    LIMIT 1 -- a fence: the few persons found are looked up, whatever the statistics say
) AS person
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE d <= :threshold) AS occurrences, avg(d) FILTER (WHERE d <= :threshold) AS mean,
        min(d) AS nearest
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
    FROM (
        SELECT person_id, 1 + (embedding <#> probe.v) AS d FROM {table} AS template WHERE {valid} {rows} OFFSET 0
    ) AS template
    GROUP BY person_id ORDER BY nearest, person_id LIMIT :top_k
"""
# Whoever is not valid now is left out within the search, by the clock of the database: they push nobody out of the nearest.
# A scan meets every row: those who are not valid are gathered once, and each row is looked up among them. By way of `unnest`,
# which the planner takes for short: it hashes them, however many there are.
_VALID_IN_SCAN_SQL: Final = f"""person_id NOT IN (SELECT unnest(ARRAY(
    SELECT id FROM persons
    WHERE domain_id = :domain_id AND (valid_from IS NOT NULL OR valid_until IS NOT NULL) AND NOT {VALID_NOW_SQL}
)))"""  # noqa: S608 - constants
# The index gives few rows: each person is looked up, unless nobody in the domain has a limit.
_VALID_IN_INDEX_SQL: Final = f"""((SELECT NOT EXISTS (
    SELECT FROM persons WHERE domain_id = :domain_id AND (valid_from IS NOT NULL OR valid_until IS NOT NULL)
)) OR (SELECT {VALID_NOW_SQL} FROM persons WHERE domain_id = :domain_id AND id = template.person_id))"""  # noqa: S608 - constants
# No index serves this order: the partition is scanned.
EXACT_ROWS_SQL: Final = "ORDER BY embedding <#> probe.v LIMIT :rows"
# This is the index's expression and operator, to the letter.
HNSW_ROWS_SQL: Final = (
    "ORDER BY CAST(embedding AS halfvec({dimension})) <=> CAST(probe.v AS halfvec({dimension})) LIMIT :rows"
)
EVERY_ROW_SQL: Final = ""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one statement says of one probe.

    Attributes:
        persons: nearest first, without those who were rejected for it.
        rejected: how many these are.
        horizon: distance of the farthest template that was looked at.
    """

    persons: tuple[PersonHit, ...]
    rejected: int
    horizon: float

    @property
    def met(self) -> int:
        """How many persons were found at all."""
        return len(self.persons) + self.rejected


def _exact(
    session: Session, gallery: Gallery, units: Float32Array, options: SearchOptions, path: SearchPath
) -> list[ProbeHits]:
    """Scan the partition; again with room for more persons, for the probes that some were rejected for.

    The room is more than doubled each time: everybody having been rejected costs a few scans, not one per person.
    """
    asked = options.top_k
    found = _scan(session, gallery, units, options)
    # Where fewer were met than asked for, there is nobody else.
    while short := [n for n, one in enumerate(found) if len(one.persons) < options.top_k and one.met == asked]:
        asked = options.top_k + 2 * max(found[n].rejected for n in short)
        for n, one in zip(short, _scan(session, gallery, units[short], replace(options, top_k=asked)), strict=True):
            found[n] = one
    return [ProbeHits(one.persons[: options.top_k], path) for one in found]


def _scan(session: Session, gallery: Gallery, units: Float32Array, options: SearchOptions) -> list[_Found]:
    """The nearest `top_k` persons, and those of them who were rejected.

    A few rows per person are kept. Where so few persons hold all of them that `top_k` is not reached, the scan is repeated
    with every row kept.
    """
    rows = _EXACT_ROWS_PER_PERSON * options.top_k
    found = _run(session, gallery, units, options, EXACT_ROWS_SQL, rows)
    crowded = [n for n, one in enumerate(found) if one.met < options.top_k]
    if crowded and gallery.template_count > rows:
        complete = _run(session, gallery, units[crowded], options, EVERY_ROW_SQL, rows)
        for n, one in zip(crowded, complete, strict=True):
            found[n] = one
    return found


def _through_index(session: Session, gallery: Gallery, units: Float32Array, options: SearchOptions) -> list[ProbeHits]:
    """Ask the index, and scan the partition for the probes of which it leaves a doubt."""
    rows = min(max(options.ef_search, _HNSW_ROWS_PER_PERSON * options.top_k), _MAX_EF_SEARCH)
    insist_on_index(session, rows)
    found = _run(session, gallery, units, options, HNSW_ROWS_SQL, rows)
    hits = [ProbeHits(one.persons, SearchPath.HNSW) for one in found]
    doubtful = [n for n, one in enumerate(found) if one.rejected or not is_clear(one.persons, one.horizon, options)]
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
) -> list[_Found]:
    """What is found for each probe, in one round trip."""
    parameters = {
        "probes": [Vector(unit) for unit in units],
        "domain_id": gallery.domain_id,
        "threshold": options.threshold,
        "top_k": options.top_k,
    }
    if rows_sql:
        parameters["rows"] = rows
    persons: list[list[PersonHit]] = [[] for _ in units]
    rejections = [0] * len(units)
    horizons = [0.0] * len(units)
    for n, horizon, rejected, *person in session.execute(text(search_sql(gallery, rows_sql)), parameters):
        horizons[n - 1] = horizon
        if rejected:
            rejections[n - 1] += 1
        else:
            persons[n - 1].append(_hit(*person))
    return [_Found(tuple(kept), out, far) for kept, out, far in zip(persons, rejections, horizons, strict=True)]


def search_sql(gallery: Gallery, rows_sql: str) -> str:
    """The statement of a search in this gallery's partition."""
    # The names and numbers that become part of the text are integers of our own.
    table = partition_name(gallery.domain_id)
    valid = _VALID_IN_INDEX_SQL if rows_sql == HNSW_ROWS_SQL else _VALID_IN_SCAN_SQL
    rows = rows_sql.format(dimension=int(gallery.dimension))
    near = _NEAREST_PERSONS_SQL.format(table=table, valid=valid, rows=rows)
    return _SEARCH_SQL.format(table=table, near=near)


def _hit(person_id: UUID, label: str, name: str, nearest: float, occurrences: int, mean: float | None) -> PersonHit:
    # Rounding may take a template compared with itself below zero.
    return PersonHit(person_id, label, name, max(0.0, nearest), occurrences, None if mean is None else max(0.0, mean))
