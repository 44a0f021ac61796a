"""`python -m app.embedder`, as somebody types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.embedder.service import EmbeddingService
from tests import pictures
from tests.packs import SCRFD_NAME, install_scrfd

ROOT = Path(__file__).resolve().parents[2]


def embedder(*arguments: object, storage: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.embedder", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"STORAGE_DIR": str(storage)} | env,
        capture_output=True,
        text=True,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"error"}
    return told["error"]


def test_one_file_is_one_json_document(settings):
    done = embedder(pictures.group_photo(), storage=settings.storage_dir)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["image"], told["model"], told["dimension"]) == ({"width": 1280, "height": 886}, "dlib", 128)
    assert told["contract"].startswith("dlib-chip-150-0.25:128:")
    assert set(told["timings_ms"]) == {"decode", "detect", "embed"}
    assert len(told["faces"]) == 6
    for face in told["faces"]:
        assert set(face) == {"box", "landmarks", "detection_score", "size_px", "sharpness", "embedding"}
        assert np.asarray(face["landmarks"]).shape == (5, 2)
    local = EmbeddingService.in_process(settings=settings).generate_embedding(pictures.group_photo())
    assert told["faces"][0]["embedding"] == local.tolist()


def test_a_picture_without_faces_is_no_error(settings, tmp_path):
    (tmp_path / "nothing.jpg").write_bytes(pictures.faceless())
    done = embedder(tmp_path / "nothing.jpg", "--model", "dlib", storage=settings.storage_dir)
    assert (done.returncode, json.loads(done.stdout)["faces"]) == (0, [])


def test_another_pack_by_name(tmp_path):
    (tmp_path / "models").mkdir()
    install_scrfd(tmp_path / "models")
    done = embedder(pictures.group_photo(), "--model", SCRFD_NAME, storage=tmp_path)
    assert json.loads(done.stdout)["model"] == SCRFD_NAME


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["/nowhere/photo.jpg"], "file_not_found", "'photo.jpg'"),
        ([ROOT], "file_not_found", "ordinary file"),
        ([__file__], "invalid_image", "not a picture"),
        ([pictures.portrait(), "--model", "nope"], "unknown_model", "installed: dlib"),
        ([pictures.portrait(), "--model", "../dlib"], "unknown_model", "installed: dlib"),
        ([], "invalid_request", "PHOTO"),
        (["a.jpg", "b.jpg"], "invalid_request", "b.jpg"),
        (["a.jpg", "--modell"], "invalid_request", "--help"),
    ],
)
def test_an_error_is_typed(settings, arguments, code, says):
    error = error_of(embedder(*arguments, storage=settings.storage_dir))
    assert error["code"] == code
    assert says in error["message"]


def test_without_a_prepared_pack_it_says_how_to_get_one(tmp_path):
    error = error_of(embedder(pictures.portrait(), storage=tmp_path / "new"))
    assert error["code"] == "unknown_model"
    assert "scripts/serve" in error["message"]
    assert not (tmp_path / "new").exists()


def test_wrong_settings_are_an_error(tmp_path):
    error = error_of(embedder(pictures.portrait(), storage=tmp_path, MAX_IMAGE_PIXELS="many"))
    assert error["code"] == "invalid_settings"
    assert "MAX_IMAGE_PIXELS" in error["message"]


def test_help_is_help(tmp_path):
    done = embedder("--help", storage=tmp_path)
    assert done.returncode == 0
    assert "--model NAME" in done.stdout
