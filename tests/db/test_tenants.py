"""Tenants are kept apart by the database: a query that forgets its WHERE finds nothing of another one's."""

from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from app.db.domains import find_domain, load_gallery
from app.db.models import Base
from app.db.partitions import partition_name
from app.db.session import Database
from app.db.unit import APP_ROLE
from app.db.vectors import SearchOptions, search
from app.errors import DomainNotFound
from app.tenancy import NOTHING, Reach, acting, carried, current_reach, everything
from tests.db_server import Maker, random_units

TENANT_TABLES = sorted(Base.metadata.tables)
OPTIONS = SearchOptions(top_k=5, threshold=2.0, margin=0.0, exact_max_rows=10_000, ef_search=40)


@pytest.fixture
def two(database: Database, make_gallery: Maker) -> tuple[Reach, Reach]:
    """Two tenants with a row in every table each."""
    reaches = []
    for name in ("mine", "theirs"):
        gallery = make_gallery(name, random_units(3, 8))
        with database.transaction() as session:
            _fill(session, gallery.domain_id, name)
        reaches.append(Reach(f"key-{name}", frozenset({name}), frozenset({gallery.domain_id})))
    return reaches[0], reaches[1]


def _fill(session, domain_id: int, name: str) -> None:
    values = {"domain": domain_id, "name": name, "client": f"key-{name}", "uuid": uuid4()}
    for statement in (
        "INSERT INTO face_rejections (domain_id, person_id, image_sha256, created_by, embedding)"
        " SELECT domain_id, person_id, '\\x01', 'x', embedding FROM face_embeddings WHERE domain_id = :domain LIMIT 1",
        "INSERT INTO erasures (domain_id, domain_name, requested_by, pending) VALUES (:domain, :name, 'x', '{pictures}')",
        "INSERT INTO migration_runs (domain_id, source_name, source_sha256, mode) VALUES (:domain, 'x', '\\x01', 'copy')",
        "INSERT INTO api_keys (prefix, digest, name, scopes, domains, created_by) VALUES"
        " (:name, sha256('x'), 'x', '{recognize}', ARRAY[:name], 'x')",
        "INSERT INTO audit_events (chain_id, seq, domain_id, at, body, hash)"
        " SELECT id, 1, :domain, now(), '{}', '\\x00' FROM audit_chains WHERE domain_id = :domain",
        "INSERT INTO idempotent_requests (client, key, domain_id, fingerprint) VALUES (:client, 'k', :domain, '\\x01')",
        "INSERT INTO idempotent_faces (client, key, image_sha256, domain_id, face_id)"
        " VALUES (:client, 'k', '\\x01', :domain, :uuid)",
        "INSERT INTO jobs (id, domain_id, kind, created_by) VALUES (:uuid, :domain, 'x', 'x')",
        "INSERT INTO job_files (job_id, position, domain_id, label, file_name) VALUES (:uuid, 1, :domain, 'x', 'x')",
        "INSERT INTO reference_photos (domain_id, person_id, image_sha256, picture)"
        " SELECT domain_id, person_id, '\\x01', '\\x01' FROM face_embeddings WHERE domain_id = :domain LIMIT 1",
        "INSERT INTO face_sessions (id, domain_id, kind, label, created_by, token_sha256, limits, expires_at)"
        " VALUES (:uuid, :domain, 'enrol', 'x', 'x', '\\x01', '{}', now())",
        "INSERT INTO face_session_frames (session_id, frame, domain_id, contract, embedding, details, image_sha256)"
        " VALUES (:uuid, 1, :domain, 'c', '[1,0]', '{}', '\\x01')",
    ):
        session.execute(text(statement), values)


def counts(database: Database) -> dict[str, int]:
    with database.transaction() as session:
        return {name: session.scalar(text(f"SELECT count(*) FROM {name}")) for name in TENANT_TABLES}


def test_without_a_where_there_is_nothing_of_others(database: Database, two: tuple[Reach, Reach]) -> None:
    with acting(NOTHING):
        assert set(counts(database).values()) == {0}
    everybodys = counts(database)
    for own in two:
        with acting(own):
            mine = counts(database)
        assert {name: count * 2 for name, count in mine.items()} == everybodys
        assert all(mine.values()), "a table that the test left empty shows nothing"


