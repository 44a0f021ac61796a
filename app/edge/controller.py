"""The controller: touches and movement begin detection sessions, frames become members, and members open doors.

It has no threads and waits for nothing but the recogniser: who calls it is `app.edge.running`, or the simulator.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from app.edge.cameras.frame import Frame
from app.edge.clock import Clock
from app.edge.detection import DetectionSession, DetectionSessions
from app.edge.doors import Decision, decide
from app.edge.errors import RecognizeError
from app.edge.events import event_message, member_detected
from app.edge.messages import Publisher
from app.edge.recognition import Recognized, Recognizer
from app.edge.snapshot import Match
from app.edge.triggers import TriggerContext, Triggers
from app.edge.unlocking import Unlocker

log = structlog.stdlib.get_logger("facedex.edge.controller")

# Reasons beside those of `app.edge.doors`: nobody was asked about a door.
RECOGNITION_FAILED: Final = "recognition_failed"
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a frame.

    Attributes:
        recognized: None where recognition failed.
        decisions: what was unlocked for each member, and what was not.
        seconds: by step; `total` is since the frame was captured.
        error: why recognition failed.
    """

    frame: Frame
    recognized: Recognized | None
    decisions: tuple[tuple[Match, Decision], ...]
    seconds: Mapping[str, float]
    error: str | None = None

    @property
    def unlocked(self) -> list[str]:
        """The locks that were told to unlock."""
        return [lock for _, decision in self.decisions for lock in decision.unlock]

    @property
    def refused(self) -> list[str]:
        """A reason for each face that is nobody's, and for each lock that was not unlocked."""
        if self.recognized is None:
            return [RECOGNITION_FAILED]
        reasons = [str(refusal.reason) for _, decision in self.decisions for refusal in decision.refused]
        return [*Counter(self.recognized.nobody).elements(), *reasons]


class Controller:
    """Any thread may call it.

    Args:
        publish: takes the events.
        locks_of_camera: as of `triggers`.
        session_s: for how long a touch or a movement makes frames be looked at.
        max_age_s: a frame that is older opens nothing.
        events_topic: below it, `member_detected`.
        watch: is told of every frame that was looked at.
    """

    def __init__(
        self,
        triggers: Triggers,
        recognizer: Recognizer,
        unlocker: Unlocker,
        publisher: Publisher,
        clock: Clock,
        *,
        session_s: float,
        max_age_s: float,
        events_topic: str,
        watch: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._triggers = triggers
        self._recognizer = recognizer
        self._unlocker = unlocker
        self._publisher = publisher
        self._clock = clock
        self._max_age_s = max_age_s
        self._topic = f"{events_topic}/member_detected"
        self._watch = watch
        self.sessions = DetectionSessions(clock, triggers.locks_of_camera, session_s)
        self._errors = threading.Lock()
        self._last_error: tuple[float, str] | None = None

    @property
    def last_error(self) -> tuple[float, str] | None:
        """When, in Unix seconds, and what went wrong last; None: nothing ever."""
        return self._last_error

    @property
    def locks(self) -> frozenset[str]:
        """Whose reports are of interest."""
        return self._triggers.locks

    def occupancy(self, lock: str, occupied: bool, at: float | None = None) -> bool:
        """A lock reports; `at` in Unix seconds by its own clock, where it says when. Whether it counts."""
        counts = self._triggers.occupancy(lock, occupied, at)
        if counts and occupied:
            for camera in sorted(self._triggers.cameras_of(lock)):
                self.sessions.begin(camera)
        return counts

    def motion(self, camera: str, on: bool, at: float | None = None) -> bool:
        """A camera reports movement. Whether it counts."""
        counts = self._triggers.motion(camera, on, at)
        if counts and on:
            self.sessions.begin(camera)
        return counts

    def forget(self) -> None:
        """Reports may have been missed: what was said last counts no more."""
        self._triggers.forget()

    def forget_locks(self) -> None:
        """As `forget`, but of the locks alone."""
        self._triggers.forget_locks()

    def wanted(self, camera: str) -> bool:
        """Whether the camera's frames are looked at now."""
        return self.sessions.active(camera)

    def capture(self, camera: str, at: float | None = None) -> TriggerContext:
        """What is touched at this instant, for the frame that was captured at it."""
        return self._triggers.capture(camera, at)

    def process(self, frame: Frame) -> Outcome:
        """Recognise who is on a frame, and open what they may. It takes as long as the recogniser."""
        session = self.sessions.enter(frame.camera)
        outcome: Outcome | None = None
        try:
            outcome = self._process(frame)
            return outcome
        finally:
            self._leave(session, outcome)

    def _leave(self, session: DetectionSession | None, outcome: Outcome | None) -> None:
        self.sessions.leave(
            session,
            matches=0 if outcome is None else len(outcome.decisions),
            unlocked=() if outcome is None else outcome.unlocked,
            refused=(FAILED,) if outcome is None else outcome.refused,
            seconds={} if outcome is None else outcome.seconds,
        )
        if outcome is not None:
            self._watch(outcome)

    def _process(self, frame: Frame) -> Outcome:
        times_s = [time.perf_counter()]
        seconds = {"wait": self._clock.now() - frame.captured_at}
        try:
            recognized = self._recognizer.recognize(frame)
        except RecognizeError as error:
            self._note(str(error))
            log.warning("A frame was not recognised", camera=frame.camera, reason=str(error))
            return Outcome(frame, None, (), seconds, str(error))
        times_s.append(time.perf_counter())
        identified_at = self._clock.now()
        decisions = tuple((match, self._settle(match, frame.context)) for match in recognized.matches)
        times_s.append(time.perf_counter())
        for match, decision in decisions:
            event = member_detected(match, frame.context, decision, camera=frame.camera, identified_at=identified_at)
            self._publisher.post(event_message(self._topic, event))
        times_s.append(time.perf_counter())
        steps = zip(("recognition", "unlock", "events"), times_s, times_s[1:], strict=False)
        seconds |= {step: end_s - start_s for step, start_s, end_s in steps}
        seconds |= {f"recognition.{step}": elapsed_s for step, elapsed_s in recognized.seconds.items()}
        seconds["total"] = self._clock.now() - frame.captured_at
        return Outcome(frame, recognized, decisions, seconds)

    def _settle(self, match: Match, context: TriggerContext) -> Decision:
        """Decide, and do it."""
        decision = decide(
            match,
            context,
            now=self._clock.now(),
            monotonic=self._clock.monotonic(),
            max_age_s=self._max_age_s,
            locks_of_camera=self._triggers.locks_of_camera,
        )
        return self._unlocker.act(decision, match, context)

    def _note(self, message: str) -> None:
        with self._errors:
            self._last_error = (self._clock.now(), message)
