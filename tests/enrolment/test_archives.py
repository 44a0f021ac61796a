"""Zips that are made to harm whoever unpacks them."""

import io
import tracemalloc
import zipfile

import pytest

from app.enrolment.archives import Archive
from app.errors import ImportTooLarge, UnreadableFile

MIB = 1024 * 1024


def archive_of(data: bytes, method: int, *, max_bytes: int = 2 * MIB) -> Archive:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as file:
        file.writestr("Ana/1.jpg", data)
    return Archive(packed, max_files=10, max_bytes=max_bytes, max_file_bytes=MIB)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_would_be_unpacked_at_once_is_not_unpacked(method: int) -> None:
    archive = archive_of(bytes(64 * MIB), method)
    tracemalloc.start()
    try:
        member = archive.read(0)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(member.error, UnreadableFile)
    assert member.data == b""
    assert most < MIB


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_usual_ways_of_packing_are_read_as_far_as_is_taken(method: int) -> None:
    assert archive_of(b"picture", method).read(0).data == b"picture"
    assert len(archive_of(bytes(64 * MIB), method).read(0).data) == MIB + 1
    with pytest.raises(ImportTooLarge):
        archive_of(bytes(64 * MIB), method, max_bytes=MIB // 2).read(0)


def test_where_memory_runs_out_the_import_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    archive = archive_of(b"picture", zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    with pytest.raises(ImportTooLarge):
        archive.read(0)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", fail)
    with pytest.raises(ImportTooLarge):
        Archive(empty, max_files=10, max_bytes=MIB, max_file_bytes=MIB)
