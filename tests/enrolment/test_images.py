"""Stored pictures: whole or not at all, under ids, for nobody else on the machine."""

import io
import stat
from pathlib import Path
from uuid import uuid4

import pytest
from PIL import Image

from app.enrolment.images import ImageStore, content_type, suffix
from app.errors import PictureNotStored
from tests.pictures import encode


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", enabled=True)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_picture_comes_back_byte_for_byte_from_a_private_place(store: ImageStore, tmp_path: Path) -> None:
    domain, person, face = uuid4(), uuid4(), uuid4()
    with store.staged(domain, b"picture") as picture:
        picture.place(person, face)
    path = store.find(domain, person, face)
    assert path == tmp_path / "images" / str(domain) / str(person) / str(face)
    assert path.read_bytes() == b"picture"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_the_setting_nothing_is_written(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images", enabled=False)
    with store.staged(uuid4(), b"picture") as picture:
        picture.place(uuid4(), uuid4())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("placed", [True, False])
def test_what_fails_leaves_nothing(store: ImageStore, tmp_path: Path, placed: bool) -> None:
    def fail() -> None:
        with store.staged(uuid4(), b"picture") as picture:
            if placed:
                picture.place(uuid4(), uuid4())
            raise RuntimeError("the commit failed")

    with pytest.raises(RuntimeError, match="commit"):
        fail()
    assert files(tmp_path) == []


def test_what_is_discarded_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    with store.staged(uuid4(), b"picture") as picture:
        picture.discard()
        assert picture.path is None
    assert files(tmp_path) == []


def test_a_folder_that_refuses_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file in its place")
    with pytest.raises(PictureNotStored), ImageStore(tmp_path / "images", enabled=True).staged(uuid4(), b"picture"):
        pass


def test_removing_counts_and_may_be_repeated(store: ImageStore, tmp_path: Path) -> None:
    domain, persons = uuid4(), (uuid4(), uuid4())
    for person in (*persons, *persons):
        with store.staged(domain, b"picture") as picture:
            picture.place(person, uuid4())
    assert store.has_any(domain, persons[0])
    assert [store.remove_person(domain, persons[0]) for _ in range(2)] == [2, 0]
    assert not store.has_any(domain, persons[0])
    assert [store.remove_domain(domain) for _ in range(2)] == [2, 0]
    assert files(tmp_path) == []


def test_a_merge_moves_them(store: ImageStore) -> None:
    domain, source, target, face = uuid4(), uuid4(), uuid4(), uuid4()
    with store.staged(domain, b"picture") as picture:
        picture.place(source, face)
    for _ in range(2):
        store.move_person(domain, source, target)
    assert store.find(domain, source, face) is None
    assert store.find(domain, target, face) is not None
    assert not store.has_any(domain, source)


@pytest.mark.parametrize(
    ("format_", "type_", "ending"),
    [
        ("JPEG", "image/jpeg", ".jpg"),
        ("PNG", "image/png", ".png"),
        ("WEBP", "image/webp", ".webp"),
        ("BMP", "image/bmp", ".bmp"),
        ("GIF", "application/octet-stream", ".bin"),
    ],
)
def test_the_type_is_that_of_the_content(tmp_path: Path, format_: str, type_: str, ending: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encode(Image.new("RGB", (8, 8)), format_))
    assert (content_type(path), suffix(path)) == (type_, ending)
    assert Image.open(io.BytesIO(path.read_bytes())).format == format_
