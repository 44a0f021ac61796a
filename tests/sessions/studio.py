"""Sessions over drawn pictures: what a camera would see, as vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.db.session import Database
from app.deadline import Deadline
from app.enrolment.images import ImageStore
from app.sessions.service import Kind, SessionInfo, SessionService, SessionStream, Wanted
from app.vision.faces import Analysis, Float32Array
from app.vision.packs import PackStore
from tests.enrolment.drawn import DrawnPool, draw


class Camera(DrawnPool):
    """A pool that counts what it is asked, and may fail: with the next of `errors`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []
        self.errors: list[Exception] = []

    def analyze(self, image: bytes, **others: Any) -> Analysis:
        self.asked.append(others)
        if self.errors:
            raise self.errors.pop(0)
        return super().analyze(image)


@dataclass
class Studio:
    database: Database
    sessions: SessionService
    camera: Camera
    ended_keys: set[str] = field(default_factory=set)

    def make(self, label: str, kind: Kind = Kind.ENROL, **wanted: Any) -> tuple[SessionInfo, str]:
        return self.sessions.create("people", label, kind, Wanted(**wanted))

    def stream(self, label: str, kind: Kind = Kind.ENROL, **wanted: Any) -> SessionStream:
        info, token = self.make(label, kind, **wanted)
        return self.sessions.open_stream(info.id, token)


def show(stream: SessionStream, *faces: Float32Array, first: int = 0) -> list[dict[str, Any]]:
    """Show one face after the other, each as a picture of its own; stops at the result."""
    answers: list[dict[str, Any]] = []
    for number, face in enumerate(faces, first):
        answers.append(look(stream, draw(face, salt=number), number))
        if "result" in answers[-1]:
            break
    return answers


def look(stream: SessionStream, picture: bytes, frame: int = 0) -> dict[str, Any]:
    return stream.look(picture, frame, deadline=Deadline.after(30.0))


def reasons(answers: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [answer["reasons"] for answer in answers]


@pytest.fixture
def studio(office: object, database: Database, database_settings: Settings, models: Path) -> Studio:
    camera, ended = Camera(), set[str]()
    images = ImageStore(database_settings.images_dir, enabled=database_settings.store_images)
    key_ended: Callable[[str], bool] = ended.__contains__
    sessions = SessionService(database_settings, database, camera, PackStore(models), images, key_ended)
    return Studio(database, sessions, camera, ended)
