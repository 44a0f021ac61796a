"""Datasets to migrate, and what the database then holds."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select, text

from app.datasets.attempt import Order
from app.datasets.contracts import deepface_model
from app.datasets.copying import normalised
from app.datasets.deepface_export import write_deepface
from app.datasets.migrate import migrate
from app.datasets.names import deepface_file_name
from app.datasets.report import MigrationReport, Silent
from app.datasets.rows import DatasetRow
from app.db.domains import Gallery, load_gallery
from app.db.models import Domain, FaceEmbedding, MigrationRun, Person
from app.db.session import Database
from app.vision.faces import Box, Float32Array
from app.vision.packs import Calibration, Licence, PackFile, PackManifest

DIMENSION = 16
Template = tuple[str, bytes]


def pack(dimension: int = DIMENSION) -> PackManifest:
    """A pack that is nowhere installed; copying needs its contract only."""
    nothing = "0" * 64
    return PackManifest(
        name="made-up",
        title="made up",
        kind="insightface",
        files={role: PackFile(name=f"{role}.onnx", sha256=nothing) for role in ("detector", "embedder")},
        weights_sha256=nothing,
        dimension=dimension,
        alignment="none",
        calibration=Calibration(threshold=0.3, slope=20, margin=0.02, basis="none"),
        licence=Licence(name="none", non_commercial=False),
        source="none",
        min_sharpness=0,
    )


def raw_vectors(count: int, dimension: int = DIMENSION, seed: int = 0) -> Float32Array:
    """Vectors as embedders give them: of no particular length."""
    return (5 * np.random.default_rng(seed).normal(size=(count, dimension))).astype(np.float32)


def rows_of(
    count: int, *, persons: int = 7, seed: int = 0, label: str = "person {}", vectors: Float32Array | None = None
) -> list[DatasetRow]:
    """A dataset's rows, of some persons in turn."""
    vectors = raw_vectors(count, seed=seed) if vectors is None else vectors
    names = [label.format(n % persons) for n in range(count)]
    return [
        DatasetRow(f"faces/{name}/{seed}-{n}.jpg", name, vector, Box(n, 2 * n, 30, 40), "", "skip")
        for n, (name, vector) in enumerate(zip(names, vectors, strict=True))
    ]


def write(folder: Path, rows: Sequence[DatasetRow], *, form: Any = "pkl", model: str | None = None) -> Path:
    """A dataset's file of the made-up pack's model, or of another."""
    folder.mkdir(exist_ok=True)
    model = deepface_model(pack().contract.id) if model is None else model
    path = folder / deepface_file_name(model, "skip", form=form)
    write_deepface(path, rows, form=form)
    return path


def order(path: Path, folder: Path, **changes: Any) -> Order:
    """An order to migrate the dataset into the domain `people`."""
    given: dict[str, Any] = {
        "domain": "people",
        "path": path,
        "pack": pack(),
        "mode": "auto",
        "batch_rows": None,
        "dry_run": False,
        "resume": False,
        "allow_numpy": False,
        "pictures": None,
    }
    return Order(**(given | changes))


def run(database: Database, path: Path, folder: Path, **changes: Any) -> MigrationReport:
    """Migrate it."""
    return migrate(order(path, folder, **changes), database, Silent())


def expected(rows: Sequence[DatasetRow]) -> Counter[Template]:
    """What the database has to hold afterwards."""
    usable = [row for row in rows if row.embedding is not None]
    units = normalised(np.stack([row.embedding for row in usable]))  # type: ignore[misc]
    return Counter((row.label, unit.tobytes()) for row, unit in zip(usable, units, strict=True))


def stored(database: Database, domain: str = "people") -> Counter[Template]:
    """What it holds; checks on the way that all counts agree."""
    with database.transaction() as session:
        gallery = load_gallery(session, domain)
        query = select(Person.label, FaceEmbedding.embedding).join(Person, Person.id == FaceEmbedding.person_id)
        found = session.execute(query.where(FaceEmbedding.domain_id == gallery.domain_id)).all()
    assert gallery.template_count == len(found)
    return Counter((label, embedding.tobytes()) for label, embedding in found)


def gallery_of(database: Database, domain: str = "people") -> Gallery:
    with database.transaction() as session:
        return load_gallery(session, domain)


def runs(database: Database) -> list[MigrationRun]:
    """All runs, oldest first."""
    with database.transaction() as session:
        return list(session.scalars(select(MigrationRun).order_by(MigrationRun.id)))


def nothing_there(database: Database) -> bool:
    """Whether no domain, person, run or table of a domain is in the database."""
    with database.transaction() as session:
        counts = [session.scalar(text(f"SELECT count(*) FROM {table}")) for table in ("persons", "migration_runs")]
        partitions = session.scalar(text("SELECT count(*) FROM pg_inherits"))
        return session.scalars(select(Domain)).all() == [] and counts == [0, 0] and not partitions
