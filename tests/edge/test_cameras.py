import contextlib
import http.server
import threading
import time

import cv2
import numpy as np
import pytest

from app.edge.cameras import camera
from app.edge.cameras.camera import Camera
from app.edge.cameras.lag import LAG_MAX_S, Lag
from app.edge.cameras.pictures import CameraAway, FolderPictures, VideoPictures, open_pictures
from app.edge.clock import SystemClock
from app.edge.triggers import Triggers
from tests.service.running import eventually, free_port


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "frames"
    made.mkdir()
    return made


def put(folder, *names):
    for name in names:
        part = (folder / name).with_suffix(".part")
        part.write_bytes(name.encode())
        part.rename(folder / name)  # as a whole


def shown(pictures, most=20):
    found = []
    while len(found) < most and pictures.grab():
        found.append(pictures.picture())
    return found


def test_a_folder_is_shown_in_the_order_of_its_names(folder):
    put(folder, "b.jpg", "a.PNG", "c.jpeg", "notes.txt", "d.part")
    assert shown(FolderPictures(folder, loop=False)) == [b"a.PNG", b"b.jpg", b"c.jpeg"]


def test_pictures_that_are_added_later_follow(folder):
    pictures = FolderPictures(folder, loop=False)
    assert not pictures.grab()
    put(folder, "1.jpg")
    assert shown(pictures) == [b"1.jpg"]
    put(folder, "3.jpg", "2.jpg", "0.jpg")
    assert shown(pictures) == [b"2.jpg", b"3.jpg"]


def test_a_folder_begins_anew_where_told(folder):
    put(folder, "1.jpg", "2.jpg")
    assert shown(FolderPictures(folder, loop=True), 5) == [b"1.jpg", b"2.jpg"] * 2 + [b"1.jpg"]


def test_an_empty_folder_that_loops_has_nothing(folder):
    assert not FolderPictures(folder, loop=True).grab()


def test_what_is_not_there_is_away(tmp_path, folder):
    with pytest.raises(CameraAway):
        open_pictures(f"folder:{tmp_path}/nowhere", loop=False)
    with pytest.raises(CameraAway):
        open_pictures(f"video:{tmp_path}/nowhere.avi", loop=False)
    put(folder, "1.jpg")
    pictures = FolderPictures(folder, loop=False)
    assert pictures.grab()
    (folder / "1.jpg").unlink()
    with pytest.raises(CameraAway):
        pictures.picture()


def test_a_stream_that_nobody_sends_is_away_and_the_error_has_no_address():
    with pytest.raises(CameraAway) as raised:
        open_pictures(f"rtsp://user:word@127.0.0.1:{free_port()}/x", loop=False)
    assert "word" not in str(raised.value)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for value in (40, 120, 200):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    return path


def test_a_video_is_shown_to_its_end_and_anew_where_told(video):
    for loop, levels in ((False, [40, 120, 200]), (True, [40, 120, 200, 40])):
        pictures = VideoPictures(str(video), live=False, loop=loop)
        found = shown(pictures, 4)
        assert all(picture.shape == (48, 64, 3) for picture in found)
        assert [round(float(picture.mean()), -1) for picture in found] == levels
        pictures.close()


class Stage:
    """A camera with somebody who looks, and a lock that can be touched."""

    def __init__(self, open_pictures, fps=60.0, latency_s=0.0):
        self.frames = []
        self.looking = threading.Event()
        self.triggers = Triggers(SystemClock(), {"entrance": ["DC001"]}, hold_s=3600.0)
        self.camera = Camera(
            "entrance",
            open_pictures,
            self.triggers.capture,
            self.frames.append,
            self.looking.is_set,
            fps=fps,
            latency_s=latency_s,
        )

    def __enter__(self):
        self.camera.start()
        return self

    def __exit__(self, *_):
        self.camera.stop()


def test_a_recording_waits_until_somebody_looks_and_frames_say_what_was_touched_then(folder):
    put(folder, "1.jpg")
    with Stage(lambda: FolderPictures(folder, loop=False)) as stage:
        eventually(lambda: stage.camera.state == "delivering")
        assert stage.frames == []
        stage.looking.set()
        eventually(lambda: len(stage.frames) == 1)
        stage.triggers.occupancy("DC001", True)
        put(folder, "2.jpg")
        eventually(lambda: len(stage.frames) == 2)
    assert [frame.picture for frame in stage.frames] == [b"1.jpg", b"2.jpg"]
    assert [set(frame.context.occupied_locks) for frame in stage.frames] == [set(), {"DC001"}]
    assert all(frame.context.captured_at == frame.captured_at for frame in stage.frames)


def test_what_was_touched_while_the_picture_was_on_its_way_does_not_count(folder):
    put(folder, "1.jpg")
    with Stage(lambda: FolderPictures(folder, loop=False), latency_s=3600.0) as stage:
        stage.triggers.occupancy("DC001", True)
        stage.looking.set()
        eventually(lambda: stage.frames)
    assert stage.frames[0].context.occupied_locks == set()
    assert stage.frames[0].captured_at < time.time() - 3000


