import json

import pytest

from app.edge.cameras.frame import Frame
from app.edge.clock import VirtualClock
from app.edge.controller import Controller
from app.edge.errors import RecognizeUnavailable
from app.edge.recognition import Recognized
from app.edge.snapshot import Match
from app.edge.triggers import Triggers
from app.edge.unlocking import Unlocker
from tests.edge.making import member


class Scene:
    """A controller whose recogniser says what it is told to, and whose broker keeps what it gets."""

    def __init__(self, *matched, locks=("DC001", "DC006")):
        self.clock = VirtualClock(1_000_000.0)
        self.triggers = Triggers(self.clock, {"entrance": locks}, hold_s=10.0)
        self.members = {one.key: one for one in matched}
        self.answer = Recognized(tuple(Match(one, 0.9) for one in matched), len(matched), "server")
        self.sent, self.posted, self.outcomes = [], [], []
        self.takes_s = 0.0
        unlocker = Unlocker(self, self.clock, self.members.get, max_age_s=10.0)
        self.controller = Controller(
            self.triggers,
            self,
            unlocker,
            self,
            self.clock,
            session_s=15.0,
            max_age_s=10.0,
            events_topic="facedex/edge/x",
            watch=self.outcomes.append,
        )

    def recognize(self, frame):
        self.clock.sleep(self.takes_s)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self):
        pass

    def send(self, message, *, still=None):
        self.sent.append(message.topic)
        return True

    def post(self, message):
        self.posted.append((message.topic, json.loads(message.payload)))

    def look(self):
        now = self.clock.now()
        return self.controller.process(Frame("entrance", b"x", now, self.controller.capture("entrance", now)))


GUEST = member("guest", None, None, "DC001", "DC006")


def test_a_touched_lock_of_the_members_opens_and_an_event_tells_of_it():
    scene = Scene(GUEST)
    scene.controller.occupancy("DC006", True)
    outcome = scene.look()
    assert scene.sent == ["zigbee2mqtt/DC006/set"]
    assert outcome.unlocked == ["DC006"]
    ((topic, event),) = scene.posted
    assert topic == "facedex/edge/x/member_detected"
    assert (event["member"], event["unlockedLocks"]) == ("guest", ["DC006"])


def test_a_touch_and_a_movement_begin_a_session_and_their_ends_do_not():
    for begin in (
        lambda controller, on: controller.occupancy("DC001", on),
        lambda controller, on: controller.motion("entrance", on),
    ):
        scene = Scene(GUEST)
        begin(scene.controller, False)
        assert not scene.controller.wanted("entrance")
        begin(scene.controller, True)
        assert scene.controller.wanted("entrance")


def test_a_report_of_something_unknown_begins_nothing():
    scene = Scene(GUEST)
    assert not scene.controller.occupancy("DC999", True)
    assert not scene.controller.motion("nowhere", True)
    assert not scene.controller.wanted("entrance")


def test_a_session_goes_on_with_each_trigger_and_then_ends_with_its_sums(caplog):
    scene = Scene(GUEST)
    scene.controller.occupancy("DC001", True)
    scene.clock.sleep(14.0)
    scene.controller.occupancy("DC001", False)
    scene.controller.occupancy("DC001", True)
    scene.clock.sleep(7.0)
    scene.controller.occupancy("DC001", True)  # repeats what was known
    scene.clock.sleep(7.0)
    assert scene.controller.wanted("entrance")
    scene.triggers.occupancy("DC006", True)
    for _ in range(2):
        scene.look()
    scene.answer = RecognizeUnavailable("The server does not answer.")
    scene.look()
    scene.controller.sessions.dropped("entrance")
    assert scene.controller.sessions.end_due() == []
    scene.clock.sleep(1.0)
    (session,) = scene.controller.sessions.end_due()
    assert (session.triggers, session.frames, session.dropped, session.matches) == (2, 3, 1, 2)
    assert session.unlocked == ["DC006"]
    assert session.refused == {"lock_not_occupied": 2, "recognition_failed": 1}
    assert {"wait", "recognition", "unlock", "events", "total"} <= session.seconds.keys()
    assert not scene.controller.wanted("entrance")
    assert scene.controller.sessions.end_due() == []


def test_a_session_does_not_end_while_a_frame_of_it_is_looked_at():
    scene = Scene(GUEST)
    scene.controller.occupancy("DC001", True)
    entered = scene.controller.sessions.enter("entrance")
    scene.clock.sleep(60.0)
    assert scene.controller.sessions.end_due() == []
    scene.controller.sessions.leave(entered, matches=0, unlocked=(), refused=(), seconds={})
    assert len(scene.controller.sessions.end_due()) == 1


def test_recognition_that_fails_opens_nothing_and_is_remembered():
    scene = Scene(GUEST)
    scene.answer = RecognizeUnavailable("The server does not answer.")
    scene.controller.occupancy("DC001", True)
    outcome = scene.look()
    assert (scene.sent, scene.posted) == ([], [])
    assert outcome.refused == ["recognition_failed"]
    assert scene.controller.last_error == (scene.clock.now(), "The server does not answer.")


def test_a_fault_of_a_recogniser_leaves_no_session_open():
    scene = Scene(GUEST)
    scene.answer = RuntimeError("odd")
    scene.controller.occupancy("DC001", True)
    with pytest.raises(RuntimeError):
        scene.look()
    scene.clock.sleep(60.0)
    (session,) = scene.controller.sessions.end_due()
    assert session.refused == {"failed": 1}


def test_what_is_touched_or_released_during_recognition_changes_nothing():
    scene = Scene(GUEST)
    scene.controller.occupancy("DC001", True)
    now = scene.clock.now()
    frame = Frame("entrance", b"x", now, scene.controller.capture("entrance", now))
    scene.controller.occupancy("DC001", False)
    scene.controller.occupancy("DC006", True)
    scene.controller.process(frame)
    assert scene.sent == ["zigbee2mqtt/DC001/set"]


def test_a_frame_that_took_too_long_opens_nothing():
    scene = Scene(GUEST)
    scene.takes_s = 10.1
    scene.controller.occupancy("DC001", True)
    assert scene.look().refused == ["frame_too_old"]
    assert scene.sent == []


def test_who_left_during_recognition_opens_nothing():
    scene = Scene(GUEST)
    scene.controller.occupancy("DC001", True)
    scene.members.clear()
    assert "member_gone" in scene.look().refused
    assert scene.sent == []


def test_the_same_frame_opens_a_lock_once():
    scene = Scene(GUEST)
    scene.controller.occupancy("DC001", True)
    frame = Frame("entrance", b"x", scene.clock.now(), scene.controller.capture("entrance"))
    scene.controller.process(frame)
    assert "already_unlocked" in scene.controller.process(frame).refused
    assert scene.sent == ["zigbee2mqtt/DC001/set"]


def test_after_reports_may_have_been_missed_nothing_is_touched():
    scene = Scene(GUEST)
    scene.controller.occupancy("DC001", True)
    scene.controller.forget_locks()
    scene.look()
    assert scene.sent == []
