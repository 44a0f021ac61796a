"""One controller, running: for each camera a thread and one for its recognition, and those of broker, gallery and health."""

import json
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from app.edge.cameras.camera import Camera
from app.edge.cameras.frame import Frame, Slot
from app.edge.cameras.pictures import open_pictures
from app.edge.clock import Clock, SystemClock
from app.edge.config import CameraSection, EdgeConfig
from app.edge.controller import Controller, Outcome
from app.edge.health import CameraHealth, GalleryHealth, HealthServer, Report, ServerHealth
from app.edge.messages import Message
from app.edge.motion import MotionFeed
from app.edge.occupancy import OccupancyFeed
from app.edge.secrets import Secrets
from app.edge.timekeeping import TimeOfDay
from app.edge.triggers import Triggers
from app.edge.unlocking import Unlocker
from app.edge.wiring import make_broker, make_gallery, make_recognition, make_source, make_sync

log = structlog.stdlib.get_logger("facedex.edge")

# How often it is looked whether a session is over, or the state has changed.
_TICK_S: Final = 0.25
# For how long `stop` waits for a frame that is being recognised.
_STOPPED_WITHIN_S: Final = 10.0
# For so long after the start it is no news that the time of day is not known: the source has not answered yet.
_TIME_KNOWN_WITHIN_S: Final = 10.0
# A clock that is off by more is wrong; the source's answers are on their way for some of it.
_CLOCK_OFF_S: Final = 30.0


