"""A picture that takes too long is given up between its steps, before it looks like a hang."""

import pytest

from app.deadline import Deadline
from app.errors import WorkerTimeout
from app.vision.engine import FaceEngine
from tests.pictures import MAX_PIXELS, many_faces


class AfterLooks(Deadline):
    """Passes once it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__(at_s=0.0)
        self.__dict__["left"] = looks

    @property
    def expired(self) -> bool:
        self.__dict__["left"] -= 1
        return self.__dict__["left"] < 0


@pytest.fixture(scope="module")
def crowd() -> bytes:
    return many_faces()


@pytest.mark.parametrize(("looks", "done"), [(0, "decoded"), (1, "searched"), (2, "embedded")])
def test_the_deadline_is_looked_at_after_each_step(engine: FaceEngine, crowd: bytes, looks: int, done: str) -> None:
    with pytest.raises(WorkerTimeout, match=f"while the picture was {done}"):
        engine.analyze(crowd, max_pixels=MAX_PIXELS, deadline=AfterLooks(looks))


def test_an_answer_that_is_there_is_given(engine: FaceEngine, crowd: bytes) -> None:
    whole = engine.analyze(crowd, max_pixels=MAX_PIXELS)
    in_time = engine.analyze(crowd, max_pixels=MAX_PIXELS, deadline=AfterLooks(1 + len(whole.faces)))
    assert len(in_time.faces) == len(whole.faces) >= 40
    assert engine.analyze(crowd, max_pixels=MAX_PIXELS, embed="none", deadline=AfterLooks(1)).faces
