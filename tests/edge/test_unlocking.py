"""The act: once per frame and lock, and only what still holds."""

import dataclasses
import json
import threading

import pytest

from app.edge.clock import VirtualClock
from app.edge.doors import Decision, Reason, Refusal
from app.edge.members import Member
from app.edge.messages import Message
from app.edge.snapshot import Match
from app.edge.timekeeping import TimeOfDay
from app.edge.triggers import Triggers
from app.edge.unlocking import Unlocker
from tests.edge.histories import FakeBroker

GUEST = Member("R1-1", "Guest", None, None, frozenset({"A", "B"}))
MATCH = Match(GUEST, 0.9)


class Scene:
    """A guest with a hand on both locks."""

    def __init__(self) -> None:
        self.clock = VirtualClock(1_760_000_000.0, 100.0)
        self.broker = FakeBroker()
        self.members = {"R1-1": GUEST}
        self.triggers = Triggers(self.clock, {"entrance": {"A", "B", "C"}})
        self.triggers.occupancy("A", True)
        self.triggers.occupancy("B", True)
        self.context = self.triggers.capture("entrance")
        self.unlocker = Unlocker(self.broker, self.clock, self.members.get, max_age_s=5.0)

    def act(self, *locks: str, context=None) -> Decision:
        return self.unlocker.act(Decision(locks), MATCH, context or self.context)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_command_is_idempotent_acknowledged_not_retained_and_expires(scene):
    scene.clock.sleep(1.5)
    assert scene.act("A") == Decision(("A",))
    assert scene.broker.delivered == [Message("zigbee2mqtt/A/set", b'{"state": "UNLOCK"}', 1, False, 3)]
    assert json.loads(scene.broker.delivered[0].payload) == {"state": "UNLOCK"}


def test_a_frame_unlocks_each_lock_once(scene):
    assert scene.act("A", "B").unlock == ("A", "B")
    assert scene.act("B", "A") == Decision(
        (), (Refusal("B", Reason.ALREADY_UNLOCKED), Refusal("A", Reason.ALREADY_UNLOCKED))
    )
    assert scene.act("A", context=scene.triggers.capture("entrance")).unlock == ("A",)
    assert len(scene.broker.delivered) == 3


def test_reasons_of_the_decision_stay(scene):
    given = Decision(("A",), (Refusal("C", Reason.LOCK_NOT_OF_MEMBER),))
    assert scene.unlocker.act(given, MATCH, scene.context) == given


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (None, Reason.MEMBER_GONE),
        (dataclasses.replace(GUEST, valid_until=1_760_000_000.0), Reason.MEMBER_NOT_VALID),
        (dataclasses.replace(GUEST, locks=frozenset({"B"})), Reason.LOCK_NOT_OF_MEMBER),
    ],
)
def test_membership_is_asked_at_the_last_moment(scene, now, reason):
    if now is None:
        scene.members.clear()
    else:
        scene.members["R1-1"] = now
    assert scene.act("A") == Decision((), (Refusal("A", reason),))
    assert scene.broker.delivered == []


def test_membership_is_asked_for_each_lock(scene):
    """Somebody checks them out between the one and the other."""
    asked = iter([GUEST, GUEST, None])
    unlocker = Unlocker(scene.broker, scene.clock, lambda _: next(asked), max_age_s=5.0)
    assert unlocker.act(Decision(("A", "B")), MATCH, scene.context) == Decision(
        ("A",), (Refusal("B", Reason.MEMBER_GONE),)
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda scene: scene.members.clear(), Reason.MEMBER_GONE),
        (
            lambda scene: scene.members.update({"R1-1": dataclasses.replace(GUEST, valid_until=1_760_000_000.5)}),
            Reason.MEMBER_NOT_VALID,
        ),
        (lambda scene: scene.clock.sleep(3.5), Reason.FRAME_TOO_OLD),
    ],
)
def test_what_changes_while_the_broker_takes_its_time_is_seen(scene, change, reason):
    at_once = scene.broker.send

    def slow(message, *, still=None) -> bool:
        scene.clock.sleep(0.8)
        change(scene)
        return at_once(message, still=still)

    scene.broker.send = slow
    assert scene.act("A") == Decision((), (Refusal("A", reason),))
    assert scene.broker.delivered == []


def test_a_command_expires_with_its_frame_however_slow_the_broker_was(scene):
    at_once = scene.broker.send

    def slow(message, *, still=None) -> bool:
        scene.clock.sleep(2.5)
        return at_once(message, still=still)

    scene.broker.send = slow
    assert scene.act("A").unlock == ("A",)
    assert scene.broker.delivered[0].expires_s == 2


def unlocker_by(scene: Scene, time_of_day: TimeOfDay) -> Unlocker:
    return Unlocker(
        scene.broker,
        scene.clock,
        scene.members.get,
        max_age_s=5.0,
        time_of_day=time_of_day,
        require_known_time=True,
    )


