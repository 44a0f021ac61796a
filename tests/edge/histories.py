"""Histories of touches, frames and mishaps: made at random, run against the real code, and against what has to come out.

What has to come out is worked out here anew, from the log of what arrived, by other means than the code's.
"""

import dataclasses
import importlib
import json
import random
import types
from collections.abc import Callable
from dataclasses import dataclass, field

from app.edge.clock import VirtualClock
from app.edge.members import Member
from app.edge.messages import Message
from app.edge.mqtt import Received
from app.edge.snapshot import Match

CAMERAS = {"entrance": frozenset({"DC001", "DC002", "DC006"}), "yard": frozenset({"DC006", "DC007"})}
LOCKS = sorted(frozenset().union(*CAMERAS.values()))
HOLD_S = 10.0
MAX_AGE_S = 8.0
START = 1_760_000_000.0
UNLOCK = {"state": "UNLOCK"}


@dataclass
class Parts:
    """The modules under test; a mutant has others."""

    triggers: types.ModuleType = field(default_factory=lambda: importlib.import_module("app.edge.triggers"))
    doors: types.ModuleType = field(default_factory=lambda: importlib.import_module("app.edge.doors"))
    unlocking: types.ModuleType = field(default_factory=lambda: importlib.import_module("app.edge.unlocking"))
    occupancy: types.ModuleType = field(default_factory=lambda: importlib.import_module("app.edge.occupancy"))


class FakeBroker:
    """A `Publisher` and source of messages that can go away; `tests.edge.brokered` has one with a real Mosquitto behind it."""

    base_topic = "zigbee2mqtt"

    def __init__(self) -> None:
        self.connected = True
        self.dies_next = False  # of the next command, in the moment between its answer and the command
        self.handlers: dict[str, Callable[[Received], None]] = {}
        self.listeners: list[Callable[[bool], None]] = []
        self.delivered: list[Message] = []
        self.waiting: list[Message] = []

    def subscribe(self, topic, handler) -> None:
        self.handlers[topic] = handler

    def on_change(self, listener) -> None:
        self.listeners.append(listener)

    def send(self, message, *, still=None) -> bool:
        if self.dies_next and still is not None:
            self.dies_next = False
            self.turn(False)
        if not self.connected:
            return False
        expires_s = message.expires_s if still is None else still()
        if still is not None and expires_s is None:
            return False
        self.delivered.append(dataclasses.replace(message, expires_s=expires_s))
        return True

    def post(self, message) -> None:
        (self.delivered if self.connected else self.waiting).append(message)

    def report(self, lock: str, payload: bytes, retained: bool = False) -> bool:
        """zigbee2mqtt says something of a lock. Whether it is heard, as something that was just said."""
        topic = f"{self.base_topic}/{lock}"
        if self.connected and topic in self.handlers:
            self.handlers[topic](Received(topic, payload, retained))
        return self.connected and not retained

    def commands(self) -> list[Message]:
        """All that locks were told so far, or are going to be."""
        return self.delivered + self.waiting

    def reboot(self) -> None:
        """The controller is switched off; its next start follows."""
        self.listeners.clear()

    def turn(self, connected: bool) -> None:
        """The broker ends, or is there again."""
        self.connected = connected
        if connected:
            self.delivered += self.waiting
            self.waiting = []
        for listener in self.listeners:
            listener(connected)


@dataclass
class Arrived:
    """A report as it came, by either clock."""

    lock: str
    on: bool
    stamp: float | None
    now: float
    monotonic: float


