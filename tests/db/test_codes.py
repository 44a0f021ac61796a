"""Codes: what they tell of vectors, and a pass over a partition by them."""

import math
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from pgvector import Bit, Vector
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import codes, migrate, vectors
from app.db.codes import BITS, CODE_BYTES, MIN_DIMENSION, codes_of, differing_bits, has_codes
from app.db.domains import Gallery, load_gallery
from app.db.models import FaceEmbedding
from app.db.partitions import drop_index, index_is_valid, partition_name, rebuild_index
from app.db.session import Database, fetch_raw
from app.db.templates import delete_person, insert_templates
from app.db.vectors import SearchOptions, SearchPath, search
from app.vision.faces import Float32Array
from tests.db_server import Maker, fill_gallery, noisy_copies, normalised, random_units, template

OPTIONS = SearchOptions(top_k=5, threshold=0.4, margin=0.03, exact_max_rows=1_000, ef_search=40)
# So that a pass by codes lets in less than a tenth, of 30 rows for each person that is asked for.
ROWS = 2_000
PINNED = "9e8018d1ea5a63f028d105599fa7ab85bcc422fc377813a9bbd27e3727492bce"


def differing(one: Float32Array, other: Float32Array) -> np.ndarray:
    """How many bits of the codes differ, pair by pair."""
    return np.unpackbits(codes_of(one) ^ codes_of(other), axis=1).sum(axis=1, dtype=int)


def at_angle(vectors: Float32Array, distance: float, seed: int = 5) -> Float32Array:
    """For each vector another one at just that cosine distance."""
    beside = np.random.default_rng(seed).normal(size=vectors.shape)
    beside -= np.sum(beside * vectors, axis=1, keepdims=True) * vectors
    cosine = 1.0 - distance
    return normalised(cosine * vectors + math.sqrt(1.0 - cosine**2) * normalised(beside))


def test_the_planes_are_those_by_which_stored_codes_were_made() -> None:
    # A unit vector's products are numbers of one plane each, which no order of summation rounds.
    made = codes_of(np.eye(512, dtype=np.float32))
    assert made.shape == (512, CODE_BYTES)
    assert sha256(made.tobytes()).hexdigest() == PINNED


@pytest.mark.parametrize("distance", [0.05, 0.2, 0.43, 0.59])
def test_at_a_distance_as_many_bits_differ_as_the_bound_supposes(distance: float) -> None:
    angle = math.acos(1.0 - distance) / math.pi
    few = np.zeros((4_000, 512))  # of whose numbers most are nothing
    few[:, :7] = np.random.default_rng(1).normal(size=(4_000, 7))
    alike = normalised(few + 1.0)  # which lie close together, and share what chance did to their planes
    for given, by_chance in ((random_units(4_000, 512), 2), (random_units(4_000, 256), 2), (few, 15), (alike, 15)):
        units = normalised(given)
        found = differing(units, at_angle(units, distance))
        assert found.mean() == pytest.approx(BITS * angle, abs=by_chance)
        assert found.std() < 1.2 * math.sqrt(BITS * angle * (1 - angle))
        assert found.max() <= codes._bits_within(distance)


@pytest.mark.parametrize("distance", [0.0, 0.01, 0.1, 0.3, 0.43, 0.55, 0.6])
def test_who_is_within_the_distance_is_left_out_once_in_a_million_at_most(distance: float) -> None:
    bound = codes._bits_within(distance)
    p = math.acos(1.0 - distance) / math.pi
    beyond = math.fsum(
        math.comb(BITS, bits) * p**bits * (1 - p) ** (BITS - bits) for bits in range(bound + 1, BITS + 1)
    )
    assert beyond <= 1e-6
    # Nor is it much larger than it has to be.
    closer = math.fsum(
        math.comb(BITS, bits) * p**bits * (1 - p) ** (BITS - bits) for bits in range(round(0.94 * bound), BITS + 1)
    )
    assert distance == 0.0 or closer > 1e-6
    wanted = differing_bits(512, distance, 0.0001)
    assert wanted is not None
    assert wanted >= bound


def test_strangers_are_let_in_as_asked_and_a_bound_that_lets_in_many_is_none() -> None:
    probes, strangers = random_units(200, 512, seed=1), random_units(200, 512, seed=2)
    found = np.concatenate([differing(np.repeat(probe[None], 200, axis=0), strangers) for probe in probes])
    for share in (0.005, 0.02, 0.08):
        bound = differing_bits(512, 0.1, share)
        assert bound is not None
        assert np.mean(found <= bound) == pytest.approx(share, rel=0.2)
    assert differing_bits(512, 0.1, 0.2) is None
    assert differing_bits(512, 0.8, 0.005) is None
    assert differing_bits(512, 2.0, 0.005) is None


