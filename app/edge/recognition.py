"""From a picture to members: what every recogniser gives, and the one that switches between two."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Protocol

import structlog

from app.edge.cameras.frame import Frame
from app.edge.errors import RecognizeUnavailable
from app.edge.snapshot import Match

log = structlog.stdlib.get_logger("facedex.edge.recognition")

By = Literal["server", "local"]
# Why a face is nobody's.
UNKNOWN: Final = "unknown"
AMBIGUOUS: Final = "ambiguous"
NOT_A_MEMBER: Final = "not_a_member"
TOO_FAR: Final = "too_far"


@dataclass(frozen=True, slots=True)
class Recognized:
    """Who is on a picture.

    Attributes:
        matches: members, each once, the surest first; they were valid when they were looked up.
        faces: how many were found.
        by: who recognised them.
        nobody: how many faces are nobody's, by reason.
        seconds: by step.
    """

    matches: tuple[Match, ...]
    faces: int
    by: By
    nobody: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class Recognizer(Protocol):
    """Names who is on a picture."""

    def recognize(self, frame: Frame) -> Recognized:
        """The members on it; nobody is an answer, not an error.

        Raises:
            RecognizeError: there is no answer.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class SwitchingRecognizer:
    """Asks the server, and goes on locally while that cannot be reached.

    A server that answers and refuses (a key that was withdrawn, no such domain) is no failure of the network: nothing is
    recognised then, rather than by a gallery that this controller may have no right to any more.
    """

    def __init__(self, server: Recognizer, local: Recognizer) -> None:
        self._server = server
        self._local = local
        self._lock = threading.Lock()
        self._by: By = "server"

    @property
    def by(self) -> By:
        """Who recognised the last picture."""
        return self._by

    def recognize(self, frame: Frame) -> Recognized:
        """As `Recognizer.recognize`; by the server where it answers."""
        try:
            recognized = self._server.recognize(frame)
        except RecognizeUnavailable as error:
            self._went("local", str(error))
            return self._local.recognize(frame)
        self._went("server", "")
        return recognized

    def close(self) -> None:
        """Both."""
        self._server.close()
        self._local.close()

    def _went(self, by: By, reason: str) -> None:
        with self._lock:
            changed, self._by = self._by != by, by
        if not changed:
            return
        if by == "local":
            log.warning("Recognition goes on locally", reason=reason)
        else:
            log.info("Recognition is the server's again")


def best_of_each(matches: list[Match]) -> tuple[Match, ...]:
    """Every member once, with the nearest of their faces; the surest first."""
    best: dict[str, Match] = {}
    for match in sorted(matches, key=lambda match: -match.similarity):
        best.setdefault(match.member.key, match)
    return tuple(best.values())
