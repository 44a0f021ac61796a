"""1:N search of one domain's templates: exact, or through the HNSW index where its answer is beyond doubt.

An index may make a search fast; it never decides that somebody is unknown. A small partition is scanned. In a large one
the index is asked first, and its answer stands only where it is a clear match; else the whole partition is passed over as well:
by codes (`app.db.codes`) where templates have them, which leave out nobody within the threshold but once in a million, by their
vectors where they have none. Distances are always those of the stored float32 vectors.

Two kinds of persons are no candidates at all: who is not valid now, and who was rejected for a face that is nearer to the
probe than any of their templates is.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final
from uuid import UUID

from pgvector import Bit, Vector
from sqlalchemy.orm import Session

from app.db.codes import BITS, codes_of, differing_bits, has_codes
from app.db.domains import Gallery
from app.db.partitions import gone_means_deleted, partition_name
from app.db.session import BareTransaction, fetch_raw
from app.db.templates import unit_vectors
from app.vision.faces import Float32Array

# Enough for a person with many templates, few enough to be sorted in passing.
_EXACT_ROWS_PER_PERSON: Final = 30
# A person has some templates. As many rows are looked at as the index has candidates anyway: they hold as many persons as are
# asked for in most galleries, and another search for more persons takes far longer than they do.
_HNSW_ROWS_PER_PERSON: Final = 4
_MORE_HNSW_ROWS: Final = 8
_MAX_EF_SEARCH: Final = 1_000  # pgvector's
# Of a gallery, the share whose codes are nearest is compared by the vectors in any case: it takes next to no time.
_LEAST_SHARE: Final = 0.005

VALID_NOW_SQL: Final = (
    "(coalesce(valid_from <= statement_timestamp(), true) AND coalesce(valid_until > statement_timestamp(), true))"
)
"""Whether a person is valid when the statement arrives: from `valid_from` on, and no longer at `valid_until`."""


class SearchPath(StrEnum):
    """How an answer came about."""

    EXACT = "exact"
    HNSW = "hnsw"
    HNSW_THEN_EXACT = "hnsw+exact"
    CODES = "codes"
    HNSW_THEN_CODES = "hnsw+codes"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search.

    Attributes:
        top_k: persons to return per probe.
        threshold: largest cosine distance (0 to 2) that counts as the same person's.
        margin: least lead, in distance, of the first person over the second.
        exact_max_rows: up to so many templates a partition is scanned (`Settings.exact_max_rows`).
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
    session: Session | BareTransaction,
    gallery: Gallery,
    probes: Float32Array | Sequence[Float32Array],
    options: SearchOptions,
) -> list[ProbeHits]:
    """Find the nearest persons for every probe, in one round trip where the partition is small.

    Whoever a decision depends on (within the threshold, or behind one who is by less than the margin) is found as by exact
    search. Persons behind them are near ones, and in a small partition the nearest.

    Args:
        session: a transaction; settings that the search needs end with it.
        gallery: of `load_gallery` or `look_up_gallery`, of a moment ago.
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
        if _has_use_for_index(gallery, options):
            return _through_index(session, gallery, units, options)
        if _has_use_for_codes(gallery, options):
            insist_on_index(session, _ef_search(options))
            return _by_codes(session, gallery, units, options, (SearchPath.CODES, SearchPath.EXACT))
        return _exact(session, gallery, units, options, SearchPath.EXACT)


