"""Domains and their templates: made, locked, counted and dropped."""

import threading
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from app.db.domains import create_domain, drop_domain, find_domain, load_gallery, lock_domain
from app.db.models import Base, Domain, FaceEmbedding, FaceRejection, FaceSession, FaceSessionFrame, Person
from app.db.partitions import drop_index, index_name, index_state, partition_name, rebuild_index
from app.db.session import Database
from app.db.templates import (
    copy_templates,
    delete_person,
    delete_template,
    insert_templates,
    recount_templates,
    unit_vectors,
)
from app.errors import ContractMismatch, DatabaseTimeout, DomainExists, DomainNotFound, InvalidEmbedding
from app.tenancy import carried
from tests.db_server import Maker, columns_of, contract, random_units, template


def person_ids(database: Database, domain_id: int) -> list:
    with database.transaction() as session:
        return list(session.scalars(select(Person.id).where(Person.domain_id == domain_id).order_by(Person.label)))


def stored(database: Database, domain_id: int) -> int | None:
    with database.transaction() as session:
        return session.scalar(
            select(func.count()).select_from(FaceEmbedding).where(FaceEmbedding.domain_id == domain_id)
        )


def test_a_domain_is_found_by_name_and_by_id_which_no_number_is(database: Database) -> None:
    with database.transaction() as session:
        first = create_domain(session, "Škoda a/b ../x 😀", model="m", contract="c", dimension=8)
        second = create_domain(session, str(first.id), model="m", contract="c", dimension=16)
        with pytest.raises(DomainExists):
            create_domain(session, str(first.uid), model="m", contract="c", dimension=8)
    with database.transaction() as session:
        assert load_gallery(session, first.name).domain_id == first.id
        assert load_gallery(session, str(second.uid)).domain_id == second.id
        assert load_gallery(session, str(first.id)).domain_id == second.id
        assert find_domain(session, str(first.id)).id == second.id
        for missing in ("nobody", str(second.id), "999999", str(uuid4()), "9" * 50, "-1", "٣"):
            with pytest.raises(DomainNotFound):
                load_gallery(session, missing)
            with pytest.raises(DomainNotFound):
                find_domain(session, missing)


def test_an_id_never_stands_for_a_domain_of_another_contract(database: Database) -> None:
    with database.transaction() as session:
        domain = create_domain(session, "people", model="m", contract="a", dimension=8)
        gallery = load_gallery(session, "people")
        gallery.require_contract("a")
        with pytest.raises(ContractMismatch):
            gallery.require_contract("b")
        with pytest.raises(ContractMismatch):
            lock_domain(session, domain.id, contract="b")


