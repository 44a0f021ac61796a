"""Bulk enrolment: a zip or a folder becomes a job with its files, in one transaction; a jobs worker enrols them."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.audit import record
from app.config import Settings
from app.db.job_files import NewFile, store_files
from app.db.jobs import enqueue
from app.db.work_models import Job
from app.enrolment.archives import Archive, Member
from app.enrolment.import_names import folders_around, is_litter, label_of, require_safe, shown
from app.enrolment.lookup import find_domain
from app.errors import (
    DuplicateFace,
    EmptyUpload,
    FacedexError,
    ImportTooLarge,
    UploadTooLarge,
)
from app.vision.formats import check_header

IMPORT: Final = "import"
"""The kind of the job."""


@dataclass(frozen=True, slots=True)
class Source:
    """What an import is made of: the names of its files, and how to read each."""

    names: Sequence[str]
    read: Callable[[int], Member]

    @classmethod
    def of_zip(cls, archive: Archive) -> "Source":
        """A zip's."""
        return cls(archive.names, archive.read)


def start_import(
    session: Session,
    settings: Settings,
    domain: str,
    source: Source,
    *,
    skip: int | None = None,
    request_id: str | None = None,
) -> UUID:
    """Store the files with a job that enrols them, in the caller's transaction. The job's id.

    What is no picture, or nobody's, is noted as rejected; what systems leave in folders is only counted.

    Args:
        skip: folders around those of the persons; None: one, where everything lies in folders of one folder, else none.

    Raises:
        InvalidName, DomainNotFound: of the domain.
        ImportTooLarge: too many files or bytes.
        EmptyUpload: there is no file at all.
    """
    found = find_domain(session, domain)
    wanted = [number for number, name in enumerate(source.names) if not is_litter(name)]
    if not wanted:
        raise EmptyUpload("There is no file in the import.")
    if len(wanted) > settings.max_import_files:
        raise ImportTooLarge(f"The import has more than {settings.max_import_files} files.")
    passed_over = sum(not name.endswith("/") for name in source.names) - len(wanted)
    around = folders_around([source.names[number] for number in wanted]) if skip is None else skip
    job_id = enqueue(
        session, IMPORT, domain_id=found.id, arguments={"passed_over": passed_over}, total=0, request_id=request_id
    )
    files = _Files(settings, source, around)
    count, settled = store_files(session, job_id, found.id, files.each(wanted))
    session.execute(update(Job).where(Job.id == job_id).values(total=count, done=settled))
    record(session, "import.started", domain_id=found.id, job=str(job_id), files=count)
    return job_id


class _Files:
    """The files of a source as they are stored."""

    def __init__(self, settings: Settings, source: Source, skip: int) -> None:
        self._settings = settings
        self._source = source
        self._skip = skip
        self._seen: set[tuple[str, bytes]] = set()

    def each(self, numbers: Sequence[int]) -> Iterator[NewFile]:
        for number in numbers:
            yield self._file(number)

    def _file(self, number: int) -> NewFile:
        name, label = self._source.names[number], ""
        try:
            require_safe(name)
            label = label_of(name, skip=self._skip)
            member = self._source.read(number)
            if member.error is not None:
                raise member.error
            digest = self._checked(label, member.data)
        except ImportTooLarge:
            raise
        except FacedexError as error:
            # Nobody's, where the label is not fit to be one: then the name may be anything.
            return NewFile(label, shown(name), error_code=error.code, error_message=str(error))
        return NewFile(label, shown(name), digest, member.data)

    def _checked(self, label: str, data: bytes) -> bytes:
        """The picture's digest."""
        if not data:
            raise EmptyUpload("The file is empty.")
        if len(data) > self._settings.max_upload_bytes:
            raise UploadTooLarge(f"The file is longer than {self._settings.max_upload_bytes} bytes.")
        check_header(data)
        digest = hashlib.sha256(data).digest()
        if (label, digest) in self._seen:
            raise DuplicateFace("This very picture of this person is in the import twice.")
        self._seen.add((label, digest))
        return digest
