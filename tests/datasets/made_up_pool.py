"""The worker pool's interface over made-up faces."""

import hashlib
from typing import Any

import numpy as np

from app.embedder.client import EmbedderClient
from app.embedder.status import PoolStatus, WorkerStatus
from app.errors import EmbedderUnavailable, InvalidImage, PoolBusy, WorkerCrashed, WorkerTimeout
from app.vision.faces import Analysis, Box, Face, FaceQuality
from tests.datasets.migrating import DIMENSION, pack
from tests.db_server import normalised

_FAILURES = {
    b"unreadable": InvalidImage,
    b"crash": WorkerCrashed,
    b"hang": WorkerTimeout,
    b"gone": EmbedderUnavailable,
}


class MadeUpPool(EmbedderClient):
    """A picture's bytes say what becomes of it, and else decide the vector."""

    def __init__(self) -> None:
        super().__init__("unix:/nowhere")
        self.asked: list[bytes] = []
        self.contract: str | None = pack().contract.id
        self.busy = 0
        self.says_nothing: type[Exception] | None = None

    def analyze(self, image: bytes, **_others: Any) -> Analysis:
        self.asked.append(image)
        if self.busy:
            self.busy -= 1
            raise PoolBusy("busy")
        for word, error in _FAILURES.items():
            if word in image:
                raise error(word.decode())
        assert self.contract is not None
        return Analysis(100, 100, () if b"nobody" in image else (made_up_face(image),), "made-up", self.contract)

    def status(self, *, timeout_s: float = 2.0) -> PoolStatus:
        if self.says_nothing is not None:
            raise self.says_nothing("no time")
        return pool_status("made-up", self.contract)


def pool_status(model: str, contract: str | None) -> PoolStatus:
    """What a pool of one worker says: idle, or without a model where there is no contract."""
    state, problem = ("idle", None) if contract is not None else ("failed", "the model is damaged")
    worker = WorkerStatus(
        f"{model}-1", model, contract, state, None, problem, jobs=0, rss_bytes=0, lane=None, busy_s=0.0
    )
    return PoolStatus(model, (worker,), queue_length=0, background_queue_length=0, quarantined=0)


def made_up_face(image: bytes) -> Face:
    """The face that is on the picture."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(image).digest()[:8], "big"))
    vector = normalised(random.normal(size=(1, DIMENSION)))[0]
    return Face(Box(1, 2, 60, 70), 0.9, np.zeros((5, 2), np.float32), FaceQuality(60, 99.0), vector)