class Controller:
    """The parts put together as the controller does, with a log of everything that a judge needs."""

    def __init__(self, parts: Parts, clock: VirtualClock, broker, members: dict[str, Member]) -> None:
        self.parts, self.clock, self.broker, self.members = parts, clock, broker, members
        self.arrived: list[Arrived] = []
        self.problems: list[str] = []
        self.expected: dict[str, frozenset[str]] = {}
        self.opened: set[tuple[str, str]] = set()
        self.commands = 0
        self.boot()

    def boot(self) -> None:
        """Start anew: nothing is known."""
        self.reconnected()
        self.triggers = self.parts.triggers.Triggers(self.clock, CAMERAS, HOLD_S)
        topic = self.broker.base_topic
        self.feed = self.parts.occupancy.OccupancyFeed(self.broker, self.triggers, topic, now=self.clock.now)
        self.unlocker = self.parts.unlocking.Unlocker(
            self.broker, self.clock, self.members.get, max_age_s=MAX_AGE_S, base_topic=topic
        )

    def reconnected(self) -> None:
        """Nothing that came before counts, nor a first touch that may be from before."""
        self.arrived.clear()
        self.since = self.clock.now()
        self.first: dict[str, bool] = {}  # by lock: whether touches count by now

    def note(self, lock: str, on: bool, stamp: float | None) -> None:
        counts = self.first.setdefault(lock, not on or (stamp is not None and stamp >= self.since))
        if on and not counts:
            return
        self.first[lock] = True
        self.arrived.append(Arrived(lock, on, stamp, self.clock.now(), self.clock.monotonic()))

    def capture(self, camera: str, at: float | None = None):
        context = self.triggers.capture(camera, at)
        instant = self.clock.monotonic() - (0.0 if at is None else max(0.0, self.clock.now() - at))
        self.expected[context.frame_id] = occupied_at(self.arrived, CAMERAS[camera], instant)
        self.check(
            frozenset(context.occupied_locks) == self.expected[context.frame_id],
            f"captured {sorted(context.occupied_locks)}, not {sorted(self.expected[context.frame_id])}",
        )
        return context

    def decide(self, match, context) -> list[str]:
        """One frame to its end; what it opened is compared with what it should have."""
        due = self.due(match, context)
        decision = self.parts.doors.decide(
            match,
            context,
            now=self.clock.now(),
            monotonic=self.clock.monotonic(),
            max_age_s=MAX_AGE_S,
            locks_of_camera=CAMERAS,
        )
        captured = frozenset() if context is None else self.expected[context.frame_id]
        self.check(set(decision.unlock) <= captured, f"decided on {decision.unlock}, outside of what was captured")
        if context is not None and match is not None:
            decision = self.unlocker.act(decision, match, context)
        sent = self.broker.commands()[self.commands :]
        self.commands += len(sent)
        opened = [message.topic.split("/")[-2] for message in sent]
        for message in sent:
            self.check_command(message)
        self.check(sorted(opened) == sorted(due), f"opened {sorted(opened)}, not {sorted(due)}")
        if context is not None:
            self.check(set(opened) <= captured, f"opened {opened}, outside of what was captured")
            self.opened |= {(context.frame_id, lock) for lock in opened}
        if not isinstance(decision.unlock, tuple) or (match is not None and not decision.unlock):
            self.check(bool(decision.refused), "nothing opened, and no reason")
        return opened

    def due(self, match, context) -> frozenset[str]:
        """What has to open, by the requirements alone."""
        if match is None or context is None or not self.broker.connected or self.broker.dies_next:
            return frozenset()
        now = self.clock.now()
        age_s = now - context.captured_at
        passed_s = self.clock.monotonic() - context.captured_monotonic
        member = self.members.get(match.member.key)
        # A command lasts for a second at least.
        if not -1.0 <= age_s <= MAX_AGE_S - 1 or passed_s > MAX_AGE_S - 1 or member is None:
            return frozenset()
        for one in (member, match.member):
            if (one.valid_from is not None and now < one.valid_from) or (
                one.valid_until is not None and now >= one.valid_until
            ):
                return frozenset()
        done = {lock for frame_id, lock in self.opened if frame_id == context.frame_id}
        return (self.expected[context.frame_id] & member.locks & match.member.locks & CAMERAS[context.camera]) - done

    def check_command(self, message: Message) -> None:
        self.check(json.loads(message.payload) == UNLOCK, f"sent {message.payload!r}")
        self.check(not message.retain, "sent retained")
        self.check(message.qos == 1, "sent without an acknowledgement")
        self.check(message.expires_s is not None and 1 <= message.expires_s <= MAX_AGE_S, "sent without an end")

    def check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)


