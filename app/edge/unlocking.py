"""The act: a decision becomes commands to locks, each at most once, and only if all of it still holds."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from app.edge.clock import Clock
from app.edge.doors import Decision, Reason, Refusal, refusal_of_frame, refusal_of_member
from app.edge.members import Member
from app.edge.messages import Message, Publisher
from app.edge.snapshot import Match
from app.edge.timekeeping import TimeOfDay
from app.edge.triggers import TriggerContext
from app.edge.zigbee import UNLOCK, command_topic, is_lock_name

log = structlog.stdlib.get_logger("facedex.edge.unlocking")

# What is older than a frame may be need not be remembered; a bit more, for the rounding of clocks.
_REMEMBERED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Done:
    captured_monotonic: float
    locks: set[str]


class Unlocker:
    """Sends UNLOCK to locks; any thread may ask.

    Args:
        publisher: the way to the broker.
        clock: the one that frames are captured by.
        membership: who has this key at this moment; asked right before each command.
        max_age_s: a frame that is older opens nothing. No command is delivered later than that after its frame.
        base_topic: zigbee2mqtt's.
        time_of_day: between which bounds it is: who opens something is valid at both. None: just what the clock says.
        require_known_time: nothing opens while nobody vouches for it.
    """

    def __init__(
        self,
        publisher: Publisher,
        clock: Clock,
        membership: Callable[[str], Member | None],
        *,
        max_age_s: float,
        base_topic: str = "zigbee2mqtt",
        time_of_day: TimeOfDay | None = None,
        require_known_time: bool = False,
    ) -> None:
        self._time_of_day = time_of_day
        self._require_known_time = require_known_time
        self._publisher = publisher
        self._clock = clock
        self._membership = membership
        self._max_age_s = max_age_s
        self._base_topic = base_topic
        self._done: dict[str, _Done] = {}
        self._guard = threading.Lock()

    def act(self, decision: Decision, match: Match, context: TriggerContext) -> Decision:
        """Unlock what was decided, as far as it still holds.

        Returns:
            What was unlocked, and all that was not, with the reasons of the decision and of now.
        """
        unlocked, refused = [], list(decision.refused)
        for lock in decision.unlock:
            with self._guard:
                reason = self._unlock(lock, match, context)
            if reason is None:
                unlocked.append(lock)
                log.info("unlocked", lock=lock, member=match.member.key, frame_id=context.frame_id)
            else:
                refused.append(Refusal(lock, reason))
                log.info(
                    "not unlocked", lock=lock, member=match.member.key, frame_id=context.frame_id, reason=str(reason)
                )
        return Decision(tuple(unlocked), tuple(refused))

    def _unlock(self, lock: str, match: Match, context: TriggerContext) -> Reason | None:
        expires_s = self._expires_s(lock, match, context)
        if isinstance(expires_s, Reason):
            return expires_s
        done = self._done_for(context, self._clock.monotonic())
        if lock in done.locks:
            return Reason.ALREADY_UNLOCKED
        done.locks.add(lock)
        reason = Reason.BROKER_AWAY

        def still() -> int | None:
            """The broker may have taken its time; who was erased meanwhile opens nothing."""
            nonlocal reason
            now_s = self._expires_s(lock, match, context)
            if not isinstance(now_s, Reason):
                return now_s
            reason = now_s
            return None

        message = Message(command_topic(self._base_topic, lock), UNLOCK, expires_s=expires_s)
        if self._publisher.send(message, still=still):
            return None
        done.locks.discard(lock)  # nothing left this machine
        return reason

    def _expires_s(self, lock: str, match: Match, context: TriggerContext) -> int | Reason:
        """For how long a command may be on its way, as of now, or why there is to be none.

        In whole seconds, at least one: MQTT knows no shorter ones, and the broker counts from when it gets the message.
        """
        member = self._membership(match.member.key)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        reason = (
            refusal_of_frame(context, now, monotonic, self._max_age_s)
            or refusal_of_member(member, now)
            or self._refusal_of_time(member)
            or self._refusal_of_lock(lock, member, context)
        )
        if reason is not None:
            return reason
        left_s = self._max_age_s - max(0.0, monotonic - context.captured_monotonic, now - context.captured_at)
        return math.floor(left_s) if left_s >= 1 else Reason.FRAME_TOO_OLD

    def _refusal_of_time(self, member: Member | None) -> Reason | None:
        """Why the time of day lets nobody in, or not this member any more."""
        if self._time_of_day is None:
            return None
        if self._require_known_time and self._time_of_day.known_by is None:
            return Reason.TIME_NOT_KNOWN
        valid = member is None or all(member.is_valid(time) for time in self._time_of_day.bounds())
        return None if valid else Reason.MEMBER_NOT_VALID

    @staticmethod
    def _refusal_of_lock(lock: str, member: Member | None, context: TriggerContext) -> Reason | None:
        """What holds of every decision that was made for this frame and member, and has to hold now."""
        if not is_lock_name(lock):
            return Reason.BAD_LOCK_NAME
        if lock not in context.occupied_locks:
            return Reason.LOCK_NOT_OCCUPIED
        return None if member is not None and lock in member.locks else Reason.LOCK_NOT_OF_MEMBER

    def _done_for(self, context: TriggerContext, monotonic: float) -> _Done:
        """What this frame has unlocked. Forgotten are only frames that are too old to unlock anything."""
        forgotten = monotonic - self._max_age_s - _REMEMBERED_S
        for frame_id in [frame_id for frame_id, done in self._done.items() if done.captured_monotonic < forgotten]:
            del self._done[frame_id]
        return self._done.setdefault(context.frame_id, _Done(context.captured_monotonic, set()))
