"""Search: the right person, by the right plan, in the right domain.

The large gallery has as many as show it. As many as the measurements were made with:

    FACEDEX_TEST_PERSONS=50000 scripts/test tests/db/test_vectors.py
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import migrate, vectors
from app.db.domains import Gallery, drop_domain, load_gallery
from app.db.models import Person
from app.db.partitions import index_name, partition_name
from app.db.session import Database, as_owner
from app.db.templates import delete_person, insert_templates
from app.db.vectors import PersonHit, SearchOptions, SearchPath, is_clear, search
from app.errors import ContractMismatch, DomainNotFound, InvalidEmbedding
from app.vision.faces import Float32Array
from tests.db_server import Maker, fill_gallery, noisy_copies, normalised, random_units, template

# More than are searched exactly, by far.
PERSONS = int(os.environ.get("FACEDEX_TEST_PERSONS", "25000"))
OPTIONS = SearchOptions(top_k=5, threshold=0.4, margin=0.03, exact_max_rows=10_000, ef_search=100)
ALWAYS_INDEX = SearchOptions(top_k=5, threshold=0.4, margin=0.03, exact_max_rows=0, ef_search=100)


def brute_force(
    gallery: Float32Array, owners: list[int], probe: Float32Array, options: SearchOptions
) -> list[tuple[str, float, int, float | None]]:
    """The answer, by NumPy: label, smallest distance, occurrences and their mean distance, nearest first."""
    distances = 1.0 - gallery.astype(np.float64) @ probe.astype(np.float64)
    by_person: dict[int, list[float]] = {}
    for owner, distance in zip(owners, distances, strict=True):
        by_person.setdefault(owner, []).append(float(distance))
    nearest = sorted(by_person.items(), key=lambda item: min(item[1]))[: options.top_k]
    near = [(owner, found, [d for d in found if d <= options.threshold]) for owner, found in nearest]
    return [
        (f"p{owner}", min(all_), len(within), float(np.mean(within)) if within else None)
        for owner, all_, within in near
    ]


def assert_same(persons: tuple[PersonHit, ...], expected: list[tuple[str, float, int, float | None]]) -> None:
    assert [(hit.label, hit.occurrences) for hit in persons] == [(label, count) for label, _, count, _ in expected]
    for hit, (_, distance, _, mean) in zip(persons, expected, strict=True):
        assert hit.min_distance == pytest.approx(distance, abs=1e-6)
        assert hit.mean_distance == (None if mean is None else pytest.approx(mean, abs=1e-6))


@pytest.mark.parametrize("dimension", [8, 128, 512])
@pytest.mark.parametrize("options", [OPTIONS, ALWAYS_INDEX], ids=["scan", "index"])
def test_the_answer_is_that_of_brute_force(
    database: Database, make_gallery: Maker, dimension: int, options: SearchOptions
) -> None:
    identities = random_units(40, dimension)
    owners = [n % 40 for n in range(200)]
    templates = noisy_copies(identities[owners], 0.5, seed=2)
    gallery = make_gallery("people", templates, owners)
    probes = np.concatenate([noisy_copies(identities[:10], 0.4, seed=3), random_units(5, dimension, seed=4)])
    with database.transaction() as session:
        found = search(session, gallery, probes, options)
    assert len(found) == 15
    for hits, probe in zip(found, probes, strict=True):
        if hits.path is SearchPath.HNSW:
            # The candidates behind the first two decide nothing, and the index may miss some.
            expected = brute_force(templates, owners, probe, options)
            assert_same(hits.persons[:1], expected[:1])
        else:
            assert_same(hits.persons, brute_force(templates, owners, probe, options))


@settings(database=None)
@given(
    vectors=st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any), min_size=1, max_size=12),
    probe=st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any),
)
def test_a_clear_answer_of_the_whole_gallery_is_what_exact_search_decides(
    vectors: list[list[int]], probe: list[int]
) -> None:
    gallery, owners = normalised(np.array(vectors)), list(range(len(vectors)))
    [unit] = normalised(np.array([probe]))
    found = brute_force(gallery, owners, unit, OPTIONS)
    hits = tuple(PersonHit(None, label, label, distance, count, mean) for label, distance, count, mean in found)  # type: ignore[arg-type]
    if is_clear(hits, 2.0, OPTIONS):
        assert found[0][1] <= OPTIONS.threshold
        assert len(found) == 1 or found[1][1] - found[0][1] >= OPTIONS.margin


def hit(distance: float) -> PersonHit:
    return PersonHit(None, "p", "P", distance, 1, distance)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("distances", "horizon", "clear"),
    [
        ([], 0.0, False),
        ([0.1, 0.6], 0.9, True),
        ([0.38, 0.9], 0.9, False),  # within the threshold, but without room
        ([0.5, 0.9], 0.9, False),  # nobody, says the index: it never decides that
        ([0.1, 0.14], 0.9, False),  # a lead that another person could undo
        ([0.1, 0.17], 0.9, True),
        ([0.1], 0.12, False),  # the persons not seen may be just behind
        ([0.1], 0.9, True),
    ],
)
def test_an_approximate_answer_stands_only_where_it_is_a_clear_match(
    distances: list[float], horizon: float, clear: bool
) -> None:
    assert is_clear(tuple(hit(distance) for distance in distances), horizon, OPTIONS) is clear


def test_a_person_with_very_many_templates_does_not_crowd_out_the_others(
    database: Database, make_gallery: Maker
) -> None:
    [crowd, *others] = random_units(7, 32)
    templates = np.concatenate([noisy_copies(np.repeat(crowd[None], 400, axis=0), 0.1), np.stack(others)])
    owners = [0] * 400 + list(range(1, 7))
    gallery = make_gallery("people", templates, owners)
    with database.transaction() as session:
        for options in (OPTIONS, ALWAYS_INDEX):
            [hits] = search(session, gallery, crowd[None], options)
            assert hits.persons[0].occurrences == 400
            if hits.path is not SearchPath.HNSW:
                assert_same(hits.persons, brute_force(templates, owners, crowd, options))


def test_domains_never_see_each_other(database: Database, make_gallery: Maker) -> None:
    same = random_units(30, 64)
    first, second = make_gallery("first", same), make_gallery("second", same[:3], [2, 1, 0])
    empty = make_gallery("empty", same[:0])
    with database.transaction() as session:
        for options in (OPTIONS, ALWAYS_INDEX):
            assert [hits.persons[0].label for hits in search(session, first, same[:3], options)] == ["p0", "p1", "p2"]
            assert [hits.persons[0].label for hits in search(session, second, same[:3], options)] == ["p2", "p1", "p0"]
            ids = {person.person_id for hits in search(session, second, same, options) for person in hits.persons}
            assert len(ids) == 3
            assert search(session, empty, same[:2], options) == [vectors.ProbeHits((), SearchPath.EXACT)] * 2


def test_no_probe_is_no_answer_and_a_bad_probe_is_refused(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(3, 8))
    with database.transaction() as session:
        assert search(session, gallery, [], OPTIONS) == []
        with pytest.raises(ContractMismatch):
            search(session, gallery, random_units(1, 9), OPTIONS)
        with pytest.raises(InvalidEmbedding):
            search(session, gallery, np.full((1, 8), np.nan, np.float32), OPTIONS)


def test_what_is_enrolled_is_found_and_what_is_deleted_never_again(database: Database, make_gallery: Maker) -> None:
    units = random_units(200, 64)
    gallery = make_gallery("people", units)
    for options in (OPTIONS, ALWAYS_INDEX):
        with database.transaction() as session:
            gallery = load_gallery(session, "people")
            [hits] = search(session, gallery, units[7:8], options)
            if options is OPTIONS:
                first = hits.persons[0]
                assert (first.label, round(first.min_distance, 6)) == ("p7", 0.0)
                assert delete_person(session, gallery.domain_id, first.person_id)
            assert hits.path is SearchPath.EXACT or all(person.label != "p7" for person in hits.persons)


def test_a_domain_that_is_deleted_meanwhile_is_not_found(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(3, 8))
    with database.transaction() as session:
        drop_domain(session, gallery.domain_id)
    with pytest.raises(DomainNotFound), database.transaction() as session:
        search(session, gallery, random_units(1, 8), OPTIONS)


# --- a large gallery -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(server_settings: Settings) -> Iterator[tuple[Database, Gallery, Float32Array]]:
    """Persons with one template each."""
    database = Database(server_settings)
    migrate.upgrade(database.engine)
    units = random_units(PERSONS, 128, seed=11)
    gallery = fill_gallery(database, "large", units, bulk=True)
    yield database, gallery, units
    with database.transaction() as session:
        drop_domain(session, gallery.domain_id)
    database.close()


@pytest.mark.slow
def test_in_a_large_gallery_the_right_one_is_first_as_often_as_by_exact_search(
    large: tuple[Database, Gallery, Float32Array],
) -> None:
    database, gallery, units = large
    chosen = np.random.default_rng(12).choice(len(units), 500, replace=False)
    # At distances from 0.06 to 0.33: from the same session to years apart.
    noise = np.linspace(0.35, 1.1, 500)[:, None]
    probes = normalised(units[chosen] + noise * random_units(500, 128, seed=13))
    exact = (probes @ units.T).argmax(axis=1)
    with database.transaction() as session:
        found = [search(session, gallery, probe[None], OPTIONS)[0] for probe in probes]
    paths = Counter(hits.path for hits in found)
    assert paths[SearchPath.HNSW] > 100  # else this would show nothing of the index
    assert SearchPath.EXACT not in paths
    as_exact = np.mean([hits.persons[0].label == f"p{n}" for hits, n in zip(found, exact, strict=True)])
    right = np.mean([hits.persons[0].label == f"p{n}" for hits, n in zip(found, chosen, strict=True)])
    assert as_exact >= 0.999
    assert right >= np.mean(exact == chosen) - 0.001


@pytest.mark.slow
def test_in_a_large_gallery_nobody_is_called_unknown_by_the_index_alone(
    large: tuple[Database, Gallery, Float32Array],
) -> None:
    database, gallery, units = large
    strangers = random_units(5, 128, seed=14)
    with database.transaction() as session:
        found = search(session, gallery, strangers, OPTIONS)
    for hits, probe in zip(found, strangers, strict=True):
        assert hits.path is SearchPath.HNSW_THEN_EXACT
        assert_same(hits.persons, brute_force(units, list(range(len(units))), probe, OPTIONS))


@pytest.mark.slow
def test_clear_and_doubtful_probes_of_one_picture_keep_their_places(
    large: tuple[Database, Gallery, Float32Array],
) -> None:
    database, gallery, units = large
    probes = np.concatenate([units[5:6], random_units(1, 128, seed=15), units[9:10]])
    with database.transaction() as session:
        found = search(session, gallery, probes, OPTIONS)
    assert [hits.path for hits in found] == [SearchPath.HNSW, SearchPath.HNSW_THEN_EXACT, SearchPath.HNSW]
    assert [found[0].persons[0].label, found[2].persons[0].label] == ["p5", "p9"]


@pytest.mark.slow
def test_a_large_domain_without_a_usable_index_is_searched_exactly(
    large: tuple[Database, Gallery, Float32Array],
) -> None:
    database, gallery, units = large
    with database.transaction() as session:
        [hits] = search(session, replace(gallery, index_valid=False), units[3:4], OPTIONS)
    assert (hits.persons[0].label, hits.path) == ("p3", SearchPath.EXACT)


def plan(session: Session, gallery: Gallery, rows_sql: str) -> str:
    """The plan of the statement that a search runs."""
    parameters = {
        **{f"probe_{n}": vectors.Vector(unit) for n, unit in enumerate(random_units(2, gallery.dimension), 1)},
        "threshold": 0.4,
    }
    lines = session.scalars(
        text(f"EXPLAIN {vectors.search_sql(gallery, rows_sql, probes=2, top_k=5, rows=100)}"), parameters
    )
    return "\n".join(lines)


@pytest.mark.slow
def test_explain_shows_the_domains_own_index_where_it_is_large(large: tuple[Database, Gallery, Float32Array]) -> None:
    database, gallery, _ = large
    with database.transaction() as session:
        vectors.insist_on_index(session, 100)
        shown = plan(session, gallery, vectors.HNSW_ROWS_SQL)
    assert f"Index Scan using {index_name(gallery.domain_id)} on {partition_name(gallery.domain_id)}" in shown
    assert "Seq Scan" not in shown


def test_the_index_is_used_also_without_statistics(database: Database, make_gallery: Maker) -> None:
    make_gallery("people", random_units(0, 32))
    with database.transaction() as session:
        table = partition_name(load_gallery(session, "people").domain_id)
        with as_owner(session):
            session.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        gallery = load_gallery(session, "people")
        person = Person(domain_id=gallery.domain_id, label="p", display_name="P")
        session.add(person)
        session.flush()
        insert_templates(session, gallery.domain_id, [template(person.id, unit) for unit in random_units(2_000, 32)])
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM pg_stats WHERE tablename = :table"), {"table": table}) == 0
        vectors.insist_on_index(session, 100)
        assert f"Index Scan using {index_name(gallery.domain_id)} on {table}" in plan(
            session, gallery, vectors.HNSW_ROWS_SQL
        )


def test_the_index_returns_as_many_as_asked_after_most_were_deleted(database: Database, make_gallery: Maker) -> None:
    units = random_units(1_000, 32)
    gallery = make_gallery("people", units)
    with database.transaction() as session:
        table = partition_name(gallery.domain_id)
        with as_owner(session):
            session.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        session.execute(text("DELETE FROM persons WHERE right(label, 1) <> '0'"))
    with database.transaction() as session:
        vectors.insist_on_index(session, 40)
        options = replace(ALWAYS_INDEX, top_k=40)
        [found] = vectors._run(session, gallery, units[:1], options, vectors.HNSW_ROWS_SQL, 40)
    assert len(found.persons) == 40


def test_explain_shows_a_scan_of_the_domains_own_partition_where_it_is_small(
    database: Database, make_gallery: Maker
) -> None:
    make_gallery("other", random_units(100, 64))
    gallery = make_gallery("people", random_units(300, 64))
    table = partition_name(gallery.domain_id)
    with database.transaction() as session:
        shown = plan(session, gallery, vectors.EXACT_ROWS_SQL)
    assert f"Seq Scan on {table}" in shown
    assert "hnsw" not in shown
    assert shown.count("face_embeddings_") == shown.count(table)
