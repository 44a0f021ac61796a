import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.models import models
from app.config import load_settings
from app.vision.packs import PackStore
from tests.packs import SCRFD_NAME, scrfd_folder


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("STORAGE_DIR", str(tmp_path))
    monkeypatch.delenv("FACE_MODEL", raising=False)
    load_settings.cache_clear()
    yield tmp_path / "models"
    load_settings.cache_clear()


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(models, arguments)


def _listed() -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads(_run("list", "--json").stdout)}


def test_list_before_anything_is_installed(models_dir: Path) -> None:
    listed = _listed()

    assert listed["dlib"] == listed["dlib"] | {"state": "available", "active": True, "dimension": 128}
    assert listed["buffalo_l"] == listed["buffalo_l"] | {"state": "available", "active": False, "non_commercial": True}
    assert not models_dir.exists()


def test_install_verify_and_use(models_dir: Path) -> None:
    installed = _run("install", "dlib")
    assert installed.exit_code == 0, installed.output
    assert "embedder.onnx" in installed.output

    assert _run("verify", "dlib").output == "ok     dlib\n"
    used = _run("use", "dlib")
    assert "next start" in used.output
    assert "dlib-chip-150-0.25:128:" in used.output
    assert _listed()["dlib"]["state"] == "installed"
    assert PackStore(models_dir).active_name() == "dlib"


def test_install_from_a_folder_asks_for_the_licence_first(models_dir: Path) -> None:
    arguments = ("install", SCRFD_NAME, "--from", str(scrfd_folder()), "--license", "for tests", "--threshold", "0.6")

    refused = _run(*arguments)
    assert refused.exit_code == 1
    assert "for tests" in refused.output
    assert "--accept-license" in refused.output

    assert _run(*arguments, "--accept-license").exit_code == 0
    assert _run("use", SCRFD_NAME).exit_code == 0
    row = _listed()[SCRFD_NAME]
    assert (row["active"], row["state"], row["threshold"]) == (True, "installed", 0.6)


def test_damage_is_found_and_shown(models_dir: Path) -> None:
    _run("install", "dlib")
    (models_dir / "dlib" / "embedder.onnx").write_bytes(b"damaged")

    verified = _run("verify")

    assert verified.exit_code == 1
    assert "WRONG  dlib" in verified.output
    assert _run("use", "dlib").exit_code == 1


def test_broken_manifest_is_listed_as_broken(models_dir: Path) -> None:
    _run("install", "dlib")
    (models_dir / "dlib" / "manifest.json").write_text("{}")

    assert _listed()["dlib"]["state"] == "broken"
    assert "broken" in _run("list").output


@pytest.mark.parametrize(
    "arguments",
    [("use", "nobody"), ("verify", "nobody"), ("install", "nobody"), ("install", "../x"), ("install", "buffalo_l")],
)
def test_errors_are_one_line_and_exit_1(models_dir: Path, arguments: tuple[str, ...]) -> None:
    result = _run(*arguments)

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert len(result.output.splitlines()) == 1
    assert str(models_dir) not in result.output


def test_use_says_that_a_setting_goes_before(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run("install", "dlib")
    monkeypatch.setenv("FACE_MODEL", "other")
    load_settings.cache_clear()

    assert "FACE_MODEL=other" in _run("use", "dlib").output