class Live:
    """A stream that breaks off after some pictures."""

    live = True
    lag_s = 0.0
    opened = 0
    decoded = 0

    def __init__(self, pictures):
        type(self).opened += 1
        self.left = pictures

    def grab(self):
        time.sleep(0.001)
        self.left -= 1
        if self.left < 0:
            raise CameraAway("The stream broke off.")
        return True

    def picture(self):
        type(self).decoded += 1
        return b"picture"

    def close(self):
        pass


def test_a_stream_that_breaks_off_is_opened_anew():
    class Short(Live):
        pass

    stage = Stage(lambda: Short(2))
    stage.looking.set()
    with stage:
        eventually(lambda: Short.opened >= 2 and len(stage.frames) >= 2)
    assert stage.camera.state == "stopped"


def test_a_camera_comes_back_whatever_its_driver_raises():
    class Odd(Live):
        def grab(self):
            if type(self).opened == 1:
                raise RuntimeError("odd")
            return super().grab()

    stage = Stage(lambda: Odd(1_000_000))
    stage.looking.set()
    with stage:
        eventually(lambda: len(stage.frames) >= 1)
    assert Odd.opened == 2


def test_a_live_camera_goes_on_unseen_and_nobody_pays_for_decoding():
    class Unseen(Live):
        pass

    with Stage(lambda: Unseen(1_000_000)) as stage:
        eventually(lambda: stage.camera.state == "delivering")
        time.sleep(0.02)
        assert Unseen.decoded == 0
        stage.looking.set()
        eventually(lambda: len(stage.frames) >= 2)


def test_a_backlog_lags_until_it_is_read_and_drift_is_none():
    lag = Lag()
    # 25 pictures a second; at the beginning three lie ready, at 2 s nothing comes for 1 s.
    came = {n: (0.1 if n < 3 else max(n / 25, 3.0) if 50 <= n < 75 else n / 25) for n in range(100)}
    behind = {n: lag.of(n / 25, 100.0 + at_s) for n, at_s in came.items()}
    assert all(behind[n] == float("inf") for n in range(10))
    assert all(abs(behind[n] - max(0.0, came[n] - n / 25)) < 0.01 for n in range(20, 100))
    assert behind[50] > LAG_MAX_S > behind[99]
    slow = [lag.of(4 + n * 0.9995, 104.0 + n) for n in range(7_200)]
    assert max(slow) < LAG_MAX_S


def test_a_stream_that_lags_shows_nothing_and_is_opened_anew(monkeypatch):
    monkeypatch.setattr(camera, "_LAGS_AT_MOST_S", 0.05)

    class Lagging(Live):
        @property
        def lag_s(self):
            return 1.0 if type(self).opened == 1 else 0.2

    stage = Stage(lambda: Lagging(1_000_000))
    stage.looking.set()
    with stage:
        eventually(lambda: stage.frames)
    assert Lagging.opened == 2
    assert stage.frames[0].context.captured_monotonic < time.monotonic() - 0.2


class Motion(http.server.BaseHTTPRequestHandler):
    """25 pictures a second, numbered by their brightness; while `held`, they pile up, and then come at once."""

    held = threading.Event()
    number = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
        self.end_headers()
        began_s, pile = time.monotonic(), []
        with contextlib.suppress(OSError):
            while True:
                time.sleep(max(0.0, began_s + type(self).number / 25 - time.monotonic()))
                type(self).number += 1
                jpeg = cv2.imencode(".jpg", number_on(self.number))[1].tobytes()
                head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                pile.append(head.encode() + jpeg + b"\r\n")
                if not self.held.is_set():
                    self.wfile.write(b"".join(pile))
                    pile = []


def number_on(number):
    bits = [255 * (number >> bit & 1) for bit in range(10)]
    return np.repeat(np.repeat(np.array([bits], np.uint8), 32, 0), 32, 1)[:, :, None].repeat(3, 2)


def number_of(picture):
    return sum(int(picture[16, 32 * bit + 16, 0] > 127) << bit for bit in range(10))


def test_what_piled_up_while_a_stream_stalled_is_not_seen_with_a_touch_of_later():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Motion)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    stage = Stage(lambda: VideoPictures(address, live=True, loop=False))
    stage.looking.set()
    try:
        with stage:
            eventually(lambda: len(stage.frames) > 5)
            Motion.held.set()
            before = Motion.number
            eventually(lambda: Motion.number > before + 30)
            stage.triggers.occupancy("DC001", True)
            touched = Motion.number
            Motion.held.clear()
            eventually(lambda: any(frame.context.occupied_locks for frame in stage.frames))
        numbers = [number_of(frame.picture) for frame in stage.frames if frame.context.occupied_locks]
        assert numbers[0] > touched - 8
    finally:
        server.shutdown()
        server.server_close()


def test_a_slow_onlooker_does_not_stop_the_camera(folder):
    """What is delivered is taken by a slot of one; the camera itself never waits."""
    stage = Stage(lambda: Live(1_000_000), fps=30.0)
    stage.looking.set()
    with stage:
        eventually(lambda: len(stage.frames) >= 30)
    captured = [frame.captured_at for frame in stage.frames]
    # No more than was asked for, although a thousand pictures a second came; after one that was late the next is on time.
    assert captured[-1] - captured[0] >= (len(captured) - 3) / 30.0
