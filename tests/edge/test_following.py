"""The running controller's gallery follows a running Facedex: nobody is missed after its next sync, and who is gone stays gone.

What counts is the order of things: the version that the server gave out, the version that the controller says to have, and the
first frame after that.
"""

import contextlib
import io
import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from app.gallery_pages import MEDIA_TYPE, Header, decode
from app.vision.packs import PackStore
from tests import pictures
from tests.edge.mosquitto import Mosquitto, Peer, needs_mosquitto
from tests.edge.processes import Line, Process, events_of
from tests.service.running import RunningService, eventually

pytestmark = [pytest.mark.service, needs_mosquitto]

# Always a member: a frame in which they are seen was looked at.
WITNESS = "Colin_Powell"
GUEST, LATER = "Ariel_Sharon", "George_W_Bush"
LOCK = "DC001"


class Server:
    """A domain of the service's, as its front desk sees it."""

    def __init__(self, service: RunningService) -> None:
        self._service = service
        self._photos = pictures.lfw10()
        with service.client() as http:
            made = http.post("/v1/domains", json={"name": "following"}).raise_for_status().json()
            wanted = {"name": "edge", "scopes": ["recognize", "gallery"], "domains": ["following"]}
            self.key = http.post("/v1/keys", json=wanted).raise_for_status().json()["key"]
        self.domain = made["id"]
        self.path = f"/v1/domains/{self.domain}"

    def enrol(self, name: str, *locks: str) -> str:
        with self._service.client() as http:
            body = {"label": name, "metadata": {"locks": locks}}
            person = http.post(f"{self.path}/persons", json=body).raise_for_status().json()["id"]
            for photo in self._photos[name][:3]:
                http.post(f"{self.path}/persons/{person}/faces", files={"file": photo.read_bytes()}).raise_for_status()
        return person

    def erase(self, name: str) -> None:
        with self._service.client() as http:
            http.delete(f"{self.path}/persons/{name}").raise_for_status()

    def delete_faces(self, name: str) -> None:
        with self._service.client() as http:
            for face in http.get(f"{self.path}/persons/{name}/faces").raise_for_status().json()["items"]:
                http.delete(f"{self.path}/persons/{name}/faces/{face['id']}").raise_for_status()

    def feed(self, since: str | None = None) -> Header:
        """What the feed tells the controller's key."""
        headers = {"x-api-key": self.key, "accept": MEDIA_TYPE}
        parameters = {} if since is None else {"since": since}
        answer = httpx.get(f"{self._service.url}{self.path}/gallery", params=parameters, headers=headers, timeout=60)
        return decode(answer.raise_for_status().content)[0]

    def close(self) -> None:
        with self._service.client() as http:
            http.delete(self.path).raise_for_status()


@dataclass
class Door:
    """The camera at one door: who stands before it, and what comes of it."""

    edge: Process
    peer: Peer
    folder: Path
    numbers: itertools.count = field(default_factory=itertools.count)

    def look(self, name: str) -> tuple[bool, bool]:
        """They touch the lock and stand beside the witness: whether they were recognised in that frame, and it opened.

        What a frame opens and who is seen in it is published in this order, so that with the next frame's it is all there.
        """
        first = self._frame(name)
        self._frame(name)
        event = next((event for event in events_of(self.peer.received, name) if event["frameId"] == first), None)
        return event is not None, event is not None and event["unlockedLocks"] == [LOCK]

    def _frame(self, name: str) -> str:
        now_ms = round(time.time() * 1000)
        for occupied, stamp in ((False, now_ms - 1), (True, now_ms)):
            self.peer.say(f"zigbee2mqtt/{LOCK}", json.dumps({"occupancy": occupied, "last_seen": stamp}).encode())
        seen = len(events_of(self.peer.received, WITNESS))
        photo = self.folder / "both.jpg"
        photo.write_bytes(beside_each_other(pictures.lfw10()[name][7], pictures.lfw10()[WITNESS][7]))
        self.edge.show(photo, next(self.numbers))
        self.peer.wait_for(lambda messages: len(events_of(messages, WITNESS)) > seen, 60)
        return events_of(self.peer.received, WITNESS)[-1]["frameId"]

    @property
    def commands(self) -> int:
        return sum(message.topic.endswith("/set") for message in self.peer.received)


