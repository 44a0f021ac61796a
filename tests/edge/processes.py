"""`python -m app.edge` as a process, and what is around it: its camera, its network, and what it tells."""

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

from tests.edge.mosquitto import Mosquitto
from tests.service.running import ROOT, free_port


class Line:
    """The network between two programs: it can be cut and mended, and be held up, so that what is sent piles up."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.port = free_port()
        self.flows = threading.Event()
        self.flows.set()
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

    def close(self) -> None:
        """For the end, cut or not."""
        with contextlib.suppress(OSError):
            self.cut()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                self.ends.append(near)
                try:
                    far = socket.create_connection(("127.0.0.1", self.to_port))
                except OSError:  # nobody is there now
                    near.close()
                    continue
                self.ends.append(far)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError), other:
            while data := one.recv(65536):
                self.flows.wait()
                other.sendall(data)


class Process:
    """`python -m app.edge`, with a folder of pictures for a camera, where it is told of no other source."""

    def __init__(
        self,
        folder: Path,
        broker: Mosquitto,
        url: str,
        domain: str,
        key: str,
        more: str,
        *,
        source: str = "folder:frames",
    ) -> None:
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
            answer_s = 10.0
            [doors]
            hold_s = 120.0
            session_s = 120.0
            max_age_s = 60.0
            [health]
            port = {self.port}
            interval_s = 0.5
            [[cameras]]
            name = "entrance"
            source = "{source}"
            locks = ["DC001", "DC006"]
            motion_topic = "onvif/entrance/motion"
        """)
        self.log = folder / "edge.log"
        self.argv = [sys.executable, "-m", "app.edge"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*self.argv, "--config", self.config], cwd=ROOT, stderr=log, env=bare())

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def health(self) -> tuple[int, dict]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=60)
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
        return self.process.wait(60)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def bare() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}


def occupied(on: bool = True) -> bytes:
    return json.dumps({"occupancy": on, "battery": 97, "last_seen": round(time.time() * 1000) - (not on)}).encode()


def events_of(messages, person: str) -> list[dict]:
    told = [json.loads(message.payload) for message in messages if message.topic.endswith("/member_detected")]
    return [event for event in told if event["name"] == person]
