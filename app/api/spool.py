"""The files of one long request, all in one temporary file without a name: none of them in memory, however many there are."""

import io
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from app.errors import ImportTooLarge, StorageError

# Around the files: names, boundaries, a few fields.
_EXTRA_BYTES_A_FILE = 1500
_EXTRA_FILES = 100


class _Part(io.RawIOBase):
    """One file: what is written while no other is, then read like a file of its own."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._start = os.lseek(descriptor, 0, os.SEEK_END)
        self._size = self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, self._start + self._size)
            self._size += written
            left = left[written:]
        self._position = self._size
        return len(data)

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        data = os.pread(self._descriptor, max(0, wanted), self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("before the beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


@contextmanager
def spooled(request: Request, *, max_files: int, max_bytes: int, folder: Path) -> Generator[None]:
    """In the block, the request's files lie in a temporary file of that folder, which has no name and goes with the block.

    To be entered before anything of the request's body is read.

    Raises:
        ImportTooLarge: the body has more files or bytes.
        StorageError: the disk is full, or the folder refuses.
    """
    request.max_content_length = max_bytes + (max_files + _EXTRA_FILES) * _EXTRA_BYTES_A_FILE
    request.max_form_parts = max_files + _EXTRA_FILES
    with _refusals(), tempfile.TemporaryFile(dir=folder, buffering=0) as file:

        def part(*_args: object, **_kwargs: object) -> io.RawIOBase:
            return _Part(file.fileno())

        request._get_file_stream = part  # type: ignore[method-assign, assignment]
        try:
            request.files  # noqa: B018 -- reads the body
        except RequestEntityTooLarge:
            raise ImportTooLarge(f"At most {max_files} files, of {max_bytes} bytes together, are taken.") from None
        yield


@contextmanager
def _refusals() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise StorageError(f"The storage folder refuses: {error.strerror}.") from error
