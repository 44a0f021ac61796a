"""Old photos that say which faces are on them, and the service that keeps them, over a pool that can be made to fail."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.config import Settings
from app.datasets.forgetting import DatasetForgetting
from app.datasets.store import DatasetStore
from app.db.references import PhotoInfo
from app.deadline import Deadline
from app.enrolment.extraction import PhotoExtractor
from app.enrolment.images import ImageStore
from app.enrolment.references import Preloaded, ReferenceService
from app.erasure.service import ErasureService
from app.vision.faces import Analysis, Float32Array
from app.vision.packs import PackStore
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import CONTRACT, DrawnPool, draw

_JPEG = b"\xff\xd8\xff"


def photo(*faces: Float32Array, size: int = 200, salt: int = 0, contract: str = CONTRACT) -> bytes:
    """An old photo of these faces, as `draw`, which begins as a JPEG does."""
    return _JPEG + draw(*faces, sizes=[size - n for n in range(len(faces))], salt=salt, contract=contract)


class PhotoPool(DrawnPool):
    """Sees what was drawn, by a strategy of its own; `asked` has what it was asked with, in order.

    `before` is called with each picture, and may raise. Faces have the sharpness `sharpness`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []
        self.before: Callable[[], None] = lambda: None
        self.sharpness = 1e6
        self._lock = threading.Lock()

    def analyze(self, image: bytes, **how: Any) -> Analysis:
        with self._lock:
            self.asked.append(how)
        self.before()
        seen = super().analyze(image.removeprefix(_JPEG))
        faces = tuple(replace(face, quality=replace(face.quality, sharpness=self.sharpness)) for face in seen.faces)
        return replace(seen, faces=faces, strategy="drawn")


@dataclass
class Album:
    """The photos of the domain `people`."""

    office: Office
    settings: Settings
    pool: PhotoPool
    images: ImageStore
    service: ReferenceService
    erasure: ErasureService

    def add(self, label: str, *pictures: bytes) -> list[PhotoInfo]:
        return list(self.service.add("people", label, [(f"{n}.jpg", data) for n, data in enumerate(pictures)]).photos)

    def photos(self, label: str) -> list[PhotoInfo]:
        return list(self.service.list("people", label, limit=500, cursor=None).items)

    def preload(self, label: str, *, seconds: float = 30.0, failed: bool = False) -> Preloaded:
        return self.service.preload("people", label, deadline=Deadline.after(seconds), client="test", failed=failed)

    def run_job(self, job_id: UUID | None, domain: str = "people") -> dict[str, int]:
        """As the jobs worker does."""
        assert job_id is not None
        with self.office.database.transaction() as session:
            number = session.scalar(text("SELECT id FROM domains WHERE name = :name"), {"name": domain})
        return self.service.extract_for_job(number, job_id, client="test")

    def extracted(self, label: str, *pictures: bytes) -> list[PhotoInfo]:
        """As `add`, with their job done."""
        self.run_job(self.add(label, *pictures)[0].job_id)
        return self.photos(label)

    def rows(self, query: str, **values: Any) -> list[Any]:
        with self.office.database.transaction() as session:
            return list(session.execute(text(query), values).all())

    def execute(self, statement: str, **values: Any) -> None:
        with self.office.database.transaction() as session:
            session.execute(text(statement), values)

    def pictures(self) -> list[bytes | None]:
        """What is kept of the photos, in their order."""
        return [
            None if data is None else bytes(data)
            for (data,) in self.rows("SELECT picture FROM reference_photos ORDER BY created_at, id")
        ]

    def templates(self) -> int:
        """As they are; as they are counted, it is the same."""
        (counted,) = self.rows(
            "SELECT template_count, (SELECT count(*) FROM face_embeddings WHERE domain_id = domains.id)"
            " FROM domains WHERE name = 'people'"
        )
        assert counted[0] == counted[1]
        return counted[0]


def make_album(office: Office, settings: Settings, packs: PackStore, *, store_images: bool = False) -> Album:
    pool = PhotoPool()
    images = ImageStore(settings.images_dir, enabled=store_images)
    extractor = PhotoExtractor(settings, office.database, pool, packs, images)
    datasets = DatasetForgetting(settings, DatasetStore(settings, packs))
    return Album(
        office,
        settings,
        pool,
        images,
        ReferenceService(settings, office.database, extractor, images),
        ErasureService(office.database, packs, datasets, images),
    )
