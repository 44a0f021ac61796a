"""Events that the database could not take: in a file, until it can.

`storage/audit/spool.jsonl`, one event a line, each on the disk before the request is answered. Whoever moves them into the
chains renames the file first, so that others go on writing, and moves nothing twice: an event that is in its chain already is
passed over.
"""

import fcntl
import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.audit.chain import append_named, without_chain
from app.audit.event import Event, timestamp
from app.db.session import Database
from app.tenancy import acting, everything

log = structlog.stdlib.get_logger("facedex.audit")

MAX_SPOOL_BYTES: Final = 64 * 1024 * 1024
"""Some 150,000 recognitions. What does not fit is lost, and said so."""

_BATCH: Final = 100
# The same event: of the same microsecond, with the same beginning and the same end. The index on (chain_id, at) finds it.
_KNOWN_SQL: Final = """
SELECT EXISTS (
    SELECT FROM audit_events AS e JOIN audit_chains AS c ON c.id = e.chain_id
    WHERE c.domain_id IS NOT DISTINCT FROM CAST(:domain_id AS integer) AND e.at = :at
        AND starts_with(e.body, :head) AND strpos(e.body, :tail) > 0
)
"""


@dataclass(frozen=True, slots=True)
class Spooled:
    """An event that waits, and the name of the domain that it belongs to; None for the installation."""

    event: Event
    domain: str | None

    def as_line(self) -> bytes:
        """One line of JSON."""
        fields = asdict(self.event) | {"at": timestamp(self.event.at), "details": dict(self.event.details)}
        return json.dumps({"domain": self.domain, "event": fields}).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> "Spooled":
        """As `as_line` wrote it.

        Raises:
            ValueError, KeyError, TypeError: it did not; a line that was broken off when the machine stopped.
        """
        told: dict[str, Any] = json.loads(line)
        fields = told["event"]
        persons = tuple(str(person) for person in fields["persons"])
        event = Event(**fields | {"at": datetime.fromisoformat(fields["at"]), "persons": persons})
        return cls(event, told["domain"])


class Spool:
    """The file, and the way out of it.

    Args:
        folder: made where it is missing, mode 700.
        max_bytes: longest file.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_SPOOL_BYTES) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        self.unreadable = folder / "unreadable.jsonl"
        self._file = folder / "spool.jsonl"
        self._moving = folder / "spool.moving.jsonl"

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be moved."""
        return self._file.exists() or self._moving.exists()

    @property
    def size_bytes(self) -> int:
        """How much waits."""
        total = 0
        for path in (self._file, self._moving):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def add(self, spooled: Spooled) -> bool:
        """Write an event to the end, and to the disk. Whether there was room.

        Raises:
            OSError: the disk is full, or the folder refuses.
        """
        line = spooled.as_line()
        with self._locked("spool.lock"):
            descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                if size + len(line) > self.max_bytes:
                    return False
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # the last one was broken off: it must not take this one along
                written = os.write(descriptor, line)
                if written != len(line):
                    raise OSError("a line was written in part")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if not size:
                self._sync_folder()
        return True

    def move_into(self, database: Database) -> int:
        """Move what waits into the chains, in order. Returns how many events; 0 also where somebody else is at it.

        Raises:
            DatabaseError: the database went away again; what was not moved waits on.
        """
        if not self.waiting:
            return 0
        moved = 0
        with self._locked("moving.lock", wait=False) as mine:
            while mine and self._take():
                with acting(everything("audit")):
                    moved += self._move_taken(database)
                self._moving.unlink()
        if moved:
            log.warning(f"[AUDIT] {moved} events that had waited for the database are in their chains")
        return moved

    def _sync_folder(self) -> None:
        """So that a new file's name is on the disk too."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _take(self) -> bool:
        """Put the file aside for moving; one that was put aside before, and not moved to its end, comes first."""
        with self._locked("spool.lock"):
            if not self._moving.exists() and self._file.exists():
                self._file.rename(self._moving)
        return self._moving.exists()

    def _move_taken(self, database: Database) -> int:
        moved = 0
        with self._moving.open("rb") as stream:
            events = self._read(stream)
            while batch := list(islice(events, _BATCH)):
                # By domain: a transaction that holds several chains could stand in another one's way.
                batch.sort(key=_domain_of)
                for _, group in groupby(batch, _domain_of):
                    with database.transaction() as session:
                        moved += sum([_append_once(session, spooled) for spooled in group])
        return moved

    def _read(self, lines: Iterator[bytes]) -> Iterator[Spooled]:
        for line in lines:
            if not line.strip():
                continue
            try:
                yield Spooled.of_line(line)
            except (ValueError, KeyError, TypeError):
                log.error("[AUDIT] A line of the spool is no event, and is kept in storage/audit/unreadable.jsonl")
                descriptor = os.open(self.unreadable, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                with os.fdopen(descriptor, "ab") as unreadable:
                    unreadable.write(line.rstrip(b"\n") + b"\n")

    @contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Generator[bool]:
        """Hold the lock of that name, over all processes; yields whether it is held."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)  # and the lock with it


def _domain_of(spooled: Spooled) -> str:
    return spooled.domain or ""


def _append_once(session: Session, spooled: Spooled) -> bool:
    """Append the event, unless it is there: the database may have got it, and only its answer was lost."""
    event, domain_id = spooled.event, None
    if spooled.domain is not None:
        query = text("SELECT id FROM domains WHERE name = :name")
        domain_id = session.scalar(query, {"name": spooled.domain})
    stored = event if domain_id is not None or spooled.domain is None else without_chain(event, spooled.domain)
    which = {"domain_id": domain_id, "at": event.at, "head": stored.head, "tail": stored.tail}
    if session.scalar(text(_KNOWN_SQL), which):
        return False
    append_named(session, event, spooled.domain)
    return True
