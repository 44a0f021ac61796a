"""What sessions are for, on photographs: ten persons are enrolled from seven frames each, and claim to be each of the ten."""

from typing import Any

import pytest

from app.config import Settings
from app.db.domains import create_domain
from app.db.session import Database
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.enrolment.images import ImageStore
from app.sessions.service import Kind, SessionService, Wanted
from app.vision.engine import FaceEngine, load_engine
from app.vision.faces import Analysis
from app.vision.packs import PackStore
from tests.pictures import GALLERY_SIZE, MAX_PIXELS, lfw10


class RealPool(EmbedderClient):
    """The real model in this process; each picture is looked at once."""

    def __init__(self, engine: FaceEngine) -> None:
        super().__init__("unix:/nowhere")
        self._engine = engine
        self._seen: dict[bytes, Analysis] = {}

    def analyze(self, image: bytes, **_others: Any) -> Analysis:
        if image not in self._seen:
            self._seen[image] = self._engine.analyze(image, max_pixels=MAX_PIXELS, embed="largest")
        return self._seen[image]


@pytest.fixture
def sessions(database: Database, database_settings: Settings, models) -> SessionService:
    packs = PackStore(models)
    manifest = packs.get("dlib").manifest
    with database.transaction() as session:
        create_domain(
            session, "lfw10", model="dlib", contract=manifest.contract.id, dimension=manifest.contract.dimension
        )
    pool = RealPool(load_engine(packs.get("dlib")))
    images = ImageStore(database_settings.images_dir, enabled=False)
    return SessionService(database_settings, database, pool, packs, images)


def test_ten_persons_are_enrolled_and_verified_and_taken_for_nobody_else(sessions):
    persons = lfw10()
    templates = {person: _enrol(sessions, person, paths[:GALLERY_SIZE]) for person, paths in persons.items()}
    accepted = [
        (claimed, path)
        for claimed in persons
        for paths in persons.values()
        for path in paths[GALLERY_SIZE:]
        if _verify(sessions, claimed, path)
    ]
    genuine = [path for claimed, path in accepted if path.parent.name == claimed]
    assert min(templates.values()) >= 5, templates
    assert len(genuine) >= 29, genuine
    assert len(accepted) - len(genuine) <= 1, accepted


def _enrol(sessions: SessionService, person: str, paths) -> int:
    info, token = sessions.create("lfw10", person, Kind.ENROL, Wanted())
    stream = sessions.open_stream(info.id, token)
    for number, path in enumerate(paths):
        answer = stream.look(path.read_bytes(), number, deadline=Deadline.after(60.0))
        if "result" in answer:
            break
    else:
        answer = stream.finish()
    assert answer["result"]["outcome"] == "enrolled", answer
    return int(answer["result"]["templates"])


def _verify(sessions: SessionService, person: str, path) -> bool:
    info, token = sessions.create("lfw10", person, Kind.VERIFY, Wanted(max_frames=1))
    stream = sessions.open_stream(info.id, token)
    answer = stream.look(path.read_bytes(), 0, deadline=Deadline.after(60.0))
    return bool(answer["result"]["verified"])
