"""Taking the files of a pack out of a folder or a zip archive that may be hostile."""

import lzma
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from app.errors import InvalidPack
from app.vision.packs import MANIFEST_NAME, is_file_name

UNPACKED_MAX_BYTES = 4 * 1024**3
_MAX_ENTRIES = 1000
# Weights hardly compress: far more than this is a bomb.
_MAX_RATIO = 50
_RATIO_FROM_BYTES = 16 * 1024**2
_SUFFIXES = (".onnx", ".dat")


def collect(source: Path, target: Path) -> None:
    """Copy the manifest and the model files of a folder or a zip archive into an existing folder, without subfolders.

    Raises:
        InvalidPack: the source is neither, is damaged, names files outside itself, or is too large unpacked.
    """
    if source.is_dir():
        _from_folder(source, target)
        return
    try:
        with zipfile.ZipFile(source) as archive:
            _from_archive(archive, target)
    except (
        OSError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        # RuntimeError: an encrypted entry, or a compression that is not known.
        raise InvalidPack(f"{source.name} is neither a folder nor a readable zip archive") from error


def _wanted(name: str) -> bool:
    return name == MANIFEST_NAME or (name.endswith(_SUFFIXES) and is_file_name(name))


def _from_folder(source: Path, target: Path) -> None:
    try:
        for path in sorted(source.iterdir()):
            if _wanted(path.name) and path.is_file():
                shutil.copyfile(path, target / path.name)
    except OSError as error:
        raise InvalidPack(f"The folder {source.name} cannot be read") from error


def _from_archive(archive: zipfile.ZipFile, target: Path) -> None:
    entries = archive.infolist()
    _check_entries(entries)
    for entry in entries:
        name = PurePosixPath(entry.filename).name
        if entry.is_dir() or not _wanted(name):
            continue
        if (target / name).exists():
            raise InvalidPack(f"The archive holds two files named {name}")
        # zipfile stops at the size that the entry announces, and checks its CRC.
        with archive.open(entry) as reader, (target / name).open("wb") as writer:
            shutil.copyfileobj(reader, writer)


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > _MAX_ENTRIES:
        raise InvalidPack(f"The archive holds more than {_MAX_ENTRIES} files")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise InvalidPack("The archive names a file outside itself")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise InvalidPack("The archive holds a symbolic link")
    unpacked, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if unpacked > UNPACKED_MAX_BYTES or unpacked > max(_RATIO_FROM_BYTES, packed * _MAX_RATIO):
        raise InvalidPack(f"The archive would unpack to {unpacked} bytes")
