"""What stands around the controller in a scenario: a broker, a server and a model, as far as the controller can tell."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import httpx
import numpy as np

from app.edge.clock import Clock
from app.edge.members import Float32Array, Member, MemberTemplates
from app.edge.messages import Message, Still
from app.edge.mqtt import Handler, Received
from app.vision.faces import Analysis, Box, Face, FaceQuality

DIMENSION: Final = 32
CONTRACT: Final = f"simulated:{DIMENSION}:0000000000000000"
_SIDE_PX: Final = 100


class SimulatedBroker:
    """Takes and gives messages while it is there.

    Args:
        delivered: is told of every message that gets through.
    """

    def __init__(self, clock: Clock, delivered: Callable[[Message], None]) -> None:
        self._clock = clock
        self._delivered = delivered
        self._handlers: dict[str, Handler] = {}
        self._listeners: list[Callable[[bool], None]] = []
        self._waiting: list[tuple[Message, float]] = []
        self.connected = True

    def subscribe(self, topic: str, handler: Handler) -> None:
        """As `Broker.subscribe`."""
        self._handlers[topic] = handler

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """As `Broker.on_change`."""
        self._listeners.append(listener)

    def send(self, message: Message, *, still: Still | None = None) -> bool:
        """As `Broker.send`."""
        if not self.connected:
            return False
        if still is not None:
            if (expires_s := still()) is None:
                return False
            message = replace(message, expires_s=expires_s)
        self._delivered(message)
        return True

    def post(self, message: Message) -> None:
        """As `Broker.post`."""
        if not self.send(message):
            lasts_s = float("inf") if message.expires_s is None else message.expires_s
            self._waiting.append((message, self._clock.monotonic() + lasts_s))

    def receive(self, topic: str, payload: bytes) -> bool:
        """Somebody publishes; whether the controller got it."""
        handler = self._handlers.get(topic)
        if not self.connected or handler is None:
            return False
        handler(Received(topic, payload, False))
        return True

    def change(self, connected: bool) -> None:
        """It goes away, or comes back."""
        self.connected = connected
        for listener in self._listeners:
            listener(connected)
        if connected:
            waiting, self._waiting = self._waiting, []
            for message, until_s in waiting:
                if until_s > self._clock.monotonic():
                    self._delivered(message)

    def forget_controller(self) -> None:
        """The controller starts anew, and has subscribed to nothing yet."""
        self._handlers, self._listeners, self._waiting = {}, [], []


class SimulatedServer:
    """Answers `/recognize` for pictures made by `picture_of`: it names everybody whom it ever knew, current or not."""

    def __init__(self, known: Iterable[str]) -> None:
        self.known = set(known)
        self.there = True

    def client(self) -> httpx.Client:
        """A way to it."""
        return httpx.Client(base_url="http://simulated", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if not self.there:
            raise httpx.ConnectError("away", request=request)
        return httpx.Response(200, json={"faces": [self._face(name) for name in names_on(request.content)]})

    def _face(self, name: str) -> dict[str, object]:
        if name not in self.known:
            return {"decision": "unknown", "candidates": []}
        person = {"id": None, "label": name, "name": name}
        return {"decision": "match", "candidates": [{"person": person, "distance": 0.1}]}


class SimulatedEngine:
    """A model that knows the faces of pictures made by `picture_of`."""

    def analyze(self, image_bytes: bytes, *, max_pixels: int) -> Analysis:
        """As `FaceEngine.analyze`."""
        side_px = min(_SIDE_PX, int(max_pixels**0.5))
        box, quality = Box(0, 0, side_px, side_px), FaceQuality(side_px, 1.0)
        marks = np.zeros((5, 2), np.float32)
        faces = tuple(Face(box, 1.0, marks, quality, embedding_of(name)) for name in names_on(image_bytes))
        return Analysis(side_px, side_px, faces, "simulated", CONTRACT)


class Unhurried:
    """A clock on which nobody waits: a scenario says itself how long recognition takes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        """The scenario's."""
        return self._clock.now()

    def monotonic(self) -> float:
        """The scenario's."""
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Not at all."""


def picture_of(names: Iterable[str]) -> bytes:
    """A picture of these faces, for `SimulatedServer` and `SimulatedEngine`."""
    return json.dumps(list(names)).encode()


def names_on(picture: bytes) -> list[str]:
    """Who is on a picture of `picture_of`."""
    return [str(name) for name in json.loads(picture)]


def embedding_of(name: str) -> Float32Array:
    """float32, (D,), unit length: always the same for a name, and far from everybody else's."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSION)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def templates_of(member: Member) -> MemberTemplates:
    """The member with their one template."""
    return MemberTemplates(member, embedding_of(member.key)[None])
