"""What is known of touches and motion at the instant of a frame."""

import dataclasses
import threading

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.edge.clock import VirtualClock
from app.edge.errors import ConfigError
from app.edge.triggers import Triggers
from tests.edge.histories import Arrived, occupied_at

START = 1_760_000_000.0
CAMERAS = {"entrance": ["A", "B"], "yard": ["B", "C"]}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START, 500.0)


@pytest.fixture
def triggers(clock) -> Triggers:
    return Triggers(clock, CAMERAS, 10.0)


ON, OFF = True, False

# By name: reports as (arrives, occupied, stamped, None for not), when a frame is captured, whether the lock is occupied then.
CASES = {
    "nothing reported": ([], 5, False),
    "touched": ([(0, ON, None)], 5, True),
    "touched at the very instant": ([(0, ON, None)], 0, True),
    "released": ([(0, ON, None), (3, OFF, None)], 5, False),
    "released at the very instant": ([(0, ON, None), (5, OFF, None)], 5, False),
    "touched again at the very instant": ([(0, ON, None), (5, OFF, None), (5, ON, None)], 5, True),
    "touched again": ([(0, ON, None), (3, OFF, None), (4, ON, None)], 5, True),
    "the timer runs": ([(0, ON, None)], 9.99, True),
    "the timer has run out": ([(0, ON, None)], 10, False),
    "reported again, the timer goes on": ([(0, ON, None), (6, ON, None)], 9.9, True),
    "reported again, the timer does not begin anew": ([(0, ON, None), (6, ON, 6)], 10.1, False),
    "after a lost release, a repetition is no touch": ([(0, ON, 0), (200, ON, 200)], 201, False),
    "after a lost release, the next one counts": (
        [(0, ON, 0), (200, ON, 200), (202, OFF, 202), (203, ON, 203)],
        204,
        True,
    ),
    "a release that was late was there": ([(0, ON, 0), (7, ON, 7), (8, OFF, 6)], 12, True),
    "a repeated message is no new report": ([(0, ON, 0), (6, ON, 0)], 11, False),
    "late, within the timer": ([(7, ON, 0)], 9, True),
    "late, the timer counts from the touch": ([(7, ON, 0)], 10.5, False),
    "late by more than the timer": ([(12, ON, 0)], 13, False),
    "late by more than can be": ([(70, ON, 0)], 71, False),
    "a late touch from before the release": ([(3, OFF, 3), (4, ON, 0)], 5, False),
    "a late release from before the touch": ([(4, ON, 4), (5, OFF, 3)], 6, True),
    "touch and release with one stamp": ([(4, ON, 4), (4, OFF, 4)], 5, False),
    "release and touch with one stamp": ([(4, OFF, 4), (4, ON, 4)], 5, False),
    "a release far too late closes": ([(0, OFF, None), (70, ON, 70), (71, OFF, 3)], 72, False),
    "a sender a little ahead": ([(0, ON, 1.5)], 0.5, True),
    "a sender a little ahead, reordered": ([(0, OFF, 1.5), (0.1, ON, 1.4)], 0.5, False),
    "a sender far ahead is not believed": ([(0, ON, 3600)], 1, False),
    "a release far ahead closes": ([(0, ON, None), (1, OFF, 3600)], 2, False),
    "a touch without a stamp after a stamped release": ([(0, OFF, 0), (1, ON, None)], 2, True),
}


@pytest.mark.parametrize("name", CASES)
def test_a_lock_is_occupied(triggers, clock, name):
    reports, captured, occupied = CASES[name]
    for arrives, on, stamp in reports:
        clock.advance_to(START + arrives)
        triggers.occupancy("A", on, None if stamp is None else START + stamp)
    clock.advance_to(START + captured)
    assert triggers.capture("entrance").occupied_locks == ({"A"} if occupied else frozenset())