def codes_in(session: Session, gallery: Gallery) -> list[tuple[Vector, object]]:
    query = text(f"SELECT embedding, code FROM {partition_name(gallery.domain_id)} ORDER BY id")
    return [tuple(row) for row in session.execute(query)]


def assert_codes(session: Session, gallery: Gallery) -> None:
    rows = codes_in(session, gallery)
    assert len(rows) == gallery.template_count > 0
    units = np.array([embedding.to_numpy() for embedding, _ in rows])
    texts = ["".join(map(str, np.unpackbits(code))) for code in codes_of(units)]
    assert [code for _, code in rows] == texts


@pytest.mark.parametrize("bulk", [False, True])
def test_a_template_is_stored_with_its_code_where_its_kind_has_one(database: Database, bulk: bool) -> None:
    for dimension in (MIN_DIMENSION - 1, MIN_DIMENSION, 512):
        gallery = fill_gallery(database, str(dimension), random_units(5, dimension), bulk=bulk)
        with database.transaction() as session:
            if has_codes(dimension):
                assert_codes(session, gallery)
                mapped = session.scalars(
                    select(FaceEmbedding.code).where(FaceEmbedding.domain_id == gallery.domain_id).order_by("id")
                ).all()
                assert np.array_equal(
                    mapped, codes_of(np.array([unit.to_numpy() for unit, _ in codes_in(session, gallery)]))
                )
            else:
                assert {code for _, code in codes_in(session, gallery)} == {None}
        for wrong in ("NULL", f"CAST(repeat('0', {BITS}) AS bit({BITS}))"):
            if (wrong == "NULL") is has_codes(dimension):
                with pytest.raises(IntegrityError), database.transaction() as session:
                    session.execute(text(f"UPDATE {partition_name(gallery.domain_id)} SET code = {wrong}"))


def test_templates_from_before_get_theirs_by_the_migration_and_nobody_hears_of_a_change(database: Database) -> None:
    large = fill_gallery(database, "large", random_units(1_100, 512), bulk=True)
    small = fill_gallery(database, "small", random_units(10, 128))
    empty = fill_gallery(database, "empty", random_units(0, 512))
    version = "SELECT sum(gallery_version) FROM domains"
    migrate.downgrade(database.engine, "0008")
    with database.transaction() as session:
        drop_index(session, empty.domain_id)  # as a migration of a dataset that broke off leaves it
    with database.transaction() as session:
        before = session.scalar(text(version))
    migrate.upgrade(database.engine)
    with database.transaction() as session:
        assert_codes(session, large)
        assert {code for _, code in codes_in(session, small)} == {None}
        assert session.scalar(text(version)) == before
        assert index_is_valid(session, large.domain_id)
        assert index_is_valid(session, empty.domain_id)
        [hits] = search(session, large, random_units(1_100, 512)[7:8], OPTIONS)
        assert hits.persons[0].label == "p7"
    with database.transaction() as session:  # triggers work again
        assert delete_person(session, large.domain_id, hits.persons[0].person_id)
    with database.transaction() as session:
        assert (session.scalar(text(version)) or 0) > (before or 0)


# --- a pass by codes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def people(make_gallery: Maker) -> tuple[Gallery, Float32Array]:
    """Persons with one template each, of whom some resemble each other as much as the threshold allows."""
    units = random_units(ROWS, 512, seed=3)
    units[1::40] = at_angle(units[::40], 0.39)
    units[2::40] = at_angle(units[::40], 0.41, seed=6)
    return make_gallery("people", units, bulk=True), units


def decisive(units: Float32Array, probe: Float32Array) -> list[tuple[str, float]]:
    """By NumPy: who is near enough for the decision to depend on them, nearest first."""
    distances = 1.0 - units.astype(np.float64) @ probe.astype(np.float64)
    order = [int(n) for n in np.argsort(distances) if distances[n] <= OPTIONS.threshold + OPTIONS.margin]
    return [(f"p{n}", float(distances[n])) for n in order]


