"""A camera that speaks RTSP: a real server, which dies and comes back, and a network that is held up."""

import random
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from structlog.testing import capture_logs

from app.edge.cameras import camera as camera_module
from app.edge.cameras.camera import Camera
from app.edge.cameras.frame import Frame, Slot
from app.edge.cameras.lag import LAG_MAX_S
from app.edge.cameras.pictures import open_pictures
from app.edge.clock import SystemClock
from app.edge.triggers import Triggers
from tests.edge.processes import Line
from tests.edge.rtsp import RtspServer, address_of, taken_at
from tests.service.running import eventually

# Between a picture and its stamp, the server may have to wait for the processor.
JITTER_S = 0.2


@pytest.fixture
def server():
    with RtspServer() as running:
        yield running


class Pauses(threading.Event):
    """Of a camera: for how long it waits before it opens its source anew."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return super().wait(timeout)


class Stage:
    """Somebody looks at a camera, all the time."""

    def __init__(self, address: str, deliver: Callable[[Frame], None] | None = None) -> None:
        self.frames: list[Frame] = []
        self.triggers = Triggers(SystemClock(), {"entrance": ["DC001"]}, hold_s=3600.0)
        self.pauses = Pauses()
        self.camera = Camera(
            "entrance",
            partial(open_pictures, address, loop=False),
            self.triggers.capture,
            deliver or self.frames.append,
            lambda: True,
            fps=25.0,
        )
        self.camera._stopping = self.pauses

    def __enter__(self) -> "Stage":
        self.camera.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.camera.stop()


def behind(frames: list[Frame]) -> np.ndarray:
    """For each frame, how long before it was said to be captured its picture was taken; float64, (N,), seconds."""
    return np.array([frame.captured_at - taken_at(frame.picture, frame.captured_at) for frame in frames])


def test_frames_come_in_their_order_and_none_is_older_than_it_is_said_to_be(server):
    """A server hands over what it has ready when a client comes, here more than a second: that is not looked at."""
    with Stage(server.address) as stage:
        eventually(lambda: len(stage.frames) >= 20)
        assert stage.camera.state == "delivering"
        assert stage.pauses.seconds == []
    assert {frame.picture.shape for frame in stage.frames} == {(32, 384, 3)}
    taken = [taken_at(frame.picture, frame.captured_at) for frame in stage.frames]
    assert taken == sorted(set(taken))
    late = behind(stage.frames)
    assert late.max() - late.min() < LAG_MAX_S + JITTER_S


def test_a_server_that_dies_is_tried_ever_more_seldom_until_it_is_there_again(server, monkeypatch):
    monkeypatch.setattr(camera_module, "_RETRY_AFTER_S", 0.05)
    monkeypatch.setattr(random, "uniform", lambda *_: 1.0)
    with capture_logs() as said, Stage(server.address) as stage:
        for number in range(2):
            before = len(stage.frames)
            eventually(lambda before=before: len(stage.frames) >= before + 3)
            already = len(stage.pauses.seconds)
            server.kill()
            eventually(lambda: stage.camera.state == "away")
            eventually(lambda already=already: len(stage.pauses.seconds) >= already + 4)
            assert stage.pauses.seconds[already : already + 4] == [0.05, 0.1, 0.2, 0.4], number
            seen, gone_at = len(stage.frames), time.time()
            server.start()
        eventually(lambda: len(stage.frames) > seen)
        eventually(lambda: stage.camera.state == "delivering")
    assert taken_at(stage.frames[seen].picture, time.time()) > gone_at
    assert [line["event"] for line in said if line["event"].startswith("A camera")] == [
        "A camera is away",
        "A camera is back",
    ] * 2


def test_who_is_slow_gets_the_newest_frame(server):
    """As `app.edge.running` puts it: a slot between the camera and recognition."""
    slot: Slot[Frame] = Slot()
    put, dropped, guard = [], [], threading.Lock()

    def deliver(frame: Frame) -> None:
        with guard:
            put.append(frame)
            if (old := slot.put(frame)) is not None:
                dropped.append(old)

    taken = []
    with Stage(server.address, deliver=deliver):
        for _ in range(3):
            before = len(put)
            eventually(lambda before=before: len(put) >= before + 10)  # so long the recogniser takes
            with guard:
                taken.append(slot.take(wait=False))
                assert taken[-1] is put[-1]
    assert len(dropped) >= 3 * 9
    assert not any(frame is old for frame in taken for old in dropped)


def test_what_piled_up_on_the_way_is_not_seen_with_a_touch_of_later(server):
    line = Line(server.port)
    try:
        with Stage(address_of(line.port)) as stage:
            eventually(lambda: len(stage.frames) >= 5)
            line.flows.clear()
            time.sleep(1.5)  # the network's: so long pictures pile up
            touched_at = time.time()
            stage.triggers.occupancy("DC001", True)
            line.flows.set()
            eventually(lambda: any(frame.context.occupied_locks for frame in stage.frames))
            seen = next(frame for frame in stage.frames if frame.context.occupied_locks)
        usual_s = behind(stage.frames).min()
        assert taken_at(seen.picture, seen.captured_at) > touched_at - usual_s - LAG_MAX_S - JITTER_S
    finally:
        line.cut()
