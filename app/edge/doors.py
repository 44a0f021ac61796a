"""Which doors open for a face: pure, so that every case can be looked at.

There is no "unlock all": what is not known opens nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from app.edge.members import Member
from app.edge.snapshot import Match
from app.edge.triggers import TriggerContext
from app.edge.zigbee import is_lock_name

log = structlog.stdlib.get_logger("facedex.edge.doors")

# The time of day may be set back by so much between a frame and its decision; by more, and nobody knows how old the frame is.
_SET_BACK_MAX_S: Final = 1.0


class Reason(StrEnum):
    """Why a lock stays locked."""

    NO_MATCH = "no_match"
    NO_TRIGGER_CONTEXT = "no_trigger_context"
    FRAME_TOO_OLD = "frame_too_old"
    CLOCK_WAS_SET = "clock_was_set"
    MEMBER_GONE = "member_gone"
    MEMBER_NOT_VALID = "member_not_valid"
    LOCK_NOT_OF_MEMBER = "lock_not_of_member"
    LOCK_NOT_OF_CAMERA = "lock_not_of_camera"
    LOCK_NOT_OCCUPIED = "lock_not_occupied"
    BAD_LOCK_NAME = "bad_lock_name"
    ALREADY_UNLOCKED = "already_unlocked"
    BROKER_AWAY = "broker_away"
    TIME_NOT_KNOWN = "time_not_known"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A lock that stays locked, and why; `lock` is None where it holds for all of them."""

    lock: str | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be unlocked, in the order of the names, and what is not."""

    unlock: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()


def decide(
    match: Match | None,
    context: TriggerContext | None,
    *,
    now: float,
    monotonic: float,
    max_age_s: float,
    locks_of_camera: Mapping[str, frozenset[str]],
) -> Decision:
    """Unlock what was occupied when the frame was captured, what the member may open, and what the camera looks at: all three.

    Args:
        match: who was recognised; None for nobody.
        context: as captured with the frame; None where there is none.
        now: Unix seconds.
        monotonic: as of the clock that `context` was captured by.
        max_age_s: a frame that is older opens nothing.
        locks_of_camera: as of `Triggers`.
    """
    if match is None:
        return Decision(refused=(Refusal(None, Reason.NO_MATCH),))
    if context is None or not context.occupied_locks:
        frame, camera = (None, None) if context is None else (context.frame_id, context.camera)
        log.info("no trigger context, skipping unlock", frame_id=frame, camera=camera, member=match.member.key)
        return Decision(refused=(Refusal(None, Reason.NO_TRIGGER_CONTEXT),))
    reason = refusal_of_frame(context, now, monotonic, max_age_s) or refusal_of_member(match.member, now)
    if reason is not None:
        return Decision(refused=(Refusal(None, reason),))
    near = locks_of_camera.get(context.camera, frozenset())
    unlock, refused = [], []
    for lock in sorted(context.occupied_locks | (match.member.locks & near)):
        if (why := _refusal_of_lock(lock, match.member, context, near)) is None:
            unlock.append(lock)
        else:
            refused.append(Refusal(lock, why))
    return Decision(tuple(unlock), tuple(refused))


def refusal_of_frame(context: TriggerContext, now: float, monotonic: float, max_age_s: float) -> Reason | None:
    """Why a frame opens nothing any more, by either clock; None where it may."""
    age_s = now - context.captured_at
    if age_s < -_SET_BACK_MAX_S:
        return Reason.CLOCK_WAS_SET
    # Not `>`: what is no number is no age.
    if not (age_s <= max_age_s and 0 <= monotonic - context.captured_monotonic <= max_age_s):
        return Reason.FRAME_TOO_OLD
    return None


def refusal_of_member(member: Member | None, now: float) -> Reason | None:
    """Why somebody opens nothing now; None where they may."""
    if member is None:
        return Reason.MEMBER_GONE
    return None if member.is_valid(now) else Reason.MEMBER_NOT_VALID


def _refusal_of_lock(lock: str, member: Member, context: TriggerContext, near: frozenset[str]) -> Reason | None:
    if not is_lock_name(lock):
        return Reason.BAD_LOCK_NAME
    if lock not in near:
        return Reason.LOCK_NOT_OF_CAMERA
    if lock not in member.locks:
        return Reason.LOCK_NOT_OF_MEMBER
    if lock not in context.occupied_locks:
        return Reason.LOCK_NOT_OCCUPIED
    return None
