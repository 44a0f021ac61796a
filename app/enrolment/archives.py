"""Files out of a zip that may be hostile: nothing is written anywhere, and what is read is counted, not believed."""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from app.errors import FacedexError, ImportTooLarge, InvalidArchive, UnreadableFile

_CHUNK_BYTES: Final = 1 << 16
# The directory is read into memory: 46 bytes an entry and its name, comment and extra fields.
_DIRECTORY_BYTES_A_FILE: Final = 512
_DIRECTORY_SPARE_BYTES: Final = 65_536
_UTF8_FLAG: Final = 0x800
_ENCRYPTED_FLAG: Final = 0x1
# Of these, reading a little unpacks a little. Of others, `zipfile` unpacks at once whatever 64 KiB may become: gigabytes.
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_MAGICS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the zip: `data`, cut to one byte over the longest that is taken, or why there is none."""

    name: str
    data: bytes = b""
    error: FacedexError | None = None


class Archive:
    """A zip.

    Args:
        file: seekable.
        max_files: the most entries, folders included.
        max_bytes: the most bytes of all files together, unpacked.
        max_file_bytes: the longest file that is taken whole.

    Raises:
        InvalidArchive: it is none, or its directory is damaged.
        ImportTooLarge: more entries.
    """

    def __init__(self, file: IO[bytes], *, max_files: int, max_bytes: int, max_file_bytes: int) -> None:
        self._left = max_bytes
        self._max_file_bytes = max_file_bytes
        try:
            _check_directory(file, max_files)
            self._zip = zipfile.ZipFile(file)
        except _BROKEN:
            raise InvalidArchive("The upload is no zip, or a damaged one.") from None
        except MemoryError:
            raise ImportTooLarge("There is not enough memory to read the zip.") from None
        # As many folders as files are no harm.
        if len(self._zip.infolist()) > 2 * max_files or sum(not i.is_dir() for i in self._zip.infolist()) > max_files:
            raise _too_many(max_files)

    @property
    def names(self) -> list[str]:
        """The names of all entries, in their order."""
        return [_name(info) for info in self._zip.infolist()]

    def read(self, number: int) -> Member:
        """The file of that number among `names`.

        Raises:
            ImportTooLarge: this and the files that were read before are more bytes together than are taken, or than there is
                memory for.
        """
        info = self._zip.infolist()[number]
        name = _name(info)
        if (kind := stat.S_IFMT(info.external_attr >> 16)) and not stat.S_ISREG(kind):
            return Member(name, error=UnreadableFile("The file is a link or something else that is no ordinary file."))
        if info.flag_bits & _ENCRYPTED_FLAG:
            return Member(name, error=UnreadableFile("The file is encrypted."))
        if info.compress_type not in _METHODS:
            return Member(name, error=UnreadableFile("The file is packed in another way than deflated."))
        try:
            return Member(name, b"".join(self._chunks(info)))
        except _BROKEN:
            return Member(name, error=UnreadableFile("The file is damaged, or packed in a way that is not known."))
        except MemoryError:
            raise ImportTooLarge("There is not enough memory to unpack the zip.") from None

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        wanted = self._max_file_bytes + 1
        with self._zip.open(info) as stream:
            while wanted > 0 and (chunk := stream.read(min(_CHUNK_BYTES, wanted))):
                wanted -= len(chunk)
                self._left -= len(chunk)
                if self._left < 0:
                    raise ImportTooLarge("The files of the zip are longer together than MAX_IMPORT_BYTES.")
                yield chunk


def is_zip(head: bytes) -> bool:
    """Whether a file begins as a zip does."""
    return head.startswith(_MAGICS)


def _too_many(max_files: int) -> ImportTooLarge:
    return ImportTooLarge(f"The import has more than {max_files} files.")


def _check_directory(file: IO[bytes], max_files: int) -> None:
    """Before it is read: a few bytes an entry become an object of hundreds."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # as `ZipFile` finds it, so that no other is looked at
    if end is None:
        raise zipfile.BadZipFile
    if end[zipfile._ECD_SIZE] > max_files * _DIRECTORY_BYTES_A_FILE + _DIRECTORY_SPARE_BYTES:  # type: ignore[attr-defined]
        raise _too_many(max_files)


def _name(info: zipfile.ZipInfo) -> str:
    """With what stands behind a NUL, and in UTF-8 where it is that without saying so, as most are."""
    name = info.orig_filename
    if info.flag_bits & _UTF8_FLAG:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name
