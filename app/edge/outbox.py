"""What goes to the broker: what was handed to its connection, and what waits for the next one."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from app.edge.clock import Clock
from app.edge.messages import Message

# Messages that wait for the broker, at most; the oldest go first.
_WAITING_MAX: Final = 1_000


@dataclass(slots=True)
class Outgoing:
    """A message on its way; `posted` are those that wait for the next connection if this one breaks."""

    message: Message
    deadline: float
    posted: bool
    info: paho.MQTTMessageInfo | None = None

    @property
    def is_through(self) -> bool:
        """Whether the broker has it, or has refused it."""
        try:
            return self.info is not None and self.info.is_published()
        except (RuntimeError, ValueError):
            return False


class Outbox:
    """Who calls it holds a lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent: list[Outgoing] = []
        self._waiting: deque[Outgoing] = deque(maxlen=_WAITING_MAX)

    def make(self, message: Message, *, posted: bool) -> Outgoing:
        """Its time runs from now on."""
        lasts_s = float("inf") if message.expires_s is None else message.expires_s
        return Outgoing(message, self._clock.monotonic() + lasts_s, posted)

    def send(self, client: paho.Client, outgoing: Outgoing) -> bool:
        """Whether that connection takes it, and its time is not over."""
        message = outgoing.message
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if message.expires_s is not None:
            left_s = outgoing.deadline - self._clock.monotonic()
            if left_s <= 0:
                return False
            properties.MessageExpiryInterval = max(1, int(left_s))  # MQTT knows whole seconds only
        outgoing.info = client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        if outgoing.info.rc != paho.MQTT_ERR_SUCCESS:
            return False
        self._sent.append(outgoing)
        return True

    def wait(self, outgoing: Outgoing) -> None:
        """Until `send_waiting`."""
        self._waiting.append(outgoing)

    def send_waiting(self, client: paho.Client) -> None:
        """What has waited, in its order; what has expired is dropped."""
        waiting, now = list(self._waiting), self._clock.monotonic()
        self._waiting.clear()
        self._waiting.extend(one for one in waiting if one.deadline > now and not self.send(client, one))

    def is_overdue(self) -> bool:
        """Whether something that may not come late has not got through in its time."""
        now = self._clock.monotonic()
        self._sent = [one for one in self._sent if not one.is_through]
        return any(not one.posted and one.deadline < now for one in self._sent)

    def unacknowledged(self) -> int:
        """How many messages were handed over and have not got through."""
        self._sent = [one for one in self._sent if not one.is_through]
        return len(self._sent)

    def lose(self) -> None:
        """The connection is over: what was posted and has not got through waits again, the rest is gone."""
        again = [one for one in self._sent if one.posted and not one.is_through]
        self._sent = []
        self._waiting = deque([*again, *self._waiting], maxlen=_WAITING_MAX)