def test_a_name_is_taken_once_even_by_two_at_the_same_time(database: Database) -> None:
    outcomes: list[str] = []

    def create() -> None:
        try:
            with database.transaction() as session:
                create_domain(session, "people", model="m", contract="c", dimension=8)
        except DomainExists:
            outcomes.append("exists")
        else:
            outcomes.append("created")

    threads = [threading.Thread(target=carried(create)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["created", "exists", "exists", "exists"]


def test_domains_made_at_the_same_time_get_a_partition_and_an_index_each(database: Database) -> None:
    def create(name: str) -> None:
        with database.transaction() as session:
            create_domain(session, name, model="m", contract="c", dimension=8)

    threads = [threading.Thread(target=carried(create), args=(f"d{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.transaction() as session:
        for n in range(6):
            assert index_state(session, load_gallery(session, f"d{n}").domain_id).valid


def test_a_partition_keeps_vectors_inline(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(20, 512))
    table = {"table": partition_name(gallery.domain_id)}
    with database.transaction() as session:
        storage = text(
            "SELECT attstorage FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND attname = 'embedding'"
        )
        outside = text(
            "SELECT coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) FROM pg_class"
            " WHERE oid = CAST(:table AS regclass)"
        )
        assert session.scalar(storage, table) == "p"
        assert session.scalar(outside, table) == 0


def test_dropping_a_domain_leaves_nothing_of_it_and_the_others_alone(database: Database, make_gallery: Maker) -> None:
    kept, dropped = make_gallery("kept", random_units(5, 8)), make_gallery("dropped", random_units(5, 8))
    with database.transaction() as session:
        drop_domain(session, dropped.domain_id)
    with database.transaction() as session:
        assert session.scalar(text("SELECT to_regclass(:name)"), {"name": partition_name(dropped.domain_id)}) is None
        assert session.scalar(select(func.count()).select_from(Person)) == 5
        assert load_gallery(session, "kept") == kept
        with pytest.raises(DomainNotFound):
            drop_domain(session, dropped.domain_id)


def test_a_domain_in_use_is_not_dropped_by_half(database: Database, make_gallery: Maker, monkeypatch) -> None:
    monkeypatch.setattr("app.db.partitions._DDL_LOCK_TIMEOUT", "100ms")
    gallery = make_gallery("people", random_units(5, 8))
    with database.transaction() as reader:
        reader.execute(text(f"SELECT count(*) FROM {partition_name(gallery.domain_id)}"))
        with pytest.raises(DatabaseTimeout), database.transaction() as session:
            drop_domain(session, gallery.domain_id)
    with database.transaction() as session:
        assert load_gallery(session, "people") == gallery


def test_enrolling_a_picture_twice_stores_it_once(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(2, 8))
    [first, second] = person_ids(database, gallery.domain_id)
    vectors, picture = random_units(2, 8, seed=5), b"p" * 32
    for expected in (1, 0):
        with database.transaction() as session:
            new = [template(first, vectors[0], picture), template(first, vectors[0], picture)]
            assert len(insert_templates(session, gallery.domain_id, new)) == expected
    with database.transaction() as session:
        # The same picture may show a second person; and what has no picture is never the same.
        more = [template(second, vectors[1], picture), template(first, vectors[1]), template(first, vectors[1])]
        assert insert_templates(session, gallery.domain_id, more) == [item.id for item in more]
        assert load_gallery(session, "people").template_count == 2 + 1 + 3
    assert stored(database, gallery.domain_id) == 6


def test_the_count_follows_every_change_also_of_concurrent_writers(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(40, 8))
    owners = person_ids(database, gallery.domain_id)

    def change(mine: list) -> None:
        for owner in mine:
            with database.transaction() as session:
                insert_templates(session, gallery.domain_id, [template(owner, random_units(1, 8, seed=3)[0])])
            with database.transaction() as session:
                assert delete_person(session, gallery.domain_id, owner)

    threads = [threading.Thread(target=carried(change), args=(owners[n::4],)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.transaction() as session:
        assert load_gallery(session, "people").template_count == 10
        assert index_state(session, gallery.domain_id).rows == 10
        assert recount_templates(session, gallery.domain_id) == 10


def test_a_wrong_count_can_be_repaired(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(3, 8))
    with database.transaction() as session:
        session.execute(text("UPDATE domains SET template_count = 77"))
    with database.transaction() as session:
        assert recount_templates(session, gallery.domain_id) == 3
    with database.transaction() as session:
        assert load_gallery(session, "people").template_count == 3


def test_deleting_a_template_or_person_that_is_not_there_says_so(database: Database, make_gallery: Maker) -> None:
    gallery, other = make_gallery("people", random_units(2, 8)), make_gallery("other", random_units(1, 8))
    [owner, _] = person_ids(database, gallery.domain_id)
    with database.transaction() as session:
        query = select(FaceEmbedding.id).where(
            FaceEmbedding.domain_id == gallery.domain_id, FaceEmbedding.person_id == owner
        )
        face = session.scalars(query).one()
        assert not delete_template(session, gallery.domain_id, owner, uuid4())
        assert not delete_template(session, gallery.domain_id, uuid4(), face)
        assert not delete_template(session, other.domain_id, owner, face)
        assert not delete_person(session, other.domain_id, owner)
        assert delete_template(session, gallery.domain_id, owner, face)
        assert not delete_template(session, gallery.domain_id, owner, face)
        assert delete_person(session, gallery.domain_id, owner)
        assert not delete_person(session, gallery.domain_id, owner)
        assert load_gallery(session, "people").template_count == 1


def test_a_template_cannot_belong_to_another_domains_person(database: Database, make_gallery: Maker) -> None:
    ours, theirs = make_gallery("ours", random_units(1, 8)), make_gallery("theirs", random_units(1, 8))
    [stranger] = person_ids(database, theirs.domain_id)
    with pytest.raises(IntegrityError), database.transaction() as session:
        insert_templates(session, ours.domain_id, [template(stranger, random_units(1, 8)[0])])
    with pytest.raises(IntegrityError), database.transaction() as session:
        copy_templates(session, ours.domain_id, columns_of([template(stranger, random_units(1, 8)[0])]))
    assert stored(database, ours.domain_id) == 1


def test_the_database_itself_refuses_another_dimension(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(1, 8))
    [owner] = person_ids(database, gallery.domain_id)
    wrong = FaceEmbedding(
        domain_id=gallery.domain_id, person_id=owner, box_x=0, box_y=0, box_w=1, box_h=1, score=1, sharpness=1
    )
    wrong.embedding = random_units(1, 9)[0]
    with pytest.raises(IntegrityError, match="dimension_check"), database.transaction() as session:
        session.add(wrong)


@pytest.mark.parametrize("vector", [np.zeros(8), np.full(8, 0.5), np.full(8, np.nan), np.full(8, np.inf)])
@pytest.mark.parametrize("table", [FaceEmbedding, FaceRejection, FaceSessionFrame])
def test_the_database_itself_refuses_what_is_not_of_unit_length(
    database: Database, make_gallery: Maker, table: type[Base], vector: np.ndarray
) -> None:
    gallery = make_gallery("people", random_units(1, 8))
    [owner] = person_ids(database, gallery.domain_id)
    columns = {
        FaceEmbedding: {"box_x": 0, "box_y": 0, "box_w": 1, "box_h": 1, "score": 1, "sharpness": 1, "person_id": owner},
        FaceRejection: {"person_id": owner, "image_sha256": bytes(32), "created_by": "somebody"},
        FaceSessionFrame: {"frame": 1, "contract": "c", "details": {}, "image_sha256": bytes(32)},
    }[table]

    def store(embedding: np.ndarray) -> None:
        with database.transaction() as session:
            if table is FaceSessionFrame:
                opened = FaceSession(
                    domain_id=gallery.domain_id, kind="enrol", label="p0", created_by="somebody", token_sha256=bytes(32)
                )
                opened.limits, opened.expires_at = {}, datetime.now(UTC)
                session.add(opened)
                session.flush()
                columns["session_id"] = opened.id
            session.add(table(domain_id=gallery.domain_id, embedding=embedding.astype(np.float32), **columns))

    with pytest.raises(InvalidEmbedding):
        store(vector)
    store(random_units(1, 8, seed=7)[0])


def test_copying_past_the_checks_is_refused_by_the_database(
    database: Database, make_gallery: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_gallery("people", random_units(1, 8))
    [owner] = person_ids(database, gallery.domain_id)
    monkeypatch.setattr("app.db.templates.unit_vectors", lambda vectors, dimension: vectors)
    for vector in (np.zeros(8, np.float32), np.full(8, np.nan, np.float32)):
        with pytest.raises(InvalidEmbedding), database.transaction() as session:
            copy_templates(session, gallery.domain_id, columns_of([template(owner, vector)]))
    assert stored(database, gallery.domain_id) == 1


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (np.zeros(8), InvalidEmbedding),
        (np.full(8, np.nan), InvalidEmbedding),
        (np.array([np.inf] + [0.0] * 7), InvalidEmbedding),
        (np.ones(8), InvalidEmbedding),
        (random_units(1, 8)[0] * 1.01, InvalidEmbedding),
        (random_units(1, 9)[0], ContractMismatch),
        (random_units(1, 7)[0], ContractMismatch),
        (random_units(2, 8), ContractMismatch),
        (np.float32(1.0), ContractMismatch),
        (np.empty(0), ContractMismatch),
    ],
    ids=["zero", "nan", "inf", "long", "1% long", "9 dims", "7 dims", "matrix", "scalar", "empty"],
)
def test_a_bad_vector_is_refused_and_nothing_is_stored(
    database: Database, make_gallery: Maker, vector: np.ndarray, error: type[Exception]
) -> None:
    gallery = make_gallery("people", random_units(1, 8))
    [owner] = person_ids(database, gallery.domain_id)
    good = random_units(1, 8, seed=4)[0]
    with pytest.raises(error), database.transaction() as session:
        insert_templates(session, gallery.domain_id, [template(owner, good), template(owner, vector)])
    first = good if np.shape(vector) == good.shape else vector  # columns are of one shape
    with pytest.raises(error), database.transaction() as session:
        copy_templates(session, gallery.domain_id, columns_of([template(owner, first), template(owner, vector)]))
    assert stored(database, gallery.domain_id) == 1


def test_rounding_errors_of_the_length_are_scaled_away() -> None:
    units = unit_vectors(random_units(50, 128) * np.float32(1.0005), 128)
    assert units.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(units.astype(np.float64), axis=1), 1.0, atol=2e-7)
    assert unit_vectors([], 128).shape == (0, 128)


def test_what_is_stored_comes_back_bit_by_bit(database: Database, make_gallery: Maker) -> None:
    for bulk in (False, True):
        vectors = unit_vectors(random_units(5, 128, seed=9), 128)
        gallery = make_gallery(f"people {bulk}", vectors, bulk=bulk)
        with database.transaction() as session:
            rows = session.execute(
                select(Person.label, FaceEmbedding)
                .join(FaceEmbedding, FaceEmbedding.person_id == Person.id)
                .where(FaceEmbedding.domain_id == gallery.domain_id)
                .order_by(Person.label)
            ).all()
        loaded = np.stack([face.embedding for _, face in rows])
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, unit_vectors(vectors, 128))
        face = rows[0][1]
        assert (face.box_x, face.box_y, face.box_w, face.box_h, face.image_sha256) == (1, 2, 30, 40, None)


def test_a_dropped_index_can_be_rebuilt(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(21, 8))
    with database.transaction() as session:
        drop_index(session, gallery.domain_id)
    with database.transaction() as session:
        assert not load_gallery(session, "people").index_valid
        state = index_state(session, gallery.domain_id)
    assert (state.exists, state.valid, state.rows, state.size_bytes) == (False, False, 21, 0)
    rebuild_index(database, gallery.domain_id, 8)
    with database.transaction() as session:
        state = index_state(session, gallery.domain_id)
    assert (state.name, state.exists, state.valid, state.rows) == (index_name(gallery.domain_id), True, True, 21)
    assert state.size_bytes > 0
    assert state.table_bytes > 0


def test_rebuilding_mends_an_invalid_index_and_clears_what_a_failed_build_left(
    database: Database, make_gallery: Maker
) -> None:
    gallery = make_gallery("people", random_units(50, 8))
    name = index_name(gallery.domain_id)
    from app.db.provision import connect_as_superuser
    from app.db.server_files import ServerFiles

    with database.transaction() as session:
        database_name = session.scalar(text("SELECT current_database()"))
    files = ServerFiles.of(database._settings)
    with connect_as_superuser(files, database_name) as connection:
        connection.execute(b"UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (name,))
    with database.transaction() as session:
        assert not load_gallery(session, "people").index_valid
    rebuild_index(database, gallery.domain_id, 8)
    with database.transaction() as session:
        assert load_gallery(session, "people").index_valid
    rebuild_index(database, gallery.domain_id, 8)
    with database.transaction() as session:
        assert index_state(session, gallery.domain_id).valid


def test_the_contract_of_a_domain_is_kept(database: Database, make_gallery: Maker) -> None:
    make_gallery("people", random_units(1, 8))
    with database.transaction() as session:
        domain = session.scalars(select(Domain)).one()
        assert (domain.name, domain.model, domain.contract, domain.dimension) == ("people", "test", contract(8), 8)
        assert domain.created_at.tzinfo is not None
