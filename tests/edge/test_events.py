"""What others hear of a member who was recognised."""

import json

from app.edge.doors import Decision, Reason, Refusal
from app.edge.events import event_message, member_detected
from app.edge.members import Member
from app.edge.snapshot import Match
from app.edge.triggers import TriggerContext

MATCH = Match(Member("R1-1", "Zoë \ud800", None, None, frozenset({"DC006"})), 0.87654321)
OUTCOME = Decision(("DC006",), (Refusal("DC001", Reason.LOCK_NOT_OF_MEMBER), Refusal(None, Reason.NO_MATCH)))


def test_an_event_tells_who_why_and_what_opened():
    context = TriggerContext("f-1", "entrance", 1_760_000_000.25, frozenset({"DC006", "DC001"}), True, "t-1", 12.0)
    event = member_detected(MATCH, context, OUTCOME, camera="entrance", identified_at=1_760_000_004.5)
    message = event_message("facedex/edge-1/member_detected", event)
    assert (message.topic, message.qos, message.retain) == ("facedex/edge-1/member_detected", 1, False)
    assert json.loads(message.payload) == {
        "event": "member_detected",
        "camera": "entrance",
        "member": "R1-1",
        "name": "Zoë \ud800",
        "similarity": 0.876543,
        "identified_at": "2025-10-09T08:53:24.500Z",
        "captured_at": "2025-10-09T08:53:20.250Z",
        "frameId": "f-1",
        "transactionId": "t-1",
        "onvifTriggered": True,
        "occupancyTriggeredLocks": ["DC001", "DC006"],
        "unlockedLocks": ["DC006"],
        "refusedLocks": [
            {"lock": "DC001", "reason": "lock_not_of_member"},
            {"lock": None, "reason": "no_match"},
        ],
    }


def test_an_event_without_a_context_says_that_there_is_none():
    event = member_detected(MATCH, None, Decision(), camera="yard", identified_at=0.0)
    assert (event["captured_at"], event["onvifTriggered"], event["occupancyTriggeredLocks"]) == (None, False, [])
    assert event["identified_at"] == "1970-01-01T00:00:00.000Z"
