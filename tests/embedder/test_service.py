"""The Python service: in this process over the real pack, and through a running service's pool."""

import os
from pathlib import Path

import numpy as np
import pytest
import structlog

from app.config import parse_settings
from app.embedder.service import EmbeddingService
from app.errors import (
    EmbedderUnavailable,
    EmptyUpload,
    FileNotFound,
    ImageTooLarge,
    InvalidImage,
    ModelUnavailable,
    NoFaceFound,
    PoolBusy,
    UnknownModel,
    UploadTooLarge,
    WorkerCrashed,
    WorkerTimeout,
)
from app.vision.faces import Analysis, Box, Face, FaceQuality
from tests import pictures
from tests.packs import SCRFD_NAME, install_scrfd


@pytest.fixture(scope="module")
def local(settings) -> EmbeddingService:
    return EmbeddingService.in_process(settings=settings)


@pytest.fixture(scope="module")
def pooled(service) -> EmbeddingService:
    return EmbeddingService(settings=parse_settings(storage_dir=service.storage))


@pytest.fixture(params=["local", pytest.param("pooled", marks=pytest.mark.service)])
def either(request) -> EmbeddingService:
    return request.getfixturevalue(request.param)


def test_paths_and_bytes_give_one_unit_vector(either):
    path = pictures.portrait()
    made = [either.generate_embedding(image) for image in (path, str(path), path.read_bytes())]
    assert made[0].shape == (128,)
    assert made[0].dtype == np.float32
    assert float(np.linalg.norm(made[0])) == pytest.approx(1.0, abs=1e-6)
    assert all(np.array_equal(made[0], other) for other in made[1:])


@pytest.mark.service
def test_the_pool_and_this_process_agree_to_the_last_bit(local, pooled):
    photo = pictures.group_photo()
    assert np.array_equal(local.generate_embedding(photo), pooled.generate_embedding(photo))


def test_a_bad_picture_is_none_at_its_place_and_the_rest_succeed(either, tmp_path):
    good = pictures.portrait()
    images = [good, b"not a picture", tmp_path / "missing.jpg", good.read_bytes(), pictures.faceless(), b"", str(good)]
    with structlog.testing.capture_logs() as lines:
        made = either.generate_embeddings_batch(images)
    expected = either.generate_embedding(good)
    assert [vector is not None for vector in made] == [True, False, False, True, False, False, True]
    assert all(np.array_equal(vector, expected) for vector in made if vector is not None)
    warned = {line["index"]: line["event"] for line in lines if line["log_level"] == "warning"}
    assert {n: event.split(": ")[1] for n, event in warned.items()} == {
        1: "invalid_image",
        2: "file_not_found",
        4: "no_face",
        5: "empty_upload",
    }
    assert len([line for line in lines if line["event"].startswith("[EMBED] 1 faces in ")]) == 3


def test_no_pictures_are_no_embeddings(either):
    assert either.generate_embeddings_batch([]) == []


def test_two_photos_of_one_person_are_more_alike_than_those_of_two(either):
    (a1, a2, *_), (b1, *_) = list(pictures.lfw10().values())[:2]
    one, other, stranger = (either.generate_embedding(photo) for photo in (a1, a2, b1))
    same, different = either.calculate_similarity(one, other), either.calculate_similarity(one, stranger)
    assert same > 1 - 0.07 > different
    assert either.cosine_similarity_np([one, other], stranger).shape == (2,)


def test_each_failure_has_a_type(either, tmp_path):
    folder, pipe, private = tmp_path / "folder", tmp_path / "pipe", tmp_path / "x" / "secret.jpg"
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (folder, pipe, private, "a\0b", "", "x" * 5000):
        with pytest.raises(FileNotFound) as caught:
            either.generate_embedding(path)
        assert str(tmp_path) not in str(caught.value)
    for image, error in (
        (b"text", InvalidImage),
        (pictures.huge_png(), ImageTooLarge),
        (pictures.faceless(), NoFaceFound),
        (b"", EmptyUpload),
    ):
        with pytest.raises(error):
            either.generate_embedding(image)


