"""Runs a scenario: its steps in the order of their times, against the controller's own parts."""

import heapq
import itertools
import json
from collections.abc import Callable
from typing import Final, assert_never

from pydantic import SecretStr

from app.edge.asking import ServerRecognizer
from app.edge.cameras.frame import Frame, Slot
from app.edge.circuit import Circuit
from app.edge.clock import VirtualClock
from app.edge.controller import Controller, Outcome
from app.edge.gallery import Gallery
from app.edge.local import LocalRecognizer
from app.edge.members import GalleryDelta, Member
from app.edge.messages import Message
from app.edge.motion import MotionFeed
from app.edge.occupancy import OccupancyFeed
from app.edge.recognition import Recognizer, SwitchingRecognizer
from app.edge.simulator.parts import (
    CONTRACT,
    DIMENSION,
    SimulatedBroker,
    SimulatedEngine,
    SimulatedServer,
    Unhurried,
    names_on,
    picture_of,
    templates_of,
)
from app.edge.simulator.played import Entry, Played
from app.edge.simulator.scenario import (
    AnyStep,
    ComesBack,
    FrameTaken,
    GoesAway,
    Joins,
    Jump,
    Leaves,
    MemberThere,
    Motion,
    Reboot,
    Release,
    Scenario,
    Touch,
    clock_of,
)
from app.edge.triggers import Triggers
from app.edge.unlocking import Unlocker
from app.edge.zigbee import UNLOCK, command_topic, state_topic

# 2026-01-01T00:00:00Z: the midnight of all scenarios.
MIDNIGHT: Final = 1_767_225_600.0
_TOPIC: Final = "zigbee2mqtt"
_EVENTS_TOPIC: Final = "facedex/edge/simulated"
_THRESHOLD, _MARGIN = 0.5, 0.02


def play(scenario: Scenario) -> Played:
    """Run a scenario to its end."""
    world = _World(scenario)
    try:
        world.run()
    finally:
        world.close()
    return Played(
        scenario.expect,
        tuple(world.timeline),
        tuple(world.unlocked),
        tuple(world.refused),
        tuple(world.events),
        tuple(world.strange),
    )


