"""The controller as its own process, between a real broker and a running Facedex."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from app.vision.packs import PackStore
from tests import pictures
from tests.edge.mosquitto import Mosquitto, Peer, needs_mosquitto
from tests.service.running import ROOT, eventually, free_port

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


class Line:
    """The network between the controller and the server: it can be cut, and mended."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.port = free_port()
        self.mend()

    def mend(self) -> None:
        self.ends: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to_port))
                self.ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError), other:
            while data := one.recv(65536):
                other.sendall(data)


class Process:
    """`python -m app.edge`, with a folder of pictures for a camera."""

    def __init__(self, folder: Path, broker: Mosquitto, url: str, domain: str, key: str, more: str) -> None:
        self.frames = folder / "frames"
        self.frames.mkdir()
        (folder / "api.key").write_text(key)
        self.port = free_port()
        self.config = folder / "edge.toml"
        self.config.write_text(f"""
            name = "front-desk"
            log_format = "json"
            [server]
            url = "{url}"
            domain = "{domain}"
            key_file = "api.key"
            timeout_s = 20.0
            open_after = 1
            retry_after_s = 0.2
            retry_after_max_s = 0.2
            [gallery]
            cache = "gallery.cache"
            interval_s = 0.2
            {more}
            [broker]
            host = "127.0.0.1"
            port = {broker.port}
            [doors]
            session_s = 30.0
            [health]
            port = {self.port}
            interval_s = 0.5
            [[cameras]]
            name = "entrance"
            source = "folder:frames"
            locks = ["DC001", "DC006"]
            motion_topic = "onvif/entrance/motion"
        """)
        self.log = folder / "edge.log"
        self.argv = [sys.executable, "-m", "app.edge"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*self.argv, "--config", self.config], cwd=ROOT, stderr=log, env=_bare())

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def health(self) -> tuple[int, dict]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=20)
        except httpx.TransportError:
            assert self.process.poll() is None, self.log.read_text()
            return 0, {}
        return answer.status_code, answer.json()

    def show(self, photo: Path, number: int) -> None:
        """The camera takes a picture: it appears in its folder as a whole."""
        beside = self.frames / f"{number:04}.part"
        beside.write_bytes(photo.read_bytes())
        beside.rename(self.frames / f"{number:04}.jpg")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _bare() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}


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
        peer.wait_for(lambda messages: _events(messages, OTHER), 60)

        statuses = [json.loads(message.payload) for message in peer.received if message.topic.endswith("/status")]
        assert statuses[-1]["status"] == "ok"
        assert statuses[-1]["gallery"]["members"] == 2
        commands = [message for message in peer.received if message.topic.endswith("/set")]
        assert [(message.topic, message.payload) for message in commands] == [
            ("zigbee2mqtt/DC006/set", b'{"state": "UNLOCK"}')
        ]
        assert not commands[0].retain
        assert commands[0].properties.MessageExpiryInterval <= 10
        (event,) = _events(peer.received, GUEST)
        assert event["occupancyTriggeredLocks"] == ["DC006"]
        assert event["onvifTriggered"] is False
        assert event["unlockedLocks"] == ["DC006"]
        (other,) = _events(peer.received, OTHER)
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


def occupied() -> bytes:
    return json.dumps({"occupancy": True, "battery": 97, "last_seen": round(time.time() * 1000)}).encode()


def _events(messages, person: str) -> list[dict]:
    told = [json.loads(message.payload) for message in messages if message.topic.endswith("/member_detected")]
    return [event for event in told if event["name"] == person]


def test_settings_are_checked_before_anything_starts(edge):
    argv = [*edge.argv, "check-config", "--config", edge.config]
    checked = subprocess.run(argv, cwd=ROOT, env=_bare(), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "1 cameras, 2 locks" in checked.stdout
    edge.config.write_text(edge.config.read_text().replace("session_s = 30.0", "hold = 30.0"))
    for command in (["check-config"], []):
        argv = [*edge.argv, *command, "--config", edge.config]
        refused = subprocess.run(argv, cwd=ROOT, env=_bare(), capture_output=True, text=True)
        assert refused.returncode == 2
        assert "doors.hold: there is no such setting" in refused.stderr
        assert "Traceback" not in refused.stderr
