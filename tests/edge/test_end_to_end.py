"""The controller as its own process, between a real broker and a running Facedex."""

import json
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from app.vision.packs import PackStore
from tests import pictures
from tests.edge.mosquitto import Mosquitto, Peer, needs_mosquitto
from tests.edge.processes import Line, Process, bare, events_of, occupied
from tests.edge.rtsp import RtspServer
from tests.service.running import ROOT, eventually

pytestmark = [pytest.mark.service, needs_mosquitto]

DOMAIN = "Hôtel / edge"
GUEST, OTHER = "Ariel_Sharon", "Colin_Powell"


@pytest.fixture(scope="module")
def domain(service):
    """Two guests; one of them may open two doors. And a key that may do what a controller needs."""
    photos = pictures.lfw10()
    with service.client() as http:
        made = http.post("/v1/domains", json={"name": DOMAIN}).raise_for_status().json()
        path = f"/v1/domains/{made['id']}"
        for name, locks in ((GUEST, ["DC001", "DC006"]), (OTHER, [])):
            person = http.post(f"{path}/persons", json={"label": name, "metadata": {"locks": locks}}).raise_for_status()
            for photo in photos[name][:3]:
                files = {"file": photo.read_bytes()}
                http.post(f"{path}/persons/{person.json()['id']}/faces", files=files).raise_for_status()
        wanted = {"name": "edge", "scopes": ["recognize", "gallery"], "domains": [DOMAIN]}
        key = http.post("/v1/keys", json=wanted).raise_for_status().json()["key"]
        yield made["id"], key
        http.delete(path).raise_for_status()


@pytest.fixture
def broker(tmp_path):
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def edge(tmp_path, broker, service, domain):
    contract = PackStore(service.storage / "models").active().manifest.contract.id
    process = Process(tmp_path, broker, service.url, *domain, f'contract = "{contract}"')
    yield process
    process.kill()


def is_well(message) -> bool:
    """Whether it is the controller's word that all is well, with both people in its gallery."""
    if not message.topic.endswith("/status"):
        return False
    told = json.loads(message.payload)
    return told["status"] == "ok" and told["gallery"]["members"] == 2


def test_a_touch_and_a_face_open_the_touched_door(edge, broker, capsys):
    photos = pictures.lfw10()
    with Peer(broker.port, "zigbee2mqtt/+/set", "facedex/edge/#") as peer:
        eventually(lambda: edge.health()[1].get("status") == "ok")
        status, health = edge.health()
        assert status == 200
        assert health["gallery"]["members"] == 2
        assert health["cameras"]["entrance"]["state"] in ("delivering", "ended")

        edge.show(photos[GUEST][7], 1)  # nothing was touched, nobody looks
        touched_s = time.monotonic()
        peer.say("zigbee2mqtt/DC006", occupied())
        peer.wait_for(lambda messages: any(message.topic.endswith("/set") for message in messages), 60)
        opened_s = time.monotonic() - touched_s
        edge.show(photos[OTHER][7], 2)
        peer.wait_for(lambda messages: events_of(messages, OTHER), 60)

        peer.wait_for(lambda messages: any(is_well(message) for message in messages), 60)
        commands = [message for message in peer.received if message.topic.endswith("/set")]
        assert [(message.topic, message.payload) for message in commands] == [
            ("zigbee2mqtt/DC006/set", b'{"state": "UNLOCK"}')
        ]
        assert not commands[0].retain
        assert commands[0].properties.MessageExpiryInterval <= 60
        (event,) = events_of(peer.received, GUEST)
        assert event["occupancyTriggeredLocks"] == ["DC006"]
        assert event["onvifTriggered"] is False
        assert event["unlockedLocks"] == ["DC006"]
        (other,) = events_of(peer.received, OTHER)
        assert other["unlockedLocks"] == []

        assert edge.end() == 0, edge.log.read_text()
        offline = "facedex/edge/front-desk/status"
        peer.wait_for(lambda messages: messages[-1].topic == offline and b"offline" in messages[-1].payload)
    (ended,) = [line for line in edge.lines() if line["event"] == "Detection session ended"]
    assert (ended["frames"], ended["matches"], ended["unlocked"]) == (2, 2, "DC006")
    assert not [line for line in edge.lines() if line["level"] in ("error", "critical")]
    with capsys.disabled():
        print(f"\nfrom the touch to the UNLOCK: {opened_s:.3f} s")  # noqa: T201
        print(f"seconds of each step, {ended['frames']} frames together: {ended['seconds']}")  # noqa: T201


