"""Rewriting what held deleted rows, and saying what could not be."""

import pytest
from psycopg import sql
from sqlalchemy import text

from app.config import Settings
from app.db import remnants, session_models, work_models  # noqa: F401 - these two make their tables known
from app.db.base import Base
from app.db.partitions import rebuild_index
from app.db.provision import connect_as_superuser
from app.db.remnants import purge
from app.db.server_files import ROLE, ServerFiles
from app.db.session import Database, database_url
from app.erasure.purge import purged
from app.erasure.service import ErasureService
from tests.db_server import Maker, random_units


@pytest.fixture
def allowed(database_settings: Settings) -> None:
    """The rights that the embedded server's own database gives."""
    name = database_url(database_settings).database
    with connect_as_superuser(ServerFiles.of(database_settings), str(name)) as connection:
        for function in ("pg_switch_wal()", "pg_ls_waldir()"):
            statement = sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}")
            connection.execute(statement.format(sql.SQL(function), sql.Identifier(ROLE)))


def said(_: str) -> None:
    """Nobody listens."""


def pages(database: Database, table: str) -> int:
    with database.transaction() as session:
        return session.scalar(text("SELECT pg_relation_size(CAST(:table AS regclass))"), {"table": table}) or 0


def test_tables_are_rewritten_and_the_log_is_removed(
    database: Database, make_gallery: Maker, erasure: ErasureService, allowed: None
) -> None:
    gallery = make_gallery("people", random_units(40, 512))
    for number in range(1, 40):
        erasure.erase("people", f"p{number}")
    before = pages(database, f"face_embeddings_{gallery.domain_id}")
    told: list[str] = []
    assert purge(database, gallery.domain_id, told.append) == []
    assert f"rewriting face_embeddings_{gallery.domain_id}" in told
    assert pages(database, f"face_embeddings_{gallery.domain_id}") < before
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM face_embeddings")) == 1


def test_every_table_that_may_have_held_something_of_a_person_is_rewritten(
    database: Database, make_gallery: Maker, allowed: None
) -> None:
    gallery = make_gallery("people", random_units(2, 8))
    told: list[str] = []
    purge(database, gallery.domain_id, told.append)
    rewritten = {line.removeprefix("rewriting ") for line in told}
    # Ids, names of domains and of keys, counts; and the templates' partition is there by its own name.
    of_nobody = {"domains", "api_keys", "audit_chains", "audit_events", "gallery_changes", "gallery_versions"} | {
        "migration_runs"
    }
    assert set(Base.metadata.tables) - rewritten - of_nobody == {"face_embeddings"}


def test_what_the_role_may_not_do_is_told(database: Database, make_gallery: Maker, erasure: ErasureService) -> None:
    make_gallery("people", random_units(3, 8))
    receipt = erasure.erase("people", "p0")
    assert {entry.place for entry in receipt.remains} == {"database_files", "backups", "audit"}
    after = purged(receipt, database, said)
    assert {entry.place for entry in after.remains} == {"write_ahead_log", "backups", "audit"}
    assert "permission denied" in next(e.why for e in after.remains if e.place == "write_ahead_log")


def test_a_table_that_is_in_use_is_told(
    database: Database, make_gallery: Maker, allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_gallery("people", random_units(3, 8))
    monkeypatch.setattr(remnants, "_LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(remnants, "_OLDER_END_WITHIN_S", 0.1)
    with database.transaction() as session:
        session.execute(text("SELECT count(*) FROM persons"))
        left = dict(purge(database, gallery.domain_id, said))
    assert left.keys() == {"database_files", "persons"}
    assert "transaction from before" in left["database_files"]
    assert purge(database, gallery.domain_id, said) == []


def test_statistics_hold_neither_names_nor_vectors(database: Database, make_gallery: Maker) -> None:
    gallery = make_gallery("people", random_units(200, 256), bulk=True)
    rebuild_index(database, gallery.domain_id, 256)
    with database.maintenance() as connection:
        connection.execute(text("ANALYZE"))
        sampled = set(connection.execute(text("SELECT tablename, attname FROM pg_stats WHERE schemaname = 'public'")))
    assert sampled, "else nothing was analysed"
    personal = {"label", "display_name", "external_id", "former_labels", "labels", "metadata", "body", "headers"}
    columns = {column for _, column in sampled}
    assert columns & (personal | {"embedding", "halfvec", "code"}) == set()
    assert {table for table, _ in sampled if table.endswith("_hnsw")} == set()