# Of the rows nearest to each probe, the persons; of these, all templates. Unit vectors: the cosine distance is 1 plus the
# negative inner product, which is cheaper. `horizon` is the distance of the farthest row that was looked at. A person is as
# near as the nearest of all their templates: the index, or a pass by codes, may have missed it.
_SEARCH_SQL: Final = """
SELECT probe.n, near.horizon, EXISTS (
    SELECT FROM face_rejections AS rejection
    WHERE rejection.domain_id = :domain_id AND rejection.person_id = near.person_id
        AND 1 + (rejection.embedding <#> probe.v) <= :threshold AND 1 + (rejection.embedding <#> probe.v) < seen.nearest
), person.id, person.label, person.display_name, seen.nearest, seen.occurrences, seen.mean
FROM (VALUES {probes}) AS probe (n, v, code)
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
ORDER BY probe.n, seen.nearest, person.id
"""
# The order is by the very expression that is selected: else each distance would be computed twice.
_NEAREST_PERSONS_SQL: Final = """
    SELECT person_id, 1 + min(negative) AS nearest, 1 + max(max(negative)) OVER () AS horizon
    FROM (
        SELECT person_id, embedding <#> probe.v AS negative FROM {table} AS template WHERE {valid} {rows} OFFSET 0
    ) AS template
    GROUP BY person_id ORDER BY nearest, person_id LIMIT :top_k
"""
# All that the inner part needs is in the index of persons; the few rows that are left are looked up by their ids.
_NEAREST_BY_CODE_SQL: Final = """
    SELECT person_id, 1 + min(negative) AS nearest, 1 + max(max(negative)) OVER () AS horizon
    FROM (
        SELECT coded.person_id, whole.embedding <#> probe.v AS negative
        FROM (
            SELECT id, person_id FROM {table} AS template
            WHERE domain_id = :domain_id AND code <~> probe.code <= :bits AND {valid} OFFSET 0
        ) AS coded
        CROSS JOIN LATERAL (SELECT embedding FROM {table} WHERE domain_id = :domain_id AND id = coded.id LIMIT 1) AS whole
        OFFSET 0
    ) AS template
    GROUP BY person_id ORDER BY nearest, person_id LIMIT :top_k
"""
# Whoever is not valid now is left out within the search, by the clock of the database: they push nobody out of the nearest.
# In many domains nobody has a limit: then no row is looked at for it, which is a tenth of a scan.
_NOBODY_HAS_A_LIMIT_SQL: Final = """(SELECT NOT EXISTS (
    SELECT FROM persons WHERE domain_id = :domain_id AND (valid_from IS NOT NULL OR valid_until IS NOT NULL)
))"""
# A scan meets every row: those who are not valid are gathered once, and each row is looked up among them. By way of `unnest`,
# which the planner takes for short: it hashes them, however many there are.
_VALID_IN_SCAN_SQL: Final = f"""({_NOBODY_HAS_A_LIMIT_SQL} OR person_id NOT IN (SELECT unnest(ARRAY(
    SELECT id FROM persons
    WHERE domain_id = :domain_id AND (valid_from IS NOT NULL OR valid_until IS NOT NULL) AND NOT {VALID_NOW_SQL}
))))"""  # noqa: S608 - constants
# The index gives few rows: each person is looked up.
_VALID_IN_INDEX_SQL: Final = f"""({_NOBODY_HAS_A_LIMIT_SQL}
    OR (SELECT {VALID_NOW_SQL} FROM persons WHERE domain_id = :domain_id AND id = template.person_id))"""  # noqa: S608 - constants
# No index serves this order: the partition is scanned.
EXACT_ROWS_SQL: Final = "ORDER BY embedding <#> probe.v LIMIT :rows"
# This is the index's expression and operator, to the letter.
HNSW_ROWS_SQL: Final = (
    "ORDER BY CAST(embedding AS halfvec({dimension})) <=> CAST(probe.v AS halfvec({dimension})) LIMIT :rows"
)
EVERY_ROW_SQL: Final = ""
BY_CODES: Final = None
"""In place of such an order: those whose codes differ from the probe's in no more than `:bits`."""


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
    session: Session | BareTransaction, gallery: Gallery, units: Float32Array, options: SearchOptions, path: SearchPath
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


def _scan(
    session: Session | BareTransaction, gallery: Gallery, units: Float32Array, options: SearchOptions
) -> list[_Found]:
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


def _through_index(
    session: Session | BareTransaction, gallery: Gallery, units: Float32Array, options: SearchOptions
) -> list[ProbeHits]:
    """Ask the index, and scan the partition for the probes of which it leaves a doubt."""
    rows = _ef_search(options)
    insist_on_index(session, rows)
    found = _run(session, gallery, units, options, HNSW_ROWS_SQL, rows)
    # Of persons with many templates, the rows hold but a few. A pass by codes takes no longer than to look for more.
    more = min(_MORE_HNSW_ROWS * rows, _MAX_EF_SEARCH)
    patient = not _has_use_for_codes(gallery, options)
    crowded = [n for n, one in enumerate(found) if one.met < options.top_k and (patient or _is_clear(one, options))]
    if more > rows and crowded:
        insist_on_index(session, more)
        for n, one in zip(crowded, _run(session, gallery, units[crowded], options, HNSW_ROWS_SQL, more), strict=True):
            found[n] = one
    hits = [ProbeHits(one.persons, SearchPath.HNSW) for one in found]
    doubtful = [n for n, one in enumerate(found) if not _is_clear(one, options)]
    if doubtful:
        seen = [found[n].persons for n in doubtful]
        for n, confirmed in zip(doubtful, _confirm(session, gallery, units[doubtful], options, seen), strict=True):
            hits[n] = confirmed
    return hits


