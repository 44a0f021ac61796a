"""A real broker for tests: Mosquitto with a configuration of its own, on a free port."""

import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.service.running import free_port

PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(PROGRAM is None, reason="needs the program mosquitto, which is not installed")


class Mosquitto:
    """Started, killed, stopped and started again on the same port; keeps nothing over a restart unless told to.

    Args:
        lines: of its configuration; each takes the place of the usual one of its name.
    """

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        usual = ("allow_anonymous true", "user root", "persistence false", "set_tcp_nodelay true")
        told = {line.partition(" ")[0] for line in lines}
        kept = [line for line in usual if line.partition(" ")[0] not in told]
        self._config.write_text("\n".join([f"listener {self.port} 127.0.0.1", *kept, *lines, ""]))
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        deadline = time.monotonic() + 20
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, "-c", self._config], stdout=log, stderr=log)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, "mosquitto does not listen"
                time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()  # a frozen one too, without a chance to go on
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """In order: what it is to keep over a restart, it keeps."""
        self._process.terminate()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> "Mosquitto":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Peer:
    """Another client of the broker: it plays zigbee2mqtt, and hears what locks are told.

    Args:
        comes_back: it connects again by itself, within a second.
    """

    def __init__(
        self,
        port: int,
        *topics: str,
        username: str | None = None,
        password: str | None = None,
        comes_back: bool = True,
    ) -> None:
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        self.received: list[paho.MQTTMessage] = []
        self._came = threading.Condition()
        self._subscribed = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=comes_back
        )
        self._client.reconnect_delay_set(1, 1)
        if username is not None:
            self._client.username_pw_set(username, password)
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(topic, options) for topic in topics or ["unused"]]
        )
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = self._on_message
        self._client.on_socket_open = lambda _client, _data, opened: opened.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.wait_subscribed()

    def wait_subscribed(self) -> None:
        assert self._subscribed.wait(60), "the peer has no connection"

    def _on_message(self, _client, _data, message) -> None:
        with self._came:
            self.received.append(message)
            self._came.notify_all()

    def say(
        self, topic: str, payload: bytes, retain: bool = False, expires_s: int | None = None, *, wait: bool = True
    ) -> None:
        """Returns when the broker has it, unless it is not to wait."""
        properties = Properties(PacketTypes.PUBLISH)
        if expires_s is not None:
            properties.MessageExpiryInterval = expires_s
        info = self._client.publish(topic, payload, 1, retain, properties)
        if wait:
            info.wait_for_publish(20)

    def wait_for(self, condition, timeout_s: float = 60.0):
        """Until the messages so far fulfil it."""
        with self._came:
            assert self._came.wait_for(lambda: condition(self.received), timeout_s), self.topics()

    def topics(self) -> list[str]:
        return [message.topic for message in self.received]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
