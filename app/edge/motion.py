"""What is published about a camera's ONVIF motion events."""

import json
from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from app.edge.mqtt import Received
from app.edge.occupancy import Subscriptions

log = structlog.stdlib.get_logger("facedex.edge.motion")

_PAYLOAD_BYTES_MAX: Final = 65_536
_WORDS: Final = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
# What bridges from ONVIF to MQTT call it; the first that is there counts.
_KEYS: Final = ("motion", "IsMotion", "State", "state", "value")


class MalformedMotion(ValueError):
    """A payload that says neither that something moves nor that nothing does."""


def parse_motion(payload: bytes) -> bool:
    """Whether something moves: `true`, `ON`, `1` or their opposites, or a JSON object with one of them under a usual key.

    Raises:
        MalformedMotion: it says neither.
    """
    if len(payload) > _PAYLOAD_BYTES_MAX:
        raise MalformedMotion("it is too long")
    try:
        text = payload.decode("utf-8").strip()
        value = json.loads(text) if text.startswith("{") else text
    except (ValueError, RecursionError):
        raise MalformedMotion("it is no text, or no JSON") from None
    if isinstance(value, dict):
        value = next((value[key] for key in _KEYS if key in value), None)
    moves = value if isinstance(value, bool) else _WORDS.get(str(value).lower())
    if moves is None:
        raise MalformedMotion("it is neither true nor false")
    return moves


class MotionListener(Protocol):
    """What is needed of the controller."""

    def motion(self, camera: str, on: bool, at: float | None = None) -> bool:
        """As `Triggers.motion`."""
        ...

    def forget(self) -> None:
        """As `Triggers.forget`."""
        ...


class MotionFeed:
    """Tells `listener` what cameras report; before the broker's start.

    Args:
        cameras: by topic.
    """

    def __init__(self, broker: Subscriptions, listener: MotionListener, cameras: Mapping[str, str]) -> None:
        self._listener = listener
        self._cameras = cameras
        for topic in cameras:
            broker.subscribe(topic, self.handle)
        if cameras:
            broker.on_change(lambda _connected: listener.forget())

    def handle(self, received: Received) -> None:
        """One message about a camera."""
        camera = self._cameras[received.topic]
        if received.retained:
            log.debug("retained report ignored", camera=camera)
            return
        try:
            moves = parse_motion(received.payload)
        except MalformedMotion as error:
            log.warning("malformed report ignored", camera=camera, problem=str(error))
            return
        self._listener.motion(camera, moves)