def test_a_context_never_changes(triggers, clock):
    triggers.occupancy("A", True)
    context = triggers.capture("entrance")
    copy = dataclasses.asdict(context)
    triggers.occupancy("A", False)
    triggers.occupancy("B", True)
    clock.sleep(100)
    triggers.forget()
    assert dataclasses.asdict(context) == copy
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.occupied_locks = frozenset()
    assert isinstance(context.occupied_locks, frozenset)


def test_a_frame_that_is_told_of_late_has_the_locks_of_its_instant(triggers, clock):
    triggers.occupancy("A", True)
    clock.sleep(2)
    triggers.occupancy("A", False)
    triggers.occupancy("B", True)
    clock.sleep(1)
    context = triggers.capture("entrance", START + 1)
    assert (context.occupied_locks, context.captured_at, context.captured_monotonic) == ({"A"}, START + 1, 501.0)
    assert triggers.capture("entrance").occupied_locks == {"B"}


def test_a_camera_has_its_own_locks_only(triggers):
    for lock in "ABC":
        triggers.occupancy(lock, True)
    assert triggers.capture("entrance").occupied_locks == {"A", "B"}
    assert triggers.capture("yard").occupied_locks == {"B", "C"}


def test_a_touch_that_is_over_when_it_is_heard_of_begins_nothing(triggers, clock):
    clock.sleep(20)
    assert not triggers.occupancy("A", True, START + 5)
    assert triggers.occupancy("A", False, START + 19)
    assert not triggers.occupancy("A", True, START + 18)
    assert triggers.capture("entrance").transaction_id == ""
    assert triggers.occupancy("A", True, START + 20)
    assert triggers.capture("entrance").transaction_id != ""


def test_each_lock_has_its_own_timer(clock):
    triggers = Triggers(clock, CAMERAS, 10.0, hold_of_lock={"B": 3.0})
    triggers.occupancy("A", True)
    triggers.occupancy("B", True)
    clock.sleep(5)
    assert triggers.capture("entrance").occupied_locks == {"A"}


def test_what_is_unknown_is_ignored(triggers):
    assert not triggers.occupancy("Z", True)
    assert not triggers.motion("garage", True)
    with pytest.raises(KeyError):
        triggers.capture("garage")


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_setting_the_clock_moves_no_timer(triggers, clock, seconds):
    triggers.occupancy("A", True)
    clock.jump(seconds)
    clock.sleep(5)
    assert triggers.capture("entrance").occupied_locks == {"A"}
    clock.sleep(5)
    assert triggers.capture("entrance").occupied_locks == frozenset()


def test_a_clock_set_back_does_not_keep_doors_shut(triggers, clock):
    triggers.occupancy("A", True, clock.now())
    clock.sleep(2)
    triggers.occupancy("A", False, clock.now())
    clock.jump(-3600)
    clock.sleep(5)
    triggers.occupancy("A", True, clock.now())
    assert triggers.capture("entrance").occupied_locks == {"A"}
    clock.sleep(2)
    triggers.occupancy("A", False, clock.now())
    assert triggers.capture("entrance").occupied_locks == frozenset()


def test_forgetting_leaves_nothing_occupied(triggers):
    triggers.occupancy("A", True)
    triggers.motion("entrance", True)
    triggers.forget_locks()
    context = triggers.capture("entrance")
    assert (context.occupied_locks, context.onvif_triggered) == (frozenset(), True)
    triggers.forget()
    assert not triggers.capture("entrance").onvif_triggered


def test_only_the_cameras_own_motion_is_told(triggers, clock):
    triggers.motion("yard", True, source="sensor")
    assert triggers.is_triggered("yard")
    assert not triggers.capture("yard").onvif_triggered
    triggers.motion("yard", True)
    assert triggers.capture("yard").onvif_triggered
    assert not triggers.capture("entrance").onvif_triggered
    triggers.motion("yard", False)
    assert not triggers.capture("yard").onvif_triggered


def test_motion_whose_end_is_lost_ends(triggers, clock):
    triggers.motion("yard", True)
    clock.sleep(30)
    assert not triggers.capture("yard").onvif_triggered
    assert not triggers.is_triggered("yard")


