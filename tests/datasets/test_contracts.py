"""Which datasets fit which packs."""

from pathlib import Path

import pytest

from app.datasets.contracts import deepface_model, fits_contract
from app.datasets.labels import export_identity, label_of
from app.datasets.names import deepface_file_name, model_and_detector
from tests import packs


@pytest.fixture(scope="module")
def dlib_contract(tmp_path_factory: pytest.TempPathFactory) -> str:
    return packs.install_dlib(tmp_path_factory.mktemp("models")).manifest.contract.id


def test_deepfaces_dlib_is_the_installed_dlib_pack(dlib_contract: str) -> None:
    assert deepface_model(dlib_contract) == "dlib"
    assert fits_contract("dlib", dlib_contract)


@pytest.mark.parametrize("model", ["arcface", "facenet512", "vgg-face", "unknown", "", "Dlib", "dlib-chip-150-0.25"])
def test_no_other_model_fits_the_dlib_pack(model: str, dlib_contract: str) -> None:
    assert not fits_contract(model, dlib_contract)


def test_deepfaces_arcface_fits_no_arcface_pack(tmp_path: Path) -> None:
    contract = packs.install_scrfd(tmp_path).manifest.contract.id
    assert not fits_contract("arcface", contract)
    assert fits_contract(deepface_model(contract), contract)


def test_a_contract_without_a_name_at_deepface_names_itself_in_a_file_name() -> None:
    named = deepface_model("arcface-112:512:b7120c095d60094f")
    assert named == "facedexarcface112512b7120c095d60094f"
    for form in ("pkl", "npz"):
        assert model_and_detector(deepface_file_name(named, "skip", form=form)) == (named, "skip")
    assert not fits_contract(named, "arcface-112:512:0000000000000000")


@pytest.mark.parametrize(
    "label", ["Alice", "a/b", "a\\b", "100 %", "%2F", ".", "..", "Škoda 😀", "room 12", "facedex-export", "x" * 200]
)
def test_any_label_comes_back_from_the_path_that_an_export_gives_it(label: str) -> None:
    assert label_of(export_identity(label, "1.jpg"), None) == label
    # Whatever folder is held to be everybody's: a domain of one person has one folder only.
    assert label_of(export_identity(label, "1.jpg"), export_identity(label, "")[:-1]) == label
