"""The snapshot in its file: read when it has changed, written under a lock, in one step."""

import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final, Generic, TypeVar

import structlog

from app.config import Settings
from app.errors import SnapshotBusy
from app.keys.files import locked, replace_with
from app.keys.snapshot import Head, InvalidSnapshot, Snapshot, read_head, read_snapshot, write_snapshot

log = structlog.stdlib.get_logger("facedex.keys")

_KEY_BYTES: Final = 32
_Stamp = tuple[int, int, int]
T = TypeVar("T")


@dataclass(slots=True)
class _Kept(Generic[T]):
    """What was read from the file, and which one that was."""

    read: Callable[[BinaryIO, bytes], T]
    known: tuple[_Stamp, T | None] | None = None


class SnapshotFile:
    """One installation's snapshot. Any process of it may read and write it."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.keys_snapshot_file
        self._key_path = settings.keys_snapshot_key_file
        self._lock_path = self._path.with_name(f".{self._path.name}.lock")
        self._head = _Kept(read_head)
        self._whole = _Kept(read_snapshot)

    def head(self) -> Head | None:
        """What is in the file beside the keys, however old; None as of `current`. Costs little, however many keys there are."""
        return self._read(self._head)

    def current(self) -> Snapshot | None:
        """What is in the file, however old; None where there is none, or none that this installation has signed."""
        return self._read(self._whole)

    @contextmanager
    def exclusive(self, wait_s: float) -> Generator[None]:
        """Nobody else writes it in the block: who asks the database in there writes nothing older than what is in the file.

        Raises:
            SnapshotBusy: somebody else has been writing it for so long.
        """
        with locked(self._lock_path, wait_s) as free:
            if not free:
                raise SnapshotBusy("Another process is writing the snapshot of the keys.")
            yield

    def write(self, snapshot: Snapshot) -> None:
        """Put this one in the place of what is there; to be called in `exclusive`."""
        replace_with(self._path, write_snapshot(snapshot, self._signing_key_made()))

    def _read(self, part: "_Kept[T]") -> T | None:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            known = part.known
            if known is None or known[0] != stamp:
                known = part.known = (stamp, self._checked(part.read))
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error(f"[KEYS] The snapshot of the keys cannot be read: {error.strerror}")
            return None
        return known[1]

    def _checked(self, read: Callable[[BinaryIO, bytes], T]) -> T | None:
        try:
            with self._path.open("rb") as lines:
                return read(lines, self._signing_key())
        except InvalidSnapshot as error:
            log.error(f"[KEYS] {error} It is not used.")
            return None

    def _signing_key_made(self) -> bytes:
        try:
            return self._signing_key()
        except (FileNotFoundError, InvalidSnapshot):
            replace_with(self._key_path, secrets.token_hex(_KEY_BYTES).encode() + b"\n")
            return self._signing_key()

    def _signing_key(self) -> bytes:
        key = self._key_path.read_bytes().strip()
        if len(key) < _KEY_BYTES:
            raise InvalidSnapshot("The key that signs the snapshot of the keys is missing from its file.")
        return key
