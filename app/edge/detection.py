"""Detection sessions: for how long after a touch or a movement a camera's frames are looked at, and what came of it."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from app.edge.clock import Clock

log = structlog.stdlib.get_logger("facedex.edge.sessions")


@dataclass(slots=True)
class DetectionSession:
    """One camera's, from the first trigger until some seconds after the last.

    Attributes:
        until_s: of the monotonic clock.
        busy: frames that are being looked at.
        frames: that were looked at; `dropped` were not, as newer ones came.
        refused: by reason.
        seconds: by step, over all frames.
    """

    camera: str
    began_at: float
    began_s: float
    until_s: float
    triggers: int = 0
    busy: int = 0
    frames: int = 0
    dropped: int = 0
    matches: int = 0
    unlocked: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)


class DetectionSessions:
    """Of all cameras; called from any thread.

    Args:
        length_s: from the last trigger on.
    """

    def __init__(self, clock: Clock, cameras: Iterable[str], length_s: float) -> None:
        self._clock = clock
        self._length_s = length_s
        self._lock = threading.Lock()
        self._open: dict[str, DetectionSession | None] = dict.fromkeys(cameras)

    def begin(self, camera: str) -> None:
        """Begin one, or let the one that there is go on for longer."""
        now_s = self._clock.monotonic()
        with self._lock:
            session = self._open[camera]
            if session is not None and (now_s < session.until_s or session.busy):
                session.until_s = now_s + self._length_s
                session.triggers += 1
                return
            over = self._close(camera)
            self._open[camera] = DetectionSession(camera, self._clock.now(), now_s, now_s + self._length_s, triggers=1)
        _tell(over)
        log.info("Detection session begins", camera=camera)

    def active(self, camera: str) -> bool:
        """Whether the camera's frames are looked at now."""
        session = self._open[camera]
        return session is not None and self._clock.monotonic() < session.until_s

    def enter(self, camera: str) -> DetectionSession | None:
        """A frame is looked at; None where no session is open. Who enters leaves by `leave`."""
        with self._lock:
            session = self._open[camera]
            if session is not None:
                session.busy += 1
                session.frames += 1
            return session

    def leave(
        self,
        session: DetectionSession | None,
        *,
        matches: int,
        unlocked: Iterable[str],
        refused: Iterable[str],
        seconds: Mapping[str, float],
    ) -> None:
        """What came of a frame; `seconds` by step."""
        if session is None:
            return
        with self._lock:
            session.busy -= 1
            session.matches += matches
            session.unlocked += [lock for lock in unlocked if lock not in session.unlocked]
            session.refused.update(refused)
            for step, elapsed_s in seconds.items():
                session.seconds[step] = session.seconds.get(step, 0.0) + elapsed_s

    def dropped(self, camera: str) -> None:
        """A newer frame took a frame's place before anybody looked at it."""
        with self._lock:
            session = self._open[camera]
            if session is not None:
                session.dropped += 1

    def end_due(self) -> list[DetectionSession]:
        """End those whose time is over and whose frames are done, with a line in the log for each."""
        now_s = self._clock.monotonic()
        with self._lock:
            due = [
                camera
                for camera, session in self._open.items()
                if session is not None and now_s >= session.until_s and not session.busy
            ]
            over = [session for camera in due if (session := self._close(camera)) is not None]
        for session in over:
            _tell(session)
        return over

    def end_all(self) -> None:
        """The controller stops."""
        with self._lock:
            over = [session for camera in self._open if (session := self._close(camera)) is not None]
        for session in over:
            _tell(session)

    def _close(self, camera: str) -> DetectionSession | None:
        session, self._open[camera] = self._open[camera], None
        return session


def _tell(session: DetectionSession | None) -> None:
    if session is None:
        return
    log.info(
        "Detection session ended",
        camera=session.camera,
        triggers=session.triggers,
        frames=session.frames,
        dropped=session.dropped,
        matches=session.matches,
        unlocked=",".join(session.unlocked),
        refused=",".join(f"{reason}:{count}" for reason, count in sorted(session.refused.items())),
        seconds=",".join(f"{step}:{elapsed_s:.3f}" for step, elapsed_s in session.seconds.items()),
    )
