"""The members in a local file, so that a restart needs neither the network nor a full fetch."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from app.edge.errors import CacheUnusable, MalformedMembers
from app.edge.members import Float32Array, GalleryDelta, Member
from app.edge.rows import Rows1D
from app.edge.snapshot import Snapshot
from app.edge.sources.paging import Pages
from app.gallery_pages import Header, MalformedPage, PageMember, decode, encode

# Templates that are written at once: what saving needs of memory is bounded.
_BLOCK: Final = 4_096
# How far a file may seem to come from the future: a small machine without a battery believes, after the power was cut, that it
# is as late as when it last noted the time.
_AHEAD_S: Final = 86_400.0
# A million templates of 512 numbers; a file with more has not been saved here.
_MAX_BYTES: Final = 2 * 1024 * 1024 * 1024
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class CacheFile:
    """One file, readable by its owner alone: it holds faces. It is for one thread at a time.

    Args:
        path: the file; its folder has to be there.
        source: `Source.name`: what another source has told is not used.
        contract, dimension: of the gallery.
        max_age_s: how long what was right once may be used.
    """

    def __init__(self, path: Path, *, source: str, contract: str, dimension: int, max_age_s: float) -> None:
        self.path = path
        self.max_age_s = max_age_s
        self._source = source
        self._contract = contract
        self._dimension = dimension

    def load(self, now: float) -> tuple[GalleryDelta, float]:
        """What was saved, as a full change, and when it was last known to be right: Unix seconds.

        Args:
            now: Unix seconds.

        Raises:
            CacheUnusable: missing, others' to write, damaged, of another source or model, too old; the message says which.
        """
        try:
            header, templates = decode(_read(self.path))
        except FileNotFoundError:
            raise CacheUnusable(f"There is no cache file {self.path} yet.") from None
        except OSError as error:
            raise CacheUnusable(f"The cache file {self.path} cannot be read: {error.strerror}.") from None
        except MalformedPage as error:
            raise CacheUnusable(f"The cache file {self.path} is damaged. {error}") from None
        self._check(header, now)
        pages = Pages()
        try:
            pages.add(header, templates)
        except MalformedMembers as error:
            raise CacheUnusable(f"The cache file {self.path} is damaged. {error}") from None
        return pages.delta(), header.saved_at or 0.0

    def delete(self) -> None:
        """Remove the file, where there is one.

        Raises:
            OSError: it is still there.
        """
        self.path.unlink(missing_ok=True)

    def save(self, snapshot: Snapshot, version: str, at: float) -> None:
        """Replace the file by what the gallery has: whenever the power fails, either the old one is there or the new one.

        Args:
            version: of the source's, that the snapshot is of.
            at: when it was last known to be right, Unix seconds.

        Raises:
            OSError: the old file is as it was.
        """
        everybody = list(snapshot.members())
        order = np.concatenate([np.empty(0, np.intp), *(rows for _, rows in everybody)])
        header = Header(
            source=self._source,
            contract=snapshot.contract,
            dimension=snapshot.dimension,
            version=version,
            full=True,
            more=False,
            members=tuple(_told(member, len(rows)) for member, rows in everybody),
            removed=(),
            saved_at=at,
        )
        # Beside it, since a rename is atomic only within one file system; `mkstemp` makes it for its owner alone.
        number, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(number, "wb") as file:
                file.writelines(encode(header, _blocks(snapshot, order)))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _check(self, header: Header, now: float) -> None:
        if header.source != self._source:
            raise CacheUnusable(f"The cache file {self.path} holds members of another source.")
        if (header.contract, header.dimension) != (self._contract, self._dimension):
            raise CacheUnusable(f"The cache file {self.path} is of another model: {header.contract}.")
        if not header.full or header.more or header.saved_at is None:
            raise CacheUnusable(f"The cache file {self.path} is none that this controller has saved.")
        age_s = now - header.saved_at
        if age_s > self.max_age_s:
            raise CacheUnusable(f"The cache file {self.path} is {age_s:.0f} s old; {self.max_age_s:.0f} s are allowed.")
        if age_s < -_AHEAD_S:
            raise CacheUnusable(f"The cache file {self.path} is from the future: the clock of this machine is wrong.")


def _read(path: Path) -> bytes:
    """The file, if nobody but this user and root can have written it: it says who may open doors.

    Raises:
        OSError: it cannot be read; a link is not followed.
        CacheUnusable: others may have written it, or it is too large.
    """
    folder = path.parent.stat()
    if folder.st_uid not in (0, os.geteuid()) or (folder.st_mode & _OTHERS_WRITE and not folder.st_mode & stat.S_ISVTX):
        raise CacheUnusable(f"The cache file {path} is not used: others may write in its folder.")
    # Without waiting: a pipe there must not keep the start.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
            raise CacheUnusable(f"The cache file {path} is not used: it is no file that this user alone can write.")
        if found.st_size > _MAX_BYTES:
            raise CacheUnusable(f"The cache file {path} is not used: it has {found.st_size} bytes.")
        return file.read(_MAX_BYTES)


def _told(member: Member, templates: int) -> PageMember:
    locks = tuple(sorted(member.locks))
    return PageMember(member.key, member.name, member.valid_from, member.valid_until, locks, False, templates)


def _blocks(snapshot: Snapshot, order: Rows1D) -> Iterator[Float32Array]:
    """The templates as they came, of the lengths that they had."""
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        yield snapshot.columns.matrix[rows].astype(np.float32) * snapshot.columns.norms[rows, None]