@pytest.mark.parametrize("index_valid", [True, False])
def test_whoever_the_decision_depends_on_is_found(
    database: Database, people: tuple[Gallery, Float32Array], index_valid: bool
) -> None:
    gallery, units = people
    probes = np.concatenate(
        [at_angle(units[:400], 0.40, seed=8), at_angle(units[:200], 0.42, seed=9), random_units(100, 512, seed=10)]
    )
    paths: Counter[SearchPath] = Counter()
    with database.transaction() as session:
        for probe in probes:
            [hits] = search(session, replace(gallery, index_valid=index_valid), probe[None], OPTIONS)
            paths[hits.path] += 1
            wanted = decisive(units, probe)[: OPTIONS.top_k]
            found = [(person.label, person.min_distance) for person in hits.persons]
            assert len(found) == OPTIONS.top_k
            assert found[: len(wanted)] == [(label, pytest.approx(distance, abs=1e-6)) for label, distance in wanted]
            assert sorted(distance for _, distance in found) == [distance for _, distance in found]
    usual = SearchPath.HNSW_THEN_CODES if index_valid else SearchPath.CODES
    assert paths[usual] > 0.8 * len(probes)
    assert paths.keys() <= {usual, SearchPath.HNSW, SearchPath.HNSW_THEN_EXACT, SearchPath.EXACT}


def test_faces_of_one_picture_keep_their_places_however_each_is_found(
    database: Database, people: tuple[Gallery, Float32Array]
) -> None:
    gallery, units = people
    probes = np.concatenate(
        [units[9:10], at_angle(units[44:45], 0.4, seed=8), random_units(1, 512, seed=10), at_angle(units[83:84], 0.4)]
    )
    wanted = [decisive(units, probe)[0][0] if decisive(units, probe) else None for probe in probes]
    assert wanted == ["p9", "p44", None, "p83"]
    settings = vectors.search_settings(gallery, OPTIONS)
    with database.bare_transaction(settings=settings) as transaction:
        for top_k in (1, 5, 30):
            options = replace(OPTIONS, top_k=top_k)
            found = search(transaction, gallery, probes, options)
            assert [len(hits.persons) for hits in found] == [top_k] * 4
            for hits, label in zip(found, wanted, strict=True):
                assert label in (None, hits.persons[0].label)
        for threshold in (0.0, 0.9, 2.0):  # where no code helps
            options = replace(OPTIONS, threshold=threshold)
            for hits, probe in zip(search(transaction, gallery, probes, options), probes, strict=True):
                if hits.path is not SearchPath.HNSW:
                    nearest = (1.0 - units @ probe).argsort()[: len(hits.persons)]
                    within = [f"p{n}" for n in nearest if 1.0 - units[n] @ probe <= threshold + OPTIONS.margin]
                    assert [person.label for person in hits.persons][: len(within)] == within