def _confirm(
    session: Session | BareTransaction,
    gallery: Gallery,
    units: Float32Array,
    options: SearchOptions,
    seen: Sequence[tuple[PersonHit, ...]],
) -> list[ProbeHits]:
    """Pass over the whole partition, of which the index has seen a part: `seen`, of each probe."""
    if not _has_use_for_codes(gallery, options):
        _allow_scans(session)
        return _exact(session, gallery, units, options, SearchPath.HNSW_THEN_EXACT)
    confirmed = _by_codes(session, gallery, units, options, (SearchPath.HNSW_THEN_CODES, SearchPath.HNSW_THEN_EXACT))
    # Whom the index has seen is there, whatever a code says: it takes both to miss somebody.
    return [
        replace(one, persons=_together(one.persons, persons, options.top_k))
        if one.path is SearchPath.HNSW_THEN_CODES
        else one
        for one, persons in zip(confirmed, seen, strict=True)
    ]


def _by_codes(
    session: Session | BareTransaction,
    gallery: Gallery,
    units: Float32Array,
    options: SearchOptions,
    paths: tuple[SearchPath, SearchPath],
) -> list[ProbeHits]:
    """Everybody whom the decision depends on, and others who are near by code; by a scan where that is too few persons.

    Args:
        paths: what the answers are called then and then.
    """
    by_codes, by_scan = paths
    found = _run(session, gallery, units, options, BY_CODES, 0)
    hits = [ProbeHits(one.persons, by_codes) for one in found]
    short = [n for n, one in enumerate(found) if len(one.persons) < options.top_k]
    if short:
        _allow_scans(session)
        for n, exact in zip(short, _exact(session, gallery, units[short], options, by_scan), strict=True):
            hits[n] = exact
    return hits


def _together(some: Sequence[PersonHit], others: Sequence[PersonHit], top_k: int) -> tuple[PersonHit, ...]:
    """The nearest of both; who is in both is the same in both."""
    persons = {hit.person_id: hit for hit in (*others, *some)}
    return tuple(sorted(persons.values(), key=lambda hit: (hit.min_distance, hit.person_id)))[:top_k]


def _is_clear(one: _Found, options: SearchOptions) -> bool:
    return not one.rejected and is_clear(one.persons, one.horizon, options)


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


# No parameter makes a difference to the plan (`search_sql`): the server need not make five for those it is given before it
# tries one for all. Else the first ten searches of each connection in each domain take up to twice as long as later ones.
_PLAN_ONCE: Final = {"plan_cache_mode": "force_generic_plan"}


def search_settings(gallery: Gallery, options: SearchOptions) -> dict[str, str]:
    """What to begin a transaction with that is made for a search: else the search has to say it in a turn of its own."""
    used = _has_use_for_index(gallery, options) or _has_use_for_codes(gallery, options)
    return (_index_settings(_ef_search(options)) if used else {}) | _PLAN_ONCE


def _has_use_for_index(gallery: Gallery, options: SearchOptions) -> bool:
    return gallery.index_valid and gallery.template_count > options.exact_max_rows


def _has_use_for_codes(gallery: Gallery, options: SearchOptions) -> bool:
    large = has_codes(gallery.dimension) and gallery.template_count > options.exact_max_rows
    return large and _differing_bits(gallery, options) is not None


def _differing_bits(gallery: Gallery, options: SearchOptions) -> int | None:
    """Enough for whom the decision depends on, who is within the threshold or behind one who is by less than the margin; and
    for as many strangers as an answer tells of.
    """
    rows = _EXACT_ROWS_PER_PERSON * options.top_k
    share = max(_LEAST_SHARE, min(1.0, rows / gallery.template_count))
    # Rounded up: a gallery that grows by one template needs no other number.
    share = math.ceil(share / _LEAST_SHARE) * _LEAST_SHARE
    return differing_bits(gallery.dimension, options.threshold + options.margin, share)


def _ef_search(options: SearchOptions) -> int:
    return min(max(options.ef_search, _HNSW_ROWS_PER_PERSON * options.top_k), _MAX_EF_SEARCH)


