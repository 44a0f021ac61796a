"""What others are told about what happens here: one JSON object per member who was recognised."""

import json
from datetime import UTC, datetime
from typing import Any, Final

from app.edge.doors import Decision
from app.edge.messages import Message
from app.edge.snapshot import Match
from app.edge.triggers import TriggerContext

_EXPIRES_S: Final = 3_600


def iso_time(seconds: float) -> str:
    """ISO 8601 in UTC, to the millisecond, of Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def member_detected(
    match: Match, context: TriggerContext | None, outcome: Decision, *, camera: str, identified_at: float
) -> dict[str, Any]:
    """A member was recognised, with what opened for them and why the rest did not.

    Args:
        context: of the frame; None where there is none.
        outcome: as of `Unlocker.act`, or a decision that unlocks nothing.
        identified_at: Unix seconds.
    """
    return {
        "event": "member_detected",
        "camera": camera,
        "member": match.member.key,
        "name": match.member.name,
        "similarity": round(match.similarity, 6),
        "identified_at": iso_time(identified_at),
        "captured_at": None if context is None else iso_time(context.captured_at),
        "frameId": None if context is None else context.frame_id,
        "transactionId": None if context is None else context.transaction_id,
        "onvifTriggered": context is not None and context.onvif_triggered,
        "occupancyTriggeredLocks": [] if context is None else sorted(context.occupied_locks),
        "unlockedLocks": list(outcome.unlock),
        "refusedLocks": [{"lock": refusal.lock, "reason": str(refusal.reason)} for refusal in outcome.refused],
    }


def event_message(topic: str, event: dict[str, Any]) -> Message:
    """An event as it is published: it waits while the broker is away, for at most an hour."""
    return Message(topic, json.dumps(event, allow_nan=False).encode(), expires_s=_EXPIRES_S)
