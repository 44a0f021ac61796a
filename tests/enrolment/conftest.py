"""The services over a database of the test's own and drawn pictures, and a domain in it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from app.config import Settings
from app.datasets.forgetting import DatasetForgetting
from app.datasets.store import DatasetStore
from app.db.domains import create_domain, load_gallery
from app.db.session import Database
from app.db.vectors import PersonHit, SearchOptions, search
from app.deadline import Deadline
from app.enrolment.directory import PersonDirectory
from app.enrolment.duplicates import DuplicateService
from app.enrolment.faces import EnrolmentResult, FaceService
from app.enrolment.images import ImageStore
from app.enrolment.merging import MergeService
from app.enrolment.outliers import OutlierService
from app.enrolment.persons import PersonService
from app.enrolment.rejections import RejectionInfo, RejectionRequest, RejectionService
from app.erasure.service import ErasureService
from app.vision.faces import Float32Array
from app.vision.packs import PackStore
from tests.enrolment.drawn import CONTRACT, DIMENSION, THRESHOLD, DrawnPool, draw


@dataclass
class Office:
    """All that is done to persons, in the domain `people`, unless another is named."""

    database: Database
    directory: PersonDirectory
    persons: PersonService
    faces: FaceService
    merging: MergeService
    rejections: RejectionService
    duplicates: DuplicateService
    outliers: OutlierService
    erasure: ErasureService

    def enrol(self, label: str, *faces: Float32Array, domain: str = "people", salt: int = 0) -> EnrolmentResult:
        files = [(f"{n}.jpg", draw(face, salt=salt)) for n, face in enumerate(faces)]
        return self.faces.enrol(domain, label, files, client="test")

    def reject(
        self, label: str, picture: bytes, *, face: int | None = None, actual: str | None = None, domain: str = "people"
    ) -> tuple[RejectionInfo, bool]:
        deadline = Deadline.after(30.0)
        wanted = RejectionRequest(picture, domain, label, face, actual, deadline, "r1", "test")
        return self.rejections.add(wanted, self.rejections.look(wanted))

    def found(
        self, probe: Float32Array, *, index: bool = False, top_k: int = 5, threshold: float = THRESHOLD
    ) -> tuple[PersonHit, ...]:
        options = SearchOptions(top_k, threshold, 0.005, 0 if index else 10_000, 40)
        with self.database.transaction() as session:
            [hits] = search(session, load_gallery(session, "people"), [probe], options)
        return hits.persons

    def labels(self, probe: Float32Array, *, index: bool = False, top_k: int = 5) -> list[str]:
        """Who is a candidate, nearest first."""
        return [hit.label for hit in self.found(probe, index=index, top_k=top_k)]

    def events(self) -> list[str]:
        """The actions of the domain's chain, in order."""
        with self.database.transaction() as session:
            query = text(
                "SELECT CAST(body AS json) ->> 'action' FROM audit_events WHERE domain_id IS NOT NULL ORDER BY seq"
            )
            return list(session.scalars(query))


@pytest.fixture
def office(database: Database, database_settings: Settings, models: Path) -> Office:
    pool, packs = DrawnPool(), PackStore(models)
    images = ImageStore(database_settings.images_dir, enabled=False)
    with database.transaction() as session:
        for name in ("people", "others"):
            create_domain(session, name, model="dlib", contract=CONTRACT, dimension=DIMENSION)
    return Office(
        database,
        PersonDirectory(database_settings, database, packs, images),
        PersonService(database),
        FaceService(database_settings, database, pool, packs, images),
        MergeService(database, images),
        RejectionService(database_settings, database, pool, packs),
        DuplicateService(database_settings, database, packs, images),
        OutlierService(database_settings, database, packs, images),
        ErasureService(
            database, packs, DatasetForgetting(database_settings, DatasetStore(database_settings, packs)), images
        ),
    )
