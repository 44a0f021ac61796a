"""Which locks a decision unlocks, and the reason for each that it does not."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.edge.doors import Decision, Reason, Refusal, decide
from app.edge.members import Member
from app.edge.snapshot import Match
from app.edge.triggers import TriggerContext

NOW = 1_760_000_000.0
NEAR = {"entrance": frozenset({"A", "B", "C"})}
GUEST = Member("R1-1", "Guest", NOW - 100, NOW + 100, frozenset({"A", "B"}))


def context(*occupied: str, age_s: float = 1.0, **changes) -> TriggerContext:
    made = TriggerContext("frame-1", "entrance", NOW - age_s, frozenset(occupied), True, "t-1", 1_000.0 - age_s)
    return dataclasses.replace(made, **changes)


def decided(match: Match | None, given: TriggerContext | None, **changes) -> Decision:
    usual = {"now": NOW, "monotonic": 1_000.0, "max_age_s": 8.0, "locks_of_camera": NEAR}
    return decide(match, given, **(usual | changes))


def match(**changes) -> Match:
    return Match(dataclasses.replace(GUEST, **changes), 0.9)


def nothing(reason: Reason) -> Decision:
    return Decision((), (Refusal(None, reason),))


def test_a_touched_lock_of_the_member_opens_and_the_others_say_why():
    assert decided(match(), context("A", "C")) == Decision(
        ("A",), (Refusal("B", Reason.LOCK_NOT_OCCUPIED), Refusal("C", Reason.LOCK_NOT_OF_MEMBER))
    )


def test_several_touched_locks_open_in_the_order_of_their_names():
    assert decided(match(), context("B", "A")) == Decision(("A", "B"))


@pytest.mark.parametrize("given", [None, context()], ids=["missing", "empty"])
def test_without_a_context_nothing_opens_and_the_log_says_so(given):
    with capture_logs() as logs:
        assert decided(match(), given) == nothing(Reason.NO_TRIGGER_CONTEXT)
    assert [line["event"] for line in logs] == ["no trigger context, skipping unlock"]


@pytest.mark.parametrize(
    ("recognised", "given", "changes", "reason"),
    [
        (None, context("A"), {}, Reason.NO_MATCH),
        (match(valid_until=NOW), context("A"), {}, Reason.MEMBER_NOT_VALID),
        (match(valid_from=NOW + 0.001), context("A"), {}, Reason.MEMBER_NOT_VALID),
        (match(), context("A", age_s=8.001), {}, Reason.FRAME_TOO_OLD),
        (match(), context("A", captured_monotonic=991.0), {}, Reason.FRAME_TOO_OLD),
        (match(), context("A", captured_monotonic=1_000.1), {}, Reason.FRAME_TOO_OLD),
        (match(), context("A", captured_at=NOW - 3_600), {}, Reason.FRAME_TOO_OLD),
        (match(), context("A", captured_at=NOW + 1.1), {}, Reason.CLOCK_WAS_SET),
        (match(), context("A", captured_at=math.nan), {}, Reason.FRAME_TOO_OLD),
        (match(), context("A"), {"max_age_s": math.nan}, Reason.FRAME_TOO_OLD),
    ],
)
def test_nothing_opens(recognised, given, changes, reason):
    assert decided(recognised, given, **changes) == nothing(reason)


def test_a_frame_of_just_the_greatest_age_opens():
    assert decided(match(), context("A", age_s=8.0)).unlock == ("A",)


def test_a_lock_of_another_camera_stays_locked():
    assert decided(match(locks=frozenset({"D"})), context("D")) == Decision(
        (), (Refusal("D", Reason.LOCK_NOT_OF_CAMERA),)
    )
    assert decided(match(), context("A", camera="nowhere")) == Decision((), (Refusal("A", Reason.LOCK_NOT_OF_CAMERA),))


@pytest.mark.parametrize("name", ["#", "+", "a/b", "", "a\0", "a\n", "bridge"])
def test_a_hostile_name_stays_locked_even_where_everything_agrees(name):
    locks = frozenset({name, "A"})
    refused = decided(match(locks=locks), context(name, "A"), locks_of_camera={"entrance": locks})
    assert refused == Decision(("A",), (Refusal(name, Reason.BAD_LOCK_NAME),))


# Unlike other fractions, they stay what they are beside Unix seconds.
EIGHTHS = st.integers(-480, 480).map(lambda eighths: eighths / 8)
LOCKS = st.frozensets(st.sampled_from("ABCDE"))


@given(LOCKS, LOCKS, LOCKS, EIGHTHS, EIGHTHS)
def test_what_opens_is_in_all_three_sets_and_every_other_candidate_has_a_reason(near, own, occupied, age_s, shift):
    member = dataclasses.replace(GUEST, locks=own, valid_from=NOW + shift - 50, valid_until=NOW + shift + 50)
    decision = decided(Match(member, 0.9), context(*occupied, age_s=age_s), locks_of_camera={"entrance": near})
    if occupied and member.is_valid(NOW) and 0 <= age_s <= 8.0:
        assert set(decision.unlock) == near & own & occupied
        assert {refusal.lock for refusal in decision.refused} == (occupied | (own & near)) - set(decision.unlock)
    else:
        assert decision.unlock == ()
        assert len(decision.refused) == 1