def occupied_at(arrived: list[Arrived], locks: frozenset[str], instant: float) -> frozenset[str]:
    """Which locks count as touched at an instant, by what has arrived: every pair of reports is compared."""
    events = []
    for number, one in enumerate(arrived):
        stamp, happened = one.stamp, one.monotonic
        if stamp is not None and not one.now - 60.0 <= stamp <= one.now + 2.0:
            if one.on:
                continue
            stamp = None
        if stamp is not None:
            happened = min(one.monotonic, one.monotonic - (one.now - stamp))
        if happened <= instant:
            events.append((number, one, stamp, happened))
    touched = set()
    for lock in locks:
        of_lock = [event for event in events if event[1].lock == lock]
        offs = [event for event in of_lock if not event[1].on]
        ons = [event for event in of_lock if event[1].on]
        for on in ons:
            if instant >= on[3] + HOLD_S or any(ended_later(off, on) for off in offs):
                continue
            # What was said before, with no release in between, is the same touch.
            same = [
                other
                for other in ons
                if other is not on
                and said_later(on, other)
                and not any(ended_later(off, other) and not ended_later(off, on) for off in offs)
            ]
            if not same:
                touched.add(lock)
    return frozenset(touched)


def by_stamps(one, other) -> bool:
    """Whether both have a time of the sender's, and no clock was set in between."""
    stamped = one[2] is not None and other[2] is not None
    return stamped and abs((one[2] - other[2]) - (one[3] - other[3])) <= 2.0


def ended_later(off, on) -> bool:
    return off[2] >= on[2] if by_stamps(off, on) else off[0] > on[0]


def said_later(one, other) -> bool:
    return (one[2], one[0]) > (other[2], other[0]) if by_stamps(one, other) else one[0] > other[0]


def payload(on: bool, stamp: float | None, rng: random.Random | None = None) -> bytes:
    """What zigbee2mqtt sends."""
    body: dict[str, object] = {"occupancy": on, "battery": 97, "linkquality": 120}
    if stamp is not None:
        body["last_seen"] = stamp * 1000
    return json.dumps(body).encode()


Step = tuple[float, int, str, tuple]


def random_steps(rng: random.Random, *, drops: bool = True, jumps: bool = True) -> list[Step]:
    """What happens, by the time that has passed since the start: touches with their reports on the way, frames, mishaps."""
    steps: list[Step] = []
    counter = iter(range(1_000_000))

    def add(at: float, kind: str, *details) -> None:
        steps.append((at, next(counter), kind, details))

    stamped = {lock: rng.random() < 0.7 for lock in LOCKS}
    touches = [(rng.uniform(0, 40), rng.choice(LOCKS)) for _ in range(rng.randint(1, 6))]
    for touch, lock in touches:
        end = touch + rng.choice([rng.uniform(0.5, 9), 10.0])
        reports = [(touch, True), (end, False)]
        reports += [(rng.uniform(touch, end), True) for _ in range(rng.randint(0, 1))]
        for happened, on in reports:
            for _ in range(1 + (rng.random() < 0.2)):
                if rng.random() > 0.15:
                    delay = rng.choice([0.05, 0.05, 0.05, rng.uniform(0, 3), rng.uniform(0, 15), 61.5])
                    add(happened + delay, "report", lock, on, happened if stamped[lock] else None, rng.random() < 0.05)
    for _ in range(rng.randint(1, 5)):
        touch, lock = rng.choice(touches)
        captured = max(0.0, touch + rng.choice([rng.uniform(-1, 14), rng.uniform(0.1, 6)]))
        frame = next(counter)
        camera = rng.choice([camera for camera in sorted(CAMERAS) if lock in CAMERAS[camera]])
        add(captured, "capture", frame, camera, rng.choice([None, None, None, 0.4, 3.0]))
        for _ in range(1 + (rng.random() < 0.25)):
            delay = rng.choice([0.2, 1.0, rng.uniform(0, 6), rng.uniform(3, 12)])
            add(captured + delay, "decide", frame, rng.choice(["guest", "guest", "other", None]))
    if rng.random() < 0.3:
        add(rng.uniform(0, 50), "member", rng.choice(["guest", "other"]), rng.choice(["gone", "ended", "no locks"]))
    if drops and rng.random() < 0.3:
        began = rng.uniform(0, 45)
        add(began, "drop")
        add(began + rng.uniform(0.1, 8), "back")
    if rng.random() < 0.15:
        add(rng.uniform(0, 45), "reboot")
    if jumps and rng.random() < 0.1:
        add(rng.uniform(0, 45), "jump", rng.choice([-3600.0, -5.0, -0.5, 0.5, 5.0, 3600.0]))
    if drops and rng.random() < 0.25:
        began = rng.choice(touches)[0] + rng.uniform(0, 8)
        add(began, "doom")
        add(began + rng.uniform(1, 15), "back")
    return sorted(steps)


