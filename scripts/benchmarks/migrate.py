"""A synthetic dataset's migration, and the bare COPY and CREATE INDEX of the same vectors, on an embedded server of its own."""

import tempfile
from pathlib import Path
from uuid import uuid4

import click
import numpy as np
import psycopg
from sqlalchemy import text

from app.datasets.attempt import Order
from app.datasets.contracts import deepface_model
from app.datasets.copying import normalised
from app.datasets.deepface_export import write_deepface
from app.datasets.labels import export_identity
from app.datasets.migrate import migrate
from app.datasets.names import deepface_file_name
from app.datasets.report import MigrationReport, Silent
from app.datasets.rows import DatasetRow
from app.db.copying import COPY_COLUMNS, TemplateBatch, copy_stream
from app.db.partitions import HNSW_EF_CONSTRUCTION, HNSW_M
from app.db.session import Database
from app.db.templates import random_ids
from app.vision.faces import Box
from app.vision.packs import Calibration, Licence, PackFile, PackManifest
from scripts.benchmarks.databases import temporary_server
from scripts.benchmarks.report import show, time_interleaved

_NOISE = 0.5


@click.command("migrate")
@click.option("--persons", type=click.IntRange(min=1), default=2_625, show_default=True)
@click.option("--rows", type=click.IntRange(min=1), default=23_640, show_default=True, help="Vectors in the dataset.")
@click.option("--dimension", type=click.IntRange(2, 1_536), default=512, show_default=True)
@click.option("--form", type=click.Choice(("pkl", "npz")), default="pkl", show_default=True)
@click.option("--runs", type=click.IntRange(min=2), default=3, show_default=True, help="Migrations, and bare loads.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def migrate_pkl(persons: int, rows: int, dimension: int, form: str, runs: int, as_json: bool) -> None:
    """`flask migrate-pkl` by copy, against a bare COPY and CREATE INDEX of the same vectors."""
    with tempfile.TemporaryDirectory(prefix="facedex-bench-") as folder, temporary_server() as server:
        database = server.database
        pack = _pack(dimension)
        vectors, labels = _vectors(persons, rows, dimension)
        dataset = _write(Path(folder), pack, vectors, labels, form)
        reports: list[MigrationReport] = []
        ways = {
            "bare COPY + CREATE INDEX": lambda run: _bare(database, vectors, labels),
            "migrate-pkl": lambda run: reports.append(_migrate(database, pack, dataset, Path(folder), run)),
        }
        timings = time_interleaved(ways, runs)
    report = reports[-1]
    facts = {
        "dataset": f"{rows} vectors of {dimension} dimensions, {persons} persons, {form}",
        "migration / bare": round(timings[1].median_ms / timings[0].median_ms, 2),
        "migrated, skipped": f"{report.migrated}, {dict(report.skipped)}",
        "seconds by stage": ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in report.seconds.items()),
    }
    show("A dataset into the database, read from its file", timings, facts, as_json=as_json)


def _vectors(persons: int, rows: int, dimension: int) -> tuple[np.ndarray, list[str]]:
    """Raw vectors, as DeepFace keeps them, and whose they are."""
    random = np.random.default_rng(0)
    owners = np.sort(random.integers(0, persons, rows))
    centres = random.normal(size=(persons, dimension))
    vectors = 7 * (centres[owners] + _NOISE * random.normal(size=(rows, dimension)))
    return vectors.astype(np.float32), [f"person {owner:05}" for owner in owners]


def _write(folder: Path, pack: PackManifest, vectors: np.ndarray, labels: list[str], form: str) -> Path:
    model = deepface_model(pack.contract.id)
    path = folder / deepface_file_name(model, "skip", form=form)
    rows = (
        DatasetRow(export_identity(label, f"{n}.jpg"), label, vector, Box(10, 20, 90, 110), model, "skip")
        for n, (label, vector) in enumerate(zip(labels, vectors, strict=True))
    )
    write_deepface(path, rows, form=form)
    return path


def _pack(dimension: int) -> PackManifest:
    """A pack that was never installed: copying needs none."""
    nothing = "0" * 64
    return PackManifest(
        name="synthetic",
        title="synthetic",
        kind="insightface",
        files={role: PackFile(name=f"{role}.onnx", sha256=nothing) for role in ("detector", "embedder")},
        weights_sha256=nothing,
        dimension=dimension,
        alignment="none",
        calibration=Calibration(threshold=0.5, slope=20, margin=0.02, basis="none"),
        licence=Licence(name="none", non_commercial=False),
        source="none",
        min_sharpness=0,
    )


def _migrate(database: Database, pack: PackManifest, dataset: Path, folder: Path, run: int) -> MigrationReport:
    order = Order(
        domain=f"domain {run} {uuid4().hex}",
        path=dataset,
        pack=pack,
        mode="copy",
        batch_rows=None,
        dry_run=False,
        resume=False,
        allow_numpy=False,
        pictures=None,
    )
    return migrate(order, database, Silent())


def _bare(database: Database, vectors: np.ndarray, labels: list[str]) -> None:
    """The same rows, ready in memory, into a table without any constraint, index or reference; then the same index."""
    table, persons = f"bare_{uuid4().hex}", {label: uuid4().bytes for label in set(labels)}
    count, dimension = vectors.shape
    batch = TemplateBatch(
        ids=random_ids(count),
        person_ids=np.frombuffer(b"".join(persons[label] for label in labels), np.uint8).reshape(count, 16),
        embeddings=normalised(vectors),
        image_sha256=None,
        boxes=np.tile(np.array([10, 20, 90, 110], np.int32), (count, 1)),
        scores=np.zeros(count, np.float32),
        sharpness=np.zeros(count, np.float32),
    )
    with database.maintenance() as connection:
        connection.execute(text(f"CREATE TABLE {table} (LIKE face_embeddings INCLUDING DEFAULTS INCLUDING STORAGE)"))
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        with raw.cursor() as cursor, cursor.copy(f"COPY {table} ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(copy_stream(0, batch))
        connection.execute(
            text(
                f"CREATE INDEX ON {table} USING hnsw ((CAST(embedding AS halfvec({dimension}))) halfvec_cosine_ops)"
                f" WITH (m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION})"
            )
        )
        connection.execute(text(f"DROP TABLE {table}"))
