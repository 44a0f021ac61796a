"""The comparison of two pictures over a made-up pool: what a picture shows, its bytes say."""

import threading

import numpy as np
import pytest

from app.deadline import Deadline
from app.errors import ContractMismatch, InvalidImage, NoFaceFound, PoolBusy, SeveralFaces
from app.verification.service import Picture, VerificationRequest, VerificationService
from app.vision.faces import Analysis, Box, Face, FaceQuality
from app.vision.packs import PackStore
from tests.packs import install_dlib

PATIENCE_S = 30


class Pool:
    """Answers when both pictures are there."""

    def __init__(self, contract: str) -> None:
        self.contract = contract
        self.both = threading.Barrier(2)
        self.asked: list[dict] = []

    def analyze(self, image, **others):
        self.both.wait(PATIENCE_S)
        self.asked.append(others)
        if image == b"junk":
            raise InvalidImage("not a picture")
        if image == b"busy":
            raise PoolBusy("full")
        contract = "other:128:0" if image == b"other model" else self.contract
        sides = {b"nobody": [], b"two": [90, 88], b"bystander": [90, 40]}.get(image, [90])
        return Analysis(100, 100, tuple(face(side) for side in sides), "dlib", contract, {"decode": 1.5})


def face(side: int) -> Face:
    vector = np.zeros(128, np.float32)
    vector[side % 128] = 1
    return Face(Box(1, 2, side, side), 1.0, np.zeros((5, 2), np.float32), FaceQuality(side, 100.0), vector)


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> PackStore:
    folder = tmp_path_factory.mktemp("models")
    install_dlib(folder)
    return PackStore(folder)


@pytest.fixture
def pool(packs) -> Pool:
    return Pool(packs.get("dlib").manifest.contract.id)


def verify(pool: Pool, packs: PackStore, first: bytes, second: bytes):
    deadline = Deadline.after(10)
    request = VerificationRequest(
        Picture("file1", first), Picture("file2", second), None, "dlib", deadline, "r1", "door"
    )
    return VerificationService(pool, packs).verify(request)


def test_both_pictures_are_in_the_pool_at_once_under_one_deadline(pool, packs):
    result = verify(pool, packs, b"her", b"bystander")
    assert result.comparison.verified
    assert result.second.box.w == 90
    assert result.timings_ms == {"decode": 3.0}
    assert len(pool.asked) == 2
    assert pool.asked[0] == pool.asked[1]
    assert {key: pool.asked[0][key] for key in ("request_id", "client", "model")} == {
        "request_id": "r1",
        "client": "door",
        "model": "dlib",
    }


@pytest.mark.parametrize(
    ("first", "second", "error", "says"),
    [
        (b"nobody", b"her", NoFaceFound, "file1: "),
        (b"her", b"nobody", NoFaceFound, "file2: "),
        (b"her", b"two", SeveralFaces, "file2: "),
        (b"junk", b"nobody", InvalidImage, "file1: "),
        (b"her", b"busy", PoolBusy, "^full$"),
        (b"her", b"other model", ContractMismatch, "changed its model"),
    ],
)
def test_an_error_names_the_picture_that_is_to_blame(pool, packs, first, second, error, says):
    with pytest.raises(error, match=says):
        verify(pool, packs, first, second)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("verify")]