def test_of_a_person_with_several_templates_the_nearest_counts_whichever_came_through(
    database: Database, make_gallery: Maker
) -> None:
    owners = [n // 4 for n in range(ROWS)]
    templates = noisy_copies(random_units(ROWS // 4, 512)[owners], 1.2, seed=2)
    gallery = make_gallery("people", templates, owners, bulk=True)
    probes = random_units(60, 512, seed=3)
    with database.transaction() as session:
        found = search(session, gallery, probes, OPTIONS)
    assert SearchPath.HNSW_THEN_CODES in {hits.path for hits in found}
    for hits, probe in zip(found, probes, strict=True):
        distances = (1.0 - templates.astype(np.float64) @ probe.astype(np.float64)).reshape(-1, 4).min(axis=1)
        for person in hits.persons:
            assert person.min_distance == pytest.approx(distances[int(person.label[1:])], abs=1e-6)
        order = [person.min_distance for person in hits.persons]
        assert order == sorted(order)


def test_whom_the_index_has_seen_is_found_though_the_code_was_made_to_say_otherwise(
    database: Database, make_gallery: Maker
) -> None:
    [probe] = random_units(1, 512, seed=20)
    # Away from the probe on the far side of as many planes as it can be.
    planes = codes._planes(512)
    away = -(planes @ np.sign(probe @ planes))
    away -= (away @ probe) * probe
    cosine = 1.0 - 0.385
    [crafted] = normalised((cosine * probe + math.sqrt(1 - cosine**2) * away / np.linalg.norm(away))[None])
    units = np.concatenate([random_units(3_999, 512, seed=21), crafted[None]])
    gallery = make_gallery("people", units, bulk=True)
    bound = vectors._differing_bits(gallery, OPTIONS)
    assert bound is not None
    assert differing(probe[None], crafted[None])[0] > bound, "else this would show nothing"
    with database.transaction() as session:
        [hits] = search(session, gallery, probe[None], OPTIONS)
    assert hits.path is SearchPath.HNSW_THEN_CODES
    assert hits.persons[0].label == "p3999"
    assert len(hits.persons) == OPTIONS.top_k


def test_a_search_after_a_scan_in_the_same_transaction_avoids_scans_again(
    database: Database, people: tuple[Gallery, Float32Array]
) -> None:
    gallery, units = people
    with database.bare_transaction(settings=vectors.search_settings(gallery, OPTIONS)) as transaction:
        search(transaction, gallery, units[:1], replace(OPTIONS, threshold=1.0, margin=0.3))
        assert fetch_raw(transaction, "SHOW enable_seqscan") == [("on",)]
        search(transaction, gallery, units[:1], OPTIONS)
        assert fetch_raw(transaction, "SHOW enable_seqscan") == [("off",)]


def test_where_too_few_are_near_by_code_the_partition_is_scanned(database: Database, make_gallery: Maker) -> None:
    [crowd, *others] = random_units(5, 512)
    templates = np.concatenate([noisy_copies(np.repeat(crowd[None], ROWS, axis=0), 0.1), np.stack(others)])
    gallery = make_gallery("people", templates, [0] * ROWS + [1, 2, 3, 4], bulk=True)
    with database.transaction() as session:
        [hits] = search(session, replace(gallery, index_valid=False), crowd[None], OPTIONS)
        assert hits.path is SearchPath.EXACT
        assert {person.label for person in hits.persons} == {"p0", "p1", "p2", "p3", "p4"}
        assert hits.persons[0].occurrences == ROWS
        [again] = search(session, gallery, random_units(1, 512, seed=9), OPTIONS)  # scans are switched off once more
        assert len(again.persons) == OPTIONS.top_k


def test_who_is_not_valid_or_was_rejected_is_left_out_of_a_pass_by_codes(
    database: Database, people: tuple[Gallery, Float32Array]
) -> None:
    gallery, units = people
    [probe] = at_angle(units[4:5], 0.38, seed=8)
    with database.transaction() as session:
        [hits] = search(session, gallery, probe[None], OPTIONS)
        assert (hits.persons[0].label, hits.path) == ("p4", SearchPath.HNSW_THEN_CODES)
        session.execute(text("UPDATE persons SET valid_until = now() - interval '1 second' WHERE label = 'p4'"))
        [hits] = search(session, gallery, probe[None], OPTIONS)
        assert hits.path is SearchPath.HNSW_THEN_CODES
        assert "p4" not in {person.label for person in hits.persons}
        session.execute(text("UPDATE persons SET valid_until = NULL WHERE label = 'p4'"))
        session.execute(
            text(
                "INSERT INTO face_rejections (domain_id, person_id, image_sha256, created_by, embedding)"
                " SELECT domain_id, id, sha256('x'), 'test', CAST(:probe AS vector) FROM persons WHERE label = 'p4'"
            ),
            {"probe": Vector(probe)},
        )
        [hits] = search(session, gallery, probe[None], OPTIONS)
        assert "p4" not in {person.label for person in hits.persons}
        assert len(hits.persons) == OPTIONS.top_k


def test_a_pass_by_codes_reads_the_index_of_persons_in_place_of_the_table(
    database: Database, people: tuple[Gallery, Float32Array]
) -> None:
    gallery, units = people
    rebuild_index(database, gallery.domain_id, 512)  # which notes, too, that all rows are there for everybody
    statement = vectors.search_sql(gallery, vectors.BY_CODES, probes=1, top_k=5, rows=0)
    parameters = {
        "probe_1": Vector(units[0]),
        "code_1": Bit(codes_of(units[:1])[0].tobytes()).to_text(),
        "bits": 450.0,
        "threshold": 0.4,
    }
    with database.transaction() as session:
        vectors.insist_on_index(session, 40)
        shown = "\n".join(session.scalars(text(f"EXPLAIN {statement}"), parameters))
        assert f"Index Only Scan using {partition_name(gallery.domain_id)}_domain_id_person_id" in shown
        assert f"Seq Scan on {partition_name(gallery.domain_id)}" not in shown


def test_what_was_enrolled_last_is_found_too(database: Database, people: tuple[Gallery, Float32Array]) -> None:
    gallery, _ = people
    [new] = random_units(1, 512, seed=77)
    with database.transaction() as session:
        session.execute(
            text("INSERT INTO persons (domain_id, label, display_name) VALUES (:d, 'new', 'new')"),
            {"d": gallery.domain_id},
        )
        person = session.scalar(text("SELECT id FROM persons WHERE label = 'new'"))
        insert_templates(session, gallery.domain_id, [template(person, new)])
        gallery = load_gallery(session, "people")
        [hits] = search(session, replace(gallery, index_valid=False), at_angle(new[None], 0.35), OPTIONS)
        assert (hits.persons[0].label, hits.path) == ("new", SearchPath.CODES)
