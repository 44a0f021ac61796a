"""A camera: a thread that takes pictures, each with what was touched at that instant, and never waits for who looks at them."""

import random
import threading
import time
from collections.abc import Callable
from typing import Final, Literal

import structlog

from app.edge.cameras.frame import Frame
from app.edge.cameras.lag import LAG_MAX_S
from app.edge.cameras.pictures import CameraAway, Pictures
from app.edge.triggers import TriggerContext

log = structlog.stdlib.get_logger("facedex.edge.cameras")

_RETRY_AFTER_S: Final = 0.5
_RETRY_AFTER_MAX_S: Final = 30.0
# How often a recording that waits looks whether somebody wants pictures now.
_LOOK_S: Final = 0.05
# A stream that lags for longer is opened anew.
_LAGS_AT_MOST_S: Final = 5.0
# For how long `stop` waits for a camera that is being opened.
_STOPPED_WITHIN_S: Final = 10.0

State = Literal["starting", "delivering", "ended", "away", "stopped"]


class Camera:
    """One camera's thread.

    Args:
        open_pictures: opens the source; again, where it broke off.
        capture: what is touched at this instant (Unix seconds): asked for as soon as a picture was taken, before anything else.
        deliver: takes the frame; must not wait.
        wanted: whether anybody looks now; a live camera goes on either way, and nobody pays for decoding its pictures.
        fps: pictures a second at the most.
        latency_s: how long a picture is on its way from the lens to here.
    """

    def __init__(
        self,
        name: str,
        open_pictures: Callable[[], Pictures],
        capture: Callable[[str, float], TriggerContext],
        deliver: Callable[[Frame], None],
        wanted: Callable[[], bool],
        *,
        fps: float,
        latency_s: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._open_pictures = open_pictures
        self._capture = capture
        self._deliver = deliver
        self._wanted = wanted
        self._period_s = 1 / fps
        self._latency_s = latency_s
        self._now = now
        self._retry_after_s = _RETRY_AFTER_S
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera-{name}", daemon=True)
        self.state: State = "starting"
        self.last_error: str | None = None
        self.last_frame_at: float | None = None

    def start(self) -> None:
        """Begin to take pictures."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOPPED_WITHIN_S)
        self.state = "stopped"

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pictures = self._open_pictures()
                try:
                    self._set("delivering")
                    self._show(pictures)
                finally:
                    pictures.close()
            except CameraAway as error:
                self._went_away(str(error))
            except Exception:  # a camera must come back, whatever its driver raised
                log.exception("A camera failed", camera=self.name)
                self._went_away("An unexpected error; the log has it.")
            self._stopping.wait(self._retry_after_s * random.uniform(0.75, 1.25))  # noqa: S311 -- no secret
            self._retry_after_s = min(2 * self._retry_after_s, _RETRY_AFTER_MAX_S)

    def _show(self, pictures: Pictures) -> None:
        """Take pictures until there is no need to. With the first good one, the source is no longer one to be spared.

        Raises:
            CameraAway: it broke off.
        """
        due_s = fresh_s = time.monotonic()
        while not self._stopping.is_set():
            if not pictures.live and not self._wait_for(due_s):
                continue
            if not pictures.grab():
                # The end of a recording; a folder may get more.
                self._set("ended")
                self._stopping.wait(self._period_s)
                continue
            captured_at = self._now() - self._latency_s - pictures.lag_s
            if pictures.lag_s > LAG_MAX_S:
                if time.monotonic() - fresh_s > _LAGS_AT_MOST_S:
                    raise CameraAway("The stream lags behind.")
                continue
            fresh_s, self._retry_after_s = time.monotonic(), _RETRY_AFTER_S
            if time.monotonic() < due_s or not self._wanted():
                continue
            context = self._capture(self.name, captured_at)
            due_s = max(due_s, time.monotonic() - self._period_s) + self._period_s
            frame = Frame(self.name, pictures.picture(), captured_at, context)
            self._set("delivering")
            self.last_frame_at = captured_at
            self._deliver(frame)

    def _wait_for(self, due_s: float) -> bool:
        """Whether the next picture of a recording is due and wanted; waits a moment where it is not."""
        wait_s = due_s - time.monotonic()
        if wait_s > 0:
            self._stopping.wait(wait_s)
        if self._wanted():
            return not self._stopping.is_set()
        self._stopping.wait(_LOOK_S)
        return False

    def _set(self, state: State) -> None:
        if self.state == "away" and state == "delivering":
            log.info("A camera is back", camera=self.name)
        self.state = state
        if state == "delivering":
            self.last_error = None

    def _went_away(self, reason: str) -> None:
        if self.state != "away":
            log.warning("A camera is away", camera=self.name, reason=reason)
        self.state, self.last_error = "away", reason
