"""Which pictures have brought down workers. Kept in a file: a picture is no safer after a restart.

Only digests are kept, no pictures; they are forgotten after QUARANTINE_S.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import structlog

log = structlog.stdlib.get_logger("facedex.worker")

# So many workers die of a picture, and no more.
STRIKES: Final = 2
# More than anybody has who does not make them on purpose; the oldest make room.
_MAX_PICTURES: Final = 10_000
_SAVE_AGAIN_S: Final = 5.0


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


@dataclass(slots=True)
class _Entry:
    """Workers that died of a picture, by what they were to do with it; as in the file."""

    strikes: dict[str, int]
    cause: str
    expires_at: float


class Quarantine:
    """The strikes of pictures, by the SHA-256 of their files. For one process."""

    def __init__(self, path: Path, keep_s: float) -> None:
        self._path = path
        self._keep_s = keep_s
        self._saved = True
        self._save_at_s = 0.0
        self._entries = self._load()

    def strikes(self, sha256: str) -> int:
        """How many workers have died of it, since one last did with it what they were to do."""
        entry = self._entries.get(sha256)
        return 0 if entry is None or entry.expires_at < time.time() else sum(entry.strikes.values())

    def holds(self, sha256: str) -> bool:
        """Whether no worker gets it any more."""
        return self.strikes(sha256) >= STRIKES

    def strike(self, sha256: str, cause: str, way: str = "") -> None:
        """Note that a worker has died of it.

        Args:
            way: what the worker was to do with it: what one model crashes on is nothing to another.
        """
        self._forget_expired()
        entry = self._entries.pop(sha256, None) or _Entry({}, cause, 0.0)
        entry.strikes[way] = entry.strikes.get(way, 0) + 1
        entry.cause, entry.expires_at = cause, time.time() + self._keep_s
        self._entries[sha256] = entry  # the newest is last
        self._save()

    def explain(self, sha256: str, cause: str) -> None:
        """Say what the last worker died of, where that was not known at once."""
        entry = self._entries.get(sha256)
        if entry is not None and entry.cause != cause:
            entry.cause = cause
            self._save()

    def survived(self, sha256: str, way: str) -> None:
        """Note that a worker has done this with it: whoever died of that before did so of something else."""
        entry = self._entries.get(sha256)
        if entry is not None and entry.strikes.pop(way, 0):
            if not entry.strikes:
                del self._entries[sha256]
            self._save()

    def clear(self, sha256: str | None = None) -> int:
        """Forget one picture, or all of them.

        Returns:
            how many of those that were held were forgotten.
        """
        gone = [sha256] if sha256 is not None else list(self._entries)
        held = sum(self.holds(digest) for digest in gone)
        for digest in gone:
            self._entries.pop(digest, None)
        self._save()
        return held

    def held(self) -> list[QuarantinedPicture]:
        """All that no worker gets any more, those that were added last at the end."""
        return [
            QuarantinedPicture(sha256, entry.cause, entry.expires_at)
            for sha256, entry in self._entries.items()
            if self.holds(sha256)
        ]

    def save_again(self) -> None:
        """Try once more to write what could not be written, now and then."""
        if not self._saved and time.monotonic() > self._save_at_s:
            self._save()

    def _forget_expired(self) -> None:
        now = time.time()
        for sha256 in [sha256 for sha256, entry in self._entries.items() if entry.expires_at < now]:
            del self._entries[sha256]
        while len(self._entries) >= _MAX_PICTURES:
            del self._entries[next(iter(self._entries))]

    def _load(self) -> dict[str, _Entry]:
        try:
            data: dict[str, dict[str, Any]] = json.loads(self._path.read_text("utf-8"))
            entries = {sha256: _entry(**fields) for sha256, fields in data.items()}
            return {sha256: entry for sha256, entry in entries.items() if entry.expires_at >= time.time()}
        except FileNotFoundError:
            return {}
        except OSError:
            log.exception("[WORKER] The quarantine cannot be read: this one lasts until the pool ends")
        except (ValueError, TypeError, AttributeError):
            log.exception("[WORKER] The quarantine is damaged, and begins anew")
        return {}

    def _save(self) -> None:
        """Replace the file. A disk that is full must not bring down the pool: until it ends, memory is enough.

        Nobody waits for the disk: should the machine lose power now, the next worker that dies is one more.
        """
        try:
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps({sha256: asdict(entry) for sha256, entry in self._entries.items()}), "utf-8")
            fresh.replace(self._path)
            self._saved = True
        except OSError:
            if self._saved:
                log.exception("[WORKER] The quarantine cannot be written")
            self._saved = False
            self._save_at_s = time.monotonic() + _SAVE_AGAIN_S


def _entry(strikes: dict[str, Any], cause: Any, expires_at: Any) -> _Entry:
    """An entry of the file, whatever stands there.

    Raises:
        TypeError, ValueError, AttributeError: it is none.
    """
    return _Entry({way: int(count) for way, count in strikes.items()}, str(cause), float(expires_at))