class Edge:
    """Everything that `python -m app.edge` starts.

    Args:
        time_of_day: who vouches for it; this machine's, where None.
        watch: is told of every frame that was looked at.

    Raises:
        ConfigError: a pack, a file of certificates or an address cannot be used.
    """

    def __init__(
        self,
        config: EdgeConfig,
        secrets: Secrets,
        *,
        clock: Clock | None = None,
        time_of_day: TimeOfDay | None = None,
        watch: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._config = config
        self._clock = clock = clock or SystemClock()
        self._started_at, self._started_s = clock.now(), clock.monotonic()
        self._time_state = ""
        self._stopping = threading.Event()
        self._connection_changed = threading.Event()
        topic = f"{config.broker.events_topic}/{config.name}"
        self._status_topic = f"{topic}/status"
        self.gallery = make_gallery(config)
        self.time_of_day = time_of_day or TimeOfDay(clock)
        source = make_source(config, secrets, self.gallery, clock, self.time_of_day.told)
        self.sync = make_sync(config, self.gallery, source, clock)
        self._recognition = make_recognition(config, secrets, lambda: self.sync.snapshot, clock)
        self.broker = make_broker(config, secrets, self._status_topic)
        triggers = Triggers(clock, config.locks_of_cameras(), config.doors.hold_s)
        unlocker = Unlocker(
            self.broker,
            clock,
            self.sync.member,
            max_age_s=config.doors.max_age_s,
            base_topic=config.broker.topic,
            time_of_day=self.time_of_day,
            require_known_time=config.doors.require_known_time,
        )
        self.controller = Controller(
            triggers,
            self._recognition.recognizer,
            unlocker,
            self.broker,
            clock,
            session_s=config.doors.session_s,
            max_age_s=config.doors.max_age_s,
            events_topic=topic,
            watch=watch,
        )
        OccupancyFeed(
            self.broker,
            self.controller,
            config.broker.topic,
            stamped_only=config.doors.last_seen_required,
            now=clock.now,
        )
        MotionFeed(
            self.broker,
            self.controller,
            {camera.motion_topic: camera.name for camera in config.cameras if camera.motion_topic is not None},
        )
        self.broker.on_change(lambda _connected: self._connection_changed.set())
        self._slots: dict[str, Slot[Frame]] = {camera.name: Slot() for camera in config.cameras}
        self._cameras = [self._camera(camera, secrets) for camera in config.cameras]
        self._threads = [
            threading.Thread(target=self._recognise, args=(camera.name,), name=f"recognise-{camera.name}", daemon=True)
            for camera in config.cameras
        ]
        self._threads.append(threading.Thread(target=self._keep_house, name="housekeeping", daemon=True))
        self.health = HealthServer(config.health.host, config.health.port, self.report)

    def _camera(self, section: CameraSection, secrets: Secrets) -> Camera:
        source = secrets.sources[section.name].get_secret_value()
        return Camera(
            section.name,
            partial(open_pictures, source, loop=section.loop),
            self.controller.capture,
            self._deliver,
            partial(self.controller.wanted, section.name),
            fps=section.fps,
            latency_s=section.latency_s,
            now=self._clock.now,
        )

    def start(self) -> None:
        """Start everything; waits for nothing that is away."""
        self.health.start()
        self.sync.start()
        self.broker.start()
        for thread in self._threads:
            thread.start()
        for camera in self._cameras:
            camera.start()
        log.info(
            "Edge controller started",
            name=self._config.name,
            cameras=len(self._cameras),
            locks=len(self._config.locks),
            mode=self._config.recognition.mode,
            health=f"http://{self._config.health.host}:{self.health.port}/healthz",
        )

    def stop(self) -> None:
        """Stop everything, in order: no new frames, no new commands, and then a word of goodbye."""
        self._stopping.set()
        for camera in self._cameras:
            camera.stop()
        for slot in self._slots.values():
            slot.close()
        for thread in self._threads:
            thread.join(_STOPPED_WITHIN_S)
        self.controller.sessions.end_all()
        self.broker.stop()
        self.sync.stop()
        self._recognition.recognizer.close()
        self.health.stop()
        log.info("Edge controller stopped", name=self._config.name)

    def report(self) -> Report:
        """How it is now."""
        state, circuit = self.sync.state, self._recognition.circuit
        return Report(
            name=self._config.name,
            started_at=self._started_at,
            gallery=GalleryHealth(
                members=len(self.sync.snapshot),
                version=state.version or "",
                updated_at=state.right_at,
                error=self._gallery_error(),
            ),
            gallery_max_age_s=self._config.gallery.cache_max_age_s,
            cameras={
                camera.name: CameraHealth(camera.state, camera.last_frame_at, camera.last_error)
                for camera in self._cameras
            },
            broker_connected=self.broker.connected,
            server=ServerHealth(
                self._config.recognition.mode,
                self._recognition.by,
                "closed" if circuit is None else circuit.state,
            ),
            last_error=self.controller.last_error,
            time_known_by=self.time_of_day.known_by,
            time_required=self._config.doors.require_known_time,
        )

    def _gallery_error(self) -> str | None:
        state = self.sync.state
        if state.right_at is not None and not self.sync.is_fresh:
            return f"It is too old: nobody is recognised. {state.error or ''}".rstrip()
        unusable = f"{state.unusable} members have templates that cannot be used." if state.unusable else None
        return state.error or state.cache_error or unusable

    def _deliver(self, frame: Frame) -> None:
        if self._slots[frame.camera].put(frame) is not None:
            self.controller.sessions.dropped(frame.camera)

    def _recognise(self, camera: str) -> None:
        """Always the newest frame of one camera."""
        slot = self._slots[camera]
        while (frame := slot.take()) is not None:
            try:
                self.controller.process(frame)
            except Exception:  # one frame is lost, and the next may do
                log.exception("A frame failed", camera=camera)

    def _watch_time(self) -> None:
        """Say why doors stay shut, and that the clock is wrong: once, and again only after it was otherwise."""
        known_by, (earliest, latest) = self.time_of_day.known_by, self.time_of_day.bounds()
        uptime_s = self._clock.monotonic() - self._started_s
        state = "unknown" if known_by is None else "wrong" if latest - earliest > _CLOCK_OFF_S else "known"
        if state == self._time_state or (state == "unknown" and uptime_s < _TIME_KNOWN_WITHIN_S):
            return
        self._time_state = state
        if state == "known":
            log.info("The time of day is known", by=known_by)
        elif state == "wrong":
            log.warning("This machine's clock is wrong: stays count by both times", off_s=round(latest - earliest))
        elif self._config.doors.require_known_time:
            log.error(
                "Nobody has said what time it is: no door opens until NTP, a clock with a battery or the source of members does"
            )
        else:
            log.warning("Nobody has said what time it is: stays that have ended may go on")

    def _keep_house(self) -> None:
        """End sessions, and tell how it is: now and then, and as soon as that changes."""
        told: str | None = None
        due_s = 0.0
        while not self._stopping.wait(_TICK_S):
            try:
                self.controller.sessions.end_due()
                self._watch_time()
                now, now_s = self._clock.now(), self._clock.monotonic()
                report = self.report()
                status = report.status(now)
                news = status != told or self._connection_changed.is_set()
                if (news or now_s >= due_s) and self.broker.connected:
                    self._connection_changed.clear()
                    payload = json.dumps(report.to_json(now)).encode()
                    if self.broker.send(Message(self._status_topic, payload, retain=True)):
                        told, due_s = status, now_s + self._config.health.interval_s
            except Exception:  # it must go on: without it, no session would end
                log.exception("Housekeeping failed")
