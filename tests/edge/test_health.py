import dataclasses
import json
import socket
import time

import httpx
import pytest

from app.edge.errors import ConfigError
from app.edge.health import CameraHealth, GalleryHealth, HealthServer, Report, ServerHealth

NOW = 1_000.0
WELL = Report(
    name="front-desk",
    started_at=900.0,
    gallery=GalleryHealth(3, "v7", 990.0),
    gallery_max_age_s=60.0,
    cameras={"entrance": CameraHealth("delivering", 999.0), "garage": CameraHealth("ended")},
    broker_connected=True,
    server=ServerHealth("auto", "server", "closed"),
    time_known_by="ntp",
)


def but(**changes) -> Report:
    return dataclasses.replace(WELL, **changes)


def test_all_is_told():
    told = but(last_error=(995.0, "The server does not answer.")).to_json(NOW)
    assert told == {
        "status": "ok",
        "name": "front-desk",
        "uptime_s": 100.0,
        "gallery": {"members": 3, "version": "v7", "age_s": 10.0, "error": None},
        "cameras": {
            "entrance": {"state": "delivering", "last_frame_age_s": 1.0, "error": None},
            "garage": {"state": "ended", "last_frame_age_s": None, "error": None},
        },
        "broker": {"connected": True},
        "time": {"known_by": "ntp", "required": True},
        "recognition": {"mode": "auto", "by": "server", "circuit": "closed"},
        "last_error": {"age_s": 5.0, "message": "The server does not answer."},
    }


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"),
        ({"broker_connected": False}, "failing"),
        ({"gallery": GalleryHealth(0, "", None)}, "failing"),
        ({"gallery": GalleryHealth(3, "v7", 900.0)}, "failing"),
        ({"gallery": GalleryHealth(3, "v7", 990.0, "no answer")}, "degraded"),
        ({"cameras": {"entrance": CameraHealth("away", None, "no stream")}}, "failing"),
        ({"cameras": {"entrance": CameraHealth("away"), "garage": CameraHealth("delivering")}}, "degraded"),
        ({"server": ServerHealth("auto", "local", "open")}, "degraded"),
        ({"server": ServerHealth("server", "server", "open")}, "failing"),
        ({"server": ServerHealth("local", "local", "closed")}, "ok"),
    ],
)
def test_the_status_is_the_worst_of_its_parts(changes, status):
    assert but(**changes).status(NOW) == status


@pytest.fixture
def ask():
    reports = [WELL]

    def report():
        if isinstance(reports[0], Exception):
            raise reports[0]
        return reports[0]

    server = HealthServer("127.0.0.1", 0, report)
    server.start()

    def get(what, path="/healthz"):
        reports[0] = what
        return httpx.get(f"http://127.0.0.1:{server.port}{path}", timeout=60)

    yield get
    server.stop()


def fresh(**changes) -> Report:
    now = time.time()
    return but(gallery=GalleryHealth(3, "v7", now), started_at=now, **changes)


def test_over_http_failing_is_an_error_and_degraded_is_not(ask):
    assert (ask(fresh()).status_code, ask(fresh()).json()["status"]) == (200, "ok")
    degraded = ask(fresh(server=ServerHealth("auto", "local", "open")))
    assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
    failing = ask(fresh(broker_connected=False))
    assert (failing.status_code, failing.json()["status"]) == (503, "failing")


def test_a_report_that_cannot_be_made_is_failing(ask):
    answer = ask(RuntimeError("odd"))
    assert (answer.status_code, answer.json()) == (503, {"status": "failing"})


def test_there_is_nothing_else(ask):
    assert ask(fresh(), "/").status_code == 404
    assert json.loads(ask(fresh(), "/x").content)


def test_a_port_that_is_taken_is_an_error_of_the_settings():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="health"):
            HealthServer("127.0.0.1", taken.getsockname()[1], lambda: WELL)


def test_a_time_of_day_that_nobody_vouches_for_is_told_and_fails_where_it_is_required():
    unknown = but(time_known_by=None)
    assert unknown.status(NOW) == "failing"
    assert unknown.to_json(NOW)["time"] == {"known_by": None, "required": True}
    assert but(time_known_by=None, time_required=False).status(NOW) == WELL.status(NOW)
