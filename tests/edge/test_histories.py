"""The case that failed, ten thousand random histories, and faults put into the code that these have to find."""

import importlib
import inspect
import logging
import os
import random
import types

import pytest
import structlog

from app.edge.clock import VirtualClock
from app.edge.members import Member
from app.edge.snapshot import Match
from tests.edge.histories import HOLD_S, START, Controller, FakeBroker, Parts, Run, payload

# Each takes a quarter of a second, its oracle more than half of that. FACEDEX_TEST_REPETITIONS=200 plays more of them.
REPETITIONS = int(os.environ.get("FACEDEX_TEST_REPETITIONS", "60"))


@pytest.fixture(autouse=True)
def _quiet():
    """Ten thousand histories have much to tell."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def the_case_that_failed(parts: Parts, stamped: bool, broker: FakeBroker | None = None) -> tuple[list[str], list[str]]:
    """00:01:02 DC001 occupied; :08 DC006 occupied; :12 DC001 released; :15 frame; :17 DC006 released; :19 match processed."""
    clock = VirtualClock(START)
    broker = broker or FakeBroker()
    # All of the camera's locks are theirs: only the touch may decide.
    guest = Member("R1-1", "Guest", locks=frozenset({"DC001", "DC002", "DC006", "DC007"}))
    controller = Controller(parts, clock, broker, {"R1-1": guest})

    def report(second: int, lock: str, occupied: bool) -> None:
        clock.advance_to(START + second)
        stamp = clock.now() if stamped else None
        controller.note(lock, occupied, stamp)
        broker.report(lock, payload(occupied, stamp))

    if not stamped:  # else a first touch may be an old one
        report(1, "DC001", False)
        report(2, "DC006", False)
    report(62, "DC001", True)
    report(68, "DC006", True)
    report(72, "DC001", False)
    clock.advance_to(START + 75)
    context = controller.capture("entrance")
    report(77, "DC006", False)
    clock.advance_to(START + 79)
    return controller.decide(Match(guest, 0.93), context), controller.problems


@pytest.mark.parametrize("stamped", [True, False])
def test_the_case_that_failed_opens_only_the_lock_touched_at_capture(stamped):
    assert the_case_that_failed(Parts(), stamped) == (["DC006"], [])


@pytest.mark.parametrize("block", range(4))
def test_no_random_history_opens_a_lock_outside_the_captured_set(block):
    runs = [Run(seed) for seed in range(block * 2_500, (block + 1) * 2_500)]
    wrong = {number: problems for number, run in enumerate(runs) if (problems := run.play())}
    assert wrong == {}
    # They are about something: many open what they should, and many things go wrong on the way.
    assert sum(run.unlocked for run in runs) > 500


def repetitions(seed: int) -> tuple[int, list[str]]:
    """Random touches of a lock by a hand, told or lost on the way to zigbee2mqtt: how much opened, and what should not have."""
    rng, lock = random.Random(seed), "DC006"
    clock, broker = VirtualClock(START), FakeBroker()
    guest = Member("R1-1", "Guest", locks=frozenset({lock}))
    controller = Controller(Parts(), clock, broker, {"R1-1": guest})
    remembered = hand = False
    touched_at, opened = -1e9, 0
    for step in range(240):
        clock.advance_to(START + 1 + step / 2)
        told = step == 0 or rng.random() < 0.4  # battery, signal, the answer to an UNLOCK
        if rng.random() < 0.1:
            hand = not hand
            if hand:
                touched_at = clock.now()
            if hand or rng.random() < 0.6:
                remembered, told = hand, True
        if told:
            stamp = clock.now() if seed % 2 else None
            controller.note(lock, remembered, stamp)
            broker.report(lock, payload(remembered, stamp))
        if rng.random() < 0.3:
            opens = controller.decide(Match(guest, 0.9), controller.capture("entrance"))
            opened += len(opens)
            if opens and clock.now() - touched_at >= HOLD_S:
                controller.problems.append(f"opened {clock.now() - touched_at} s after the last touch")
    return opened, controller.problems


def test_what_zigbee2mqtt_repeats_of_a_lock_opens_nothing_without_a_hand_on_it():
    """It publishes all that it remembers with each message of a device, with a new `last_seen`."""
    outcomes = [repetitions(seed) for seed in range(REPETITIONS)]
    assert [problems for _, problems in outcomes if problems] == []
    assert sum(opened for opened, _ in outcomes) > REPETITIONS * 2


# Faults by name: the part, what stands in the code, what is put in its place, and code that is added at the end.
LATE = """
class _Late:
    def __init__(self, triggers, camera): self._triggers, self._camera = triggers, camera
    def _now(self):
        at = self._triggers._clock.monotonic()
        locks = self._triggers.locks_of_camera[self._camera]
        return frozenset(lock for lock in locks if self._triggers._locks[lock].is_on(at))
    def __iter__(self): return iter(self._now())
    def __len__(self): return len(self._now())
    def __contains__(self, lock): return lock in self._now()
    def __or__(self, other): return self._now() | other
