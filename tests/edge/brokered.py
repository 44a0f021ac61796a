"""Histories with a real Mosquitto and the real `Broker`: restarts are restarts, and locks are told what zigbee2mqtt hears.

Each `Site` is a Mosquitto and zigbee2mqtt's connection to it; several play side by side, since most of a history is waiting for
what travels. Clocks stand still meanwhile, so that a history means the same as with the made-up broker.
"""

import itertools
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from app.edge.connecting import BrokerSettings
from app.edge.messages import Message
from app.edge.mqtt import Broker, Handler, Received
from tests.edge.histories import LOCKS, FakeBroker, Parts, Run
from tests.edge.mosquitto import Mosquitto, Peer

_WAITS_S: Final = 20.0
_MARKER: Final = "marker"


class Site:
    """A Mosquitto, and zigbee2mqtt, for one history after the other. It keeps retained messages over an orderly restart."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.mosquitto = Mosquitto(folder, "persistence true", f"persistence_location {folder}/")
        self.mosquitto.start()
        self.heard: list[Message] = []
        self._markers = itertools.count()
        self._ends = itertools.count()
        self._connect()

    def _connect(self) -> None:
        self.peer, self._taken = Peer(self.mosquitto.port, "+/+/set", _MARKER, comes_back=False), 0

    def catch_up(self, broker: Broker) -> None:
        """Until zigbee2mqtt has heard whatever this client has published before now."""
        marker = str(next(self._markers)).encode()
        broker.post(Message(_MARKER, marker))
        self.peer.wait_for(lambda received: any(one.payload == marker for one in received[self._taken :]), _WAITS_S)
        self._take()

    def _take(self) -> None:
        new = self.peer.received[self._taken :]
        self._taken += len(new)
        for one in new:
            if one.topic != _MARKER:
                expires_s = getattr(one.properties, "MessageExpiryInterval", None)
                self.heard.append(Message(one.topic, one.payload, one.qos, one.retain, expires_s))

    def end(self) -> None:
        """Now in order, so that it keeps what was retained, and now by SIGKILL."""
        self.mosquitto.end() if next(self._ends) % 2 else self.mosquitto.kill()
        self.peer.close()
        self._take()

    def begin(self) -> None:
        self.mosquitto.start()
        self._connect()

    def close(self) -> None:
        self.peer.close()
        self.mosquitto.kill()


class RealBroker(FakeBroker):
    """The made-up one's face; a controller's connection is the real one, and its reboot a new connection.

    Args:
        base_topic: nobody else's: other histories have been at the site.
    """

    def __init__(self, site: Site, base_topic: str) -> None:
        super().__init__()
        self.base_topic = base_topic
        self._site = site
        self._handled = threading.Semaphore(0)
        self._told: SimpleQueue[bool] = SimpleQueue()
        self._connect()

    def _connect(self) -> None:
        port = self._site.mosquitto.port
        # Where everything plays at once, a broker that is slow does not hang.
        pauses = {"first_delay_s": 0.02, "longest_delay_s": 0.05, "answer_s": 20.0}
        settings = BrokerSettings("127.0.0.1", self.base_topic, port, **pauses)
        self._broker = Broker(settings)
        for lock in LOCKS:
            self._broker.subscribe(f"{self.base_topic}/{lock}", self._handle)
        self._broker.on_change(self._tell)
        self._broker.start()
        if self.connected:
            self._wait_for(True)

    def subscribe(self, topic: str, handler: Handler) -> None:
        self.handlers[topic] = handler

    def _handle(self, received: Received) -> None:
        self.handlers[received.topic](received)
        if not received.retained:  # else nobody waits for it
            self._handled.release()

    def _tell(self, connected: bool) -> None:
        for listener in self.listeners:
            listener(connected)
        self._told.put(connected)

    def _wait_for(self, connected: bool) -> None:
        """Until the controller has been told, and has its subscriptions."""
        while self._told.get(timeout=_WAITS_S) != connected:
            pass
        if connected:
            self._broker.wait_ready(_WAITS_S)

    def send(self, message, *, still=None) -> bool:
        if not self.dies_next or still is None:
            return self._broker.send(message, still=still)

        def dying() -> int | None:
            expires_s = still()
            self._site.end()
            return expires_s

        sent = self._broker.send(message, still=dying)
        self._wait_for(False)
        self.connected = self.dies_next = False
        return sent

    def post(self, message) -> None:
        self._broker.post(message)

    def report(self, lock: str, payload: bytes, retained: bool = False) -> bool:
        if self.connected:
            self._site.peer.say(f"{self.base_topic}/{lock}", payload, retained, wait=False)
            assert self._handled.acquire(timeout=_WAITS_S), "a report does not arrive"
        return self.connected  # it was just said, also where the broker keeps it

    def commands(self) -> list[Message]:
        if self.connected:
            self._site.catch_up(self._broker)
        return [message for message in self._site.heard if message.topic.startswith(f"{self.base_topic}/")]

    def reboot(self) -> None:
        super().reboot()
        _ = self.commands()
        self._broker.stop()
        self._connect()

    def turn(self, connected: bool) -> None:
        if connected:
            self._site.begin()
        else:
            _ = self.commands()
            self._site.end()
        self._wait_for(connected)
        self.connected = connected

    def close(self) -> None:
        self._broker.stop()
        if not self.connected:
            self._site.begin()


@dataclass
class Tally:
    """What came of some histories.

    Attributes:
        unlocked: locks that were told to.
        restarts: of Mosquitto.
        deaths: of it, with a command on its way.
        reboots: of the controller.
        wrong: the problems of each seed that had any.
    """

    histories: int = 0
    unlocked: int = 0
    restarts: int = 0
    deaths: int = 0
    reboots: int = 0
    wrong: dict[int, list[str]] = field(default_factory=dict)


def play(site: Site, seed: int, parts: Parts | None = None) -> Run:
    """One history at a site; its problems are `run.controller.problems`."""
    broker = RealBroker(site, f"h{seed}")
    try:
        run = Run(seed, parts, broker)
        run.play()
        return run
    finally:
        broker.close()


def play_all(seeds: Iterable[int], folder: Path, sites: int, parts: Parts | None = None) -> Tally:
    """Many histories at some sites side by side."""
    tally, guard, left = Tally(), threading.Lock(), iter(seeds)
    failed = threading.Event()

    def work(number: int) -> None:
        site = Site(folder / f"site{number}")
        try:
            while not failed.is_set():
                with guard:
                    seed = next(left, None)
                if seed is None:
                    return
                run = play(site, seed, parts)
                with guard:
                    _count(tally, seed, run)
        except BaseException:
            failed.set()
            raise
        finally:
            site.close()

    with ThreadPoolExecutor(sites, thread_name_prefix="site") as threads:
        list(threads.map(work, range(sites)))
    return tally


def _count(tally: Tally, seed: int, run: Run) -> None:
    tally.histories += 1
    tally.unlocked += run.unlocked
    tally.restarts += run.drops
    tally.deaths += run.deaths
    tally.reboots += run.reboots
    if run.controller.problems:
        tally.wrong[seed] = run.controller.problems
