"""Who is no candidate: not valid now, or rejected for a nearer face. Against NumPy, and by what plan."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import migrate, vectors
from app.db.domains import Gallery, drop_domain
from app.db.partitions import index_name, partition_name
from app.db.session import Database, set_local
from app.db.vectors import SearchOptions, SearchPath, search
from app.vision.faces import Float32Array
from tests.db_server import Maker, fill_gallery, noisy_copies, random_units

OPTIONS = SearchOptions(top_k=4, threshold=0.35, margin=0.02, exact_max_rows=10_000, ef_search=200)
PERSONS = 60
DIMENSION = 16


def reject(session: Session, gallery: Gallery, label: str, faces: Float32Array) -> None:
    session.execute(
        text(
            "INSERT INTO face_rejections (domain_id, person_id, image_sha256, face, created_by, embedding)"
            " SELECT :domain, p.id, sha256('x'), f.n, 'test', f.v FROM persons AS p,"
            " unnest(CAST(:faces AS vector[])) WITH ORDINALITY AS f (v, n)"
            " WHERE p.domain_id = :domain AND p.label = :label"
        ),
        {"domain": gallery.domain_id, "label": label, "faces": [vectors.Vector(face) for face in faces]},
    )


def end_validity(session: Session, gallery: Gallery, labels: list[str]) -> None:
    session.execute(
        text(
            "UPDATE persons SET valid_until = now() - interval '1 second'"
            " WHERE domain_id = :domain AND label = ANY(CAST(:labels AS text[]))"
        ),
        {"domain": gallery.domain_id, "labels": labels},
    )


def expected(
    templates: Float32Array,
    owners: list[int],
    invalid: set[int],
    rejections: dict[int, Float32Array],
    probe: Float32Array,
) -> list[str]:
    """The candidates, by NumPy, nearest first."""
    found = []
    for owner in sorted(set(owners) - invalid):
        own = templates[[n for n, of in enumerate(owners) if of == owner]]
        nearest = (1.0 - own @ probe).min()
        rejected = 1.0 - rejections.get(owner, np.empty((0, DIMENSION), np.float32)) @ probe
        if not np.any((rejected <= OPTIONS.threshold) & (rejected < nearest)):
            found.append((nearest, f"p{owner}"))
    return [label for _, label in sorted(found)][: OPTIONS.top_k]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("exact_max_rows", [10_000, 0], ids=["scan", "index"])
def test_the_candidates_are_those_of_brute_force(
    database: Database, make_gallery: Maker, exact_max_rows: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    identities = random_units(PERSONS, DIMENSION, seed=100 + seed)
    owners = [n % PERSONS for n in range(3 * PERSONS)]
    templates = noisy_copies(identities[owners], 0.4, seed=200 + seed)
    gallery = make_gallery("people", templates, owners)
    invalid = {int(n) for n in random.choice(PERSONS, 20, replace=False)}
    # Faces between two persons, of which some are nearer to their owner than to anybody, and some are not.
    rejections = {
        int(n): noisy_copies(identities[random.choice(PERSONS, 3)] + identities[[n]] * 0.8, 0.3, seed=300 + seed)
        for n in random.choice(PERSONS, 30, replace=False)
    }
    with database.transaction() as session:
        end_validity(session, gallery, [f"p{n}" for n in invalid])
        for owner, faces in rejections.items():
            reject(session, gallery, f"p{owner}", faces)
    probes = np.concatenate([noisy_copies(identities, 0.4, seed=400 + seed), *rejections.values()])
    # Every doubtful answer of the index is confirmed; a clear one stands with what the index saw.
    options = replace(OPTIONS, exact_max_rows=exact_max_rows)
    with database.transaction() as session:
        found = [search(session, gallery, probe[None], options)[0] for probe in probes]
    hindered = 0
    for hits, probe in zip(found, probes, strict=True):
        wanted = expected(templates, owners, invalid, rejections, probe)
        hindered += wanted != expected(templates, owners, set(), {}, probe)
        compared = 1 if hits.path is SearchPath.HNSW else None
        assert [person.label for person in hits.persons][:compared] == wanted[:compared]
    assert hindered > len(probes) // 2, "else this would show nothing"


def test_a_domain_in_which_nobody_is_valid_has_no_candidates(database: Database, make_gallery: Maker) -> None:
    units = random_units(300, 32)
    gallery = make_gallery("people", units)
    with database.transaction() as session:
        end_validity(session, gallery, [f"p{n}" for n in range(300)])
    with database.transaction() as session:
        for exact_max_rows in (10_000, 0):
            options = replace(OPTIONS, exact_max_rows=exact_max_rows)
            assert [hits.persons for hits in search(session, gallery, units[:3], options)] == [(), (), ()]


def plan(session: Session, gallery: Gallery, rows_sql: str) -> str:
    parameters = {
        **{f"probe_{n}": vectors.Vector(unit) for n, unit in enumerate(random_units(2, gallery.dimension), 1)},
        "threshold": 0.4,
    }
    return "\n".join(
        session.scalars(
            text(f"EXPLAIN {vectors.search_sql(gallery, rows_sql, probes=2, top_k=5, rows=100)}"), parameters
        )
    )


@pytest.fixture(scope="module")
def hotel(server_settings: Settings) -> Iterator[tuple[Database, Gallery, Float32Array]]:
    """20,000 guests, of whom 10,000 have gone; the statistics know it."""
    database = Database(server_settings)
    migrate.upgrade(database.engine)
    units = random_units(20_000, 64, seed=21)
    gallery = fill_gallery(database, "hotel", units, bulk=True)
    with database.transaction() as session:
        end_validity(session, gallery, [f"p{n}" for n in range(10_000)])
    with database.maintenance() as connection:
        connection.execute(text("ANALYZE persons"))
    yield database, gallery, units
    with database.transaction() as session:
        drop_domain(session, gallery.domain_id)
    database.close()


@pytest.mark.slow
def test_the_index_is_in_use_also_where_many_are_not_valid(hotel: tuple[Database, Gallery, Float32Array]) -> None:
    database, gallery, _ = hotel
    with database.transaction() as session:
        vectors.insist_on_index(session, 100)
        shown = plan(session, gallery, vectors.HNSW_ROWS_SQL)
        assert f"Index Scan using {index_name(gallery.domain_id)} on {partition_name(gallery.domain_id)}" in shown
        assert "Seq Scan" not in shown
        set_local(session, enable_seqscan="on")
        # Those who are not valid are looked up among 10,000 in one step, however little memory a statement may take.
        for work_mem in ("4MB", "64kB"):
            set_local(session, work_mem=work_mem)
            assert "hashed SubPlan" in plan(session, gallery, vectors.EXACT_ROWS_SQL)


@pytest.mark.slow
def test_guests_who_have_gone_are_not_found_and_hide_nobody(hotel: tuple[Database, Gallery, Float32Array]) -> None:
    database, gallery, units = hotel
    with database.transaction() as session:
        paths = set()
        for n in (0, 5_000, 9_999, 10_000, 15_000, 19_999):
            [hits] = search(session, gallery, units[n : n + 1], OPTIONS)
            [near] = search(session, gallery, noisy_copies(units[n : n + 1], 0.2), OPTIONS)
            paths |= {hits.path, near.path}
            assert (hits.persons[0].label == f"p{n}") is (n >= 10_000)
            assert (near.persons[0].label == f"p{n}") is (n >= 10_000)
            assert all(int(person.label[1:]) >= 10_000 for person in hits.persons + near.persons)
            assert len(hits.persons) == OPTIONS.top_k
    assert paths == {SearchPath.HNSW, SearchPath.HNSW_THEN_EXACT}