def _index_settings(ef_search: int) -> dict[str, str]:
    # With the iterative scan, rows deleted but not yet vacuumed do not use up the list of candidates.
    return {"enable_seqscan": "off", "hnsw.ef_search": str(ef_search), "hnsw.iterative_scan": "relaxed_order"}


def insist_on_index(session: Session | BareTransaction, ef_search: int) -> None:
    """Until the transaction ends, the planner scans no table where an index serves, whatever its statistics say."""
    settings = _index_settings(ef_search)
    if isinstance(session, BareTransaction) and settings.items() <= session.settings.items():
        return
    _set_local(session, settings)


def _allow_scans(session: Session | BareTransaction) -> None:
    _set_local(session, {"enable_seqscan": "on"})


def _set_local(session: Session | BareTransaction, settings: Mapping[str, str]) -> None:
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    fetch_raw(session, f"SELECT {calls}")
    if isinstance(session, BareTransaction):
        session.settings = {**session.settings, **settings}


def _run(
    session: Session | BareTransaction,
    gallery: Gallery,
    units: Float32Array,
    options: SearchOptions,
    rows_sql: str | None,
    rows: int,
) -> list[_Found]:
    """What is found for each probe, in one round trip."""
    parameters: dict[str, object] = {f"probe_{n}": Vector(unit) for n, unit in enumerate(units, 1)}
    parameters["threshold"] = options.threshold
    if rows_sql is BY_CODES:
        parameters |= {f"code_{n}": Bit(code.tobytes()) for n, code in enumerate(codes_of(units), 1)}
        parameters["bits"] = _differing_bits(gallery, options)
    statement = _driver_sql(search_sql(gallery, rows_sql, probes=len(units), top_k=options.top_k, rows=rows))
    persons: list[list[PersonHit]] = [[] for _ in units]
    rejections = [0] * len(units)
    horizons = [0.0] * len(units)
    for n, horizon, rejected, *person in fetch_raw(session, statement, parameters, costly=True):
        horizons[n - 1] = horizon
        if rejected:
            rejections[n - 1] += 1
        else:
            persons[n - 1].append(_hit(*person))
    return [_Found(tuple(kept), out, far) for kept, out, far in zip(persons, rejections, horizons, strict=True)]


def search_sql(gallery: Gallery, rows_sql: str | None, *, probes: int, top_k: int, rows: int) -> str:
    """The statement of a search in this gallery's partition, with the parameters `:probe_1` and so on, and `:threshold`.

    Everything that the plan depends on is part of the text, the number of probes too: a plan for all parameters is as good as
    one for these. To plan takes as long as the index: a connection does it twice, and keeps the second one (`fetch_raw`).
    """
    return _search_sql(int(gallery.domain_id), int(gallery.dimension), rows_sql, int(probes), int(top_k), int(rows))


@lru_cache(maxsize=1024)
def _search_sql(domain_id: int, dimension: int, rows_sql: str | None, probes: int, top_k: int, rows: int) -> str:
    # The names and numbers that become part of the text are integers of our own.
    table = partition_name(domain_id)
    valid = _VALID_IN_INDEX_SQL if rows_sql == HNSW_ROWS_SQL else _VALID_IN_SCAN_SQL
    if rows_sql is BY_CODES:
        near = _NEAREST_BY_CODE_SQL.format(table=table, valid=valid)
    else:
        near = _NEAREST_PERSONS_SQL.format(table=table, valid=valid, rows=rows_sql.format(dimension=dimension))
    codes = f"CAST(:code_{{n}} AS bit({BITS}))" if rows_sql is BY_CODES else "NULL"
    values = ", ".join(f"({n}, CAST(:probe_{n} AS vector), {codes.format(n=n)})" for n in range(1, probes + 1))
    statement = _SEARCH_SQL.format(table=table, near=near, probes=values)
    for name, value in (("domain_id", domain_id), ("top_k", top_k), ("rows", rows)):
        statement = statement.replace(f":{name}", str(value))
    return statement


@lru_cache(maxsize=1024)
def _driver_sql(statement: str) -> str:
    named = re.sub(r":((?:probe|code)_\d+)", r"%(\1)b", statement)
    return named.replace(":threshold", "%(threshold)s").replace(":bits", "CAST(%(bits)s AS float8)")


def _hit(person_id: UUID, label: str, name: str, nearest: float, occurrences: int, mean: float | None) -> PersonHit:
    # Rounding may take a template compared with itself below zero.
    return PersonHit(person_id, label, name, max(0.0, nearest), occurrences, None if mean is None else max(0.0, mean))