def test_a_transaction_lasts_until_a_trigger_begins_after_all_had_ended(triggers, clock):
    assert triggers.capture("entrance").transaction_id == ""
    triggers.occupancy("A", True)
    first = triggers.capture("entrance").transaction_id
    assert first
    clock.sleep(5)
    triggers.occupancy("B", True)
    triggers.occupancy("A", False)
    clock.sleep(30)
    assert triggers.capture("entrance").transaction_id == first
    triggers.motion("entrance", True)
    assert triggers.capture("entrance").transaction_id not in ("", first)
    assert triggers.capture("yard").transaction_id not in ("", first)


def test_no_two_frames_have_one_name(triggers):
    assert len({triggers.capture("yard").frame_id for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("name", ["", " ", "#", "a/b", "a+", "a\0b", "a\nb", "bridge", "\ud800", "x" * 201])
def test_hostile_names_in_the_configuration_are_refused(clock, name):
    with pytest.raises(ConfigError, match="cannot be a lock"):
        Triggers(clock, {"entrance": ["A", name]})


def test_a_flood_of_old_touches_does_not_push_out_the_release(triggers, clock):
    clock.sleep(9)
    triggers.occupancy("A", False, START + 9)
    for number in range(500):
        triggers.occupancy("A", True, START + number / 100)
    clock.sleep(0.5)
    assert triggers.capture("entrance").occupied_locks == frozenset()


def test_threads_may_report_while_others_capture(triggers):
    """What is captured is always something that was so, and nothing fails."""
    over = threading.Event()

    def report() -> None:
        while not over.is_set():
            triggers.occupancy("A", True)
            triggers.occupancy("A", False)
            triggers.forget()

    reporters = [threading.Thread(target=report) for _ in range(2)]
    for thread in reporters:
        thread.start()
    try:
        seen = {triggers.capture("entrance").occupied_locks for _ in range(3_000)}
    finally:
        over.set()
        for thread in reporters:
            thread.join()
    assert seen <= {frozenset(), frozenset({"A"})}


LOCK = st.sampled_from("ABC")
STEP = st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0, 9.9, 10.0, 61.0])


class TriggersMachine(RuleBasedStateMachine):
    """Any history: what is captured is what an oracle finds that compares all reports with each other, and stays so."""

    @initialize()
    def start(self) -> None:
        self.clock = VirtualClock(START, 500.0)
        self.triggers = Triggers(self.clock, CAMERAS, 10.0)
        self.arrived: list[Arrived] = []
        self.held: list[tuple] = []

    @rule(lock=LOCK, on=st.booleans(), ago=st.none() | st.floats(-4, 70, allow_nan=False))
    def report(self, lock, on, ago) -> None:
        stamp = None if ago is None else self.clock.now() - ago
        self.arrived.append(Arrived(lock, on, stamp, self.clock.now(), self.clock.monotonic()))
        self.triggers.occupancy(lock, on, stamp)

    @rule(seconds=STEP)
    def wait(self, seconds) -> None:
        self.clock.sleep(seconds)

    @rule(seconds=st.sampled_from([-3600.0, -3.0, -0.5, 0.5, 3.0, 3600.0]))
    def set_clock(self, seconds) -> None:
        self.clock.jump(seconds)

    @rule()
    def forget(self) -> None:
        self.triggers.forget()
        self.arrived.clear()

    @rule(camera=st.sampled_from(sorted(CAMERAS)), ago=st.none() | st.floats(0, 20))
    def capture(self, camera, ago) -> None:
        at = None if ago is None else self.clock.now() - ago
        context = self.triggers.capture(camera, at)
        instant = self.clock.monotonic() - (0.0 if at is None else self.clock.now() - at)
        expected = occupied_at(self.arrived, frozenset(CAMERAS[camera]), instant)
        assert context.occupied_locks == expected
        self.held.append((context, expected))

    @invariant()
    def nothing_captured_has_changed(self) -> None:
        assert all(context.occupied_locks == expected for context, expected in self.held)


TestTriggers = TriggersMachine.TestCase
TestTriggers.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