def test_a_file_that_is_too_long_is_not_read_to_its_end(local, settings, tmp_path):
    path = tmp_path / "long.jpg"
    with path.open("wb") as stream:
        stream.truncate(settings.max_upload_bytes + 1)
    with pytest.raises(UploadTooLarge):
        local.generate_embedding(path)


def test_an_unknown_model_names_those_that_exist(settings, tmp_path):
    with pytest.raises(UnknownModel, match="'nope' is installed; installed: dlib"):
        EmbeddingService.in_process("nope", settings=settings)
    with pytest.raises(UnknownModel, match=r"scripts/serve once, or run .* models install"):
        EmbeddingService.in_process(settings=parse_settings(storage_dir=tmp_path))


@pytest.mark.service
def test_the_pool_names_the_models_that_it_has(service):
    settings = parse_settings(storage_dir=service.storage)
    assert EmbeddingService("dlib", settings=settings).generate_embedding(pictures.portrait()).shape == (128,)
    unknown = EmbeddingService("nope", settings=settings)
    with pytest.raises(UnknownModel, match="loaded: dlib"):
        unknown.generate_embedding(pictures.portrait())
    with pytest.raises(UnknownModel):
        unknown.generate_embeddings_batch([pictures.portrait()])


def test_a_model_is_chosen_by_name(tmp_path):
    settings = parse_settings(storage_dir=tmp_path)
    settings.models_dir.mkdir()
    install_scrfd(settings.models_dir)
    (photo, *_), (stranger, *_) = list(pictures.lfw10().values())[:2]
    service = EmbeddingService.in_process(SCRFD_NAME, settings=settings)
    assert service.calculate_similarity(*(service.generate_embedding(each) for each in (photo, stranger))) < 0.4


def test_a_pool_that_is_away_is_no_pictures_fault(tmp_path):
    service = EmbeddingService(settings=parse_settings(storage_dir=tmp_path))
    with pytest.raises(EmbedderUnavailable):
        service.generate_embedding(pictures.portrait())
    with pytest.raises(EmbedderUnavailable):
        service.generate_embeddings_batch([b"text", pictures.portrait()])


class MadeUp:
    """A pool whose answer a picture names."""

    errors = (PoolBusy, ModelUnavailable, WorkerCrashed, WorkerTimeout)

    def analyze(self, image, *, deadline, embed):
        for error in self.errors:
            if image == error.code.encode():
                raise error("made up")
        face = Face(Box(0, 0, 9, 9), 1.0, np.zeros((5, 2), np.float32), FaceQuality(9, 1.0), np.ones(1, np.float32))
        return Analysis(9, 9, (face,), "made-up", "made-up:1:0")


@pytest.mark.parametrize("error", [PoolBusy, ModelUnavailable])
def test_what_is_no_pictures_fault_is_raised(error):
    service = EmbeddingService(settings=parse_settings(request_deadline_s=0.2), analyzer=MadeUp())
    with pytest.raises(error):
        service.generate_embeddings_batch([b"fine", error.code.encode(), b"fine"])


@pytest.mark.parametrize("error", [WorkerCrashed, WorkerTimeout])
def test_what_befell_one_picture_alone_is_a_none(error):
    service = EmbeddingService(settings=parse_settings(), analyzer=MadeUp())
    made = service.generate_embeddings_batch([b"fine", error.code.encode(), b"fine"])
    assert [vector is not None for vector in made] == [True, False, True]


def test_importing_it_loads_no_model_runtime():
    import subprocess
    import sys

    program = (
        "import sys, app.embedder.service, app.embedder.local\n"
        "print([name for name in ('cv2', 'onnxruntime', 'dlib', 'insightface', 'flask') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