def members_of(rng: random.Random) -> dict[str, Member]:
    until = START + rng.choice([1e6, 1e6, rng.uniform(5, 45)])
    return {
        "guest": Member("guest", "A Guest", START - 60, until, frozenset(rng.sample(LOCKS, rng.randint(1, 3)))),
        "other": Member("other", "Other", None, None, frozenset(rng.sample(LOCKS, 2)) | {"DC099", "#"}),
    }


class Run:
    """One history, step by step."""

    def __init__(self, seed: int, parts: Parts | None = None, broker: FakeBroker | None = None) -> None:
        self.rng = random.Random(seed)
        self.clock = VirtualClock(START, 1000.0)
        self.broker = broker or FakeBroker()
        self.members = members_of(self.rng)
        self.first_members = dict(self.members)
        self.controller = Controller(parts or Parts(), self.clock, self.broker, self.members)
        self.frames: dict[int, object] = {}
        self.unlocked = self.drops = self.deaths = self.reboots = 0

    def play(self) -> list[str]:
        """What went wrong."""
        for at, _, kind, details in random_steps(self.rng):
            self.clock.sleep(1000.0 + at - self.clock.monotonic())
            getattr(self, f"on_{kind}")(*details)
        self.controller.check(len(self.broker.commands()) == self.controller.commands, "opened without a frame")
        return self.controller.problems

    def on_report(self, lock: str, on: bool, happened: float | None, retained: bool) -> None:
        stamp = None if happened is None else START + happened
        if self.broker.report(lock, payload(on, stamp), retained):
            # As it comes out of JSON.
            self.controller.note(lock, on, None if stamp is None else stamp * 1000 / 1000)

    def on_capture(self, frame: int, camera: str, ago: float | None) -> None:
        self.frames[frame] = self.controller.capture(camera, None if ago is None else self.clock.now() - ago)

    def on_decide(self, frame: int, who: str | None) -> None:
        # Recognised in the gallery as it was at first: the last moment's membership may be another.
        match = None if who is None else Match(self.first_members[who], 0.9)
        connected = self.broker.connected
        self.unlocked += len(self.controller.decide(match, self.frames.get(frame)))
        if connected and not self.broker.connected:
            # The controller may take it for sent or not: it is not looked at again.
            del self.frames[frame]
            self.deaths += 1
            self.controller.reconnected()

    def on_member(self, who: str, change: str) -> None:
        member = self.members[who]
        if change == "gone":
            del self.members[who]
        elif change == "ended":
            self.members[who] = dataclasses.replace(member, valid_until=self.clock.now())
        else:
            self.members[who] = dataclasses.replace(member, locks=frozenset())

    def on_doom(self) -> None:
        self.broker.dies_next = self.broker.connected

    def on_drop(self) -> None:
        if not self.broker.connected:
            return
        self.drops += 1
        self.broker.dies_next = False  # it is dead by then
        self.controller.reconnected()
        self.broker.turn(False)

    def on_back(self) -> None:
        self.broker.dies_next = False
        if self.broker.connected:
            return
        self.controller.reconnected()
        self.broker.turn(True)
        came = len(self.broker.commands()) - self.controller.commands
        self.controller.check(came == 0, "opened when the broker came back")
        self.controller.commands += came

    def on_reboot(self) -> None:
        self.reboots += 1
        self.broker.reboot()
        self.controller.boot()
        self.frames.clear()

    def on_jump(self, seconds: float) -> None:
        self.clock.jump(seconds)
