"""Why a frame was taken: which locks were touched at that very instant, and whether the camera saw something move.

It is read once, when the frame is captured, and what was read travels with the frame. Nothing that happens later changes it.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from app.edge.clock import Clock
from app.edge.zigbee import checked_locks

log = structlog.stdlib.get_logger("facedex.edge.triggers")

ONVIF: Final = "onvif"
"""The source of a camera's own motion events."""

# So far the sender's clock may be ahead of this machine's; a report from further in the future has a time that means nothing.
_AHEAD_MAX_S: Final = 2.0
# A report on its way for longer has a time that means nothing, or is about a touch that nobody waits for any more.
_LATE_MAX_S: Final = 60.0
# Reports of one lock or camera that are remembered; frames are captured at most `_LATE_MAX_S` after the fact.
_REPORTS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class TriggerContext:
    """What was so at the instant at which a frame was captured.

    Attributes:
        frame_id: no two frames have the same, also across restarts.
        camera: that captured it.
        captured_at: Unix seconds.
        occupied_locks: the camera's locks that were occupied.
        onvif_triggered: the camera had reported motion that had not ended.
        transaction_id: the same from one trigger until the next one that begins when all had ended; empty before the first.
        captured_monotonic: as of `Clock.monotonic`, of this process: how old the frame is, whatever the time of day is set to.
    """

    frame_id: str
    camera: str
    captured_at: float
    occupied_locks: frozenset[str]
    onvif_triggered: bool
    transaction_id: str
    captured_monotonic: float


@dataclass(frozen=True, slots=True)
class _Report:
    """Something began or ended.

    Attributes:
        on: it began, or goes on.
        instant: when, as of `Clock.monotonic`; never later than it arrived.
        stamp: when, as the sender has it, in its own Unix seconds; None where it did not say.
        arrived: as of `Clock.monotonic`.
        number: they arrived in this order.
    """

    on: bool
    instant: float
    stamp: float | None
    arrived: float
    number: int

    def after(self, other: "_Report") -> bool:
        """Whether it is the newer one: by the sender's clock where both have it. Of two at once, the end is newer."""
        mine: float = self.number
        others: float = other.number
        if self.stamp is not None and other.stamp is not None:
            apart_s = self.stamp - other.stamp
            # Else a clock was set between the two, and the stamps cannot be compared.
            if abs(apart_s - (self.instant - other.instant)) <= _AHEAD_MAX_S:
                mine, others = self.stamp, other.stamp
        return not self.on if mine == others else mine > others


class _Switch:
    """What one lock or camera has reported lately.

    Args:
        hold_s: its own timer: so long after it was last reported on, it is off by itself.
        repeated: its reports repeat the state that somebody remembers. Then "on" begins something only where it was off before,
            and prolongs nothing; after an end that was lost, nothing begins until the next end.
    """

    def __init__(self, hold_s: float, *, repeated: bool = False) -> None:
        self._hold_s = hold_s
        self._repeated = repeated
        self._reports: list[_Report] = []
        self._before: _Report | None = None  # the newest of those that are not remembered any more

    def add(self, report: _Report) -> None:
        oldest = report.arrived - self._hold_s - 2 * _LATE_MAX_S
        for old in [kept for kept in self._reports if kept.arrived < oldest]:
            self._drop(old)
        self._reports.append(report)
        if len(self._reports) > _REPORTS_MAX:
            # Not the one that came first: late reports of old touches must not push out the end that came after these.
            self._drop(min(self._reports, key=lambda kept: kept.instant))

    def is_on(self, instant: float) -> bool:
        """Whether it was on at that instant, by what is known now: it was reported so, and nothing newer says that it ended."""
        known = [report for report in self._reports if report.instant <= instant]
        ends = [report for report in known if not report.on]
        return any(self._counts(report, known, ends, instant) for report in known)

    def counts(self, report: _Report) -> bool:
        """Whether it is because of this report that it is on when it arrives."""
        instant = report.arrived
        known = [other for other in self._reports if other.instant <= instant]
        return self._counts(report, known, [other for other in known if not other.on], instant)

    def _counts(self, report: _Report, known: list[_Report], ends: list[_Report], instant: float) -> bool:
        if not report.on or instant - report.instant >= self._hold_s or any(end.after(report) for end in ends):
            return False
        if not self._repeated:
            return True
        before = known if self._before is None else [self._before, *known]
        return not any(
            other.on and _follows(report, other) and not any(_between(end, other, report) for end in ends)
            for other in before
        )

    def _drop(self, report: _Report) -> None:
        self._reports.remove(report)
        if self._before is None or _follows(report, self._before):
            self._before = report

    def forget(self) -> None:
        self._reports, self._before = [], None


def _follows(report: _Report, other: _Report) -> bool:
    """Whether it is the later of two; of two reports of the same, the one that came first is the earlier."""
    return report.after(other) or (not other.after(report) and report.number > other.number)


def _between(end: _Report, before: _Report, report: _Report) -> bool:
    return end.after(before) and not end.after(report)


