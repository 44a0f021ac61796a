"""Which pictures have brought down workers. Kept on disk: a picture is no safer after a restart.

Only digests are kept, no pictures; they are forgotten after QUARANTINE_S.
"""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

log = structlog.stdlib.get_logger("facedex.worker")

# So many workers die of a picture, and no more.
STRIKES: Final = 2

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS strikes (
    sha256 TEXT PRIMARY KEY,
    strikes INTEGER NOT NULL,
    cause TEXT NOT NULL,
    expires_at REAL NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class QuarantinedPicture:
    """A picture that no worker gets any more.

    Attributes:
        sha256: of its file, in hexadecimal.
        cause: what the last worker died of.
        expires_at: when it is forgotten, in seconds since 1970.
    """

    sha256: str
    cause: str
    expires_at: float


class Quarantine:
    """The strikes of pictures, by the SHA-256 of their files. For one process."""

    def __init__(self, path: Path, keep_s: float) -> None:
        self._path = path
        self._keep_s = keep_s
        self._strikes: dict[str, tuple[int, str, float]] = {}  # asked for every job: as on disk, without going there
        try:
            self._load()
        except sqlite3.OperationalError:  # nothing says that the file itself is wrong: the disk is full, or not ours
            log.exception("[WORKER] The quarantine cannot be read: it lasts until the pool ends")
        except sqlite3.Error:
            log.exception("[WORKER] The quarantine is damaged, and begins anew")
            path.unlink(missing_ok=True)
            self._load()

    def _load(self) -> None:
        with closing(self._connect()) as database, database:
            database.execute(_SCHEMA)
            database.execute("DELETE FROM strikes WHERE expires_at < ?", (time.time(),))
            for sha256, strikes, cause, expires_at in database.execute("SELECT * FROM strikes"):
                self._strikes[sha256] = (strikes, cause, expires_at)

    def strikes(self, sha256: str) -> int:
        """How many workers have died of it in a row."""
        found = self._strikes.get(sha256)
        if found is None or found[2] < time.time():
            return 0
        return found[0]

    def holds(self, sha256: str) -> bool:
        """Whether no worker gets it any more."""
        return self.strikes(sha256) >= STRIKES

    def strike(self, sha256: str, cause: str) -> None:
        """Note that a worker has died of it."""
        entry = (self.strikes(sha256) + 1, cause, time.time() + self._keep_s)
        self._strikes[sha256] = entry
        self._write("INSERT OR REPLACE INTO strikes VALUES (?, ?, ?, ?)", [(sha256, *entry)])

    def clear(self, sha256: str | None = None) -> int:
        """Forget one picture, or all of them.

        Returns:
            how many of those that were held were forgotten.
        """
        held = [picture.sha256 for picture in self.held() if sha256 in (None, picture.sha256)]
        gone = [sha256] if sha256 is not None else list(self._strikes)
        for digest in gone:
            self._strikes.pop(digest, None)
        self._write("DELETE FROM strikes WHERE sha256 = ?", [(digest,) for digest in gone])
        return len(held)

    def held(self) -> list[QuarantinedPicture]:
        """All that no worker gets any more, those that were added last at the end."""
        held = [
            QuarantinedPicture(sha256, cause, expires_at)
            for sha256, (_strikes, cause, expires_at) in self._strikes.items()
            if self.holds(sha256)
        ]
        return sorted(held, key=lambda picture: picture.expires_at)

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        """On disk as well. A disk that is full must not bring down the pool: until a restart, memory is enough."""
        try:
            with closing(self._connect()) as database, database:
                database.executemany(statement, rows)
        except sqlite3.Error:
            log.exception("[WORKER] The quarantine cannot be written")

    def _connect(self) -> sqlite3.Connection:
        """A connection for one statement: one that is kept would be inherited by every worker."""
        return sqlite3.connect(self._path)
