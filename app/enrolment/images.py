"""Pictures that were enrolled, kept where STORE_IMAGES says so: `storage/images/<domain's uid>/<person's id>/<face's id>`.

Ids only: neither names nor what a client called the file. A file is whole before the template's transaction commits, and
removed where that fails; what a crash leaves in between is swept later.

Beside a picture may lie the small one that was made of it, `<face's id>.thumbnail`: it moves and goes with the picture.
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Uuid, any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.db.domains import lock_domain
from app.db.models import Domain, FaceEmbedding
from app.errors import PictureNotStored
from app.names import as_uuid
from app.vision.formats import HEAD_BYTES, media_type, suffix_of

log = structlog.stdlib.get_logger("facedex.enrolment")

_PART: Final = ".part-"
# A file without a template is left alone for so long: its transaction may not have committed yet.
_UNCOMMITTED_S: Final = 900.0
_THUMBNAIL: Final = ".thumbnail"
# So often a folder is emptied into which others go on writing.
_REMOVALS: Final = 5


class PlacedPicture:
    """A picture on its way into the store, within `ImageStore.staged`."""

    def __init__(self, part: Path | None) -> None:
        self._part = part
        self.path: Path | None = part

    def discard(self) -> None:
        """It is not needed."""
        if self._part is not None:
            self._part.unlink(missing_ok=True)
            self._part = self.path = None

    def place(self, person_id: UUID, face_id: UUID) -> None:
        """Give it its name, durably. Call it under the domain's lock: who erases the person later finds it.

        Raises:
            PictureNotStored: the disk is full, or the folder refuses.
        """
        if self._part is None:
            return
        folder = self._part.parent / str(person_id)
        with _typed():
            folder.mkdir(mode=0o700, exist_ok=True)
            self.path = self._part.rename(folder / str(face_id))
            _sync_folder(folder)
            _sync_folder(folder.parent)


class ImageStore:
    """The stored pictures of one installation."""

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        """
        Args:
            folder: made with the first picture, mode 700.
            enabled: whether new pictures are kept; those that are there are shown and deleted in any case.
        """
        self._folder = folder
        self._enabled = enabled

    @contextmanager
    def staged(self, domain_uid: UUID, data: bytes) -> Generator[PlacedPicture]:
        """Write a picture under a temporary name; where the block raises, nothing of it stays.

        Put the transaction that stores the template inside, so that its failure to commit is seen here.

        Raises:
            PictureNotStored: the disk is full, or the folder refuses.
        """
        if not self._enabled:
            yield PlacedPicture(None)
            return
        with _typed():
            folder = self._folder / str(domain_uid)
            for made in (self._folder, folder):
                made.mkdir(mode=0o700, parents=True, exist_ok=True)
            picture = PlacedPicture(_written(folder, data))
        try:
            yield picture
        except BaseException:
            if picture.path is not None:
                with suppress(OSError):
                    picture.path.unlink(missing_ok=True)
            raise

    def move_person(self, domain_uid: UUID, source: UUID, target: UUID) -> None:
        """Give one person's pictures to another, once it is committed that their faces were merged; `sweep` does so too.

        Raises:
            OSError: the folder refuses.
        """
        home = self._folder / str(domain_uid)
        names = [path.name for path in (home / str(source)).glob("*")]
        _move(names, home / str(source), home / str(target))
        with suppress(OSError):
            (home / str(source)).rmdir()

    def path(self, domain_uid: UUID, person_id: UUID, face_id: UUID) -> Path:
        """Where a face's picture is, if it was kept."""
        return self._folder / str(domain_uid) / str(person_id) / str(face_id)

    def find(self, domain_uid: UUID, person_id: UUID, face_id: UUID) -> Path | None:
        """The file of a face's picture; None where none was kept."""
        path = self.path(domain_uid, person_id, face_id)
        return path if path.is_file() else None

    def kept(self, domain_uid: UUID, person_id: UUID, most: int) -> list[UUID]:
        """Of which faces of a person there are pictures; of so many at most."""
        try:
            with os.scandir(self._folder / str(domain_uid) / str(person_id)) as entries:
                return list(islice(filter(None, (as_uuid(entry.name) for entry in entries)), most))
        except FileNotFoundError:
            return []

    def keep_thumbnail(self, picture: Path, data: bytes) -> None:
        """Put a small picture beside the one that it was made of; or not, where that is gone by now.

        Raises:
            OSError: the disk is full, or the folder refuses.
        """
        target = thumbnail_of(picture)
        try:
            part = _written(picture.parent.parent, data)
        except FileNotFoundError:  # the domain was deleted
            return
        try:
            part.rename(target)
        except FileNotFoundError:  # the person was erased, or merged
            part.unlink(missing_ok=True)
        # Who deletes the picture deletes this one behind it: one of the two sees the other's work.
        if not picture.exists():
            target.unlink(missing_ok=True)

    def has_any(self, domain_uid: UUID, person_id: UUID | None) -> bool:
        """Whether there may be pictures of a person, or with None of a domain."""
        folder = self._folder / str(domain_uid)
        return (folder if person_id is None else folder / str(person_id)).exists()

    def remove(self, picture: Path) -> None:
        """Delete one picture, if it is there.

        Raises:
            OSError: it cannot be deleted.
        """
        if picture.exists():
            picture.unlink(missing_ok=True)
            thumbnail_of(picture).unlink(missing_ok=True)
            _sync_folder(picture.parent)

    def discard(self, picture: Path) -> None:
        """Delete the picture of a face that was deleted; what cannot be deleted now is swept later."""
        try:
            self.remove(picture)
        except OSError as error:
            log.warning("[ENROL] A stored picture cannot be deleted now", face=picture.name, reason=error.strerror)

    def remove_person(self, domain_uid: UUID, person_id: UUID) -> int:
        """Delete a person's pictures. Returns how many there were.

        Raises:
            OSError: one cannot be deleted.
        """
        return _remove_tree(self._folder / str(domain_uid) / str(person_id))

    def remove_domain(self, domain_uid: UUID) -> int:
        """Delete a domain's pictures. Returns how many there were.

        Raises:
            OSError: one cannot be deleted.
        """
        return _remove_tree(self._folder / str(domain_uid))

    def sweep(self, transaction: Callable[[], AbstractContextManager[Session]]) -> int:
        """Delete pictures without a template: what processes that were killed have left. Returns how many there were.

        Args:
            transaction: begins one, with every domain within reach; each person's pictures get one of their own.

        Raises:
            DatabaseError: as the transaction does.
            OSError: one cannot be deleted.
        """
        removed = 0
        for folder in _folders(
            self._folder
        ):  # listed before the domains are: one made since is not taken for a deleted one
            with transaction() as session:
                domain_id = session.scalar(select(Domain.id).where(Domain.uid == as_uuid(folder.name)))
            if domain_id is None:
                removed += _remove_tree(folder)
                continue
            stale = [path for path in folder.glob(f"{_PART}*") if _is_old(path)]
            removed += _delete(stale)
            removed += sum(_sweep_person(transaction, domain_id, person) for person in _folders(folder))
        return removed


