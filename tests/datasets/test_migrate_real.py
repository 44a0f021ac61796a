"""The five real datasets: each moves, and both services then name the same persons, rightly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.config import Settings
from app.datasets.attempt import Order
from app.datasets.migrate import migrate
from app.datasets.plan import Plan
from app.datasets.reembedding import Pictures
from app.datasets.report import MigrationReport, Silent
from app.db.session import Database
from app.db.vectors import SearchOptions, search
from app.embedder.client import EmbedderClient
from app.embedder.status import PoolStatus
from app.enrolment.quality import check_quality, main_face
from app.recognition.matching import Candidate, Decision, decide
from app.recognition.verify import verify_migration
from app.vision.engine import FaceEngine, load_engine
from app.vision.faces import Analysis, Face
from app.vision.packs import PackStore
from tests.datasets.made_up_pool import pool_status
from tests.datasets.migrating import gallery_of, stored
from tests.packs import install_dlib, install_scrfd
from tests.pictures import GALLERY_SIZE, MAX_PIXELS, SHARED, lfw10

DATASETS = {"0.0.75": 70, "0.0.84": 73, "0.0.89": 73, "0.0.93": 73, "0.0.103": 73}


class PoolOfOne(EmbedderClient):
    """The pool's interface over an engine in this process; remembers what it has seen."""

    def __init__(self, engine: FaceEngine) -> None:
        super().__init__("unix:/nowhere")
        self.engine = engine
        self._seen: dict[bytes, Analysis] = {}

    def analyze(self, image: bytes, **_others: Any) -> Analysis:
        if image not in self._seen:
            self._seen[image] = self.engine.analyze(image, max_pixels=MAX_PIXELS)
        return self._seen[image]

    def status(self, **_others: Any) -> PoolStatus:
        return pool_status(self.engine.pack.manifest.name, self.engine.pack.manifest.contract.id)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    folder = tmp_path_factory.mktemp("models")
    install_dlib(folder)
    return PackStore(folder)


@pytest.fixture(scope="module")
def pool(packs: PackStore) -> PoolOfOne:
    return PoolOfOne(load_engine(packs.get("dlib")))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures 8 to 10 of every person, in one folder."""
    folder = tmp_path_factory.mktemp("probes")
    for person, paths in lfw10().items():
        (folder / person).mkdir()
        for path in paths[GALLERY_SIZE:]:
            (folder / person / path.name).symlink_to(path)
    return folder


def dataset(version: str) -> Path:
    folder = SHARED / "datasets" / f"deepface-{version}"
    if not folder.is_dir():
        pytest.skip("needs ../shared/datasets")
    return folder


@pytest.fixture
def move(database: Database, packs: PackStore, tmp_path: Path) -> Callable[..., MigrationReport]:
    def migrated(path: Path, **changes: Any) -> MigrationReport:
        given: dict[str, Any] = {
            "domain": "lfw10",
            "path": path,
            "pack": packs.get("dlib").manifest,
            "mode": "auto",
            "batch_rows": 20,
            "dry_run": False,
            "resume": False,
            "allow_numpy": False,
            "pictures": None,
        }
        return migrate(Order(**(given | changes)), database, Silent())

    return migrated


def named(database: Database, pool: PoolOfOne, photo: Path) -> str | None:
    """Whom the database names for the largest face of a photo."""
    calibration = pool.engine.pack.manifest.calibration
    options = SearchOptions(2, calibration.threshold, calibration.margin, 10_000, 40)
    vector = pool.analyze(photo.read_bytes()).faces[0].embedding
    assert vector is not None
    with database.transaction() as session:
        (hits,) = search(session, gallery_of(database, "lfw10"), np.stack([vector]), options)
    persons = [Candidate(None, hit.label, hit.label, hit.min_distance, 0, None) for hit in hits.persons]
    decision = decide(persons, threshold=options.threshold, margin=options.margin)
    return persons[0].label if decision is Decision.MATCH else None


@pytest.mark.parametrize(("version", "rows"), DATASETS.items())
def test_a_real_dataset_moves_and_both_services_name_the_same(
    version: str,
    rows: int,
    database: Database,
    database_settings: Settings,
    packs: PackStore,
    pool: PoolOfOne,
    photos: Path,
    move: Callable[..., MigrationReport],
) -> None:
    report = move(dataset(version))
    assert (report.plan.mode, report.rows, report.migrated, report.persons) == ("copy", rows, rows, 10)
    assert len(stored(database, "lfw10")) == rows

    found = verify_migration(database_settings, database, pool, packs, report.plan, photos)
    assert (found.kind, found.agreement_percent, found.disagreements) == ("photos", 100.0, [])
    assert found.probes >= 30
    assert (found.recall_at_1, found.recall_at_5) == (1.0, 1.0)
    by_photo = [(named(database, pool, photo), photo.parent.name) for photo in sorted(photos.glob("*/*.jpg"))]
    assert len(by_photo) == 30
    assert sum(name == person for name, person in by_photo) >= 28
    assert all(name in (None, person) for name, person in by_photo)

    held_out = verify_migration(database_settings, database, pool, packs, report.plan, None)
    assert (held_out.kind, held_out.probes, held_out.agreement_percent) == ("held out", 10, 100.0)
    assert held_out.named >= 8
    assert len(stored(database, "lfw10")) == rows  # held out for the comparison only


def pictures(pool: PoolOfOne, images: Path) -> Pictures:
    manifest = pool.engine.pack.manifest

    def choose(analysis: Analysis) -> Face:
        face = main_face(analysis)
        check_quality(face, min_face_px=50, min_sharpness=manifest.min_sharpness)
        return face

    return Pictures(images.resolve(), pool, choose, 1, 10.0, 32 * 1024 * 1024, keep_going=False)


def test_another_packs_templates_are_made_from_the_pictures(
    database: Database, database_settings: Settings, tmp_path: Path, move: Callable[..., MigrationReport]
) -> None:
    lfw10()
    store = PackStore(tmp_path / "models")
    pack = install_scrfd(store.models_dir)
    pool = PoolOfOne(load_engine(pack))
    images = pictures(pool, SHARED / "faces" / "lfw10")
    report = move(dataset("0.0.103"), pack=pack.manifest, pictures=images, batch_rows=16)
    # 73 faces on 70 pictures: a picture becomes one template, of the face that it is about.
    assert (report.plan.mode, report.rows) == ("reembed", 73)
    assert report.skipped["same_picture"] == 3
    assert report.migrated + sum(report.skipped.values()) == 73
    assert report.migrated >= 68
    assert "cannot be compared" in report.plan.reason
    with database.transaction() as session:
        from sqlalchemy import text

        unseen = "SELECT count(*) FROM face_embeddings WHERE image_sha256 IS NULL OR score = 0 OR sharpness = 0"
        assert session.scalar(text(unseen)) == 0
    again = move(dataset("0.0.103"), pack=pack.manifest, pictures=images)
    assert again.migrated == 0
    assert again.skipped["present"] == report.migrated
    plan: Plan = report.plan
    found = verify_migration(database_settings, database, pool, store, plan, SHARED / "faces" / "lfw10")
    assert found.agreed is None
    assert "cannot be asked the same" in found.as_text()
    assert found.recall_at_1 == 1.0