def test_nothing_opens_until_somebody_has_said_what_time_it_is(scene):
    time_of_day = TimeOfDay(scene.clock, synchronised=lambda: False, battery=lambda now: False)
    scene.unlocker = unlocker_by(scene, time_of_day)
    assert scene.act("A") == Decision((), (Refusal("A", Reason.TIME_NOT_KNOWN),))
    time_of_day.told(scene.clock.now(), scene.clock.monotonic(), scene.clock.monotonic())
    assert scene.act("A") == Decision(("A",))


@pytest.mark.parametrize("by", ["ntp", "battery"])
def test_a_clock_that_is_set_back_revives_nobody(scene, by):
    scene.members["R1-1"] = dataclasses.replace(GUEST, valid_until=1_760_000_100.0)
    vouched = [True]
    time_of_day = TimeOfDay(
        scene.clock, synchronised=lambda: by == "ntp" and bool(vouched), battery=lambda now: by == "battery"
    )
    scene.unlocker = unlocker_by(scene, time_of_day)
    assert scene.act("A") == Decision(("A",))
    scene.clock.sleep(101)
    scene.clock.jump(-3600)
    vouched.clear()
    scene.triggers.occupancy("A", False)
    scene.triggers.occupancy("A", True)
    again = scene.triggers.capture("entrance")
    assert scene.act("A", context=again) == Decision((), (Refusal("A", Reason.MEMBER_NOT_VALID),))


@pytest.mark.parametrize(
    ("off_s", "stay"),
    [
        (
            -7200.0,
            {"valid_until": 1_760_000_000.0 + 3600.0},
        ),  # by the clock, they stay for another hour; they left an hour ago
        (7200.0, {"valid_from": 1_760_000_000.0 - 3600.0}),  # by the clock, they came an hour ago; they come in an hour
    ],
)
def test_a_clock_that_is_wrong_by_what_the_source_says_lets_nobody_in_who_is_none(scene, off_s, stay):
    time_of_day = TimeOfDay(scene.clock, synchronised=lambda: False, battery=lambda now: False)
    scene.unlocker = unlocker_by(scene, time_of_day)
    scene.members["R1-1"] = dataclasses.replace(GUEST, **stay)
    true = scene.clock.now() - off_s
    time_of_day.told(true, scene.clock.monotonic(), scene.clock.monotonic())
    assert scene.act("A") == Decision((), (Refusal("A", Reason.MEMBER_NOT_VALID),))
    scene.clock.jump(-off_s)  # somebody sets it right
    scene.members["R1-1"] = dataclasses.replace(GUEST, valid_from=true - 60, valid_until=true + 60)
    scene.triggers.occupancy("A", False)
    scene.triggers.occupancy("A", True)
    assert scene.act("A", context=scene.triggers.capture("entrance")) == Decision(("A",))


def test_a_decision_that_comes_too_late_unlocks_nothing(scene):
    scene.clock.sleep(5.01)
    assert scene.act("A") == Decision((), (Refusal("A", Reason.FRAME_TOO_OLD),))


@pytest.mark.parametrize(("jump", "reason"), [(-60.0, Reason.CLOCK_WAS_SET), (60.0, Reason.FRAME_TOO_OLD)])
def test_a_clock_that_was_set_unlocks_nothing(scene, jump, reason):
    scene.clock.jump(jump)
    assert scene.act("A") == Decision((), (Refusal("A", reason),))


def test_a_clock_that_was_set_back_makes_no_old_frame_young(scene):
    scene.clock.sleep(60)
    scene.clock.jump(-58)
    assert scene.act("A") == Decision((), (Refusal("A", Reason.FRAME_TOO_OLD),))


def test_a_decision_for_another_frame_unlocks_nothing_that_this_one_did_not_see(scene):
    assert scene.act("C", "#") == Decision(
        (), (Refusal("C", Reason.LOCK_NOT_OCCUPIED), Refusal("#", Reason.BAD_LOCK_NAME))
    )


def test_while_the_broker_is_away_nothing_is_sent_then_or_later(scene):
    scene.broker.turn(False)
    assert scene.act("A") == Decision((), (Refusal("A", Reason.BROKER_AWAY),))
    scene.broker.turn(True)
    assert scene.broker.delivered == []


def test_threads_that_act_on_one_frame_unlock_it_once(scene):
    start = threading.Barrier(8)
    outcomes = []

    def act() -> None:
        start.wait()
        outcomes.append(scene.act("A", "B").unlock)

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(message.topic for message in scene.broker.delivered) == ["zigbee2mqtt/A/set", "zigbee2mqtt/B/set"]
    assert sorted(lock for outcome in outcomes for lock in outcome) == ["A", "B"]


def test_frames_that_are_too_old_to_unlock_are_forgotten(scene):
    for _ in range(100):
        scene.triggers.occupancy("A", True)
        scene.act("A", context=scene.triggers.capture("entrance"))
        scene.clock.sleep(10)
    assert len(scene.unlocker._done) < 10
