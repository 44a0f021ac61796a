"""The places outside the database that may know a person: each is an `Eraser`. Whoever adds a place adds one here."""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from app.config import Settings
from app.datasets.forgetting import DatasetForgetting
from app.db.domains import cache_epochs
from app.db.session import Database
from app.enrolment.images import ImageStore


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is erased: a person, or a whole domain.

    Attributes:
        domain: the domain's name, and
        domain_uid: its id.
        person_id: None where it is the domain itself.
        labels: what datasets may call the person.
        former_ids: of the persons who were merged into this one, in the order in which what is theirs follows them.
    """

    domain: str
    domain_uid: UUID
    person_id: UUID | None
    labels: tuple[str, ...]
    former_ids: tuple[UUID, ...] = ()

    @property
    def ids(self) -> tuple[UUID, ...]:
        """All ids of the person; none where it is a domain."""
        return () if self.person_id is None else (*self.former_ids, self.person_id)


class Eraser(Protocol):
    """A place outside the database. It is asked after the database has forgotten the person, maybe several times."""

    @property
    def place(self) -> str:
        """The place's name in receipts and in `erasures.pending`."""
        ...

    def concerns(self, subject: Subject) -> bool:
        """Whether there may be anything of theirs. Asked under the domain's lock: it must be quick."""
        ...

    def erase(self, subject: Subject) -> int:
        """Delete all that is there of theirs; nobody finds it any more when this returns. Repeating it is harmless.

        Returns:
            How many pieces there were.

        Raises:
            FacedexError, OSError: something of theirs may still be there; it is tried again later.
        """
        ...


class StoredPictures:
    """The pictures that STORE_IMAGES has kept."""

    place = "pictures"

    def __init__(self, images: ImageStore) -> None:
        self._images = images

    def concerns(self, subject: Subject) -> bool:
        """As `Eraser.concerns`."""
        return any(self._images.has_any(subject.domain_uid, person_id) for person_id in subject.ids or (None,))

    def erase(self, subject: Subject) -> int:
        """As `Eraser.erase`."""
        if subject.person_id is None:
            return self._images.remove_domain(subject.domain_uid)
        # What a merge is moving at this moment is in one of the two folders: the one that it comes from is the first.
        return sum(self._images.remove_person(subject.domain_uid, person_id) for person_id in subject.ids)


class Dataset:
    """The domain's PKL dataset, and its searchable form."""

    place = "dataset_rows"

    def __init__(self, datasets: DatasetForgetting) -> None:
        self._datasets = datasets

    def concerns(self, subject: Subject) -> bool:
        """As `Eraser.concerns`."""
        return self._datasets.concerns(subject.domain)

    def erase(self, subject: Subject) -> int:
        """As `Eraser.erase`."""
        if subject.person_id is None:
            return self._datasets.erase_domain(subject.domain)
        return self._datasets.erase_person(subject.domain, subject.labels)


class ExtractedFaces:
    """The faces that Redis has of pictures of the last minutes: all of the domain's, as nobody knows whose they are.

    Those in the memory of processes go by themselves (`app.face_cache.memory`).
    """

    place = "face_cache"

    def __init__(self, settings: Settings, database: Database) -> None:
        self._redis_url = settings.redis_url
        self._database = database

    def concerns(self, subject: Subject) -> bool:
        """As `Eraser.concerns`."""
        return self._redis_url is not None

    def erase(self, subject: Subject) -> int:
        """As `Eraser.erase`."""
        if self._redis_url is None:  # it was set when the note was made: what it had is gone with FACE_CACHE_TTL_S
            return 0
        with self._database.transaction() as session:
            epoch = cache_epochs(session, [subject.domain_uid]).get(subject.domain_uid)
        from app.face_cache.shared import erase_domain_from_redis

        return erase_domain_from_redis(self._redis_url.get_secret_value(), subject.domain_uid, epoch)