class Triggers:
    """Touches and motion in, contexts of frames out. Any thread may report, and any may capture.

    A lock is occupied at an instant if it had been reported so after not being so (zigbee2mqtt repeats what it remembers of a
    lock with whatever that reports, so that a repetition is no touch), its own timer has not run out since, and nothing newer,
    from before that instant, says that it was released. Which report is newer is decided by the times that the sender gave, so
    that late, repeated and reordered ones do no harm; by their arrival where it gave none. What is in doubt is not occupied.

    Args:
        clock: durations are taken from its monotonic side.
        locks_of_camera: the locks whose doors each camera looks at.
        hold_s: a lock's timer, in seconds.
        hold_of_lock: of locks whose timer is another one.
        motion_hold_s: a camera's, for motion whose end is never reported.
        make_id: a new name, which there has never been.

    Raises:
        ConfigError: a name that cannot be a lock's.
    """

    def __init__(
        self,
        clock: Clock,
        locks_of_camera: Mapping[str, Iterable[str]],
        hold_s: float = 10.0,
        *,
        hold_of_lock: Mapping[str, float] | None = None,
        motion_hold_s: float = 30.0,
        make_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._clock = clock
        self._make_id = make_id
        self.locks_of_camera = {camera: checked_locks(locks) for camera, locks in locks_of_camera.items()}
        self.locks = frozenset[str]().union(*self.locks_of_camera.values())
        holds = hold_of_lock or {}
        self._locks = {lock: _Switch(holds.get(lock, hold_s), repeated=True) for lock in self.locks}
        self._motion = {camera: _Switch(motion_hold_s) for camera in self.locks_of_camera}
        self._other_motion = {camera: _Switch(motion_hold_s) for camera in self.locks_of_camera}
        self._transactions = dict.fromkeys(self.locks_of_camera, "")
        self._count = 0  # of reports so far
        self._guard = threading.Lock()

    def cameras_of(self, lock: str) -> frozenset[str]:
        """The cameras that look at a lock's door."""
        return frozenset(camera for camera, locks in self.locks_of_camera.items() if lock in locks)

    def occupancy(self, lock: str, occupied: bool, at: float | None = None) -> bool:
        """A lock reports.

        Args:
            at: when, in Unix seconds by the sender's clock; None where it does not say.

        Returns:
            Whether it counts: of a known lock, not at a time that cannot be, and, where it is occupied, not over by now, and no
            repetition of what was known.
        """
        return self._report(self._locks.get(lock), self.cameras_of(lock), occupied, at, lock=lock)

    def motion(self, camera: str, on: bool, at: float | None = None, source: str = ONVIF) -> bool:
        """Something moves before a camera, or does not any more: as `occupancy`.

        Args:
            source: who has seen it. Only the camera's own events, `ONVIF`, are what `TriggerContext.onvif_triggered` tells.
        """
        switches = self._motion if source == ONVIF else self._other_motion
        return self._report(switches.get(camera), frozenset({camera}), on, at, camera=camera)

    def is_triggered(self, camera: str) -> bool:
        """Whether anything speaks for looking at this camera's frames now."""
        with self._guard:
            return self._is_triggered(camera, self._clock.monotonic())

    def capture(self, camera: str, at: float | None = None) -> TriggerContext:
        """What is so while a frame is captured; to be called when it is.

        Args:
            at: when it was captured, in Unix seconds; None for now.

        Raises:
            KeyError: there is no such camera.
        """
        now, monotonic = self._clock.now(), self._clock.monotonic()
        instant = monotonic if at is None else monotonic - max(0.0, now - at)
        with self._guard:
            occupied = (lock for lock in self.locks_of_camera[camera] if self._locks[lock].is_on(instant))
            return TriggerContext(
                frame_id=self._make_id(),
                camera=camera,
                captured_at=now if at is None else at,
                occupied_locks=frozenset(occupied),
                onvif_triggered=self._motion[camera].is_on(instant),
                transaction_id=self._transactions[camera],
                captured_monotonic=instant,
            )

    def forget(self) -> None:
        """Nothing is known any more: reports may have been missed. What was captured before stays as it is."""
        with self._guard:
            for switches in (self._locks, self._motion, self._other_motion):
                for switch in switches.values():
                    switch.forget()

    def forget_locks(self) -> None:
        """As `forget`, but of the locks alone: the way to them was lost, not that to the cameras."""
        with self._guard:
            for switch in self._locks.values():
                switch.forget()

    def _report(
        self, switch: _Switch | None, cameras: frozenset[str], on: bool, at: float | None, **which: str
    ) -> bool:
        if switch is None:
            log.debug("trigger of something unknown ignored", **which)
            return False
        with self._guard:
            report = self._timed(on, at)
            if report is None:
                log.warning("trigger ignored: its time cannot be", at=at, now=self._clock.now(), **which)
                return False
            idle = [camera for camera in cameras if not self._is_triggered(camera, report.arrived)]
            switch.add(report)
            if not report.on:
                return True
            if not switch.counts(report):
                return False  # late: it was released since, or its timer has run out; or it repeats what was known
            for camera in idle:
                self._transactions[camera] = self._make_id()
            return True

    def _timed(self, on: bool, at: float | None) -> _Report | None:
        """None where it is on at a time that cannot be; an end counts in any case, then as of now."""
        arrived, self._count = self._clock.monotonic(), self._count + 1
        if at is not None:
            late_s = self._clock.now() - at
            if -_AHEAD_MAX_S <= late_s <= _LATE_MAX_S:
                return _Report(on, arrived - max(0.0, late_s), at, arrived, self._count)
            if on:
                return None
        return _Report(on, arrived, None, arrived, self._count)

    def _is_triggered(self, camera: str, instant: float) -> bool:
        return (
            any(self._locks[lock].is_on(instant) for lock in self.locks_of_camera[camera])
            or self._motion[camera].is_on(instant)
            or self._other_motion[camera].is_on(instant)
        )
