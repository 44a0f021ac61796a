"""Fixtures: a real embedded PostgreSQL for the test run, an empty database for a test, and galleries in it.

They are known everywhere below `tests`, so that a process of tests has one server, however many folders use it.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from psycopg import Connection, sql
from sqlalchemy import insert

from app.config import Settings, parse_settings
from app.db import migrate
from app.db.copying import TemplateBatch
from app.db.domains import Gallery, create_domain, load_gallery, lock_domain
from app.db.embedded import EmbeddedPostgres
from app.db.models import Person
from app.db.partitions import drop_index, rebuild_index
from app.db.provision import connect_as_superuser
from app.db.server_files import ROLE, ServerFiles
from app.db.session import Database
from app.db.templates import NewTemplate, copy_templates, insert_templates
from app.vision.faces import Box, Float32Array, UInt8Array
from tests.prepared import put_cluster, settings_in

Maker = Callable[..., Gallery]

_MIGRATED = "migrated"


@pytest.fixture(scope="session")
def server_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of an installation whose embedded server runs and is migrated; stopped after the last test."""
    storage = tmp_path_factory.mktemp("storage")
    put_cluster(storage)
    settings = settings_in(storage)
    running = EmbeddedPostgres(settings).start()
    try:
        yield settings
    finally:
        running.stop()


@pytest.fixture(scope="session")
def _administrator(server_settings: Settings) -> Iterator[Connection[Any]]:
    """The superuser, beside a database to copy for whoever needs a migrated one."""
    with connect_as_superuser(ServerFiles.of(server_settings)) as connection:
        # What a crash of the machine would leave of a test's database is nobody's concern.
        for name in ("fsync", "full_page_writes"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(name)))
        connection.execute("SELECT pg_reload_conf()")
        # Not the service's own, which gives its role more than an external server does.
        settings = _make_database(connection, server_settings, _MIGRATED)
        database = Database(settings)
        migrate.upgrade(database.engine)
        database.close()
        yield connection


@pytest.fixture
def empty_database_settings(server_settings: Settings, _administrator: Connection[Any]) -> Iterator[Settings]:
    """Settings of a database of the test's own, without tables; dropped after the test."""
    name = _new_name()
    yield _make_database(_administrator, server_settings, name)
    _drop_database(_administrator, name)


@pytest.fixture
def database_settings(server_settings: Settings, _administrator: Connection[Any]) -> Iterator[Settings]:
    """Settings of a database of the test's own, migrated; dropped after the test."""
    name = _new_name()
    statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
    _administrator.execute(statement.format(*map(sql.Identifier, (name, ROLE, _MIGRATED))))
    yield _settings_of(server_settings, name)
    _drop_database(_administrator, name)


def _new_name() -> str:
    return f"test_{uuid4().hex}"


def _make_database(administrator: Connection[Any], server: Settings, name: str) -> Settings:
    """An empty database with the extension, and its settings."""
    statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(ROLE))
    administrator.execute(statement)
    with connect_as_superuser(ServerFiles.of(server), name) as connection:
        connection.execute("CREATE EXTENSION vector")
    return _settings_of(server, name)


def _drop_database(administrator: Connection[Any], name: str) -> None:
    administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _settings_of(server: Settings, name: str) -> Settings:
    url = ServerFiles.of(server).url(ROLE, name).set(drivername="postgresql").render_as_string(hide_password=False)
    return server.model_copy(update={"vector_db_url": parse_settings(vector_db_url=url).vector_db_url})


@pytest.fixture
def database(database_settings: Settings) -> Iterator[Database]:
    """The pool of connections to a database of the test's own, migrated and empty."""
    database = Database(database_settings)
    yield database
    database.close()


@pytest.fixture
def make_gallery(database: Database) -> Maker:
    """Makes a domain with the persons p0, p1, …: one for each row of `owners`, or one for each vector."""

    def make(name: str, vectors: Float32Array, owners: list[int] | None = None, *, bulk: bool = False) -> Gallery:
        return fill_gallery(database, name, vectors, owners, bulk=bulk)

    return make


def fill_gallery(
    database: Database,
    name: str,
    vectors: Float32Array,
    owners: list[int] | None = None,
    *,
    bulk: bool = False,
    model: str = "test",
) -> Gallery:
    """A new domain that holds `vectors`, (N, D); the i-th belongs to person `owners[i]`, or to person i."""
    owners = list(range(len(vectors))) if owners is None else owners
    ids = [uuid4() for _ in range(max(owners, default=-1) + 1)]
    with database.transaction() as session:
        domain = create_domain(
            session, name, model=model, contract=contract(vectors.shape[1]), dimension=vectors.shape[1]
        )
        persons = [
            {"id": id_, "domain_id": domain.id, "label": f"p{n}", "display_name": f"Person {n}"}
            for n, id_ in enumerate(ids)
        ]
        if persons:
            session.execute(insert(Person), persons)
        templates = [template(ids[owner], vector) for owner, vector in zip(owners, vectors, strict=True)]
        if not bulk:
            insert_templates(session, domain.id, templates)
    if bulk:
        with database.bulk_transaction() as session:
            lock_domain(session, domain.id)
            drop_index(session, domain.id)
            copy_templates(session, domain.id, columns_of(templates))
        rebuild_index(database, domain.id, vectors.shape[1])
    with database.transaction() as session:
        return load_gallery(session, name)


def contract(dimension: int) -> str:
    """The id of a contract that no real model has."""
    return f"test:{dimension}:0"


def template(person_id: object, vector: Float32Array, image_sha256: bytes | None = None) -> NewTemplate:
    """A template of that person with made-up properties."""
    return NewTemplate(person_id, vector, image_sha256, Box(1, 2, 30, 40), 0.9, 100.0)  # type: ignore[arg-type]


def columns_of(templates: Sequence[NewTemplate]) -> TemplateBatch:
    """The templates as COPY takes them; all of them have a picture, or none has."""
    pictures = [item.image_sha256 for item in templates if item.image_sha256 is not None]
    assert len(pictures) in (0, len(templates))
    return TemplateBatch(
        ids=_bytes([item.id.bytes for item in templates]),
        person_ids=_bytes([item.person_id.bytes for item in templates]),
        embeddings=np.stack([item.embedding for item in templates]),
        image_sha256=_bytes(pictures) if pictures else None,
        boxes=np.array([(item.box.x, item.box.y, item.box.w, item.box.h) for item in templates], dtype=np.int32),
        scores=np.array([item.score for item in templates], dtype=np.float32),
        sharpness=np.array([item.sharpness for item in templates], dtype=np.float32),
    )


def _bytes(values: Sequence[bytes]) -> UInt8Array:
    return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), -1)


def random_units(count: int, dimension: int, seed: int = 0) -> Float32Array:
    """Unit vectors of identities that have nothing in common: float32, (count, dimension)."""
    return normalised(np.random.default_rng(seed).normal(size=(count, dimension)))


def noisy_copies(vectors: Float32Array, noise: float, seed: int = 1) -> Float32Array:
    """Probes: each vector with a random one of length `noise` added. Their distance is about 1 - 1/sqrt(1 + noise²)."""
    count, dimension = vectors.shape
    return normalised(vectors + noise * random_units(count, dimension, seed))


def normalised(vectors: np.ndarray) -> Float32Array:
    """The vectors at unit length, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def storage_in(folder: Path) -> Settings:
    """Settings of another installation with its storage there."""
    return parse_settings(storage_dir=folder, vector_db_url=None, web_workers=1)