def thumbnail_of(picture: Path) -> Path:
    """Where the small picture of a stored one lies, if it was made."""
    return picture.with_name(picture.name + _THUMBNAIL)


def content_type(path: Path) -> str:
    """The type of a stored picture, told by its first bytes; `application/octet-stream` where it is none of the four."""
    return media_type(_head(path)) or "application/octet-stream"


def suffix(path: Path) -> str:
    """The ending of a file's name that goes with its content, such as `.jpg`."""
    return suffix_of(_head(path))


def _written(folder: Path, data: bytes) -> Path:
    """A file under a temporary name in a domain's folder, whole and durable."""
    part = folder / f"{_PART}{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PictureNotStored(f"The picture cannot be kept: {error.strerror}.") from error


def _sweep_person(transaction: Callable[[], AbstractContextManager[Session]], domain_id: int, folder: Path) -> int:
    """Delete a person's pictures without a template, and have those follow that are another's. Returns how many went."""
    try:
        found = list(folder.iterdir())
    except FileNotFoundError:  # the person was erased meanwhile
        return 0
    paths = [path for path in found if path.suffix != _THUMBNAIL]
    with transaction() as session:
        owners = _owners(session, domain_id, paths)
        if any(str(owner) != folder.name for owner in owners.values()):  # a merge was broken off
            lock_domain(session, domain_id)  # or else the new owner might be erased while these follow
            for path, owner in _owners(session, domain_id, list(owners)).items():
                if str(owner) != folder.name:
                    _move([path.name], folder, folder.parent / str(owner))
    removed = _delete([path for path in paths if path not in owners and _is_old(path)])
    _delete([path for path in found if path.suffix == _THUMBNAIL and not path.with_suffix("").exists()])
    with suppress(OSError):
        folder.rmdir()  # where it is empty
    return removed


def _owners(session: Session, domain_id: int, paths: Sequence[Path]) -> dict[Path, UUID]:
    """Whose face each picture is; without those that are nobody's."""
    faces = {face_id: path for path in paths if (face_id := as_uuid(path.name)) is not None}
    query = select(FaceEmbedding.id, FaceEmbedding.person_id).where(
        FaceEmbedding.domain_id == domain_id, FaceEmbedding.id == any_(literal(list(faces), ARRAY(Uuid)))
    )
    return {faces[face_id]: person_id for face_id, person_id in session.execute(query)}


def _delete(files: Sequence[Path]) -> int:
    for path in files:
        path.unlink(missing_ok=True)
    return len(files)


def _move(names: list[str], source: Path, target: Path) -> None:
    if not names:
        return
    target.mkdir(mode=0o700, exist_ok=True)
    for name in names:
        (source / name).rename(target / name)
    _sync_folder(target)
    _sync_folder(source)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, none where there is no such folder; only those that are named by an id."""
    try:
        return [path for path in folder.iterdir() if path.is_dir() and as_uuid(path.name) is not None]
    except FileNotFoundError:
        return []


def _is_old(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > _UNCOMMITTED_S
    return False


def _remove_tree(folder: Path) -> int:
    """Delete a folder, durably. Returns how many pictures were in it, without small ones and those that were being written."""
    files = [path for path in folder.rglob("*") if as_uuid(path.name) is not None and path.is_file()]
    if folder.exists():
        for left in reversed(range(_REMOVALS)):
            try:
                shutil.rmtree(folder)
                break
            except FileNotFoundError:  # of a small picture that its maker has taken away
                if not folder.exists():
                    break
            except OSError as error:  # a small picture was put there meanwhile
                if error.errno != errno.ENOTEMPTY or not left:
                    raise
        _sync_folder(folder.parent)
    return len(files)


def _sync_folder(folder: Path) -> None:
    """After a power cut, what was renamed or deleted might else be as before."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