def test_recognition_goes_on_while_the_network_is_away_and_comes_back(tmp_path, broker, service, domain):
    pack = PackStore(service.storage / "models").active()
    more = f"""
            [recognition]
            mode = "auto"
            models_dir = "{service.storage}/models"
            pack = "{pack.manifest.name}"
    """
    line, photo = Line(service.port), pictures.lfw10()[GUEST][7]
    edge = Process(tmp_path, broker, f"http://127.0.0.1:{line.port}", *domain, more)
    try:
        with Peer(broker.port, "zigbee2mqtt/+/set") as peer:
            eventually(lambda: edge.health()[1].get("status") == "ok")
            peer.say("zigbee2mqtt/DC001", occupied())
            for number, (change, by) in enumerate([(None, "server"), (line.cut, "local"), (line.mend, "server")]):
                if change is not None:
                    change()
                if number == 2:  # as long as the circuit is open, nobody asks
                    eventually(lambda: edge.health()[1]["gallery"]["error"] is None)
                    time.sleep(0.25)
                edge.show(photo, number)
                peer.wait_for(lambda messages, number=number: len(messages) == number + 1, 60)
                _, health = edge.health()
                assert health["recognition"]["by"] == by
                assert health["status"] == ("degraded" if by == "local" else "ok")
            assert {message.topic for message in peer.received} == {"zigbee2mqtt/DC001/set"}
        assert edge.end() == 0
    finally:
        edge.kill()
        line.cut()
    said = [line["event"] for line in edge.lines()]
    assert said.index("Recognition goes on locally") < said.index("Recognition is the server's again")


def test_a_camera_that_speaks_rtsp_opens_the_touched_door_and_does_so_again_when_it_is_back(
    tmp_path, broker, service, domain
):
    contract = PackStore(service.storage / "models").active().manifest.contract.id
    still = np.asarray(Image.open(pictures.lfw10()[GUEST][7]).convert("RGB"))[:248, :248]
    with RtspServer(still, tmp_path) as camera:
        edge = Process(tmp_path, broker, service.url, *domain, f'contract = "{contract}"', source=camera.address)
        try:
            with Peer(broker.port, "zigbee2mqtt/+/set") as peer:
                for number in range(2):
                    eventually(lambda: edge.health()[1].get("status") == "ok")
                    opened = len(peer.received)
                    peer.say("zigbee2mqtt/DC006", occupied(False))
                    peer.say("zigbee2mqtt/DC006", occupied())
                    peer.wait_for(lambda messages, opened=opened: len(messages) > opened, 60)
                    if number == 0:
                        camera.kill()
                        eventually(lambda: edge.health()[1]["cameras"]["entrance"]["state"] == "away")
                        assert edge.health()[0] == 503  # without any camera
                        camera.start()
                assert {message.topic for message in peer.received} == {"zigbee2mqtt/DC006/set"}
            assert edge.end() == 0
        finally:
            edge.kill()
    events = [line["event"] for line in edge.lines()]  # JSON, all of it: what FFmpeg has to say is not in between
    assert [event for event in events if event.startswith("A camera")] == ["A camera is away", "A camera is back"]


def test_settings_are_checked_before_anything_starts(edge):
    argv = [*edge.argv, "check-config", "--config", edge.config]
    checked = subprocess.run(argv, cwd=ROOT, env=bare(), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "1 cameras, 2 locks" in checked.stdout
    edge.config.write_text(edge.config.read_text().replace("session_s = 120.0", "hold = 120.0"))
    for command in (["check-config"], []):
        argv = [*edge.argv, *command, "--config", edge.config]
        refused = subprocess.run(argv, cwd=ROOT, env=bare(), capture_output=True, text=True)
        assert refused.returncode == 2
        assert "doors.hold: there is no such setting" in refused.stderr
        assert "Traceback" not in refused.stderr