class _World:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._clock = VirtualClock(now=MIDNIGHT)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._members = {name: _member(name, given) for name, given in scenario.members.items()}
        self._broker = SimulatedBroker(self._clock, self._delivered)
        self._server = SimulatedServer(self._members)
        self.timeline: list[Entry] = []
        self.unlocked: list[str] = []
        self.refused: list[str] = []
        self.events: list[dict[str, object]] = []
        self.strange: list[str] = []
        self._start()

    def _start(self) -> None:
        """The controller starts: all that it knows comes from its file and from now on."""
        setup, locks = self._scenario.setup, {name: frozenset(of) for name, of in self._scenario.cameras.items()}
        self._slots: dict[str, Slot[tuple[Frame, float]]] = {camera: Slot() for camera in locks}
        self._busy: set[str] = set()
        self._gallery = gallery = Gallery(CONTRACT, DIMENSION)
        gallery.update(templates_of(member) for member in self._members.values())
        self._recognizer = self._make_recognizer(gallery)
        triggers = Triggers(
            self._clock, locks, setup.hold_s, make_id=lambda: f"{self._scenario.title}-{next(self._numbers)}"
        )
        unlocker = Unlocker(
            self._broker,
            self._clock,
            lambda key: gallery.snapshot.member(key),  # noqa: PLW0108 -- the snapshot as of each call
            max_age_s=setup.max_age_s,
            base_topic=_TOPIC,
        )
        self._controller = Controller(
            triggers,
            self._recognizer,
            unlocker,
            self._broker,
            self._clock,
            session_s=setup.session_s,
            max_age_s=setup.max_age_s,
            events_topic=_EVENTS_TOPIC,
            watch=self._watch,
        )
        self._broker.forget_controller()
        OccupancyFeed(self._broker, self._controller, _TOPIC, now=self._clock.now)
        MotionFeed(self._broker, self._controller, {_motion_topic(camera): camera for camera in locks})

    def _make_recognizer(self, gallery: Gallery) -> Recognizer:
        mode, clock = self._scenario.setup.mode, Unhurried(self._clock)

        def local() -> Recognizer:
            return LocalRecognizer(
                SimulatedEngine,
                lambda: gallery.snapshot,
                clock,
                threshold=_THRESHOLD,
                margin=_MARGIN,
                max_pixels=1_000_000,
            )

        if mode == "local":
            return local()
        server = ServerRecognizer(
            self._server.client(),
            SecretStr("simulated"),
            "simulated",
            lambda: gallery.snapshot,
            clock,
            Circuit(clock, open_after=3, retry_after_s=1.0, retry_after_max_s=30.0),
            timeout_s=4.0,
            attempts=2,
        )
        return server if mode == "server" else SwitchingRecognizer(server, local())

    def run(self) -> None:
        for step in self._scenario.at:
            self._at(step.time, lambda step=step: self._happen(step))  # type: ignore[misc]
        while self._due:
            time, _, action = heapq.heappop(self._due)
            self._clock.sleep(time - self._clock.monotonic())
            action()
            for session in self._controller.sessions.end_due():
                self._say(
                    f"{session.camera}: session ended, {session.frames} frames, {session.matches} matches, "
                    f"unlocked: {', '.join(session.unlocked) or 'nothing'}"
                )

    def close(self) -> None:
        """Threads end, also of what was started before."""
        self._recognizer.close()

    def _at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time, next(self._numbers), action))

    def _say(self, text: str) -> None:
        self.timeline.append(Entry(self._clock.monotonic(), text))

    def _happen(self, step: AnyStep) -> None:
        match step:
            case Touch() | Release():
                self._lock_reports(step)
            case Motion():
                payload = json.dumps({"motion": step.on}).encode()
                what = f"{step.motion}: {'movement' if step.on else 'movement is over'}"
                self._report(step, _motion_topic(step.motion), payload, what)
            case FrameTaken():
                self._take(step)
            case GoesAway() | ComesBack():
                self._reach(step)
            case Reboot():
                self._say("the controller starts anew")
                self.close()
                self._start()
            case Jump():
                self._say(f"the time of day is set by {step.jump_s:+g} s")
                self._clock.jump(step.jump_s)
            case Joins() | Leaves():
                self._membership(step)
            case _:
                assert_never(step)

    def _lock_reports(self, step: Touch | Release) -> None:
        lock, touched = (step.touch, True) if isinstance(step, Touch) else (step.release, False)
        report: dict[str, object] = {"occupancy": touched}
        if step.stamped:
            report["last_seen"] = round(self._clock.now() * 1000)
        what = f"{lock} {'touched' if touched else 'released'}"
        self._report(step, state_topic(_TOPIC, lock), json.dumps(report).encode(), what)

    def _report(self, step: Touch | Release | Motion, topic: str, payload: bytes, what: str) -> None:
        """Somebody publishes something, which arrives now, later, or never."""
        if step.lost:
            self._say(f"{what}, the message is lost")
        elif step.told is None or step.told <= step.time:
            self._arrive(topic, payload, what)
        else:
            self._say(f"{what}, the message is late")
            self._at(step.told, lambda: self._arrive(topic, payload, f"{what}, says a late message"))

    def _arrive(self, topic: str, payload: bytes, what: str) -> None:
        got = self._broker.receive(topic, payload)
        self._say(what if got else f"{what}, which nobody hears")
        # The session that it may have begun ends by itself.
        self._at(self._clock.monotonic() + self._scenario.setup.session_s, lambda: None)

    def _take(self, step: FrameTaken) -> None:
        camera, faces = step.frame, ", ".join(step.faces) or "nobody"
        if not self._controller.wanted(camera):
            self._say(f"{camera}: {faces}; no session, nobody looks")
            return
        now = self._clock.now()
        frame = Frame(camera, picture_of(step.faces), now, self._controller.capture(camera, now))
        occupied = ", ".join(sorted(frame.context.occupied_locks)) or "nothing"
        self._say(f"{camera}: frame of {faces}; occupied: {occupied}")
        if self._slots[camera].put((frame, step.seconds)) is not None:
            self._controller.sessions.dropped(camera)
            self._say(f"{camera}: an older frame is dropped")
        self._begin(camera)

    def _begin(self, camera: str) -> None:
        """Recognition of the newest frame begins, unless it is busy with another."""
        if camera in self._busy or (taken := self._slots[camera].take(wait=False)) is None:
            return
        self._busy.add(camera)
        frame, seconds = taken
        controller = self._controller

        def finish() -> None:
            if controller is self._controller:  # else it was switched off in between
                self._busy.discard(camera)
                controller.process(frame)
                self._begin(camera)

        self._at(self._clock.monotonic() + seconds, finish)

    def _watch(self, outcome: Outcome) -> None:
        time, camera = clock_of(self._clock.monotonic()), outcome.frame.camera
        if outcome.recognized is None:
            self._say(f"{camera}: not recognised: {outcome.error}")
        elif not outcome.decisions:
            reasons = ", ".join(sorted(outcome.recognized.nobody)) or "no face"
            self._say(f"{camera}: {', '.join(names_on(outcome.frame.encoded())) or 'nobody'}: no match: {reasons}")
        if not outcome.decisions:
            self.refused += [f"{time} {reason}" for reason in outcome.refused]
        for match, decision in outcome.decisions:
            by = outcome.recognized.by if outcome.recognized is not None else ""
            self._say(
                f"{camera}: {match.member.key} matched ({by}); unlocked: {', '.join(decision.unlock) or 'nothing'}"
            )
            for refusal in decision.refused:
                text = " ".join(part for part in (refusal.lock, str(refusal.reason)) if part)
                self.refused.append(f"{time} {text}")
                self._say(f"{camera}: {match.member.key}: not unlocked: {text}")

    def _reach(self, step: GoesAway | ComesBack) -> None:
        what, there = (step.back, True) if isinstance(step, ComesBack) else (step.away, False)
        self._say(f"the {what} is {'back' if there else 'away'}")
        if what == "server":
            self._server.there = there
        else:
            self._broker.change(there)

    def _membership(self, step: Joins | Leaves) -> None:
        if isinstance(step, Leaves):
            self._members.pop(step.leaves, None)
            changes = self._gallery.apply(GalleryDelta(CONTRACT, "", False, (), (step.leaves,)))
            self._say(f"{step.leaves} leaves: {changes}")
            return
        member = _member(step.joins, step)
        self._members[step.joins] = member
        self._server.known.add(step.joins)
        changes = self._gallery.apply(GalleryDelta(CONTRACT, "", False, (templates_of(member),)))
        self._say(f"{step.joins} may open {', '.join(sorted(member.locks)) or 'nothing'}: {changes}")

    def _delivered(self, message: Message) -> None:
        if message.topic == f"{_EVENTS_TOPIC}/member_detected":
            self.events.append(json.loads(message.payload))
            return
        locks = {lock for of in self._scenario.cameras.values() for lock in of}
        lock = next((lock for lock in locks if command_topic(_TOPIC, lock) == message.topic), None)
        if lock is None or message.payload != UNLOCK or message.retain or message.expires_s is None:
            self.strange.append(f"{clock_of(self._clock.monotonic())} a message on {message.topic}")
        self.unlocked.append(f"{clock_of(self._clock.monotonic())} {lock or message.topic}")


def _member(name: str, given: MemberThere | Joins) -> Member:
    def unix(time: float | None) -> float | None:
        return None if time is None else MIDNIGHT + time

    return Member(name, name, unix(given.valid_from), unix(given.valid_until), frozenset(given.locks))


def _motion_topic(camera: str) -> str:
    return f"onvif/{camera}/motion"