def test_every_table_has_its_wall(database: Database, two: tuple[Reach, Reach]) -> None:
    with database.maintenance() as connection:
        rows = connection.execute(
            text(
                "SELECT relname, relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner) FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'"
            )
        ).all()
    assert len(rows) > len(TENANT_TABLES)  # the partitions too
    assert {name for name, enabled, forced, owner in rows if not (enabled and forced) or owner == APP_ROLE} == set()


def test_a_partition_named_outright_is_closed_too(database: Database, two: tuple[Reach, Reach]) -> None:
    mine, theirs = two
    (foreign,) = theirs.ids
    with acting(mine), database.transaction() as session:
        assert session.scalar(text(f"SELECT count(*) FROM {partition_name(foreign)}")) == 0
        assert session.execute(text(f"DELETE FROM {partition_name(foreign)}")).rowcount == 0
    with acting(theirs), database.transaction() as session:
        assert session.scalar(text(f"SELECT count(*) FROM {partition_name(foreign)}")) == 3


def test_nothing_can_be_written_into_another_tenant(database: Database, two: tuple[Reach, Reach]) -> None:
    mine, theirs = two
    (own,), (foreign,) = mine.ids, theirs.ids
    for statement in (
        "INSERT INTO persons (domain_id, label, display_name) VALUES (:foreign, 'x', 'x')",
        "UPDATE persons SET domain_id = :foreign WHERE domain_id = :own",
        "INSERT INTO api_keys (prefix, digest, name, scopes, domains, created_by)"
        " VALUES ('p', sha256('x'), 'x', '{admin}', '{theirs}', 'x')",
        "INSERT INTO api_keys (prefix, digest, name, scopes, every_domain, created_by)"
        " VALUES ('p', sha256('x'), 'x', '{admin}', true, 'x')",
        "UPDATE api_keys SET domains = '{mine,theirs}'",
    ):
        with (
            pytest.raises(ProgrammingError, match="row-level security"),
            acting(mine),
            database.transaction() as session,
        ):
            session.execute(text(statement), {"own": own, "foreign": foreign})


def test_events_cannot_be_changed(database: Database, two: tuple[Reach, Reach]) -> None:
    for statement in ("DELETE FROM audit_events", "UPDATE audit_events SET body = '{}'", "DELETE FROM audit_chains"):
        with pytest.raises(ProgrammingError, match="permission denied"), database.transaction() as session:
            session.execute(text(statement))


def test_another_tenants_domain_is_not_found(database: Database, two: tuple[Reach, Reach]) -> None:
    mine, _ = two
    with database.transaction() as session:
        theirs, uid = find_domain(session, "theirs").name, str(find_domain(session, "theirs").uid)
    for name in (theirs, uid):
        with acting(mine), database.transaction() as session:
            for lookup in (find_domain, load_gallery):
                with pytest.raises(DomainNotFound):
                    lookup(session, name)


def test_a_search_finds_the_own_people(database: Database, two: tuple[Reach, Reach]) -> None:
    mine, _ = two
    with acting(mine), database.transaction() as session:
        (found,) = search(session, load_gallery(session, "mine"), random_units(1, 8), OPTIONS)
    assert found.persons[0].min_distance < 1e-6
    assert len(found.persons) == 3


def test_the_next_user_of_a_connection_starts_anew(database: Database, two: tuple[Reach, Reach]) -> None:
    mine, _ = two
    with acting(mine), database.transaction() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    with acting(NOTHING), database.transaction() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) == pid
        assert session.scalar(text("SELECT count(*) FROM persons")) == 0
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT current_setting('facedex.domains'), CURRENT_USER")).one()[0] == ""


def test_another_thread_reaches_nothing_unless_it_is_carried() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with acting(everything("me")), ThreadPoolExecutor(1) as threads:
        assert threads.submit(current_reach).result() == NOTHING
        assert threads.submit(carried(current_reach)).result() == everything("me")
        assert threads.submit(current_reach).result() == NOTHING


@pytest.mark.parametrize("client", ["a'; RESET ROLE; --", "a b", "x" * 65])
def test_a_client_that_could_be_sql_is_refused(client: str) -> None:
    with pytest.raises(ValueError, match="id of a client"):
        Reach(client)
