"""The pool behind its cache."""

from dataclasses import replace

import numpy as np
import pytest

from app.deadline import Deadline
from app.errors import InvalidImage, WorkerCrashed
from app.face_cache.cached import CachedEmbedder
from app.face_cache.memory import MemoryStore
from app.vision.faces import Analysis, Box, Face, FaceQuality
from tests.face_cache.entries import Clock, entry


class Pool:
    """Finds `count` faces on each picture."""

    def __init__(self) -> None:
        self.asked = 0
        self.count = 1
        self.error: Exception | None = None
        self.model = "dlib"

    def analyze(self, image, *, deadline, request_id, client, background, effort):
        self.asked += 1
        if self.error is not None:
            raise self.error
        embedding = np.arange(128, dtype=np.float32) / np.float32(7)
        face = Face(Box(1, 2, 3, 4), 0.9, np.ones((5, 2), np.float32), FaceQuality(3, 1.0), embedding)
        return Analysis(10, 20, (face,) * self.count, self.model, "c:128:0", {"decode": 1.0, "embed": 2.0})


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def cached(pool) -> CachedEmbedder:
    store = MemoryStore(60, 100, lambda uids: dict.fromkeys(uids, 0), clock=Clock(), check_every_s=0.02)
    return CachedEmbedder(pool, store)


DOMAIN = entry().domain


def ask(cached, image=b"picture", epoch=DOMAIN) -> Analysis:
    return cached.analyze(image, epoch=epoch, deadline=Deadline.after(10), request_id="r", client="c")


def test_the_same_picture_in_the_same_domain_costs_one_call_and_is_answered_to_the_last_bit(cached, pool):
    first, second = ask(cached), ask(cached)
    assert pool.asked == 1
    assert second.faces[0].embedding.tobytes() == first.faces[0].embedding.tobytes()
    assert second.faces[0].landmarks.tolist() == first.faces[0].landmarks.tolist()
    for face in (first.faces[0], second.faces[0]):
        assert (face.box, face.score, face.quality) == (Box(1, 2, 3, 4), 0.9, FaceQuality(3, 1.0))
    assert (second.width_px, second.height_px, second.model, second.contract) == (10, 20, "dlib", "c:128:0")
    assert (set(first.timings_ms), set(second.timings_ms)) == ({"decode", "embed"}, {"cache"})


def test_another_picture_domain_or_epoch_asks_anew(cached, pool):
    ask(cached)
    ask(cached, b"another")
    ask(cached, epoch=entry().domain)
    ask(cached, epoch=replace(DOMAIN, epoch=DOMAIN.epoch + 1))
    assert pool.asked == 4


@pytest.mark.parametrize("error", [InvalidImage("none"), WorkerCrashed("gone")])
def test_errors_are_not_kept(cached, pool, error):
    pool.error = error
    for _ in range(2):
        with pytest.raises(type(error)):
            ask(cached)
    pool.error = None
    assert len(ask(cached).faces) == 1
    assert pool.asked == 3


def test_a_picture_without_a_face_is_kept_and_one_of_very_many_is_not(cached, pool):
    pool.count = 0
    assert (ask(cached).faces, ask(cached).faces, pool.asked) == ((), (), 1)
    pool.count = 200
    assert len(ask(cached, b"crowd").faces) == len(ask(cached, b"crowd").faces) == 200
    assert pool.asked == 3


@pytest.mark.parametrize("kept", [b"", b"{}", b"null", b'{"faces": NaN}'])
def test_what_is_kept_in_a_form_that_nobody_reads_is_looked_at_anew(cached, pool, monkeypatch, kept: bytes):
    monkeypatch.setattr(cached._store, "get", lambda _: kept)
    assert len(ask(cached).faces) == 1
    assert pool.asked == 1


def test_what_another_model_saw_is_not_kept(cached, pool):
    pool.model = "buffalo_m"
    ask(cached)
    pool.model = "dlib"
    assert ask(cached).model == "dlib"
    assert pool.asked == 2


def test_what_was_looked_for_harder_is_kept_apart(cached, pool):
    ask(cached)
    for _ in range(2):
        cached.analyze(b"picture", epoch=DOMAIN, deadline=Deadline.after(10), background=True, effort="thorough")
    assert pool.asked == 2


def test_without_a_domain_or_a_store_each_picture_is_looked_at(cached, pool):
    ask(cached, epoch=None)
    ask(cached, epoch=None)
    plain = CachedEmbedder(pool)
    ask(plain)
    ask(plain)
    plain.observe()
    assert pool.asked == 4