def beside_each_other(*photos: Path) -> bytes:
    both = np.hstack([np.asarray(Image.open(photo).convert("RGB")) for photo in photos])
    stream = io.BytesIO()
    Image.fromarray(both).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def server(service):
    server = Server(service)
    yield server
    server.close()


def test_who_is_enrolled_is_recognised_after_the_next_sync_and_who_is_gone_never_again(
    tmp_path, service, server, capsys
):
    pack = PackStore(service.storage / "models").active().manifest.name
    own_model = f'[recognition]\nmode = "local"\nmodels_dir = "{service.storage}/models"\npack = "{pack}"\n'
    server.enrol(WITNESS)
    line = Line(service.port)
    with Mosquitto(tmp_path) as broker:
        edge = Process(tmp_path, broker, f"http://127.0.0.1:{line.port}", server.domain, server.key, own_model)
        try:
            with Peer(broker.port, "zigbee2mqtt/+/set", "facedex/edge/#") as peer:
                eventually(lambda: edge.health()[1].get("status") == "ok")
                door = Door(edge, peer, tmp_path)
                follow(edge, service, server, line, door, capsys)
            assert edge.end() == 0
        finally:
            edge.kill()
            line.close()
    check_log([said["event"] for said in edge.lines()])


def follow(edge: Process, service: RunningService, server: Server, line: Line, door: Door, capsys) -> None:
    def version() -> str | None:
        return edge.health()[1]["gallery"]["version"]

    def synced() -> float:
        """Until the controller says that it has what the server has now."""
        began_s, wanted = time.monotonic(), server.feed().version
        eventually(lambda: version() == wanted)
        return time.monotonic() - began_s

    assert door.look(GUEST) == (False, False)

    before = server.feed().version
    person = server.enrol(GUEST, LOCK)
    sync_s = synced()
    began_s = time.monotonic()
    assert door.look(GUEST) == (True, True)
    look_s = time.monotonic() - began_s

    server.erase(GUEST)
    assert server.feed(before).removed == (person,)
    synced()
    assert door.look(GUEST) == (False, False)

    server.enrol(GUEST, LOCK)  # another person, of the same name
    synced()
    assert door.look(GUEST) == (True, True)
    server.delete_faces(GUEST)
    synced()
    assert door.look(GUEST) == (False, False)
    server.erase(GUEST)
    server.enrol(GUEST, LOCK)
    synced()

    line.cut()
    kill(service)
    eventually(lambda: edge.health()[1]["gallery"]["error"] is not None)
    held = version()
    assert door.look(GUEST) == (True, True)

    service.start()
    assert server.feed().version == held
    server.erase(GUEST)
    server.enrol(LATER, LOCK)
    line.mend()
    synced()
    assert edge.health()[1]["gallery"]["error"] is None
    commands = door.commands
    assert door.look(GUEST) == (False, False)
    assert door.commands == commands
    assert door.look(LATER) == (True, True)
    with capsys.disabled():
        print(f"\nenrolled to synced: {sync_s:.3f} s; two frames, from touch to recognised: {look_s:.3f} s")  # noqa: T201


def kill(service: RunningService) -> None:
    """The machine is switched off: server, database, pool, at once."""
    tree = service.tree()
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended with the one that started it
            process.kill()
    service.process.wait()
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert alive == []


def check_log(events: list[str]) -> None:
    """All but the first came as deltas, and what happened while the server could not be asked as one."""
    changes = [event for event in events if event.startswith(("Built embeddings matrix", "+"))]
    assert changes[0] == "Built embeddings matrix: 1 members"
    assert not [event for event in changes[1:] if event.startswith("Built")]
    back = max(
        number for number, event in enumerate(events) if event.startswith("The gallery is not brought up to date")
    )
    after = [event for event in events[back:] if event.startswith("+")]
    assert after == ["+1 added, -1 removed, 0 updated"]