"""
MUTANTS = {
    "late occupancy": ("triggers", "occupied_locks=frozenset(occupied)", "occupied_locks=_Late(self, camera)", LATE),
    "unlock all on an empty set": (
        "doors",
        "    if context is None or not context.occupied_locks:\n",
        "    if context is not None and not context.occupied_locks:\n"
        "        return Decision(tuple(sorted(locks_of_camera[context.camera])))\n"
        "    if context is None:\n",
        "",
    ),
    "no expiry of occupancy": ("triggers", "instant - report.instant >= self._hold_s", "False", ""),
    "repetitions are touches": ("triggers", "if not self._repeated:", "if True:", ""),
    "first touches are trusted": ("occupancy", "report.at < self._since", "False", ""),
    "releases ignored": ("triggers", "if not report.on]", "if False]", ""),
    "order of arrival": ("triggers", "if self.stamp is not None and other.stamp is not None", "if False", ""),
    "touches from after the frame": ("triggers", "if report.instant <= instant]", "]", ""),
    "impossible times": ("triggers", "if -_AHEAD_MAX_S <= late_s <= _LATE_MAX_S:", "if True:", ""),
    "touch counts when it is heard": ("triggers", "arrived - max(0.0, late_s)", "arrived", ""),
    "duplicate unlock for a frame": ("unlocking", "if lock in done.locks:", "if False:", ""),
    "stale membership": ("unlocking", "self._membership(match.member.key)", "match.member", ""),
    "membership for ever": (
        "unlocking",
        "or refusal_of_member(member, now)\n            or self._refusal_of_time(member)",
        "or (None if member else refusal_of_member(member, now))",
        "",
    ),
    "toggle": ("unlocking", "UNLOCK, expires_s", 'b\'{"state": "TOGGLE"}\', expires_s', ""),
    "retained": ("unlocking", "UNLOCK, expires_s=expires_s", "UNLOCK, retain=True, expires_s=expires_s", ""),
    "commands that never expire": (
        "unlocking",
        "return math.floor(left_s) if left_s >= 1",
        "return 10**6 if left_s >= 1",
        "",
    ),
    "commands kept while the broker is away": (
        "unlocking",
        "if self._publisher.send(message, still=still):",
        "if self._publisher.post(message) is None:",
        "",
    ),
    "old frames": ("doors+unlocking", "refusal_of_frame(context, now, monotonic, {age})", "None", ""),
    "anybody's locks": ("doors+unlocking", "lock not in member.locks", "False", ""),
    "occupancy survives a lost broker": ("occupancy", "self._triggers.forget_locks()", "None", ""),
    "retained reports": ("occupancy", "if received.retained:", "if False:", ""),
}


def mutated(part: str, old: str, new: str, prelude: str) -> Parts:
    """The parts, with one of them changed; the others are the real ones."""
    parts = Parts()
    for name in part.split("+"):
        original = importlib.import_module(f"app.edge.{name}")
        source = inspect.getsource(original)
        here = old.format(age="max_age_s" if name == "doors" else "self._max_age_s") if "{age}" in old else old
        if name == "unlocking" and here == "lock not in member.locks":
            here, put = "lock in member.locks else", "True else"
        else:
            put = new
        assert source.count(here) == 1, f"{here!r} stands {source.count(here)} times in {name}"
        module = types.ModuleType(original.__name__)
        module.__file__ = original.__file__
        setattr(parts, name, module)
        exec(compile(f"{source.replace(here, put)}\n{prelude}", f"<{name} with a fault>", "exec"), module.__dict__)
    return parts


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_is_found(name):
    parts = mutated(*MUTANTS[name])
    found = any(the_case_that_failed(parts, stamped) != (["DC006"], []) for stamped in (True, False))
    assert found or any(Run(seed, parts).play() for seed in range(2_500))


def test_without_a_fault_the_same_way_of_making_parts_finds_nothing():
    for part in ("triggers", "doors", "unlocking", "occupancy"):
        line = "from app.edge." if part != "occupancy" else "import structlog"
        source = inspect.getsource(importlib.import_module(f"app.edge.{part}"))
        first = next(text for text in source.splitlines() if text.startswith(line))
        parts = mutated(part, first, first, "")
        assert not any(Run(seed, parts).play() for seed in range(200))
        assert the_case_that_failed(parts, True) == (["DC006"], [])
